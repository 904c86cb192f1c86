"""Learning-rate schedules: pure functions of the step, so that resuming needs no state.

Each returns a factor in 0…1 by which the optimiser's own learning rate is multiplied.
"""

import math
from collections.abc import Callable

from mmlearn.errors import TrainingError


def constant(progress: float) -> float:
    """The full rate throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, "SGDR", eq. 5, one period)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - progress


DECAYS = {"constant": constant, "cosine": cosine, "linear": linear}
NAMES = (*DECAYS, "one_cycle")


def one_cycle(step: int, steps: int, rise: int) -> float:
    """A cosine up from 1/25 to 1 in ``rise`` steps, then down to 1/250,000 (Smith 2018, "Super-convergence").

    The same numbers as ``torch.optim.lr_scheduler.OneCycleLR`` with its defaults.
    """
    low, end = 1 / 25, 1 / 25e4
    if step < rise:
        return low + (1 - low) * (1 - cosine(step / rise))
    return end + (1 - end) * cosine((step - rise) / max(1, steps - 1 - rise))


def schedule(name: str | Callable[[int], float], steps: int, warmup: int = 0) -> Callable[[int], float]:
    """The factor of the learning rate at each step 0 … ``steps`` - 1.

    ``name`` is ``constant``, ``cosine``, ``linear`` or ``one_cycle``, or a function step -> factor that is
    used as it is. During the first ``warmup`` steps (at most half of them all) the rate rises in a straight
    line; ``one_cycle`` rises for 30 % of the steps, or for ``warmup`` where that is longer.
    """
    if callable(name):
        return name
    if name not in NAMES:
        raise TrainingError(f"there is no schedule {name!r}: use one of {', '.join(NAMES)}, or a function of the step")
    warmup = min(warmup, steps // 2)
    if name == "one_cycle":
        rise = max(warmup, round(0.3 * steps) - 1, 1)
        return lambda step: one_cycle(step, steps, rise)
    decay = DECAYS[name]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay((step - warmup) / (steps - warmup))

    return factor
