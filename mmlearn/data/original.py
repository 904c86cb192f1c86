"""Original distributions to our schema: what `mmlearn data add NAME FOLDER` does.

Each reader turns the folder one downloads into rows; one writer stores them as parquet. Pictures are found by
their file name anywhere under the folder, so it does not matter how deep the archive unpacked.
"""

import io
import json
import os
import pickle
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from mmlearn.data import rows
from mmlearn.data.images import decode
from mmlearn.data.places import data_places
from mmlearn.data.sets import NamedSet, named
from mmlearn.errors import DataError

_PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Source:
    """A folder with an original distribution, and where each of its pictures lies."""

    folder: Path
    pictures: dict[str, Path]

    @classmethod
    def of(cls, folder: Path) -> "Source":
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder: give the folder that holds the unpacked original files")
        walk = os.walk(folder, followlinks=True)
        files = (Path(parent, name) for parent, _, names in walk for name in sorted(names))
        return cls(folder, {path.name: path for path in files
                            if path.suffix.lower() in _PICTURES and path.is_file()})  # fmt: skip

    def find(self, *patterns: str) -> Path | None:
        """The first file that matches one of the patterns, at most two folders down."""
        for pattern in patterns:
            for depth in ("", "*/", "*/*/"):
                if found := sorted(self.folder.glob(depth + pattern)):
                    return found[0]
        return None

    def need(self, *patterns: str) -> Path:
        """As ``find``, but a DataError where there is none."""
        path = self.find(*patterns)
        if path is None:
            raise DataError(f"{self.folder} has no {' or '.join(patterns)}: give the folder of the original files")
        return path

    def picture(self, name: str, listed_in: Path) -> Path | None:
        """The picture of that file name; a name that points out of the folder is refused."""
        if Path(name).name != name or "\\" in name:
            raise DataError(
                f"{listed_in.name} names the picture {name!r}, which would lie outside {self.folder}: "
                "only plain file names are accepted"
            )
        return self.pictures.get(name)


def add(name: str, folder: str | Path, into: str | Path | None = None, max_side: int | None = None) -> Path:
    """Convert an original distribution to parquet in our schema, so that ``load(name, split)`` finds it.

    Args:
        name: flickr8k, flickr30k, coco, daquar, vqa_v2 or cifar10.
        folder: where the original files were unpacked; ``data/<name>.md`` lists them.
        into: where the set's folder is made; ``None``: ``$MMLEARN_DATA`` if set, else ``data/``.
        max_side: scale pictures down so that the longer side has at most this many pixels (saves disk);
            ``None`` stores the files as they are.

    Returns:
        the folder written. Files appear there only when all are complete; a failure leaves nothing.

    Raises:
        DataError: a file is missing or malformed, a listed path leaves the folder, or the set is there already.
    """
    of = named(name)
    try:
        splits = _READERS[name](Source.of(Path(folder).expanduser()), of)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the files in {folder} are laid out differently than {name}'s "
            f"({type(error).__name__}: {error}); data/{name}.md lists what is expected"
        ) from None
    target = Path(into).expanduser() / name if into else data_places()[0] / name
    if sorted(target.glob("*.parquet")):
        raise DataError(f"{target} already holds {name}: remove that folder to replace it")
    try:
        _write_all(target, of, splits, max_side)
    except OSError as error:
        raise DataError(f"{name} could not be written to {target} ({error.strerror or error})") from None
    return target


