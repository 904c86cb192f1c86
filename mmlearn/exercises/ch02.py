"""Exercises of chapter 02, attention."""

import math

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


# ---------------------------------------------------------------------------------------------- 02.1 temperature
def _gaps(generator):
    return [(2.0, 0.9), (1.0, 0.6), *((_uniform(generator, 0.5, 9), _uniform(generator, 0.55, 0.99)) for _ in range(4))]


TEMPERATURE = Exercise(
    id="02.1",
    title="The right temperature",
    inputs=_gaps,
    solution=lambda gap, p: gap / math.log(p / (1 - p)),
    misconceptions=[
        Misconception(
            "that is 1/τ: multiplying the scores by it gives p, but a temperature divides them",
            lambda gap, p: math.log(p / (1 - p)) / gap,
        ),
        Misconception(
            "the sign is turned round: your temperature is negative, so the leading key would get the *smaller* weight",
            lambda gap, p: gap / math.log((1 - p) / p),
        ),
        Misconception(
            "you set exp(gap/τ) equal to p, or to 1/p: that forgets the denominator, in which the other key stands too",
            lambda gap, p: -gap / math.log(p),
        ),
        Misconception(
            "you set exp(gap/τ) equal to p, or to 1/p: that forgets the denominator, in which the other key stands too",
            lambda gap, p: gap / math.log(p),
        ),
        Misconception(
            "you used a logarithm to the base 10 (or 2), but softmax is built on e: take math.log",
            lambda gap, p: gap / math.log10(p / (1 - p)),
        ),
        Misconception(
            "you used a logarithm to the base 10 (or 2), but softmax is built on e: take math.log",
            lambda gap, p: gap / math.log2(p / (1 - p)),
        ),
        Misconception(
            "you took the ratio of the two weights without its logarithm: check with softmax what weight comes out",
            lambda gap, p: gap * (1 - p) / p,
        ),
    ],
    hints=[
        "Only differences of scores matter in a softmax: call the two scores gap and 0, and divide both by τ.",
        "The first key's weight is exp(gap/τ) / (exp(gap/τ) + 1). Call exp(gap/τ) = x and solve p = x / (x + 1) for x.",
        "x = p / (1 − p), the odds. So gap/τ is the logarithm of the odds.",
    ],
)


# ---------------------------------------------------------------------------------------------------- 02.2 scale
def _spreads(generator):
    drawn = [(_uniform(generator, 0.2, 4), _uniform(generator, 0.2, 4)) for _ in range(4)]
    return [(64, 1.0, 1.0), (1, 2.0, 3.0), *((d, *pair) for d, pair in zip((4, 16, 100, 512), drawn, strict=True))]


SCALE = Exercise(
    id="02.2",
    title="A scale for other spreads",
    inputs=_spreads,
    solution=lambda d, spread_q, spread_k: 1 / (math.sqrt(d) * spread_q * spread_k),
    misconceptions=[
        Misconception(
            "you divided by d, not by √d: that is right for a variance, but the spread is its square root",
            lambda d, spread_q, spread_k: 1 / (d * spread_q * spread_k),
        ),
        Misconception(
            "1/√d is the answer for spreads of 1 only: queries twice as large make scores twice as large",
            lambda d, spread_q, spread_k: 1 / math.sqrt(d),
        ),
        Misconception(
            "that is the spread itself: the scores have to be *multiplied* by your number, so it must be the inverse",
            lambda d, spread_q, spread_k: math.sqrt(d) * spread_q * spread_k,
        ),
        Misconception(
            "you divided by the variance of the dot product, d · spread_q² · spread_k²: take its square root",
            lambda d, spread_q, spread_k: 1 / (d * spread_q**2 * spread_k**2),
        ),
        Misconception(
            "you took the square root of the spreads too: they are standard deviations already, only d needs a root",
            lambda d, spread_q, spread_k: 1 / math.sqrt(d * spread_q * spread_k),
        ),
        Misconception(
            "you added the two spreads, but q and k are multiplied: the spread of a product of independent numbers "
            "with mean 0 is the product of the spreads",
            lambda d, spread_q, spread_k: 1 / (math.sqrt(d) * (spread_q + spread_k)),
        ),
        Misconception(
            "you added the two variances, but q and k are multiplied: the variance of a product of independent numbers "
            "with mean 0 is the product of the variances",
            lambda d, spread_q, spread_k: 1 / math.sqrt(d * (spread_q**2 + spread_k**2)),
        ),
    ],
    hints=[
        "Start with one product q₁k₁. Its mean is 0; what is its variance, the mean of q₁²k₁²?",
        "For independent numbers the mean of q₁²k₁² is the mean of q₁² times the mean of k₁². Then d variances add up.",
        "The dot product has the variance d · spread_q² · spread_k². Its spread is the square root; divide by that.",
    ],
)


