"""Rows as they are stored to rows one can train on: one schema, and every row left out is counted and told."""

import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmlearn.data.images import PictureError, plain
from mmlearn.data.places import cache_folder, written_whole
from mmlearn.data.sets import NamedSet
from mmlearn.errors import DataError

IN_MEMORY = 1 << 30  # bytes: larger splits are read from a memory-mapped file in the cache
_BATCH = 1024
_NOUN = re.compile(r"\b(picture|caption|question|answer|label|image_id)\b")


def read(path: Path) -> Iterator:
    """The record batches of one parquet file; a damaged file raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_BATCH)
    except (pa.ArrowException, OSError, ValueError):
        raise damaged(path) from None


def count(path: Path) -> int:
    """Rows of a parquet file, read from its end only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError):
        raise damaged(path) from None


def damaged(path: Path) -> DataError:
    return DataError(f"{path} is not a complete parquet file: copy or fetch it again")


def features(of: NamedSet):
    """The ``datasets.Features`` of a set's rows."""
    from datasets import ClassLabel, Features, Image, List, Value

    types = {"image_id": Value("string"), "image": Image(mode="RGB"), "captions": List(Value("string")),
             "question": Value("string"), "answer": Value("string"), "answers": List(Value("string")),
             "label": ClassLabel(names=list(of.labels))}  # fmt: skip
    return Features({column: types[column] for column in of.columns})


def need(batch, columns: Iterable[str], where: str) -> None:
    """A DataError that names the columns a batch lacks and those it has."""
    missing = [column for column in columns if column not in batch.schema.names]
    if missing:
        raise DataError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(batch.schema.names)}, "
            f"expected {', '.join(columns)}"
        )


