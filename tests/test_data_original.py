"""`data.add`: each original distribution in small, made here in its own format."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from mmlearn import data
from mmlearn.errors import DataError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "original"


def picture(path, colour=0, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 100, 50)).save(path)


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def flickr8k(folder, captions=None):
    """Two pictures a split."""
    lists = {"train": ["a.jpg", "b.jpg"], "dev": ["c.jpg", "d.jpg"], "test": ["e.jpg", "f.jpg"]}
    lines = []
    for number, name in enumerate(sum(lists.values(), [])):
        picture(folder / "Flicker8k_Dataset" / name, colour=number * 20)
        lines += [f"{name}#{k}\tCaption {k} of {name} ." for k in range(5)]
    written(folder / "Flickr8k_text" / "Flickr8k.token.txt", "\n".join(captions or lines))
    for part, listed in lists.items():
        written(folder / "Flickr8k_text" / f"Flickr_8k.{part}Images.txt", "\n".join(listed) + "\n")


def test_flickr8k(place, tmp_path):
    flickr8k(place)
    assert data.add("flickr8k", place) == tmp_path / "sets" / "flickr8k"
    ds = data.load("flickr8k", "validation")
    assert ds.column_names == ["image_id", "image", "captions"]
    assert ds["image_id"][:] == ["c.jpg", "d.jpg"]
    assert ds[1]["captions"] == [f"Caption {k} of d.jpg ." for k in range(5)]
    assert ds[0]["image"].size == (20, 12)
    assert data.to_tensor(ds, 8).shape == (2, 3, 8, 8)


def test_what_cannot_be_used_is_counted(place, capsys):
    flickr8k(place)
    for name in "ghijk":
        picture(place / "Flicker8k_Dataset" / f"{name}.jpg")
    listed = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "gone.jpg", "a.jpg", "g.jpg"]
    written(place / "Flickr8k_text" / "Flickr_8k.trainImages.txt", "\n".join(listed))
    with (place / "Flickr8k_text" / "Flickr8k.token.txt").open("a") as file:
        file.write("\ngone.jpg#0\tNo picture .")
    (place / "Flicker8k_Dataset" / "b.jpg").write_bytes(b"not a picture")
    data.add("flickr8k", place)
    sentence = ("skipped 4 of 9 rows of flickr8k/train: 1 unreadable picture, 1 missing picture, "
                "1 repeated image_id, 1 empty caption")  # fmt: skip
    assert capsys.readouterr().out.strip() == sentence
    assert data.load("flickr8k", "train")["image_id"][:] == ["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "x/../../secret.jpg", "..\\secret.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(place, tmp_path, name):
    picture(tmp_path / "secret.jpg")
    flickr8k(place, captions=[f"{name}#0\tA secret ."])
    written(place / "Flickr8k_text" / "Flickr_8k.trainImages.txt", name)
    with pytest.raises(DataError, match="would lie outside"):
        data.add("flickr8k", place)
    assert not (tmp_path / "sets" / "flickr8k").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f: (f / "Flickr8k_text" / "Flickr8k.token.txt").unlink(), "has no Flickr8k.token.txt"),
        (lambda f: written(f / "Flickr8k_text" / "Flickr8k.token.txt", "a.jpg#0 no tab"), "line 1 of Flickr8k.token"),
        (lambda f: (f / "Flickr8k_text" / "Flickr8k.token.txt").write_bytes(b"\xff\xfe\x00"), "not a UTF-8"),
        (lambda f: written(f / "Flickr8k_text" / "Flickr_8k.testImages.txt", ""), "hold no rows for flickr8k/test"),
        (lambda f: written(f / "Flickr8k_text" / "Flickr_8k.testImages.txt", "u.jpg\nv.jpg"), "2 of 2 rows"),
    ],
)
def test_a_broken_distribution_leaves_nothing_behind(place, tmp_path, broken, message):
    flickr8k(place)
    broken(place)
    with pytest.raises(DataError, match=message):
        data.add("flickr8k", place)
    assert not (tmp_path / "sets" / "flickr8k").exists()


def test_not_a_folder_and_already_there(place):
    with pytest.raises(DataError, match="is not a folder"):
        data.add("flickr8k", place / "nowhere")
    flickr8k(place)
    data.add("flickr8k", place)
    with pytest.raises(DataError, match="already holds flickr8k"):
        data.add("flickr8k", place)


def test_into_and_max_side(place, tmp_path, monkeypatch):
    flickr8k(place)
    picture(place / "Flicker8k_Dataset" / "a.jpg", size=(600, 300))
    assert data.add("flickr8k", place, into=tmp_path / "other", max_side=100) == tmp_path / "other" / "flickr8k"
    monkeypatch.setenv("MMLEARN_DATA", str(tmp_path / "other"))
    assert [row["image"].size for row in data.load("flickr8k", "train")] == [(100, 50), (20, 12)]


def karpathy(folder, name, splits):
    images = []
    for number, split in enumerate(splits):
        picture(folder / "images" / f"{number}.jpg", number)
        images.append({"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": f" Sentence {number} . "}]})
    written(folder / f"dataset_{name}.json", json.dumps({"images": images, "dataset": name}))


def test_flickr30k_with_karpathys_split(place):
    karpathy(place, "flickr30k", ["train", "val", "test", "train"])
    data.add("flickr30k", place)
    assert data.load("flickr30k", "train")["image_id"][:] == ["0.jpg", "3.jpg"]
    assert data.load("flickr30k", "validation")[0]["captions"] == ["Sentence 1 ."]


def test_flickr30k_with_the_token_file(place, capsys):
    for number in range(20):
        picture(place / "flickr30k-images" / f"{number}.jpg", number)
    written(
        place / "results_20130124.token", "\n".join(f"{n}.jpg#{k}\tNumber {n} ." for n in range(20) for k in range(5))
    )
    data.add("flickr30k", place)
    assert "chosen by a hash" in capsys.readouterr().out
    ids = [data.load("flickr30k", split)["image_id"][:] for split in ("train", "validation", "test")]
    assert [len(part) for part in ids] == [12, 4, 4]
    assert len(set(sum(ids, []))) == 20
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        written(
            place / f"{part}.txt",
            "\n".join(name.removesuffix(".jpg") for name in ids[["train", "validation", "test"].index(split)][:2]),
        )
    data.add("flickr30k", place, into=place.parent / "listed")
    assert len(list((place.parent / "listed" / "flickr30k").glob("*.parquet"))) == 3


def coco(folder):
    for part in ("train", "val"):
        notes = [
            {"image_id": 7, "caption": "One ."},
            {"image_id": 9, "caption": "Two\n"},
            {"image_id": 7, "caption": "Three ."},
        ]
        images = [{"id": 7, "file_name": f"{part}7.jpg"}, {"id": 9, "file_name": f"{part}9.jpg"}]
        for image in images:
            picture(folder / f"{part}2017" / image["file_name"])
        written(
            folder / "annotations" / f"captions_{part}2017.json", json.dumps({"images": images, "annotations": notes})
        )


def test_coco(place):
    coco(place)
    data.add("coco", place)
    ds = data.load("coco", "validation")
    assert [(row["image_id"], row["captions"]) for row in ds] == [
        ("val7.jpg", ["One .", "Three ."]),
        ("val9.jpg", ["Two"]),
    ]
    with pytest.raises(DataError, match=r"coco/test is not here \(but train, validation is\)"):
        data.load("coco", "test")


def test_coco_karpathy_joins_restval_to_train(place):
    karpathy(place, "coco", ["train", "restval", "val", "test"])
    data.add("coco", place)
    assert data.load("coco", "train")["image_id"][:] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": []}', '{"images": [{"filename": "0.jpg"}], "annotations": 3}']
)
def test_damaged_json(place, content):
    coco(place)
    written(place / "annotations" / "captions_val2017.json", content)
    with pytest.raises(DataError, match=r"captions_val2017.json is not complete JSON|laid out differently"):
        data.add("coco", place)


def test_daquar(place):
    for number in range(4):
        picture(place / "nyu_depth_images" / f"image{number}.png", number * 50)
    written(place / "qa.894.raw.train.txt",
            "what is on the desk in the image0 ?\nbook, paper\nwhat is near the image1 in the image1 ?\nlamp\n"
            "what is the largest object in this image1 ?\ncarton\n")  # fmt: skip
    written(place / "qa.894.raw.test.txt", "how many chairs are in the image2 ?\n6\nwhat is red in the image3 ?\nbed\n")
    data.add("daquar", place)
    ds = data.load("daquar", "official_train")
    assert ds.column_names == ["image_id", "image", "question", "answer"]
    assert [(row["image_id"], row["question"], row["answer"]) for row in ds] == [
        ("image0", "what is on the desk", "book, paper"),
        ("image1", "what is near the image1", "lamp"),
        ("image1", "what is the largest object in this", "carton"),
    ]
    assert ds[1]["image"].getpixel((0, 0)) == (50, 100, 50)
    images, index = data.to_tensor(ds, 8, unique=True)
    assert images.shape == (2, 3, 8, 8)
    assert index.tolist() == [0, 1, 1]
    halves = [data.load("daquar", split) for split in ("train", "test")]
    assert [len(half) for half in halves] == [4, 1]


def test_daquar_without_a_picture_or_a_name(place, capsys):
    for number in range(2):
        picture(place / f"image{number}.png", number)
    (place / "image1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    written(place / "qa.894.raw.train.txt", "a in the image0 ?\nb\nc in the image0 ?\nd\nwhat in the image1 ?\nx\n")
    written(place / "qa.894.raw.test.txt", "a in the image0 ?\nb\n")
    data.add("daquar", place)
    assert "skipped 1 of 3 rows of daquar/official_train: 1 unreadable picture" in capsys.readouterr().out
    written(place / "qa.894.raw.test.txt", "a question without a picture ?\nb\n")
    with pytest.raises(DataError, match="question 0 of qa.894.raw.test.txt names no picture"):
        data.add("daquar", place, into=place.parent / "again")


def test_vqa_v2(place):
    for part in ("train2014", "val2014"):
        picture(place / part / f"COCO_{part}_000000000042.jpg")
        asked = [
            {"image_id": 42, "question": "Is it red?", "question_id": 420},
            {"image_id": 42, "question": "Why?", "question_id": 421},
        ]
        notes = [{"question_id": q["question_id"], "multiple_choice_answer": "yes",
                  "answers": [{"answer": "yes"}] * 9 + [{"answer": "no"}]} for q in asked]  # fmt: skip
        written(place / f"v2_OpenEnded_mscoco_{part}_questions.json", json.dumps({"questions": asked}))
        written(place / f"v2_mscoco_{part}_annotations.json", json.dumps({"annotations": notes}))
    folder = data.add("vqa_v2", place)
    assert (folder / "images.parquet").is_file()
    ds = data.load("vqa_v2", "train")
    assert ds.column_names == ["image_id", "image", "question", "answer", "answers"]
    assert ds[1]["answers"] == ["yes"] * 9 + ["no"]
    assert ds[1]["question"] == "Why?"


def cifar_batches(seed=0):
    chance = np.random.default_rng(seed)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        yield name, chance.integers(0, 256, (3, 3072), dtype=np.uint8), [0, 9, 3]


@pytest.mark.parametrize("binary", [True, False])
def test_cifar10(place, binary):
    place.mkdir()
    for name, pixels, labels in cifar_batches():
        if binary:
            both = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], 1)
            both.tofile(place / f"{name}.bin")
        else:
            (place / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2))
    data.add("cifar10", place)
    ds = data.load("cifar10", "train")
    assert len(ds) == 15
    assert ds["label"][:3] == [0, 9, 3]
    assert ds.features["label"].int2str(9) == "truck"
    first = next(cifar_batches())[1]
    assert (data.to_tensor(ds, 32)[:3].numpy() == first.reshape(3, 3, 32, 32)).all()


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}", pickle.dumps({b"data": 3, b"labels": [1]}), pickle.dumps(Evil())]
)
def test_a_pickle_that_is_no_cifar_batch_is_refused(place, content, capsys):
    place.mkdir()
    for name, *_ in cifar_batches():
        (place / name).write_bytes(content)
    with pytest.raises(DataError, match="not a complete CIFAR-10 batch|no part of CIFAR-10"):
        data.add("cifar10", place)
    assert capsys.readouterr().out == ""


def test_a_truncated_binary_batch_is_refused(place):
    place.mkdir()
    for name, *_ in cifar_batches():
        (place / f"{name}.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DataError, match=r"3072 bytes, expected records of 3,073"):
        data.add("cifar10", place)
