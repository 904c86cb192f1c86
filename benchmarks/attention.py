"""One training step of our attention beside PyTorch's layer: readable and fused paths, same weights and input.

Run: python benchmarks/attention.py        (best of seven on two threads; aim: fused at least as fast as PyTorch's)
"""

import time

import torch
from torch import nn

from mmlearn.nn import MultiHeadAttention
from mmlearn.nn.attention import to_torch

D_MODEL, N_HEADS = 256, 8


def milliseconds(layer, x, repeats: int = 7) -> float:
    """Forward and backward, best of some after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        layer(x).sum().backward()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:])


def main() -> None:
    torch.set_num_threads(2)
    ours = MultiHeadAttention(D_MODEL, N_HEADS)
    readable = MultiHeadAttention(D_MODEL, N_HEADS)
    readable.load_state_dict(ours.state_dict())
    readable.fused = False
    theirs = nn.MultiheadAttention(D_MODEL, N_HEADS, batch_first=True)
    theirs.load_state_dict(to_torch(ours.state_dict()))

    print(
        f"{'batch':>6}{'length':>8}{'readable ms':>13}{'fused ms':>10}{'PyTorch ms':>12}{'fused against PyTorch':>23}"
    )
    for batch, length in ((64, 32), (32, 128), (8, 512), (2, 2048)):
        x = torch.randn(batch, length, D_MODEL, requires_grad=True)
        slow, fast = milliseconds(readable, x), milliseconds(ours, x)
        peer = milliseconds(lambda x: theirs(x, x, x, need_weights=False)[0], x)
        print(f"{batch:6}{length:8}{slow:13.1f}{fast:10.1f}{peer:12.1f}{peer / fast:16.2f}x")


if __name__ == "__main__":
    main()
