"""Batches: where they come from, how they are cut into parts, and how they reach the device."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmlearn.errors import TrainingError


class Feed:
    """Gives the batch of a step, from a function ``step -> batch`` or from something to iterate again and again.

    A function needs no state. An iterable is walked in epochs; ``epoch`` and ``position`` say where it stands, and
    ``seek`` goes there again. A shuffling DataLoader gets a generator seeded by (seed, epoch).
    """

    def __init__(self, batches: Callable | Iterable, seed: int):
        if not callable(batches) and not isinstance(batches, Iterable):
            kind = type(batches).__name__
            raise TrainingError(
                f"batches is a {kind}: give a function step -> batch, or a list or DataLoader of batches"
            )
        self.batches, self.seed = batches, seed
        self.epoch = self.position = 0
        self.iterator: Iterator | None = None

    def __call__(self, step: int):
        if callable(self.batches):
            return self.batches(step)
        if self.iterator is None:
            self.seek(0, 0)
        batch = next(self.iterator, self)
        if batch is self:  # the end of the epoch
            self.seek(self.epoch + 1, 0)
            batch = next(self.iterator, self)
        if batch is self:
            raise TrainingError(f"the batches ran out before step {step}: pass something that can be iterated again")
        self.position += 1
        return batch

    def seek(self, epoch: int, position: int) -> None:
        """Go to a batch of an epoch; the batches before it are skipped (a DataLoader does not load them)."""
        self.epoch, self.position = epoch, position
        if callable(self.batches):
            return
        if isinstance(self.batches, DataLoader):
            self.iterator = iter(_loader_from(self.batches, self.seed, epoch, position))
        else:
            self.iterator = islice(iter(self.batches), position, None)


def _loader_from(loader: DataLoader, seed: int, epoch: int, position: int) -> Iterable:
    """The loader in the order of (seed, epoch), from the batch ``position`` on."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    for holder in (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if hasattr(holder, "generator"):
            holder.generator = generator
        if hasattr(holder, "set_epoch"):
            holder.set_epoch(epoch)
    if not position:
        return loader
    from accelerate import skip_first_batches

    return skip_first_batches(loader, position)


def tensors(batch, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a batch with a name that says where it sits, such as ``batch[0]`` or ``batch['tokens']``."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors(value, f"{name}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for i, value in enumerate(batch):
            yield from tensors(value, f"{name}[{i}]")


def transform(batch, change: Callable):
    """The same structure (tensor, list, tuple, dict) with ``change`` applied to each tensor and list of values."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return type(batch)({key: transform(value, change) for key, value in batch.items()})
    if isinstance(batch, list | tuple) and any(True for _ in tensors(batch)):
        parts = [transform(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return change(batch) if isinstance(batch, list) else batch


def to_device(batch, device: torch.device):
    """The batch with its tensors on ``device``."""
    return transform(batch, lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x)


def size(batch) -> int:
    """The number of examples: the first dimension that all tensors of the batch share (1 where there is none)."""
    sizes = {name: len(tensor) for name, tensor in tensors(batch) if tensor.dim()}
    return next(iter(sizes.values()), 1)


def cut(batch, start: int, stop: int):
    """The examples ``start`` … ``stop`` - 1 of a batch; numbers and strings stay whole.

    Raises :class:`TrainingError` where tensors disagree about the number of examples.
    """
    n = size(batch)
    for name, tensor in tensors(batch):
        if tensor.dim() and len(tensor) != n:
            raise TrainingError(
                f"{name} has the shape {tuple(tensor.shape)} in a batch of {n}: to compute a batch in parts, "
                f"each of its tensors needs {n} as the first dimension (keep shared tensors in the model or the loss)"
            )
    return transform(batch, lambda x: x[start:stop] if getattr(x, "ndim", 1) and len(x) == n else x)


def parts(batch, largest: int) -> list[tuple[int, object]]:
    """The batch in pieces of at most ``largest`` examples: (number of examples, piece) each."""
    n = size(batch)
    if n <= largest:
        return [(n, batch)]
    return [(min(largest, n - i), cut(batch, i, min(i + largest, n))) for i in range(0, n, largest)]


def share(batch, rank: int, world: int) -> tuple[int, object]:
    """The examples of one of ``world`` processes, as even as can be, and their number."""
    n = size(batch)
    if world == 1:
        return n, batch
    if n < world:
        raise TrainingError(f"a batch of {n} cannot be shared by {world} processes: give at least one example each")
    start, stop = rank * n // world, (rank + 1) * n // world
    return stop - start, cut(batch, start, stop)
