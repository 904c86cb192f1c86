"""Data sets by name: found on this machine or fetched, checked, and given in one schema."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmlearn.data import hub, rows
from mmlearn.data.places import data_places
from mmlearn.data.sets import SCENE_SPLITS, SCENES, SETS, NamedSet, checked_split, named, names
from mmlearn.errors import DataError


def load(name: str, split: str = "train", *, n: int | None = None, deep: bool = False):
    """One split of a named data set as a ``datasets.Dataset``.

    Columns: ``image_id, image, captions`` (list of strings) for flickr8k, flickr30k, coco and the scenes;
    ``image_id, image, question, answer`` for daquar and vqa_v2 (which adds ``answers``, a list of ten);
    ``image_id, image, label`` for cifar10. Looked for in ``$MMLEARN_DATA/<name>``, then ``data/<name>``, then
    on the Hugging Face Hub at a pinned revision. Rows that cannot be used are left out, and one printed
    sentence says how many and why.

    Args:
        name: one of ``data.names()``.
        split: a split of that set; a wrong one is answered with the splits there are.
        n: only the first ``n`` rows (for the drawn scenes: how many to draw, 1,000 unless told).
        deep: decode every picture now, so that damage inside a file is found too (slow for large sets).

    Raises:
        DataError: unknown name or split, absent data without a network, a damaged file, a missing column.
    """
    if name in SCENES:
        from mmlearn import scenes

        checked_split(name, split, SCENE_SPLITS)
        return scenes.World(level=name.removeprefix("scenes/")).rows(split, 1000 if n is None else n)
    of = named(name)
    checked_split(name, split, of.rows)
    ds, tally = _open(of, split, n, deep)
    if sentence := rows.tell(tally, f"{name}/{split}"):
        print(sentence)
    return ds


def _open(of: NamedSet, split: str, n: int | None, deep: bool):
    """The data set of a split, from disk or from the Hub, and the tally of its rows."""
    where, tally = f"{of.name}/{split}", Counter()
    files = local_files(of, split)
    batches, paths = _local(of, files, where, deep, tally) if files else _from_hub(of, split, where, deep, tally)
    size = _joined_size(of, files, paths)
    if n is not None:
        batches = rows.first(batches, n)
        size = size * n // max(1, sum(map(rows.count, files or paths)))
    key = f"{where} {n} {deep} " + " ".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths)
    return rows.dataset(batches, of, size, key, tally), tally


def available(name: str) -> bool:
    """Whether at least one split of the set is on this machine (nothing is fetched)."""
    return name in SCENES or any(local_files(named(name), split) for split in named(name).rows)


def how_to_get(name: str) -> str:
    """One sentence that says how to get a data set that is not here."""
    if name in SCENES:
        return f"{name} is drawn on this machine: nothing to get."
    of = named(name)
    online = (f', or fetch {of.hub.size} from the Hub with data.load("{name}", "{next(iter(of.hub.files))}")'
              if of.hub else "")  # fmt: skip
    return (
        f"{name} is not on this machine: run `mmlearn data add {name} FOLDER` with the original files "
        f"({of.original}){online}; data/{name}.md has the links and the licence."
    )


def local_files(of: NamedSet, split: str) -> list[Path]:
    """The parquet files of a split on this machine, from the first place that has them."""
    for place in data_places():
        folder = place / of.name
        files = [folder / f"{split}.parquet"] if (folder / f"{split}.parquet").is_file() else []
        if files := files or sorted(folder.glob(f"{split}-*-of-*.parquet")):
            return files
    return []


def _local(of: NamedSet, files: list[Path], where: str, deep: bool, tally: Counter):
    shared = files[0].parent / "images.parquet"
    source = (batch for file in files for batch in rows.read(file))
    if of.kind == "questions" and shared.is_file():
        return _joined(of, source, shared, where, deep, tally), [*files, shared]
    return rows.kept(source, of, where, deep, tally), files


def _from_hub(of: NamedSet, split: str, where: str, deep: bool, tally: Counter):
    if of.hub is None or split not in of.hub.files:
        there = [other for other in of.rows if local_files(of, other)]
        some = f"{where} is not here (but {', '.join(there)} is)" if there else how_to_get(of.name)
        raise DataError(some if not there else f"{some}: add the original files that hold it, see data/{of.name}.md")
    if hub.offline():
        raise DataError(f"{how_to_get(of.name)} (The Hub was not asked: HF_HUB_OFFLINE is set.)")
    if not hub.reachable():
        raise DataError(f"{how_to_get(of.name)} (The Hub does not answer: there is no network.)")
    print(f"fetching {where} from the Hub ({of.hub.repo}, revision {of.hub.revision[:12]}; {of.hub.size} in all)")
    paths = hub.fetch(of, split)
    return rows.kept(hub.batches(of, split, paths), of, where, deep, tally), paths


def _joined(of: NamedSet, source, shared: Path, where: str, deep: bool, tally: Counter):
    """Question rows with their pictures from ``images.parquet``, each picture checked once."""
    import pyarrow as pa

    picture_of = _pictures(of, shared, deep)
    for batch in source:
        rows.need(batch, ("image_id",), where)
        found = [picture_of(image_id) for image_id in batch.column("image_id").cast(pa.string()).to_pylist()]
        faulty = Counter(picture for picture in found if isinstance(picture, str))
        tally["rows"] += sum(faulty.values())
        tally.update(faulty)
        batch = batch.filter(pa.array([isinstance(picture, bytes) for picture in found]))
        encoded = pa.array([picture for picture in found if isinstance(picture, bytes)], pa.binary())
        yield from rows.kept([_with_column(batch, "image", encoded)], of, where, deep, tally, pictures=False)


def _pictures(of: NamedSet, shared: Path, deep: bool):
    """A function image_id → its picture's bytes, or the reason (a string) why it cannot be used."""
    import pyarrow as pa

    schema = pa.schema([rows.features(of).arrow_schema.field(name) for name in ("image_id", "image")])
    source = (rows.in_schema(batch, schema, str(shared)) for batch in rows.read(shared))
    key = f"pictures {shared} {shared.stat().st_size} {shared.stat().st_mtime_ns}"
    table = rows.table(source, schema, shared.stat().st_size, key)
    place: dict[str, str | bytes | tuple[int, int]] = {}  # a fault, a changed picture, or where it lies
    chunks = [chunk.field("bytes") for chunk in table.column("image").chunks]
    names = (chunk.to_pylist() for chunk in table.column("image_id").chunks)
    for number, (ids, encoded) in enumerate(zip(names, chunks, strict=True)):
        for row, image_id in enumerate(ids):
            data = encoded[row].as_py()
            fault, usable = rows.judged(data, deep)
            place.setdefault(image_id, fault or ((number, row) if usable is data else usable))

    def picture_of(image_id: str) -> bytes | str:
        found = place.get(image_id, "missing picture")
        return chunks[found[0]][found[1]].as_py() if isinstance(found, tuple) else found

    return picture_of


