"""Data sets from the Hugging Face Hub: parquet only, at a pinned revision, and a quick answer without a network."""

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from mmlearn.data.rows import read
from mmlearn.data.sets import NamedSet
from mmlearn.errors import DataError


def offline() -> bool:
    """Whether the environment forbids the network (``HF_HUB_OFFLINE`` or ``MMLEARN_OFFLINE``)."""
    values = (os.environ.get(name, "").lower() for name in ("HF_HUB_OFFLINE", "MMLEARN_OFFLINE"))
    return any(value in ("1", "true", "yes", "on") for value in values)


def reachable(seconds: float = 4.0) -> bool:
    """Whether the Hub answers within ``seconds``, name look-up included."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
            answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def fetch(of: NamedSet, split: str) -> list[Path]:
    """The parquet files of one split, fetched (and kept by ``huggingface_hub``) where they are not here yet."""
    from huggingface_hub import HfApi, hf_hub_download

    hub = of.hub
    try:
        present = HfApi().list_repo_files(hub.repo, repo_type="dataset", revision=hub.revision)
        wanted = sorted(file for file in present if fnmatch(file, hub.files[split]))
        paths = [Path(hf_hub_download(hub.repo, file, repo_type="dataset", revision=hub.revision)) for file in wanted]
    except Exception as error:  # many kinds, from several libraries
        raise DataError(
            f"the Hub did not give {of.name}/{split} ({type(error).__name__}): "
            "try again later, or add the original files with mmlearn data add"
        ) from None
    if not paths:
        raise DataError(f"the Hub has no files {hub.files[split]} in {hub.repo} at revision {hub.revision}")
    for file, path in zip(wanted, paths, strict=True):
        _verify(path, hub.sha256.get(file))
    return paths


def _verify(path: Path, expected: str | None) -> None:
    if expected and sha256(path) != expected:
        raise DataError(f"{path.name} from the Hub has another checksum than expected: delete {path} and load again")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def batches(of: NamedSet, split: str, paths: list[Path]) -> Iterator:
    """The files' record batches with columns renamed to our schema."""
    import pyarrow as pa
    import pyarrow.compute as pc

    hub, number = of.hub, 0
    for path in paths:
        for batch in read(path):
            if split in hub.only:
                column, value = hub.only[split]
                batch = batch.filter(pc.equal(batch.column(column), value))
            columns = {ours: _source(batch, theirs, of, path) for ours, theirs in hub.rename.items()}
            if "image_id" not in columns:
                columns["image_id"] = pa.array([f"{split}/{number + i}" for i in range(len(batch))], pa.string())
            number += len(batch)
            yield pa.RecordBatch.from_pydict(columns)


def _source(batch, names: str | tuple[str, ...], of: NamedSet, path: Path):
    """One column of our schema from the Hub's: renamed, or several gathered into a list."""
    import pyarrow as pa

    for name in [names] if isinstance(names, str) else names:
        if name not in batch.schema.names:
            raise DataError(
                f"{path.name} of {of.hub.repo} has no column {name}; it has {', '.join(batch.schema.names)}"
            )
    if not isinstance(names, str):
        columns = [batch.column(name).to_pylist() for name in names]
        return pa.array([list(row) for row in zip(*columns, strict=True)], pa.list_(pa.string()))
    column = batch.column(names)
    if pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type):  # VQA: list of {answer, …}
        return pa.array([[entry["answer"] for entry in row] for row in column.to_pylist()], pa.list_(pa.string()))
    return column.cast(pa.string()) if pa.types.is_integer(column.type) and names != "label" else column
