"""Small models that come with the course, trained on the drawn world for longer than a lesson allows.

Each is a folder with `config.json`, `model.safetensors` and `card.json`, the run card of its training. They are made by
`mmlearn reproduce CHAPTER --profile long`, from the chapter's own cells, and never by hand.
"""

import os
import shutil
from pathlib import Path

from mmlearn.errors import CheckpointError, DataError
from mmlearn.train import cards

CARD = "card.json"


def bundled() -> Path:
    """The folder of the weights that come with the package."""
    return Path(__file__).parent


def own_folder() -> Path:
    """Where a chapter keeps the weights that it trains on this machine."""
    return cards.own_folder().parent / "weights"


def names() -> list[str]:
    """Names of the bundled models."""
    return sorted(path.parent.name for path in bundled().glob(f"*/{CARD}"))


def path(name: str) -> Path:
    """The folder of a bundled model, for its class's `from_pretrained`. Raises CheckpointError for an unknown name."""
    if name not in names():
        raise CheckpointError(f"no weights {name!r} come with the course; there are {', '.join(names()) or 'none yet'}")
    return bundled() / name


def card(name: str) -> dict:
    """The run card of a bundled model: how long it was trained, on what, and what it reached."""
    found = cards.read(path(name) / CARD)
    if found is None:
        raise CheckpointError(f"the run card of the weights {name!r} is broken: install the course again")
    return found


def keep(model, name: str, run) -> Path:
    """Save a trained model under `runs/weights/NAME`, with the card of its run; return the folder.

    Raises DataError for a name that is no plain word, or a run that wrote no card.
    """
    if not name.isidentifier():
        raise DataError(f"weights are called by one word such as vit, not {name!r}")
    if run.card is None:
        raise DataError("weights need the card of their run: mm.fit(…, card=…)")
    folder = own_folder() / name
    part = folder.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    shutil.copy(run.card, part / CARD)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return folder


def gather(from_folder: Path) -> list[Path]:
    """Take what a run of a chapter kept into the package, in place of what was there; return the new folders."""
    found = sorted(path.parent for path in Path(from_folder).glob(f"weights/*/{CARD}"))
    for folder in found:
        shutil.rmtree(bundled() / folder.name, ignore_errors=True)
        shutil.copytree(folder, bundled() / folder.name)
    return [bundled() / folder.name for folder in found]
