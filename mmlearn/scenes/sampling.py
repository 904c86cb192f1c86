"""Scenes as numbers: sample i of a split is a pure function of (seed, level, split, i).

Randomness is counter-based: a hash (splitmix64; Steele, Lea & Flood, OOPSLA 2014) of the sample's key and the
number of the draw. No generator is advanced, so neither batch, nor order, nor number of workers matters.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlearn.errors import DataError
from mmlearn.scenes.vocabulary import BACKGROUNDS, LEVELS, MAX_OBJECTS, N_LIGHT, RELATIONS, SPLITS

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit integers, whose products wrap around
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
FEW = 2  # how many shapes (colours) a scene with few shapes (colours) chooses from
P_FEW = 0.3  # the chance of few shapes, and again of few colours: this is how two stars come into one scene

# Each use of chance has its own draw numbers, so that one never disturbs another.
N, MODE, POOL, PAIR, CELL, SIZE, FILL, DX, DY, TILT, BACKGROUND = 0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32
CAPTION, QUESTION, NEGATIVE = 100, 200, 300


def _shift(x: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # a shift that fills with zeros, as for unsigned numbers


def mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scatters the bits of 64-bit integers (the output function of splitmix64)."""
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


def uniform(key: Int[Tensor, " B"], first: int, count: int = 1) -> Float[Tensor, "B count"]:
    """Draws number `first` … `first + count - 1` of each key: float64 in [0, 1)."""
    draws = torch.arange(first + 1, first + count + 1) * GOLDEN
    return _shift(mix(key[:, None] + draws), 11).double() * 2.0**-53


def pick(u: Float[Tensor, "..."], n: int | Tensor) -> Int[Tensor, "..."]:
    """A whole number in 0 … n - 1 for each uniform draw."""
    return (u * n).long()


def distinct(u: Float[Tensor, "B K"], n: int | Int[Tensor, " B"]) -> Int[Tensor, "B K"]:
    """The first K of a random order of 0 … n - 1: all orders equally likely (columns from n on mean nothing)."""
    chosen: list[Tensor] = []
    for k in range(u.shape[1]):
        new = pick(u[:, k], n - k)
        for old in torch.stack(chosen, 1).sort(1).values.unbind(1) if chosen else ():
            new = new + (new >= old)  # step over the numbers already taken, the smallest first
        chosen.append(new)
    return torch.stack(chosen, 1)


@dataclass(frozen=True)
class Scenes:
    """B scenes as a struct of tensors; absent objects are -1 in every attribute.

    `key` names each scene's stream of chance; `shape`, `colour`, `size`, `fill`, `cell` index SHAPES, COLOURS, SIZES,
    FILLS and PLACES; `dx`, `dy` move an object off its cell's centre (in pictures), `tilt` turns it (radians).
    Later objects lie on top. `scenes[i]` is one scene, `scenes[a:b]` or `scenes[tensor]` several.
    """

    key: Int[Tensor, " B"]
    n_objects: Int[Tensor, " B"]
    shape: Int[Tensor, "B 4"]
    colour: Int[Tensor, "B 4"]
    size: Int[Tensor, "B 4"]
    fill: Int[Tensor, "B 4"]
    cell: Int[Tensor, "B 4"]
    dx: Float[Tensor, "B 4"]
    dy: Float[Tensor, "B 4"]
    tilt: Float[Tensor, "B 4"]
    background: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, index) -> "Scenes":
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"scene {index} of {len(self)}")
            index = [index]
        return Scenes(*(getattr(self, f.name)[index] for f in fields(self)))


