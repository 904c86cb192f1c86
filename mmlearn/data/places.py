"""Where data sets and caches live on this machine."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


def home() -> Path:
    """The checkout this package runs from, or the working directory when it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_places() -> list[Path]:
    """Folders searched for data sets, in order: ``$MMLEARN_DATA``, then ``data/``."""
    chosen = os.environ.get("MMLEARN_DATA")
    return [Path(place).expanduser() for place in (chosen, home() / "data") if place]


def cache_folder() -> Path:
    """Folder of everything that can be built again: ``$MMLEARN_CACHE``, or ``.cache/mmlearn``."""
    chosen = os.environ.get("MMLEARN_CACHE")
    folder = Path(chosen).expanduser() if chosen else home() / ".cache" / "mmlearn"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def written_whole(path: Path):
    """Yield a temporary path beside ``path`` and rename it there only if the block succeeds.

    A reader sees the old file or the new one, never half of one; a failure leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
