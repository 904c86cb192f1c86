"""Pictures of every kind to one uint8 tensor; normalising, augmenting, caching, batching."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmlearn import data
from mmlearn.data import images as module
from mmlearn.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def dataset(pictures):
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    columns = {
        "image_id": [f"p{i}" for i in range(len(pictures))],
        "image": [{"bytes": p, "path": None} for p in pictures],
    }
    return Dataset.from_dict(columns, features=Features({"image_id": Value("string"), "image": Picture()}))


def plain(colour, size=(6, 6)):
    return encoded(Image.new("RGB", size, colour))


def bomb(side=10_000):
    """A PNG whose header claims 100 megapixels and that holds almost nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey", encoded(Image.new("L", (4, 4), 90)), (90, 90, 90)),
        ("palette", encoded(Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)), (10, 200, 30)),
        ("1 bit", encoded(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        ("16 bit", encoded(Image.fromarray(np.full((4, 4), 0x8000, np.uint16))), (128, 128, 128)),
        ("transparent", encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), (255, 255, 255)),
        ("half transparent grey", encoded(Image.new("LA", (4, 4), (0, 255))), (0, 0, 0)),
        ("cmyk", encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        ("tiff", encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "TIFF"), (1, 2, 3)),
        ("webp", encoded(Image.new("RGB", (4, 4), (0, 0, 255)), "WEBP", lossless=True), (0, 0, 255)),
        ("animated", encoded(Image.new("RGB", (4, 4), (255, 0, 0)), "GIF", save_all=True,
                             append_images=[Image.new("RGB", (4, 4), (0, 255, 0))]), (255, 0, 0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_kind_of_picture_becomes_rgb(name, content, expected):
    picture = data.decode(content)
    assert picture.mode == "RGB"
    assert np.abs(np.subtract(picture.getpixel((1, 1)), expected)).max() <= 2
    tensor = data.to_tensor(dataset([content]), 4)
    assert (tensor[0, :, 1, 1].int() - torch.tensor(expected)).abs().max() <= 2


def test_exif_orientation_is_respected():
    picture = Image.new("RGB", (8, 4), "white")
    picture.paste("red", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left becomes top
    content = encoded(picture, "JPEG", exif=exif, quality=95)
    assert data.decode(content).size == (4, 8)
    upright = data.decode(content, 8)
    assert upright.getpixel((4, 1))[1] < 60
    assert upright.getpixel((4, 6))[1] > 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"<svg></svg>", "cannot be read"),
        (encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:-800], "cut short"),
        (encoded(Image.effect_noise((64, 64), 50))[:-100], "cut short"),
        (bomb(), "10000 × 10000 pixels, it is of more than 64 megapixels"),
        (bomb(60_000), "more than 64 megapixels"),
        (bomb(1000), "cannot be decoded"),
    ],
    ids=["empty", "header only", "svg", "half jpeg", "half png", "bomb", "huge bomb", "no pixels"],
)
def test_bad_pictures_get_one_sentence(content, message):
    with pytest.raises(DataError, match=message) as error:
        data.decode(content)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=rf"^row 1 \(p1\): the picture.*{message}.*deep=True"):
        data.to_tensor(dataset([plain("red"), content]), 8)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_no_bytes_get_past_as_a_foreign_error(noise, place, value):
    good = bytearray(encoded(Image.effect_noise((16, 16), 50).convert("RGB"), "JPEG"))
    good[place % len(good)] = value
    for content in (noise, bytes(good), b"\x89PNG\r\n\x1a\n" + noise, b"\xff\xd8\xff" + noise):
        with contextlib.suppress(DataError):
            assert data.decode(content, 8).mode == "RGB"


