"""Checkpoints that can be trusted: safetensors and JSON, written whole or not at all, verified when read.

A checkpoint is a folder ``step-000500`` with ``model.safetensors``, ``optimizer.safetensors``, ``random.safetensors``
and ``state.json`` (step, curve, settings, versions and the SHA-256 of each file). Nothing is ever pickled.
"""

import hashlib
import json
import os
import random
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, TrainingError
from mmlearn.train.live import say

FORMAT = 1
KEEP = 2
FILES = ("model", "optimizer", "random")
NOT_SAVED = ("model", "metrics", "card", "interrupted")


# --- trees of tensors and plain values ---------------------------------------------------------------------------


def pack(tree, tensors: dict[str, Tensor], path: str = "x"):
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; its tensors are put into ``tensors``."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, pack(value, tensors, f"{path}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(value, tensors, f"{path}.{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TrainingError(f"a checkpoint cannot hold a {type(tree).__name__} (at {path}): only numbers, texts, tensors")


def unpack(tree, tensors: dict[str, Tensor]):
    """The inverse of :func:`pack`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in value}
    return (list if kind == "list" else tuple)(unpack(item, tensors) for item in value)


def without_copies(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, each stored once, and the further names of tied weights: {name: name it is stored under}."""
    kept, aliases, seen, storages = {}, {}, {}, set()
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        key = (place, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = tensor.detach().contiguous().clone() if place in storages else tensor.detach().contiguous()
        storages.add(place)
    return kept, aliases


# --- random numbers ----------------------------------------------------------------------------------------------


def random_state() -> dict:
    """The state of Python's, NumPy's and torch's random numbers."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (libraries use the global generator)
    state = {"python": random.getstate(), "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest)}
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict) -> None:
    """Go back to a state of :func:`random_state`; devices that are not here are left out."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


# --- writing and reading -----------------------------------------------------------------------------------------


def write(folder: Path, state: dict, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Write a checkpoint under a temporary name, make sure that it is on the disk, then give it its name.

    Raises OSError or SafetensorError where that fails; then nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name, group in tensors.items():
            save_file(group, part / f"{name}.safetensors")
        state = {"format": FORMAT, **state, "sha256": {file.name: _sha256(file) for file in sorted(part.iterdir())}}
        state["seal"] = _seal(state)
        (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for file in part.iterdir():
            _to_disk(file)
        _to_disk(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        _to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read(folder: Path) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """State and tensors of a checkpoint. Raises :class:`CheckpointError` where anything is missing or was changed."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state.pop("seal") != _seal(state):
            raise CheckpointError(f"{folder.name}/state.json was changed after it was written")
        if state["format"] != FORMAT:
            raise CheckpointError(f"{folder.name} has the format {state['format']}, this version reads {FORMAT}")
        for name, expected in state["sha256"].items():
            if _sha256(folder / name) != expected:
                raise CheckpointError(f"{folder.name}/{name} is cut off or was changed (its SHA-256 differs)")
        return state, {name: load_file(folder / f"{name}.safetensors") for name in FILES}
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name} lacks the file {Path(error.filename).name}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder.name} cannot be read ({type(error).__name__})") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk (Windows has no such call for folders)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def same_architecture(model: nn.Module, saved: dict[str, Tensor], where: str) -> None:
    """Raise :class:`CheckpointError` naming the first tensor in which model and checkpoint differ."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in saved:
            raise CheckpointError(f"{where} is of another model: it has no tensor {name}")
        if saved[name].shape != tensor.shape:
            shapes = f"{tuple(saved[name].shape)} there, {tuple(tensor.shape)} here"
            raise CheckpointError(f"{where} is of another model: {name} is {shapes}")
    extra = [name for name in saved if name not in own]
    if extra:
        raise CheckpointError(f"{where} is of another model: it has the tensor {extra[0]}, which this model lacks")


# --- the checkpoints of one run ----------------------------------------------------------------------------------


class Saver:
    """Saves and resumes one run in ``folder`` (nothing at all for None); keeps the last two checkpoints."""

    def __init__(self, folder, recipe, run, work, optimizer, feed):
        self.folder = None if folder is None else Path(folder)
        self.recipe, self.run, self.work, self.optimizer, self.feed = recipe, run, work, optimizer, feed
        self.own: list[Path] = []  # oldest first

    def save(self) -> None:
        """Save the run as it stands. Where that fails, say so and go on: what is older stays untouched."""
        if self.folder is None:
            return
        if self.work.rank == 0:
            self._save()
        self.work.accelerator.wait_for_everyone()

    def _save(self) -> None:
        target = self.folder / f"step-{self.run.steps:06d}"
        try:
            write(target, *self._state())
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or str(error)
            last = f"the last one is {self.own[-1].name}" if self.own else "there is none yet"
            say(f"The checkpoint of step {self.run.steps} could not be saved ({why}): {last}; training goes on.")
            return
        self.own = [path for path in self.own if path != target][1 - KEEP :] + [target]
        for path in [*self.folder.glob("step-*"), *self.folder.glob(".step-*.part")]:
            if path not in self.own:
                shutil.rmtree(path, ignore_errors=True)

    def _state(self) -> tuple[dict, dict]:
        optimizer, chance = {}, {}
        model, aliases = without_copies(self.work.model.state_dict())
        scaler = self.work.accelerator.scaler
        state = {
            "step": self.run.steps,
            "steps": self.recipe.steps,
            "identity": self.recipe.identity(),
            "run": {f.name: getattr(self.run, f.name) for f in fields(self.run) if f.name not in NOT_SAVED},
            "feed": [self.feed.epoch, self.feed.position],
            "largest": self.work.largest,
            "aliases": aliases,
            "optimizer": pack(self.optimizer.state_dict(), optimizer),
            "scaler": pack(scaler.state_dict() if scaler else {}, optimizer, "scaler"),
            "random": pack(random_state(), chance),
            "versions": {"torch": torch.__version__},
        }
        optimizer = {name: tensor.detach().contiguous() for name, tensor in optimizer.items()}
        return state, {"model": model, "optimizer": optimizer, "random": chance}

    def load_latest(self) -> None:
        """Go on from the newest good checkpoint, if there is any.

        A broken one is reported and the one before is used. Raises :class:`CheckpointError` where none is good, or
        where the checkpoint belongs to another model or other settings.
        """
        found = sorted(self.folder.glob("step-*"), key=_step) if self.folder else []
        while found:
            try:
                state, tensors = read(found[-1])
            except CheckpointError as error:
                say(f"Checkpoint left out: {error}.")
                if not found[:-1]:
                    raise CheckpointError(
                        f"no checkpoint in {self.folder.name} can be used ({error}): "
                        "delete the folder or pass resume=False to start again"
                    ) from None
                found.pop()
            else:
                self._apply(state, tensors, found[-1].name)
                self.own = found
                return

    def _apply(self, state: dict, tensors: dict, where: str) -> None:
        model = tensors["model"]
        model |= {name: model[kept] for name, kept in state["aliases"].items()}
        same_architecture(self.work.model, model, where)
        self._same_settings(state, where)
        self.work.model.load_state_dict(model)
        self.optimizer.load_state_dict(unpack(state["optimizer"], tensors["optimizer"]))
        if self.work.accelerator.scaler:
            self.work.accelerator.scaler.load_state_dict(unpack(state["scaler"], tensors["optimizer"]))
        for name, value in state["run"].items():
            setattr(self.run, name, value)
        self.run.curve = [tuple(point) for point in self.run.curve]
        self.run.extra = {name: [tuple(point) for point in points] for name, points in self.run.extra.items()}
        self.run.validation = [tuple(point) for point in self.run.validation]
        self.run.finished = self.run.stopped_early or self.run.steps == self.recipe.steps
        self.work.largest = state["largest"]
        if not self.run.finished:
            say(f"Going on from step {self.run.steps} of {self.recipe.steps} ({where}).")
            self.feed.seek(*state["feed"])
        restore_random_state(unpack(state["random"], tensors["random"]))

    def _same_settings(self, state: dict, where: str) -> None:
        there, here = state["identity"], json.loads(json.dumps(self.recipe.identity()))
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise CheckpointError(
                    f"{where} was trained with {name} = {there.get(name)!r}, now it is {here.get(name)!r}: "
                    "pass resume=False to start again, or another checkpoint folder"
                )
        if state["step"] > self.recipe.steps:
            raise CheckpointError(
                f"{where} is further than the {self.recipe.steps} steps asked for: ask for more, or pass resume=False"
            )
        if state["steps"] != self.recipe.steps:
            say(
                f"The run was planned for {state['steps']} steps and now has {self.recipe.steps}: the schedule changes."
            )


def _step(path: Path) -> int:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1