def keys(seed: int, level: str, split: str, indices: Iterable[int] | Tensor) -> Int[Tensor, " B"]:
    """The key of each sample: a hash of seed, level, split and index.

    Raises DataError on an unknown split or a negative index.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} does not exist: choose one of {', '.join(SPLITS)}")
    if isinstance(indices, range):
        indices = torch.arange(indices.start, indices.stop, indices.step)
    index = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices), dtype=torch.int64)
    if (index < 0).any():
        raise DataError(f"index {int(index.min())} is negative: samples are numbered from 0")
    start = mix(torch.tensor(seed) * GOLDEN + LEVELS.index(level) * len(SPLITS) + SPLITS.index(split) + 1)
    return mix(start + index)


def count_weights(level: str) -> tuple[float, ...]:
    """The probability of 1, 2, 3 and 4 objects in a scene of this level."""
    return {"easy": (1.0, 0.0, 0.0, 0.0), "medium": (0.0, 1.0, 0.0, 0.0), "hard": (0.25,) * 4}[level]


def sample(key: Int[Tensor, " B"], level: str, held_out: bool) -> Scenes:
    """The scenes of these keys."""
    weights = torch.tensor(count_weights(level), dtype=torch.float64)
    n = 1 + (uniform(key, N) >= weights.cumsum(0)[:-1]).sum(1)
    colour, shape = _held_out_pairs(key) if held_out else _training_pairs(key)
    jitter = (uniform(key, DX, 12).float() * 2 - 1).view(-1, 3, MAX_OBJECTS)
    attributes = (
        shape,
        colour,
        pick(uniform(key, SIZE, MAX_OBJECTS), 2),
        pick(uniform(key, FILL, MAX_OBJECTS), 4) * (level == "hard"),
        distinct(uniform(key, CELL, MAX_OBJECTS), 9),
    )
    absent = torch.arange(MAX_OBJECTS) >= n[:, None]
    background = pick(uniform(key, BACKGROUND)[:, 0], len(BACKGROUNDS) if level == "hard" else N_LIGHT)
    return Scenes(
        key, n, *(a.masked_fill(absent, -1) for a in attributes),
        0.02 * jitter[:, 0], 0.02 * jitter[:, 1], 0.12 * jitter[:, 2], background,
    )  # fmt: skip


def _held_out_pairs(key: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B 4"], Int[Tensor, "B 4"]]:
    both = distinct(uniform(key, PAIR, MAX_OBJECTS), 10)
    return both, both


def _training_pairs(key: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B 4"], Int[Tensor, "B 4"]]:
    """Distinct colour-shape pairs, none held out, in one of three modes: any pairs, few shapes, few colours.

    Given the mode and the pool every order of every choice is equally likely, so objects are exchangeable and
    `tuple_probability` below is exact.
    """
    mode = (uniform(key, MODE) >= torch.tensor([P_FEW, 2 * P_FEW], dtype=torch.float64)).sum(1, keepdim=True)
    number = distinct(uniform(key, PAIR, MAX_OBJECTS), torch.where(mode[:, 0] < 2, 9 * FEW, 90))
    pool = distinct(uniform(key, POOL, FEW), 10)
    one = torch.where(mode < 2, pool.gather(1, (number // 9).clamp(max=FEW - 1)), number // 9)
    other = (one + 1 + number % 9) % 10  # never equal: the held-out pairs are those with equal numbers
    return torch.where(mode == 1, one, other), torch.where(mode == 1, other, one)


def n_different(x: Int[Tensor, "B M"]) -> Int[Tensor, " B"]:
    """How many different numbers each row holds."""
    x = x.sort(1).values
    return 1 + (x[:, 1:] != x[:, :-1]).sum(1)


@lru_cache
def tuple_chance(m: int, n_colours: int, n_shapes: int) -> float:
    """The probability that M objects of a training scene, in random order, are M given different training pairs.

    It depends only on how many different colours and shapes those have: of the 45 pools of two, 9 hold a given one, and
    1 holds two given ones.
    """
    pools = {1: 9 / 45, 2: 1 / 45}
    few = (pools.get(n_shapes, 0.0) + pools.get(n_colours, 0.0)) * P_FEW / math.perm(9 * FEW, m)
    return (1 - 2 * P_FEW) / math.perm(90, m) + few


def tuple_probability(colour: Int[Tensor, "B M"], shape: Int[Tensor, "B M"]) -> Float[Tensor, " B"]:
    """The exact probability that M objects of a training scene, in random order, have these colours and shapes."""
    m = colour.shape[1]
    table = [[tuple_chance(m, c, s) for s in range(m + 1)] for c in range(m + 1)]
    possible = (colour != shape).all(1) & (n_different(10 * colour + shape) == m)
    return torch.tensor(table, dtype=torch.float64)[n_different(colour), n_different(shape)] * possible


def all_tuples(m: int) -> tuple[Int[Tensor, "N M"], Int[Tensor, "N M"]]:
    """Colours and shapes of all M-tuples of training pairs that begin with one pair: 1/90 of all, by symmetry."""
    rest = torch.cartesian_prod(*[torch.arange(90)] * (m - 1)).view(-1, m - 1) if m > 1 else torch.zeros(1, 0).long()
    number = torch.cat([torch.zeros(len(rest), 1).long(), rest], 1)
    return number // 9, (number // 9 + 1 + number % 9) % 10


def true_relations(a: Int[Tensor, " B"], b: Int[Tensor, " B"]) -> Tensor:
    """Bool (B, 4): which of RELATIONS hold of an object in cell `a` and another in cell `b`."""
    rows, columns = a // 3 - b // 3, a % 3 - b % 3
    truth = torch.stack([columns < 0, columns > 0, rows < 0, rows > 0], 1)
    assert truth.shape[1] == len(RELATIONS)
    return truth


def choose(mask: Tensor, u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """One of the True columns of each row of a bool (B, N) mask, all equally likely; 0 where there is none."""
    rank = pick(u, mask.sum(1))[:, None]
    return ((mask.cumsum(1) == rank + 1) & mask).float().argmax(1)
