"""Pictures to tensors, and the two steps that training and inference must share: resizing and normalising."""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor

from mmlearn.data.places import cache_folder, written_whole
from mmlearn.errors import DataError

MAX_PIXELS = 64_000_000  # a header that claims more is refused before anything is decoded
_VERSION = 1  # of the cached tensors: raise it when decoding changes


class PictureError(DataError):
    """A picture that cannot be used; ``fault`` is its short name in a report."""

    def __init__(self, fault: str, message: str):
        super().__init__(message)
        self.fault = fault


def open_picture(data: bytes):
    """Open an encoded picture, reading only its header; refuse what is no picture, cut short, or too large."""
    from PIL import Image

    limit = f"of more than {MAX_PIXELS / 1e6:.0f} megapixels"
    try:
        picture = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"picture {limit}", f"the picture is {limit}: scale it down") from None
    except Exception:
        message = "the picture cannot be read: it is empty, damaged or not a picture"
        raise PictureError("unreadable picture", message) from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        message = f"the picture has {width} × {height} pixels, it is {limit}: scale it down"
        raise PictureError(f"picture {limit}", message)
    if not _has_end(picture.format, data):
        raise PictureError("picture cut short", "the picture is cut short: its end is missing")
    return picture


def decode(data: bytes, image_size: int | None = None):
    """Decode one picture to RGB: first frame, upright by its EXIF orientation, 16 bits scaled to 8, on white.

    Args:
        data: the bytes of a JPEG, PNG, GIF, WebP or other file.
        image_size: side in pixels of a square result, resized with antialiasing; ``None`` keeps the size.

    Returns:
        a ``PIL.Image`` of mode RGB.

    Raises:
        DataError: not a picture, damaged, or of more than ``MAX_PIXELS`` pixels by its header.
    """
    from PIL import Image, ImageOps

    picture = open_picture(data)
    try:
        if image_size and picture.format == "JPEG":
            picture.draft("RGB", (image_size, image_size))  # decodes at 1/2, 1/4 or 1/8 where that is enough
        picture = to_rgb(ImageOps.exif_transpose(picture))
        if image_size and picture.size != (image_size, image_size):
            picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    except Exception:
        raise PictureError("unreadable picture", "the picture cannot be decoded: its data are damaged") from None
    return picture


def to_rgb(picture):
    """A ``PIL.Image`` of any mode as RGB; transparent parts become white."""
    import numpy as np
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):  # 16 or 32 bits a pixel
        values = np.asarray(picture, dtype=np.int64)
        values = values >> 8 if values.max() > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def plain(data: bytes, deep: bool = False) -> bytes:
    """The encoded picture itself where any reader shows it alike, else as an RGB PNG (16 bits, transparency).

    Raises PictureError as ``open_picture`` does, and with ``deep`` for data that do not decode.
    """
    picture = open_picture(data)
    everyday = picture.mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr") and "transparency" not in picture.info
    if everyday and not deep:
        return data
    decoded = decode(data)
    if everyday:
        return data
    buffer = io.BytesIO()
    decoded.save(buffer, "PNG")
    return buffer.getvalue()


def to_tensor(
    ds, image_size: int = 64, unique: bool = False, cache: bool = True
) -> UInt8[Tensor, "N 3 H W"] | tuple[UInt8[Tensor, "U 3 H W"], Int[Tensor, " N"]]:
    """All pictures of a data set as one uint8 tensor (N, 3, image_size, image_size), values 0–255.

    Pictures are squashed to a square (the aspect ratio is not kept, nothing is cropped away), with
    antialiasing. The result is kept on disk under the pictures' content and the size; a damaged
    cache is built again.

    Args:
        ds: a data set from ``load``, or any ``datasets.Dataset`` with a column ``image``.
        image_size: side in pixels.
        unique: return ``(pictures, index)`` with each different picture once, and for each row the
            number of its picture: saves memory where many questions share a picture.
        cache: keep the result on disk.

    Raises:
        DataError: a picture cannot be decoded; the message gives its row and ``image_id``.
    """
    encoded, index = _unique_pictures(ds)
    images = _cached(encoded, image_size, ds) if cache else _decode_all(encoded, image_size, ds)
    if unique:
        return images, index
    return images if len(images) == len(index) else images[index]