def test_resizing_is_antialiased_and_the_order_kept():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    tensor = data.to_tensor(dataset([encoded(Image.fromarray(stripes)), plain("red"), plain("blue")]), 8)
    assert tensor.shape == (3, 3, 8, 8)
    assert tensor.dtype == torch.uint8
    assert (tensor[0].float() - 127.5).abs().max() < 40  # not all black or all white
    assert tensor[1:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_a_wide_picture_is_squashed_not_cut():
    wide = Image.new("RGB", (40, 10), "white")
    wide.paste("black", (0, 0, 20, 10))
    tensor = data.to_tensor(dataset([encoded(wide)]), 8)
    assert tensor[0, 0, 4, 0] < 20
    assert tensor[0, 0, 4, 7] > 235


def test_the_cache_is_used_and_keyed_by_content_and_size(cache, monkeypatch):
    ds = dataset([plain("red"), plain("blue"), plain("red")])
    first = data.to_tensor(ds, 8)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", None)  # decoding again would fail
        assert torch.equal(data.to_tensor(ds, 8), first)
    assert data.to_tensor(ds.select([1, 0, 2]), 8)[:, 0, 0, 0].tolist() == [0, 255, 255]
    assert data.to_tensor(ds, 4).shape[-1] == 4
    assert len(list(cache.iterdir())) == 3
    images, index = data.to_tensor(ds, 8, unique=True)
    assert len(images) == 2
    assert torch.equal(images[index], first)


@pytest.mark.parametrize("damage", [
    lambda b: b"", lambda b: b[:-50], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"\xff" * len(b),
])  # fmt: skip
def test_a_damaged_cache_is_built_again(cache, damage):
    ds = dataset([plain((10, 20, 30)), plain("red")])
    first = data.to_tensor(ds, 8)
    path = next(cache.iterdir())
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(data.to_tensor(ds, 8), first)
    assert torch.equal(data.to_tensor(ds, 8), first)
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_a_full_disk_costs_only_the_cache(cache, monkeypatch, capsys):
    import safetensors.torch

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    images = data.to_tensor(dataset([plain("red")]), 8)
    assert images[0, 0, 0, 0] == 255
    assert "could not be kept" in capsys.readouterr().out
    assert list(cache.iterdir()) == []


def test_a_data_set_without_pictures():
    from datasets import Dataset

    with pytest.raises(DataError, match="no column image; it has text"):
        data.to_tensor(Dataset.from_dict({"text": ["a"]}), 8)


def test_normalise_and_back():
    values = torch.arange(256, dtype=torch.uint8).expand(2, 3, 2, 256)
    x = data.normalise(values)
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert x.max() == 1
    torch.testing.assert_close(x, (values.float() / 255 - 0.5) / 0.5)
    assert torch.equal(data.denormalise(x), values)
    assert data.denormalise(torch.full((1, 3, 1, 1), 7.0)).unique().tolist() == [255]
    with pytest.raises(DataError, match="already floating point"):
        data.normalise(x)


def test_augment_shifts_within_the_pad_and_mirrors_half():
    size, pad, n = 12, 3, 400
    column = torch.arange(size, dtype=torch.uint8).expand(n, 3, size, size)
    shifted = data.augment(column, torch.Generator().manual_seed(0), flip=False, pad=pad)
    moves = shifted[:, 0, 0, 6].int() - 6
    assert set(moves.tolist()) == set(range(-pad, pad + 1))
    assert (shifted[:, :1] == shifted).all()  # channels move together
    mirrored = data.augment(column, torch.Generator().manual_seed(0), flip=True, pad=0)
    turned = mirrored[:, 0, 0, 0] == size - 1
    assert 0.4 < turned.float().mean() < 0.6
    assert torch.equal(mirrored[turned], column[turned].flip(-1))
    assert torch.equal(mirrored[~turned], column[~turned])


def test_augment_moves_rows_and_columns_apart_and_repeats():
    images = torch.rand(50, 3, 9, 7)
    one = data.augment(images, torch.Generator().manual_seed(5), pad=2)
    assert torch.equal(one, data.augment(images, torch.Generator().manual_seed(5), pad=2))
    assert not torch.equal(one, data.augment(images, torch.Generator().manual_seed(6), pad=2))
    assert one.shape == images.shape
    assert one.dtype == images.dtype
    assert torch.equal(data.augment(images, flip=False, pad=0), images)
    rows = torch.arange(9.0)[:, None].expand(50, 1, 9, 7)
    shifts = data.augment(rows, torch.Generator().manual_seed(1), pad=2)[:, 0, 4, 3] - 4
    assert set(shifts.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_batches_see_every_sample_once_an_epoch(n, batch_size, seed):
    index = data.batches(n, batch_size, seed)
    steps = index.steps_per_epoch
    for epoch in (0, 3):
        seen = [index(epoch * steps + step) for step in range(steps)]
        assert sorted(torch.cat(seen).tolist()) == list(range(n))
        sizes = [len(part) for part in seen]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_batches_can_be_resumed_and_are_shuffled():
    index, again = data.batches(1000, 128, seed=3), data.batches(1000, 128, seed=3)
    for step in (0, 7, 8, 700, 5):
        assert torch.equal(index(step), again(step))
    assert not torch.equal(index(0), index(8))
    assert not torch.equal(index(0), data.batches(1000, 128, seed=4)(0))
    assert data.batches(10, 4, shuffle=False)(0).tolist() == [0, 1, 2, 3]
    index(0).zero_()
    assert torch.equal(index(0), again(0))
    with pytest.raises(DataError, match="n=0"):
        data.batches(0, 4)