# ---------------------------------------------------------------------------------------------- 02.3 causal mask
def _lengths(generator):
    return [(4, 4), (1, 5), (2, 5), (3, 7), (6, 9), (1, 1)]


def _triangle(diagonal):
    return lambda n_queries, n_keys: torch.ones(n_queries, n_keys).bool().tril(diagonal(n_queries, n_keys))


CAUSAL = Exercise(
    id="02.3",
    title="A causal mask for the last few queries",
    inputs=_lengths,
    solution=_triangle(lambda t, s: s - t),
    misconceptions=[
        Misconception(
            "your queries stand at the *first* positions: with one query and five keys it would see one key, "
            "but the newest word may see them all",
            _triangle(lambda t, s: 0),
        ),
        Misconception(
            "the mask is upside down: True means keep here, and yours is True in the future",
            lambda t, s: ~_triangle(lambda t, s: s - t)(t, s),
        ),
        Misconception(
            "the mask is upside down, and its queries stand at the first positions: True means keep here",
            lambda t, s: ~_triangle(lambda t, s: 0)(t, s),
        ),
        Misconception(
            "a query may see itself as well: yours sees only what came before it",
            _triangle(lambda t, s: s - t - 1),
        ),
        Misconception(
            "a query sees one word of the future: the diagonal is one too high",
            _triangle(lambda t, s: s - t + 1),
        ),
        Misconception(
            "the triangle points the wrong way: yours lets a query see itself and the future",
            lambda t, s: torch.ones(t, s).bool().triu(s - t),
        ),
        Misconception(
            "the triangle points the wrong way: yours lets a query see itself and the future",
            lambda t, s: torch.ones(t, s).bool().triu(),
        ),
        Misconception(
            "the shape is turned: queries are the rows, (n_queries, n_keys)",
            lambda t, s: _triangle(lambda t, s: s - t)(t, s).T,
        ),
        Misconception(
            "a mask is boolean in this course; yours holds numbers",
            lambda t, s: _triangle(lambda t, s: s - t)(t, s).float(),
        ),
        Misconception(
            "a mask is boolean in this course; yours holds numbers",
            lambda t, s: _triangle(lambda t, s: s - t)(t, s).long(),
        ),
    ],
    hints=[
        "Draw it for 2 queries and 5 keys: the queries are the words 3 and 4, counted from 0. Which keys may each see?",
        "Query i stands at the position i + n_keys − n_queries. It may see each key j up to that position.",
        "Either compare torch.arange(n_keys) with the positions as a column, or look up tril's argument `diagonal`.",
    ],
)


# ------------------------------------------------------------------------------------------------ 02.4 the heads
def _mark_heads_and_positions(heads: Tensor) -> Tensor:
    """Differs from head to head and from position to position, so that every mix-up shows."""
    number = torch.arange(heads.shape[1], dtype=heads.dtype)[:, None, None]
    place = torch.arange(heads.shape[2], dtype=heads.dtype)[:, None]
    return heads * (number + 1) + 10 * place


def _mean_over_positions(heads: Tensor) -> Tensor:
    return heads.mean(dim=2, keepdim=True).expand_as(heads).contiguous()


def _to_cut(generator):
    sizes = ((2, 3, 4, 2), (1, 5, 6, 3), (3, 4, 8, 8), (2, 1, 4, 2), (2, 6, 4, 1))
    functions = (_mark_heads_and_positions, _mean_over_positions)
    drawn = [(torch.randn(b, t, d, generator=generator), n) for b, t, d, n in sizes]
    return [(x, n, fn) for x, n in drawn for fn in functions]


def _split(x, n):
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


