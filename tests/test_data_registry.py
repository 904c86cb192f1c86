"""`data.load` and its kin: one schema from every source, and one sentence for everything that can be wrong."""

import hashlib
import io
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import mmlearn
from mmlearn import data
from mmlearn.data import hub, places, rows, sets
from mmlearn.data.images import encoded_pictures
from mmlearn.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(places, "home", lambda: tmp_path / "checkout")
    return tmp_path / "sets"


def png(colour=0, size=(4, 4), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, (colour, 80, 80) if mode == "RGB" else colour).save(buffer, "PNG")
    return buffer.getvalue()


def boxed(pictures):
    return [{"bytes": picture, "path": None} for picture in pictures]


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def captions(folder, split="train", n=4, **changed):
    columns = {"image_id": [f"{split}{i}" for i in range(n)], "image": boxed([png(i) for i in range(n)]),
               "captions": [[f"caption {i} {k}" for k in range(5)] for i in range(n)]}  # fmt: skip
    write(folder / "flickr8k" / f"{split}.parquet", **(columns | changed))


def daquar(folder, **changed):
    write(folder / "daquar" / "images.parquet", image_id=["image1", "image2"], image=boxed([png(10), png(20)]))
    columns = {"image_id": ["image2", "image1", "image2"], "question": ["what", "where", "how many"],
               "answer": ["cup", "table, chair", "2"]}  # fmt: skip
    write(folder / "daquar" / "train.parquet", **(columns | changed))


def test_captions(folder, capsys):
    captions(folder)
    ds = data.load("flickr8k", "train")
    assert ds.column_names == ["image_id", "image", "captions"]
    assert ds[2]["captions"] == [f"caption 2 {k}" for k in range(5)]
    assert ds[2]["image"].getpixel((0, 0)) == (2, 80, 80)
    assert len(data.load("flickr8k", "train", n=3)) == 3
    assert capsys.readouterr().out == ""


def test_questions_get_their_picture_from_the_shared_file(folder):
    daquar(folder)
    ds = data.load("daquar", "train")
    assert ds.column_names == ["image_id", "image", "question", "answer"]
    assert ds["answer"][:] == ["cup", "table, chair", "2"]
    assert [row["image"].getpixel((0, 0))[0] for row in ds] == [20, 10, 20]


def test_questions_with_pictures_inside(folder):
    write(folder / "vqa_v2" / "validation.parquet", image_id=["1", "1"], image=boxed([png(1), png(1)]),
          question=["a?", "b?"], answer=["yes", "no"], answers=[["yes"] * 10, ["no"] * 10])  # fmt: skip
    ds = data.load("vqa_v2", "validation")
    assert ds.column_names == ["image_id", "image", "question", "answer", "answers"]
    assert len(ds) == 2


def test_labels_are_numbered_and_named(folder):
    write(folder / "cifar10" / "test.parquet", image=boxed([png(1), png(1)]), label=[3, 8])
    ds = data.load("cifar10", "test")
    assert ds.column_names == ["image_id", "image", "label"]
    assert ds["image_id"][:] == ["cifar10/test/0", "cifar10/test/1"]
    assert [ds.features["label"].int2str(label) for label in ds["label"]] == ["cat", "ship"]


def test_other_arrow_types_and_shards_are_the_same_schema(folder):
    for shard in range(2):
        write(folder / "flickr8k" / f"train-0000{shard}-of-00002.parquet",
              image_id=pa.array([f"{shard}a", f"{shard}b"], pa.large_string()), image=[png(shard), png(9)],
              captions=pa.array([["x"], ["y"]], pa.large_list(pa.large_string())), extra=[1, 2])  # fmt: skip
    ds = data.load("flickr8k", "train")
    assert ds["image_id"][:] == ["0a", "0b", "1a", "1b"]
    captions(folder / ".." / "again")
    assert ds.features == rows.features(sets.SETS["flickr8k"])
    assert ds[2]["image"].getpixel((0, 0))[0] == 1


def test_grey_pictures_come_out_as_rgb(folder):
    captions(folder, n=1, image=boxed([png(7, mode="L")]))
    assert data.load("flickr8k", "train")[0]["image"].mode == "RGB"


