"""Draws the gallery of the README: python docs/make_gallery.py writes docs/gallery.png."""

from pathlib import Path

from PIL import Image

from mmlearn import scenes


def main() -> None:
    picture = Image.fromarray(scenes.gallery(rows=3, columns=8, image_size=112).permute(1, 2, 0).numpy())
    path = Path(__file__).with_name("gallery.png")
    picture.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
