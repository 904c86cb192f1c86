"""Files that can be made again: written whole or not at all, checked when read, rebuilt when anything is wrong."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path


def folder() -> Path:
    """Where pictures are kept: $MMLEARN_CACHE, or .cache/mmlearn in the checkout (or, without one, where you are)."""
    if os.environ.get("MMLEARN_CACHE"):
        return Path(os.environ["MMLEARN_CACHE"])
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / ".cache" / "mmlearn"


@lru_cache
def version() -> str:
    """Names the code that draws and writes: another code, another name, so no stale file is ever read."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The path of a kept file, made by `make(path)` if it is not there or is not what was written."""
    path = folder() / name
    mark = path.with_name(path.name + ".sha256")
    if path.exists() and mark.exists() and mark.read_text() == _checksum(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    new, new_mark = (p.with_name(f".{os.getpid()}-{p.name}") for p in (path, mark))
    try:
        make(new)
        new_mark.write_text(_checksum(new))
        new.replace(path)
        new_mark.replace(mark)
    finally:
        new.unlink(missing_ok=True)
        new_mark.unlink(missing_ok=True)
    return path