def test_deep_and_transparent_pictures_look_the_same_everywhere(folder):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(buffer, "PNG")
    pictures = [buffer.getvalue(), png((0, 0, 0, 0), mode="RGBA"), png(9)]
    captions(folder, n=3, image=boxed(pictures))
    for deep in (False, True):
        ds = data.load("flickr8k", "train", deep=deep)
        shown = [row["image"].getpixel((0, 0)) for row in ds]
        assert shown == [(128, 128, 128), (255, 255, 255), (9, 80, 80)]
        assert [tuple(pixel) for pixel in data.to_tensor(ds, 4)[:, :, 0, 0].tolist()] == shown
        assert encoded_pictures(ds)[2] == pictures[2]  # an everyday picture is kept as it is


def test_places_are_searched_in_order(folder, tmp_path, monkeypatch):
    captions(tmp_path / "checkout" / "data", n=2)
    assert len(data.load("flickr8k", "train")) == 2
    captions(folder, n=3)
    assert len(data.load("flickr8k", "train")) == 3
    monkeypatch.delenv("MMLEARN_DATA")
    assert len(data.load("flickr8k", "train")) == 2


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("flickr8", "train", r"no data set 'flickr8' \(did you mean 'flickr8k'\?\); there are flickr8k, flickr30k"),
        ("imagenet", "train", "no data set 'imagenet'; there are"),
        ("flickr8k", "val", r"flickr8k has no split 'val' \(did you mean 'validation'\?\); it has train, validation"),
        ("daquar", "oficial_test", r"did you mean 'official_test'\?\); it has train, test, official_train"),
        ("cifar10", "validation", "cifar10 has no split 'validation'; it has train, test"),
        ("scenes/easy", "dev", "scenes/easy has no split 'dev' .*it has train, validation, test, held_out"),
    ],
)  # fmt: skip
def test_wrong_names(name, split, message):
    with pytest.raises(DataError, match=message):
        data.load(name, split)


BAD = {
    "unreadable picture": {"image": boxed([png(), b"no picture", png(), png()])},
    "missing picture": {"image": boxed([png(), None, png(), png()])},
    "picture cut short": {"image": boxed([png(), png()[:-20], png(), png()])},
    "picture of more than 64 megapixels": {"image": boxed([png(), png(size=(9000, 9000)), png(), png()])},
    "empty caption": {"captions": [["a"], ["b", " "], ["c"], ["d"]]},
    "repeated image_id": {"image_id": ["a", "a", "b", "c"]},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_left_out_and_told(folder, capsys, reason):
    captions(folder, **BAD[reason])
    assert len(data.load("flickr8k", "train")) == 3
    assert capsys.readouterr().out == f"skipped 1 of 4 rows of flickr8k/train: 1 {reason}\n"


def test_many_bad_rows_are_one_sentence(folder, capsys):
    n = 3000
    pictures = [png()] * n
    pictures[5] = pictures[2500] = b"?"
    texts = [["a"]] * n
    texts[7] = []
    captions(folder, n=n, image=boxed(pictures), captions=texts)
    ds = data.load("flickr8k", "train")
    out = "skipped 3 of 3,000 rows of flickr8k/train: 2 unreadable pictures, 1 empty caption\n"
    assert capsys.readouterr().out == out
    assert not {"train5", "train7", "train2500"} & set(ds["image_id"])


def test_when_most_rows_are_bad_it_is_an_error(folder):
    captions(folder, image_id=["a"] * 4)
    with pytest.raises(DataError, match=r"3 of 4 rows of flickr8k/train cannot be used \(3 repeated image_ids\)"):
        data.load("flickr8k", "train")


def test_deep_finds_damage_inside_a_picture(folder, capsys):
    damaged = bytearray(png(size=(50, 50)))
    damaged[60:70] = b"\0" * 10
    captions(folder, image=boxed([png(1), bytes(damaged), png(2), png(3)]))
    assert len(data.load("flickr8k", "train")) == 4
    assert len(data.load("flickr8k", "train", deep=True)) == 3
    assert "1 unreadable picture" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"image_id": ["image2", "image9", "image1"]}, "1 missing picture"),
        ({"question": ["what", "", "how many"]}, "1 empty question"),
        ({"answer": ["a", None, "b"]}, "1 empty answer"),
    ],
)
def test_bad_questions(folder, capsys, changed, sentence):
    daquar(folder, **changed)
    ds = data.load("daquar", "train")
    assert len(ds) == 2
    assert capsys.readouterr().out == f"skipped 1 of 3 rows of daquar/train: {sentence}\n"
    assert ds[0]["image"].getpixel((0, 0))[0] == 20