def _write_all(target: Path, of: NamedSet, splits: dict[str, Iterable[dict]], max_side: int | None) -> None:
    target.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target, prefix=".adding-"))
    try:
        if of.kind == "questions":
            splits = {split: list(found) for split, found in splits.items()}
            _write_pictures(partial / "images.parquet", of, splits, max_side)
        for split, found in splits.items():
            _write_split(partial / f"{split}.parquet", of, split, found, max_side)
        for path in sorted(partial.iterdir()):
            path.replace(target / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(target.iterdir()):
            target.rmdir()


def _write_split(path: Path, of: NamedSet, split: str, found: Iterable[dict], max_side: int | None) -> None:
    """One split, with its pictures (for questions these are in ``images.parquet``); tells what was left out."""
    where, tally, seen = f"{of.name}/{split}", Counter(), set()
    columns = [column for column in of.columns if of.kind != "questions" or column != "image"]

    def good() -> Iterator[dict]:
        for row in found:
            tally["rows"] += 1
            fault, picture = _fault(row, of, seen), row["image"]
            if fault is None and of.kind != "questions":
                data = picture.read_bytes() if isinstance(picture, Path) else picture
                fault, picture = rows.judged(data, deep=True)
            if fault:
                tally[fault] += 1
            else:
                yield row if of.kind == "questions" else row | {"image": _stored(picture, max_side)}

    _write(path, of, columns, good())
    if not tally["rows"]:
        raise DataError(f"the original files hold no rows for {where}")
    if sentence := rows.tell(tally, where):
        print(sentence)


def _fault(row: dict, of: NamedSet, seen: set) -> str | None:
    """What is wrong with a row's words or image_id, or None. A question has its picture's path, or its fault."""
    if fault := rows.text_fault(row, of):
        return fault
    if of.kind == "questions":
        return None if isinstance(row["image"], Path) else row["image"] or "missing picture"
    fault = "repeated image_id" if row["image_id"] in seen else None
    seen.add(row["image_id"])
    return fault


def _write_pictures(path: Path, of: NamedSet, splits: dict[str, list[dict]], max_side: int | None) -> None:
    """Each picture of the questions once; where one is bad, its rows get the fault in its place."""
    faults: dict[str, str | None] = {}
    pictures = {row["image_id"]: row["image"] for found in splits.values() for row in found if row["image"]}

    def good() -> Iterator[dict]:
        for image_id, file in pictures.items():
            data = file.read_bytes()
            faults[image_id], usable = rows.judged(data, deep=True)
            if usable is not None:
                yield {"image_id": image_id, "image": _stored(usable, max_side)}

    _write(path, of, ["image_id", "image"], good())
    for found in splits.values():
        for row in found:
            row["image"] = faults.get(row["image_id"]) or row["image"]


def _write(path: Path, of: NamedSet, columns: list[str], found: Iterator[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    spec = rows.features(of)
    schema = Features({column: spec[column] for column in columns}).arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        chunk: list[dict] = []
        for row in found:
            chunk.append({column: row[column] for column in columns})
            if len(chunk) == 256:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        writer.write_table(pa.Table.from_pylist(chunk, schema))


def _stored(data: bytes, max_side: int | None) -> dict:
    """The picture as it is, or scaled down and stored as JPEG where it is larger than ``max_side``."""
    from PIL import Image

    if max_side is not None and max((picture := decode(data)).size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=92)
        data = buffer.getvalue()
    return {"bytes": data, "path": None}


# ---- readers: folder → {split: rows}


def _flickr8k(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    if karpathy := source.find("dataset_flickr8k.json"):
        return _karpathy(source, karpathy)
    token_file = source.need("Flickr8k.token.txt")
    captions = _token_file(token_file)
    lists = {"train": "trainImages", "validation": "devImages", "test": "testImages"}
    found = {}
    for split, part in lists.items():
        list_file = source.need(f"Flickr_8k.{part}.txt")
        found[split] = _captioned(source, _lines(list_file), captions, list_file)
    return found


def _flickr30k(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    if karpathy := source.find("dataset_flickr30k.json"):
        return _karpathy(source, karpathy)
    token_file = source.need("results_20130124.token", "dataset_flickr30k.json")
    captions = _token_file(token_file)
    if (train := source.find("train.txt")) and (val := source.find("val.txt")) and (test := source.find("test.txt")):
        lists = {split: [f"{name.removesuffix('.jpg')}.jpg" for name in _lines(path)]
                 for split, path in (("train", train), ("validation", val), ("test", test))}  # fmt: skip
    else:
        print(
            "flickr30k: the token file has no splits, so 1,000 test and 1,014 validation pictures were chosen by a "
            "hash of their names; add dataset_flickr30k.json for the split the papers use"
        )
        ordered = sorted(captions, key=_hash)
        some = min(1000, len(ordered) // 5), min(2014, 2 * len(ordered) // 5)
        lists = {"test": ordered[: some[0]], "validation": ordered[some[0] : some[1]], "train": ordered[some[1] :]}
    return {split: _captioned(source, names, captions, token_file) for split, names in lists.items()}


def _coco(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    if karpathy := source.find("dataset_coco.json"):
        return _karpathy(source, karpathy)
    found = {}
    for split, part in (("train", "train"), ("validation", "val")):
        path = source.find(f"captions_{part}2017.json", f"captions_{part}2014.json")
        if path is not None:
            content = _json(path, "images", "annotations")
            captions: dict[int, list[str]] = {}
            for note in content["annotations"]:
                captions.setdefault(note["image_id"], []).append(note["caption"].strip())
            found[split] = [{"image_id": image["file_name"], "image": source.picture(image["file_name"], path),
                             "captions": captions.get(image["id"], [])} for image in content["images"]]  # fmt: skip
    if not found:
        source.need("captions_train2017.json", "captions_val2017.json", "dataset_coco.json")
    return found


def _karpathy(source: Source, path: Path) -> dict[str, Iterable[dict]]:
    """Karpathy's JSON (Karpathy & Fei-Fei 2015): pictures with split and sentences; ``restval`` joins train."""
    names = {"val": "validation", "restval": "train"}
    found: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for image in _json(path, "images")["images"]:
        row = {"image_id": image["filename"], "image": source.picture(image["filename"], path),
               "captions": [sentence["raw"].strip() for sentence in image["sentences"]]}  # fmt: skip
        found[names.get(image["split"], image["split"])].append(row)
    return {split: listed for split, listed in found.items() if listed}


def _daquar(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    found: dict[str, list[dict]] = {}
    for split, part in (("official_train", "train"), ("official_test", "test")):
        path = source.need(f"qa.894.raw.{part}.txt")
        lines = _lines(path)
        if len(lines) % 2:
            raise DataError(f"{path.name} has {len(lines)} lines, expected a question and an answer in turn")
        found[split] = [_daquar_row(source, path, number, *pair)
                        for number, pair in enumerate(zip(lines[::2], lines[1::2], strict=True))]  # fmt: skip
    everything = sorted(found["official_train"] + found["official_test"], key=_daquar_key)
    cut = max(1, len(everything) // 5)
    return found | {"test": everything[:cut], "train": everything[cut:]}


def _daquar_key(row: dict) -> str:
    """The order of the random split: the same on every machine."""
    return _hash("\t".join((row["image_id"], row["question"], row["answer"])))


def _daquar_row(source: Source, path: Path, number: int, question: str, answer: str) -> dict:
    named_image = re.findall(r"image\d+", question)
    if not named_image:
        raise DataError(f"question {number} of {path.name} names no picture: expected “… in the image12 ?”")
    image_id = named_image[-1]
    picture = source.pictures.get(f"{image_id}.png", source.pictures.get(f"{image_id}.jpg"))
    question = re.sub(rf"\s*(\b(in|on|of|at) the )?\b{image_id}\s*\?\s*$", "", question).removesuffix("?").strip()
    return {"image_id": image_id, "image": picture, "question": question, "answer": answer}


def _vqa_v2(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    found = {}
    for split, part in (("train", "train2014"), ("validation", "val2014")):
        questions = source.find(f"v2_OpenEnded_mscoco_{part}_questions.json")
        if questions is None:
            continue
        notes = source.need(f"v2_mscoco_{part}_annotations.json")
        answers = {note["question_id"]: note for note in _json(notes, "annotations")["annotations"]}
        found[split] = [_vqa_row(source, questions, part, asked, answers.get(asked["question_id"]))
                        for asked in _json(questions, "questions")["questions"]]  # fmt: skip
    if not found:
        source.need("v2_OpenEnded_mscoco_train2014_questions.json", "v2_OpenEnded_mscoco_val2014_questions.json")
    return found


def _vqa_row(source: Source, path: Path, part: str, asked: dict, note: dict | None) -> dict:
    picture = source.picture(f"COCO_{part}_{int(asked['image_id']):012d}.jpg", path)
    answers = [entry["answer"] for entry in note["answers"]] if note else []
    return {"image_id": str(asked["image_id"]), "image": picture, "question": asked["question"],
            "answer": note["multiple_choice_answer"] if note else "", "answers": answers}  # fmt: skip


def _cifar10(source: Source, of: NamedSet) -> dict[str, Iterable[dict]]:
    files = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    binary = source.find("test_batch.bin") is not None
    read = _cifar_binary if binary else _cifar_pickle
    paths = {split: [source.need(name + ".bin" * binary) for name in listed] for split, listed in files.items()}
    return {split: _cifar_rows(split, listed, read) for split, listed in paths.items()}


def _cifar_rows(split: str, paths: list[Path], read) -> Iterator[dict]:
    from PIL import Image

    number = 0
    for path in paths:
        pixels, labels = read(path)
        for picture, label in zip(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            yield {"image_id": f"{split}/{number}", "image": buffer.getvalue(), "label": int(label)}
            number += 1


def _cifar_binary(path: Path):
    """One file of the binary version: records of a label byte and 3,072 pixel bytes, red then green then blue."""
    import numpy as np

    data = np.fromfile(path, dtype=np.uint8)
    if len(data) == 0 or len(data) % 3073:
        raise DataError(f"{path.name} has {len(data)} bytes, expected records of 3,073: unpack the archive again")
    return np.ascontiguousarray(data.reshape(-1, 3073)[:, 1:]), data.reshape(-1, 3073)[:, 0]


def _cifar_pickle(path: Path):
    """One file of the Python version: a pickle, read by an unpickler that admits arrays and plain values only."""
    import numpy as np

    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = content[b"data"], content[b"labels"]
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
            raise ValueError
    except DataError:
        raise
    except Exception:
        raise DataError(f"{path.name} is not a complete CIFAR-10 batch: unpack the archive again") from None
    return pixels, labels


class _ArraysOnly(pickle.Unpickler):
    """Pickles can run code; this reader knows numpy's arrays and nothing else."""

    def find_class(self, module: str, name: str):
        import numpy as np

        known = {("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
                 ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
                 ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype,
                 ("_codecs", "encode"): _encode}  # fmt: skip
        if (module, name) not in known:
            raise DataError(f"the pickle asks for {module}.{name}, no part of CIFAR-10: do not trust this file")
        return known[module, name]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_READERS = {"flickr8k": _flickr8k, "flickr30k": _flickr30k, "coco": _coco, "daquar": _daquar,
            "vqa_v2": _vqa_v2, "cifar10": _cifar10}  # fmt: skip


def _token_file(path: Path) -> dict[str, list[str]]:
    """Captions by picture from lines ``name.jpg#0⇥A caption .`` of Flickr8k and Flickr30k."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(path), 1):
        head, tab, caption = line.partition("\t")
        name, mark, _ = head.partition("#")
        if not (tab and mark):
            raise DataError(f"line {number} of {path.name} is not “picture.jpg#0, a tab, a caption”: {line[:60]!r}")
        captions.setdefault(name, []).append(caption.strip())
    return captions


def _captioned(source: Source, names: Iterable[str], captions: dict[str, list[str]], path: Path) -> list[dict]:
    return [{"image_id": name, "image": source.picture(name, path), "captions": captions.get(name, [])}
            for name in names]  # fmt: skip


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not a UTF-8 text file: unpack the archive again") from None


def _json(path: Path, *keys: str) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in keys}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path.name} is not complete JSON with {', '.join(keys)}: fetch it again") from None


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