def _with_column(batch, name: str, values):
    import pyarrow as pa

    columns = {other: batch.column(other) for other in batch.schema.names if other != name}
    return pa.RecordBatch.from_pydict(columns | {name: values})


def _joined_size(of: NamedSet, files: list[Path], paths: list[Path]) -> int:
    size = sum(path.stat().st_size for path in paths)
    if of.kind != "questions" or len(paths) == len(files):
        return size
    images = paths[-1]
    return size + images.stat().st_size * sum(map(rows.count, files)) // max(1, rows.count(images))


@dataclass(frozen=True)
class Found:
    """What is known of one named set on this machine: ``rows`` of each split found, ``problems`` as sentences."""

    name: str
    folder: Path | None
    rows: dict[str, int]
    problems: tuple[str, ...]
    how_to_get: str

    def __str__(self) -> str:
        if self.folder is None:
            return f"○ {self.how_to_get}"
        sizes = ", ".join(f"{split} {number:,}" for split, number in self.rows.items())
        return "\n  ".join(
            [f"{'✗' if self.problems else '✓'} {self.name}: {sizes} rows in {self.folder}", *self.problems]
        )


@dataclass(frozen=True)
class FileCheck:
    """One parquet file: rows, bytes, SHA-256; ``known`` is True where that is a published file, else None.

    A set converted by ``data.add`` has no published checksum: its bytes depend on the library's version.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    known: bool | None


@dataclass(frozen=True)
class Check:
    """The verdict on one set: ``ok`` when every split found has the schema, its published size and good pictures."""

    name: str
    folder: Path | None
    files: tuple[FileCheck, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int | None] = field(default_factory=dict)
    decoded: int = 0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.rows) and not self.problems

    def __str__(self) -> str:
        mark = {True: "known checksum", None: "no checksum known"}
        files = [
            f"{f.file}: {f.rows:,} rows, {f.bytes / 1e6:.1f} MB, sha256 {f.sha256} ({mark[f.known]})"
            for f in self.files
        ]
        head = (
            f"{'✓' if self.ok else '✗'} {self.name}: {self.decoded:,} pictures decoded, {len(self.problems)} problems"
        )
        return "\n  ".join([head, *files, *self.problems])


def listing() -> list[Found]:
    """What is found where, for every name: reads only the ends of the parquet files."""
    return [_found(SETS[name]) if name in SETS else Found(name, None, {}, (), how_to_get(name)) for name in names()]


def _found(of: NamedSet) -> Found:
    folder, sizes, problems = None, {}, []
    for split in of.rows:
        for path in local_files(of, split):
            folder = folder or path.parent
            try:
                sizes[split] = sizes.get(split, 0) + rows.count(path)
            except DataError as error:
                problems.append(str(error))
    return Found(of.name, folder, sizes, tuple(problems), "" if folder else how_to_get(of.name))


def check(name: str, deep: bool = False, sample: int = 100) -> Check:
    """Verify a set on this machine: checksums, schema, sizes, and pictures decoded.

    Args:
        name: a named set that is here (the drawn scenes have no files to check).
        deep: decode every picture; otherwise ``sample`` of each split, evenly spaced.
    """
    if name in SCENES:
        return Check(name, None, rows=dict.fromkeys(SCENE_SPLITS, 0))
    of = named(name)
    found = _found(of)
    if found.folder is None:
        return Check(name, None, problems=(how_to_get(name),))
    problems, sizes, decoded = list(found.problems), {}, 0
    for split in found.rows:
        if any(str(path) in problem for path in local_files(of, split) for problem in found.problems):
            continue
        try:
            sizes[split], done = _check_split(of, split, deep, sample, problems)
            decoded += done
        except DataError as error:
            problems.append(str(error))
    return Check(name, found.folder, _check_files(of), sizes, dict(of.rows), decoded, tuple(problems))


def _check_files(of: NamedSet) -> tuple[FileCheck, ...]:
    paths = sorted({path for split in of.rows for path in local_files(of, split)})
    paths += sorted({path.parent / "images.parquet" for path in paths if (path.parent / "images.parquet").is_file()})
    checks = []
    for path in paths:
        try:
            size = rows.count(path)
        except DataError:
            size = 0
        digest = hub.sha256(path)
        known = True if of.hub and digest in of.hub.sha256.values() else None
        checks.append(FileCheck(path.name, size, path.stat().st_size, digest, known))
    return tuple(checks)


def _check_split(of: NamedSet, split: str, deep: bool, sample: int, problems: list[str]) -> tuple[int, int]:
    """Rows that can be used and pictures decoded; appends what is wrong to ``problems``."""
    from mmlearn.data.images import decode, encoded_pictures

    where = f"{of.name}/{split}"
    ds, tally = _open(of, split, None, deep)
    if sentence := rows.tell(tally, where):
        problems.append(sentence)
    if of.rows[split] not in (None, tally["rows"]):
        problems.append(f"{where} has {tally['rows']:,} rows, the published split has {of.rows[split]:,}")
    chosen = [] if deep else range(0, len(ds), max(1, len(ds) // sample))
    for row in chosen:
        try:
            decode(encoded_pictures(ds, row, row + 1)[0])
        except DataError as error:
            problems.append(f"{where}, row {row}: {error}")
    return len(ds), len(ds) if deep else len(chosen)