def test_shared_pictures_of_other_types(folder):
    daquar(folder, image_id=[2, 1, 2])
    write(folder / "daquar" / "images.parquet", image_id=[1, 2], image=pa.array([png(10), png(20)], pa.large_binary()))
    assert [row["image"].getpixel((0, 0))[0] for row in data.load("daquar", "train")] == [20, 10, 20]
    write(folder / "daquar" / "images.parquet", image_id=[1, 2], image=["a.png", "b.png"])
    with pytest.raises(DataError, match="column image of .*images.parquet holds string, expected encoded pictures"):
        data.load("daquar", "train")


def test_a_bad_shared_picture_takes_its_questions_along(folder, capsys):
    daquar(folder)
    write(folder / "daquar" / "images.parquet", image_id=["image1", "image2"], image=boxed([b"?", png(20)]))
    assert data.load("daquar", "train")["question"][:] == ["what", "how many"]
    assert "skipped 1 of 3 rows of daquar/train: 1 unreadable picture\n" in capsys.readouterr().out


def test_bad_labels(folder, capsys):
    write(folder / "cifar10" / "train.parquet", image=boxed([png()] * 4), label=[1, None, 2, 3])
    assert data.load("cifar10", "train")["label"][:] == [1, 2, 3]
    assert "1 missing label" in capsys.readouterr().out
    write(folder / "cifar10" / "test.parquet", image=boxed([png()] * 3), label=[1, 10, 2])
    assert len(data.load("cifar10", "test")) == 2
    assert "1 label out of range" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"captions": [1, 2, 3, 4]}, "column captions of flickr8k/train holds int64, expected lists of strings"),
        ({"image": [1, 2, 3, 4]}, "column image of flickr8k/train holds int64, expected encoded pictures"),
        ({"image": ["a.jpg"] * 4}, "column image of flickr8k/train holds string, expected encoded pictures"),
        ({"image_id": [["a"]] * 4}, "column image_id of flickr8k/train holds list.*, expected strings"),
    ],
)
def test_wrong_types(folder, changed, message):
    captions(folder, **changed)
    with pytest.raises(DataError, match=message):
        data.load("flickr8k", "train")


def test_missing_columns(folder):
    write(folder / "flickr8k" / "train.parquet", image_id=["a"], image=[png()], caption=["a"])
    message = (
        "flickr8k/train has no column captions; it has image_id, image, caption, expected image_id, image, captions"
    )
    with pytest.raises(DataError, match=message):
        data.load("flickr8k", "train")
    daquar(folder)
    write(folder / "daquar" / "train.parquet", question=["a"], answer=["b"])
    with pytest.raises(DataError, match="daquar/train has no column image_id; it has question, answer"):
        data.load("daquar", "train")
    daquar(folder)
    write(folder / "daquar" / "images.parquet", image_id=["a"])
    with pytest.raises(DataError, match="images.parquet has no column image; it has image_id"):
        data.load("daquar", "train")


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[:200] + b"\xff" * 300 + b[500:]],
)
@pytest.mark.parametrize("file", ["train", "images"])
def test_damaged_parquet(folder, damage, file):
    daquar(folder)
    path = folder / "daquar" / f"{file}.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{file}.parquet is not a complete parquet file: copy or fetch it again$"):
        data.load("daquar", "train")


def test_large_sets_are_read_from_a_mapped_file(folder, tmp_path, monkeypatch, capsys):
    captions(folder, n=30, image_id=["x", "x", *(str(i) for i in range(28))])
    daquar(folder)
    small = [data.load("flickr8k", "train"), data.load("daquar", "train")]
    told = capsys.readouterr().out
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    large = [data.load("flickr8k", "train"), data.load("daquar", "train")]
    assert capsys.readouterr().out == told
    for before, after in zip(small, large, strict=True):
        assert after.cache_files
        assert after.features == before.features
        assert after.with_format("arrow")[:] == before.with_format("arrow")[:]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "rows").iterdir()}
    assert sorted(path.suffix for path in written) == [".arrow", ".arrow", ".arrow", ".json", ".json"]
    again = data.load("flickr8k", "train")
    assert capsys.readouterr().out == told  # nothing is lost silently the second time
    assert again["image_id"][:] == small[0]["image_id"][:]
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_a_large_set_on_a_full_disk(folder, monkeypatch):
    captions(folder)
    monkeypatch.setattr(rows, "IN_MEMORY", 0)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(DataError, match="could not be written to .*No space left.*set MMLEARN_CACHE"):
        data.load("flickr8k", "train")