def in_schema(batch, schema, where: str):
    """One record batch with exactly the columns of the Arrow schema, in its order and types."""
    import pyarrow as pa

    need(batch, schema.names, where)
    arrays = [_cast(batch.column(field.name), field.type, field.name, where) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _numbered(batch, where: str, start: int):
    """Labelled pictures have no names: they are numbered, ``cifar10/test/0`` and so on."""
    import pyarrow as pa

    ids = pa.array([f"{where}/{start + row}" for row in range(len(batch))], pa.string())
    return pa.RecordBatch.from_arrays([ids, *batch.columns], names=["image_id", *batch.schema.names])


def _cast(column, wanted, name: str, where: str):
    import pyarrow as pa

    if name == "image" and pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    kind = {"image": "encoded pictures", "label": "whole numbers", "captions": "lists of strings",
            "answers": "lists of strings"}.get(name, "strings")  # fmt: skip
    try:
        if name == "image":
            if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
                raise pa.ArrowInvalid("no bytes")
            return _boxed(column.cast(pa.binary()), wanted)
        if name == "label" and not pa.types.is_integer(column.type):
            raise pa.ArrowInvalid("no whole numbers")
        return column.cast(wanted)
    except (pa.ArrowException, ValueError, NotImplementedError):
        raise DataError(f"column {name} of {where} holds {column.type}, expected {kind}") from None


def _boxed(encoded, wanted):
    """Encoded pictures as the struct (bytes, path) in which ``datasets`` keeps them."""
    import pyarrow as pa

    return pa.StructArray.from_arrays([encoded, pa.nulls(len(encoded), pa.string())], fields=list(wanted))


def judged(data: bytes | None, deep: bool) -> tuple[str | None, bytes | None]:
    """Why a picture cannot be used, or None; and its bytes, changed to plain RGB where readers would differ.

    ``deep`` decodes every picture, otherwise the header and the end are read.
    """
    if not data:
        return "missing picture", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL has to say of a picture becomes its fault
            return None, plain(data, deep)
    except PictureError as error:
        return error.fault, None


def text_fault(row: dict, of: NamedSet) -> str | None:
    """Why the words or the label of a row cannot be used, or None."""
    if of.kind == "captions":
        empty = not row["captions"] or not all(caption and caption.strip() for caption in row["captions"])
        return "empty caption" if empty else None
    if of.kind == "labels":
        if row["label"] is None:
            return "missing label"
        return None if 0 <= row["label"] < len(of.labels) else "label out of range"
    for column in ("question", "answer"):
        if not (row[column] and row[column].strip()):
            return f"empty {column}"
    return None


def faults(words, encoded, of: NamedSet, seen: set, deep: bool) -> Iterator[tuple[str | None, bytes | None]]:
    """For each row the reason to leave it out, or None, and its picture.

    ``encoded`` has the pictures, or is None where they were judged before; ``seen`` collects the image_ids.
    """
    for number, row in enumerate(words.to_pylist()):
        fault = text_fault(row, of)
        if fault is None and of.kind != "questions":
            fault = "repeated image_id" if row["image_id"] in seen else None
            seen.add(row["image_id"])
        if fault is None and encoded is not None:
            yield judged(encoded[number].as_py(), deep)
        else:
            yield fault, None


def kept(batches: Iterable, of: NamedSet, where: str, deep: bool, tally: Counter, pictures: bool = True) -> Iterator:
    """The batches without the rows that cannot be used; ``tally`` counts all rows and each reason."""
    import pyarrow as pa

    seen: set = set()
    schema = features(of).arrow_schema
    words = [name for name in of.columns if name != "image"]
    for batch in batches:
        if of.kind == "labels" and "image_id" not in batch.schema.names:
            batch = _numbered(batch, where, tally["rows"])
        batch = in_schema(batch, schema, where)
        encoded = batch.column("image").field("bytes") if pictures else None
        found = list(faults(batch.select(words), encoded, of, seen, deep))
        tally["rows"] += len(batch)
        tally.update(fault for fault, _ in found if fault)
        keep = [fault is None for fault, _ in found]
        if pictures:
            image = _boxed(pa.array([data for _, data in found], pa.binary()), schema.field("image").type)
            batch = batch.set_column(schema.get_field_index("image"), schema.field("image"), image)
        yield batch if all(keep) else batch.filter(pa.array(keep))


def tell(tally: Counter, where: str) -> str | None:
    """The sentence about rows left out, or None; raises DataError where more than half would be."""
    total = tally["rows"]
    reasons = {reason: number for reason, number in tally.items() if reason != "rows" and number}
    skipped = sum(reasons.values())
    if not skipped:
        return None
    why = ", ".join(f"{n:,} {reason if n == 1 else _many(reason)}" for reason, n in reasons.items())
    if skipped * 2 > total:
        raise DataError(
            f"{skipped:,} of {total:,} rows of {where} cannot be used ({why}): "
            "the files are damaged or laid out differently; data/README.md shows the schema"
        )
    return f"skipped {skipped:,} of {total:,} rows of {where}: {why}"


def _many(reason: str) -> str:
    return _NOUN.sub(r"\1s", reason, count=1)


def first(batches: Iterable, n: int) -> Iterator:
    """The batches up to ``n`` rows; what comes after is not read."""
    for batch in batches:
        yield batch.slice(0, n)
        n -= len(batch)
        if n <= 0:
            return


def dataset(batches: Iterable, of: NamedSet, size: int, key: str, tally: Counter):
    """A ``datasets.Dataset`` of the batches: in memory, or memory-mapped from the cache when ``size`` is large.

    A large set is written once; ``key`` names its source, and the tally is kept beside it.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    spec = features(of)
    if size <= IN_MEMORY:
        return Dataset(pa.Table.from_batches(batches, spec.arrow_schema), info=DatasetInfo(features=spec))
    path = _cached(key)
    told = path.with_suffix(".json")
    if path.is_file() and told.is_file():
        tally.update(json.loads(told.read_text()))
    else:
        _write(batches, spec.arrow_schema, path, size)
        with written_whole(told) as partial:
            partial.write_text(json.dumps(tally))
    return Dataset.from_file(str(path), info=DatasetInfo(features=spec))


def table(batches: Iterable, schema, size: int, key: str):
    """An Arrow table of the batches: in memory, or memory-mapped from the cache when ``size`` is large."""
    import pyarrow as pa

    if size <= IN_MEMORY:
        return pa.Table.from_batches(batches, schema)
    path = _cached(key)
    if not path.is_file():
        _write(batches, schema, path, size)
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def _cached(key: str) -> Path:
    return cache_folder() / "rows" / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.arrow"


def _write(batches: Iterable, schema, path: Path, size: int) -> None:
    import pyarrow as pa

    try:
        with (
            written_whole(path) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
    except OSError as error:
        raise DataError(
            f"about {size / 1e9:.1f} GB could not be written to {path.parent} ({error}): "
            "free some space, or set MMLEARN_CACHE to another folder"
        ) from None
