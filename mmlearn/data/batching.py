"""Which samples each training step sees: shuffled, complete, and the same after a restart."""

from functools import lru_cache

import torch
from torch import Tensor

from mmlearn.errors import DataError


def batches(n: int, batch_size: int, seed: int = 0, shuffle: bool = True):
    """A function ``step -> LongTensor`` of sample numbers (on the CPU).

    Each epoch visits every one of the ``n`` samples exactly once, in an order that depends on
    ``(seed, epoch)`` only. Nothing is remembered between calls, so training resumed at step 700 sees
    what it would have seen without the break. An epoch has ``ceil(n / batch_size)`` batches whose sizes
    differ by at most one and never exceed ``batch_size``: no tiny batch ends the epoch.
    The function has an attribute ``steps_per_epoch``.

    >>> index = batches(len(images), 128, seed=0)
    >>> images[index(0)]  # the pictures of the first step
    """
    if n < 1 or batch_size < 1:
        raise DataError(
            f"batches needs at least one sample and a batch of at least one, not n={n} and batch_size={batch_size}"
        )
    steps_per_epoch = -(-n // batch_size)

    @lru_cache(maxsize=2)
    def epoch_order(epoch: int) -> tuple[Tensor, ...]:
        if not shuffle:
            return torch.arange(n).tensor_split(steps_per_epoch)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(n, generator=generator).tensor_split(steps_per_epoch)

    def indices(step: int) -> Tensor:
        epoch, position = divmod(int(step), steps_per_epoch)
        return epoch_order(epoch)[position].clone()

    indices.steps_per_epoch = steps_per_epoch
    return indices