def test_n_reads_no_further(folder, capsys):
    captions(folder, n=3000, image_id=[f"x{i // 2 * 2}" if i > 2500 else f"y{i}" for i in range(3000)])
    assert len(data.load("flickr8k", "train", n=1500)) == 1500
    assert capsys.readouterr().out == ""
    assert len(data.load("flickr8k", "train", n=5000)) == 2751
    assert "skipped 249 of 3,000 rows" in capsys.readouterr().out


def test_absent_offline_is_one_quick_sentence():
    start = time.perf_counter()
    with pytest.raises(DataError) as error:
        data.load("flickr8k", "train")
    assert time.perf_counter() - start < 2
    text = str(error.value)
    assert "mmlearn data add flickr8k FOLDER" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "\n" not in text
    assert not data.available("flickr8k")
    with pytest.raises(DataError, match="mmlearn data add daquar FOLDER"):  # not on the Hub
        data.load("daquar", "train")


def test_without_a_network_it_is_quick_too(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="there is no network"):
        data.load("cifar10", "train")
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *a, **k: time.sleep(30))
    start = time.perf_counter()
    assert not hub.reachable(seconds=0.2)
    assert time.perf_counter() - start < 5


def from_hub(monkeypatch, tmp_path, name, files):
    """Stand in for the Hub: ``files`` are path → columns of its repository."""
    import huggingface_hub

    asked = []
    for path, columns in files.items():
        write(tmp_path / "hub" / path, **columns)

    class Api:
        def list_repo_files(self, repo, repo_type, revision):
            asked.append((repo, repo_type, revision))
            return ["README.md", *files]

    def download(repo, path, repo_type, revision):
        asked.append((repo, repo_type, revision))
        return str(tmp_path / "hub" / path)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_from_the_hub_at_the_pinned_revision(monkeypatch, tmp_path, capsys):
    texts = {f"caption_{k}": [f"a {k}", f"b {k}"] for k in range(5)}
    files = {f"data/train-0000{i}-of-00002-x.parquet": {"image": boxed([png(i), png(i)])} | texts for i in range(2)}
    asked = from_hub(monkeypatch, tmp_path, "flickr8k", files)
    ds = data.load("flickr8k", "train")
    assert ds["image_id"][:] == ["train/0", "train/1", "train/2", "train/3"]
    assert ds[3]["captions"] == [f"b {k}" for k in range(5)]
    assert set(asked) == {("jxie/flickr8k", "dataset", "56f58c967835f7c508d684f36bd7897cca9d7634")}
    assert "fetching flickr8k/train from the Hub (jxie/flickr8k, revision 56f58c967835" in capsys.readouterr().out


def test_flickr30k_from_the_hub_takes_the_rows_of_its_split(monkeypatch, tmp_path):
    columns = {"image": boxed([png()] * 3), "caption": [["a"], ["b"], ["c"]], "split": ["train", "val", "train"],
               "filename": ["1.jpg", "2.jpg", "3.jpg"]}  # fmt: skip
    from_hub(monkeypatch, tmp_path, "flickr30k", {"TEST/test/0000.parquet": columns})
    assert data.load("flickr30k", "train")["image_id"][:] == ["1.jpg", "3.jpg"]
    assert data.load("flickr30k", "validation")["captions"][:] == [["b"]]


