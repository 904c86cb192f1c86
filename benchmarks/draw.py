"""How fast scenes are drawn: pictures a second at 32, 64 and 224 pixels, sampling included, on two threads.

Run: python benchmarks/draw.py            (best of five; aim: 3,000 a second at 32 pixels, no slower a pixel at 64)
"""

import time

import torch

from mmlearn import scenes


def pictures_per_second(level: str, image_size: int, n: int, repeats: int = 5) -> float:
    world = scenes.World(level)
    best = float("inf")
    for repeat in range(repeats):
        start = time.perf_counter()
        scenes.draw(world.scenes("train", range(repeat * n, (repeat + 1) * n)), image_size)
        best = min(best, time.perf_counter() - start)
    return n / best


def main() -> None:
    torch.set_num_threads(2)
    print(f"{'level':8}{'pixels':>8}{'pictures/s':>14}{'Mpixel/s':>12}{'rate of a pixel against 32':>30}")
    for level in scenes.LEVELS:
        base = None
        for image_size, n in ((32, 8000), (64, 2000), (224, 200)):
            rate = pictures_per_second(level, image_size, n)
            pixels = rate * image_size**2 / 1e6
            base = base or pixels
            print(f"{level:8}{image_size:8}{rate:14,.0f}{pixels:12.1f}{pixels / base:29.2f}x")


if __name__ == "__main__":
    main()