def normalise(images: Num[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Values 0–255 to float32 in [-1, 1] (mean 0.5, standard deviation 0.5); the course has no other."""
    if images.is_floating_point():
        raise DataError("normalise takes uint8 pictures with values 0–255; these are already floating point")
    return images.float().div_(127.5).sub_(1.0)


def denormalise(images: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """Back from [-1, 1] to uint8 0–255, to look at; values outside are clipped."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def augment(images: Tensor, generator: torch.Generator | None = None, flip: bool = True, pad: int = 4) -> Tensor:
    """Shift each picture by up to ``pad`` pixels and mirror half of them, all at once on their device.

    Args:
        images (B, C, H, W): uint8 or float.
        generator: the source of chance; a CPU generator gives the same shifts on every device.
        flip: mirror left and right with probability one half. Leave it off where the captions say "left".
        pad: how many pixels a picture may move; the uncovered border repeats the edge.

    Returns:
        (B, C, H, W), same type and device.
    """
    B, C, H, W = images.shape
    source = generator.device if generator is not None else images.device
    shift = torch.randint(-pad, pad + 1, (2, B, 1), generator=generator, device=source).to(images.device)
    rows = (torch.arange(H, device=images.device) + shift[0]).clamp(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=images.device) + shift[1]).clamp(0, W - 1)  # (B, W)
    if flip:
        mirrored = torch.rand(B, 1, generator=generator, device=source).to(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(B, device=images.device)[:, None, None, None]
    channel = torch.arange(C, device=images.device)[:, None, None]
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _has_end(form: str | None, data: bytes) -> bool:
    """Whether the second half of a JPEG or PNG file has an end marker: a cheap way to find a broken download."""
    tail = data[len(data) // 2 :]
    if form == "JPEG":
        return b"\xff\xd9" in tail
    return form != "PNG" or b"IEND" in tail


def encoded_pictures(ds, start: int = 0, stop: int | None = None) -> list[bytes]:
    """The undecoded bytes of rows ``start`` to ``stop`` of column ``image``."""
    column = ds.with_format("arrow")[start : len(ds) if stop is None else stop]["image"]
    return [data for chunk in column.chunks for data in chunk.field("bytes").to_pylist()]


def _unique_pictures(ds) -> tuple[dict[bytes, tuple[int, bytes]], Tensor]:
    """Each different picture once, under its digest with the first row that has it, and each row's number."""
    if "image" not in ds.column_names:
        raise DataError(f"this data set has no column image; it has {', '.join(ds.column_names)}")
    found: dict[bytes, tuple[int, bytes]] = {}
    numbers: dict[bytes, int] = {}
    index = []
    for start in range(0, len(ds), 1024):
        for row, data in enumerate(encoded_pictures(ds, start, min(start + 1024, len(ds))), start):
            if data is None:
                raise DataError(f"row {row} has no picture: data.load leaves such rows out")
            digest = hashlib.blake2b(data, digest_size=16).digest()
            index.append(numbers.setdefault(digest, len(numbers)))
            found.setdefault(digest, (row, data))
    return found, torch.tensor(index, dtype=torch.long)


def _decode_all(encoded: dict, image_size: int, ds) -> Tensor:
    import numpy as np

    result = np.empty((len(encoded), 3, image_size, image_size), dtype=np.uint8)
    jobs = list(encoded.values())

    def decode_some(start):
        for number in range(start, min(start + 64, len(jobs))):
            row, data = jobs[number]
            try:
                result[number] = np.asarray(decode(data, image_size)).transpose(2, 0, 1)  # (H, W, 3) → (3, H, W)
            except DataError as error:
                name = ds["image_id"][row] if "image_id" in ds.column_names else "no image_id"
                raise DataError(
                    f"row {row} ({name}): {error}; data.load(name, split, deep=True) leaves such rows out"
                ) from None

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(decode_some, range(0, len(jobs), 64)))
    return torch.from_numpy(result)


def _cached(encoded: dict, image_size: int, ds) -> Tensor:
    """The decoded pictures from the cache, where the file is there and undamaged; else decoded and kept."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    key = hashlib.blake2b(f"{_VERSION} {image_size}".encode(), digest_size=16)
    for digest in encoded:
        key.update(digest)
    path = cache_folder() / "pictures" / f"{key.hexdigest()}.safetensors"
    images = _read_cache(path, (len(encoded), 3, image_size, image_size))
    if images is None:
        images = _decode_all(encoded, image_size, ds)
        try:
            with written_whole(path) as partial:
                save_file({"images": images}, partial, metadata={"digest": _tensor_digest(images)})
        except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
            print(
                f"the decoded pictures could not be kept in {path.parent} ({error}); they are decoded again next time"
            )
    return images


def _read_cache(path, shape) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            images, digest = file.get_tensor("images"), (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError, ValueError):
        return None
    if images.shape != shape or images.dtype != torch.uint8 or _tensor_digest(images) != digest:
        return None
    return images


def _tensor_digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy()).hexdigest()