def test_coco_and_vqa_from_the_hub(monkeypatch, tmp_path):
    coco = {"image": boxed([png()]), "file_name": ["7.jpg"], "answer": [["a", "b"]]}
    vqa = {"image": boxed([png()]), "image_id": [42], "question": ["Is it?"], "multiple_choice_answer": ["yes"],
           "answers": [[{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]]}  # fmt: skip
    files = {"data/val-00000-of-00001.parquet": coco, "data/validation-00000-of-00001.parquet": vqa}
    from_hub(monkeypatch, tmp_path, "coco", files)
    assert data.load("coco", "validation")[0]["captions"] == ["a", "b"]
    row = data.load("vqa_v2", "validation")[0]
    assert (row["image_id"], row["answer"], row["answers"]) == ("42", "yes", ["yes", "no"])
    with pytest.raises(DataError, match="coco is not on this machine"):
        data.load("coco", "train")


def test_another_checksum_from_the_hub_is_refused(monkeypatch, tmp_path):
    path = "plain_text/test-00000-of-00001.parquet"
    from_hub(monkeypatch, tmp_path, "cifar10", {path: {"img": boxed([png()]), "label": [1]}})
    with pytest.raises(DataError, match="another checksum than expected: delete"):
        data.load("cifar10", "test")
    digest = hashlib.sha256((tmp_path / "hub" / path).read_bytes()).hexdigest()
    monkeypatch.setitem(sets.SETS["cifar10"].hub.sha256, path, digest)
    assert data.load("cifar10", "test")["label"][:] == [1]


def test_the_hub_failing_or_changed_is_one_sentence(monkeypatch, tmp_path):
    from_hub(monkeypatch, tmp_path, "cifar10", {"other.parquet": {"x": [1]}})
    with pytest.raises(DataError, match="the Hub has no files plain_text/train"):
        data.load("cifar10", "train")
    from_hub_again = {"plain_text/train-0.parquet": {"picture": boxed([png()]), "label": [1]}}
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    from_hub(monkeypatch, tmp_path, "cifar10", from_hub_again)
    with pytest.raises(DataError, match="has no column img; it has picture, label"):
        data.load("cifar10", "train")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: 1 / 0)
    with pytest.raises(DataError, match=r"the Hub did not give cifar10/train \(ZeroDivisionError\)"):
        data.load("cifar10", "train")


def test_revisions_are_pinned():
    for of in sets.SETS.values():
        if of.hub and of.name != "flickr30k":  # that one is the Hub's own conversion, see its card
            assert len(of.hub.revision) == 40
            assert set(of.hub.revision) <= set("0123456789abcdef")


def test_scenes_are_drawn(monkeypatch):
    calls = []

    class World:
        def __init__(self, level):
            self.level = level

        def rows(self, split, n):
            calls.append((self.level, split, n))
            return "rows"

    monkeypatch.setattr(mmlearn, "scenes", SimpleNamespace(World=World), raising=False)
    assert data.load("scenes/medium", "held_out", n=7) == "rows"
    assert data.load("scenes/hard") == "rows"
    assert calls == [("medium", "held_out", 7), ("hard", "train", 1000)]
    assert data.available("scenes/easy")


def test_listing_and_how_to_get(folder):
    captions(folder, n=2)
    captions(folder, split="test", n=3)
    daquar(folder)
    (folder / "daquar" / "train.parquet").write_bytes(b"half")
    found = {one.name: one for one in data.listing()}
    assert list(found) == data.names()
    assert found["flickr8k"].rows == {"train": 2, "test": 3}
    assert found["flickr8k"].folder == folder / "flickr8k"
    assert "train.parquet is not a complete parquet" in found["daquar"].problems[0]
    assert found["coco"].folder is None
    assert "mmlearn data add coco FOLDER" in found["coco"].how_to_get
    assert all("\n" not in data.how_to_get(name) for name in data.names())
    assert str(found["flickr8k"]) == f"✓ flickr8k: train 2, test 3 rows in {folder / 'flickr8k'}"


def test_check(folder):
    captions(folder, n=4)
    verdict = data.check("flickr8k")
    assert not verdict.ok
    assert verdict.problems == ("flickr8k/train has 4 rows, the published split has 6,000",)
    [file] = verdict.files
    assert file.sha256 == hashlib.sha256((folder / "flickr8k" / "train.parquet").read_bytes()).hexdigest()
    assert (file.rows, file.known, verdict.decoded) == (4, None, 4)
    daquar(folder)
    assert data.check("daquar").ok
    assert "✓ daquar: 3 pictures decoded, 0 problems" in str(data.check("daquar"))


def test_check_finds_bad_pictures_and_files(folder):
    daquar(folder)
    damaged = bytearray(png(size=(50, 50)))
    damaged[60:70] = b"\0" * 10
    write(folder / "daquar" / "images.parquet", image_id=["image1", "image2"], image=boxed([png(), bytes(damaged)]))
    assert "daquar/train, row 0: the picture cannot be decoded" in data.check("daquar").problems[0]
    with pytest.raises(DataError, match="2 of 3 rows"):
        data.load("daquar", "train", deep=True)
    assert "2 of 3 rows of daquar/train cannot be used" in data.check("daquar", deep=True).problems[0]
    (folder / "daquar" / "train.parquet").write_bytes(b"half")
    assert "not a complete parquet file" in data.check("daquar").problems[0]
    assert "mmlearn data add coco" in data.check("coco").problems[0]