HEADS = Exercise(
    id="02.4",
    title="Find the bug",
    inputs=_to_cut,
    solution=lambda x, n, fn: fn(_split(x, n)).transpose(1, 2).flatten(2),
    misconceptions=[
        Misconception(
            "that is the bug itself: reshape straight to (B, N, T, H) reads the numbers in storage order, "
            "so a head gets whole positions, not its slice of the features of every position",
            lambda x, n, fn: fn(x.reshape(x.shape[0], n, x.shape[1], -1)).reshape(x.shape),
        ),
        Misconception(
            "cutting is right, joining is not: reshape straight from (B, N, T, H) to (B, T, D) mixes positions; "
            "first bring the heads back behind the positions",
            lambda x, n, fn: fn(_split(x, n)).reshape(x.shape),
        ),
        Misconception(
            "joining is right, cutting is not: the features have to be cut first, and the heads brought forward after",
            lambda x, n, fn: fn(x.reshape(x.shape[0], n, x.shape[1], -1)).transpose(1, 2).flatten(2),
        ),
        Misconception(
            "fn got (B, T, N, H): you cut the features, but did not bring the heads in front of the positions",
            lambda x, n, fn: fn(x.unflatten(-1, (n, -1))).flatten(2),
        ),
        Misconception(
            "you cut the features into slices of n_heads numbers: n_heads is how many slices there are",
            lambda x, n, fn: fn(x.unflatten(-1, (-1, n)).transpose(1, 2)).transpose(1, 2).flatten(2),
        ),
        Misconception(
            "each head got every n-th feature: a head is a block of features that stand together, "
            "the slices that chunk(n_heads, dim=-1) would give",
            lambda x, n, fn: fn(x.unflatten(-1, (-1, n)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(2),
        ),
        Misconception(
            "you applied fn without cutting: all features went through as one head",
            lambda x, n, fn: fn(x[:, None])[:, 0],
        ),
    ],
    hints=[
        "Write down x[0] for T = 2 and D = 4 with the numbers 0 to 7. What should head 0 of two get, and what does "
        "x.reshape(1, 2, 2, 2)[0, 0] give?",
        "A reshape may cut or merge neighbouring dimensions, but not exchange them: that is what transpose is for.",
        "(B, T, D) → cut the last → (B, T, N, H) → exchange → (B, N, T, H). And the same two steps backwards.",
    ],
)


# ------------------------------------------------------------------------------------------ 02.5 attention received
def _maps(generator):
    cases = []
    for lengths, longest, n_heads in (([4, 2], 4, 2), ([3, 1, 0], 3, 1), ([5], 5, 3), ([2, 6, 3], 6, 4)):
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        scores = torch.randn(len(lengths), n_heads, longest, longest, generator=generator)
        weights = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(dim=-1).nan_to_num()
        cases.append((weights, mask))
    return cases


def _received(weights, mask):
    real = mask.float()
    total = torch.einsum("bnts,bt->bs", weights, real) / weights.shape[1]
    return total * real / real.sum(dim=1, keepdim=True).clamp(min=1)


def _over_queries(weights, mask):
    """The sum over real queries, mean over heads: (B, S)."""
    return torch.einsum("bnts,bt->bs", weights, mask.float()) / weights.shape[1]


RECEIVED = Exercise(
    id="02.5",
    title="How much attention does each word get?",
    inputs=_maps,
    solution=_received,
    misconceptions=[
        Misconception(
            "padded queries count in your mean: their rows are numbers too, but nobody asked; leave them out",
            lambda weights, mask: weights.mean(dim=(1, 2)),
        ),
        Misconception(
            "padded queries count in your mean: their rows are numbers too, but nobody asked; leave them out",
            lambda weights, mask: weights.mean(dim=(1, 2)) * mask,
        ),
        Misconception(
            "you left the padded queries out of the sum, but divided by T: divide by the number of real queries",
            lambda weights, mask: _over_queries(weights, mask) / weights.shape[-1],
        ),
        Misconception(
            "you averaged over the keys: a row adds up to 1, so that says how much a query *gives*; "
            "sum over the queries, the second but last dimension",
            lambda weights, mask: (
                (weights.mean(dim=1) * mask[:, None]).sum(-1) / mask.sum(1, keepdim=True).clamp(min=1)
            ),
        ),
        Misconception(
            "you averaged over the keys: a row adds up to 1, so that says how much a query *gives*; "
            "sum over the queries, the second but last dimension",
            lambda weights, mask: weights.mean(dim=(1, 3)),
        ),
        Misconception(
            "you added the heads up: the mean over the heads was asked",
            lambda weights, mask: _received(weights, mask) * weights.shape[1],
        ),
        Misconception(
            "you added up over the queries: the mean over the real ones was asked",
            lambda weights, mask: _over_queries(weights, mask),
        ),
        Misconception(
            "you divided by the number of real words in the whole batch: each sequence has its own",
            lambda weights, mask: _over_queries(weights, mask) / mask.sum().clamp(min=1),
        ),
        Misconception(
            "a sequence without a real word divides 0 by 0: give its keys 0",
            lambda weights, mask: _over_queries(weights, mask) / mask.sum(dim=1, keepdim=True),
        ),
    ],
    hints=[
        "Queries are the dimension before the last, keys the last. Multiply the weights with the mask, shaped so that "
        "it stands at the queries: mask[:, None, :, None].",
        "Sum over the queries, mean over the heads. By what must each sequence be divided? Not by T.",
        "Divide by mask.sum(dim=1, keepdim=True), which is (B, 1); .clamp(min=1) keeps an empty sequence from 0/0.",
    ],
)

EXERCISES = [TEMPERATURE, SCALE, CAUSAL, HEADS, RECEIVED]
