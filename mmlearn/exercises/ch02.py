"""Exercises of chapter 02, attention."""

import math

import torch

from mmlearn.exercises import Exercise, Misconception


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


# ---------------------------------------------------------------------------------------------- 02.1 temperature
def _gaps(generator):
    return [
        (2.0, 0.9),
        (1.0, 0.6),
        (30.0, 0.9999),
        *((_uniform(generator, 0.5, 9), _uniform(generator, 0.55, 0.99)) for _ in range(4)),
    ]


TEMPERATURE = Exercise(
    id="02.1",
    title="The right temperature",
    inputs=_gaps,
    solution=lambda gap, p: gap / math.log(p / (1 - p)),
    atol=1e-4,  # 0.9999 in single precision
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
        "Now you know x, and x is exp(gap/τ). What undoes an exponential? Then solve for τ.",
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
            "you took the square root of the spreads too: they are standard deviations already. "
            "Write down the variance of the dot product first, and then its root",
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
        "You have the variance of the dot product. What is its spread, and which factor turns that spread into 1?",
    ],
)


# ---------------------------------------------------------------------------------------------- 02.3 causal mask
def _lengths(generator):
    return [(4, 4), (1, 5), (2, 5), (3, 7), (6, 9), (1, 1), (3, 70)]


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
            "the shift goes the wrong way: with one query and five keys yours sees no key at all",
            _triangle(lambda t, s: t - s),
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


# ------------------------------------------------------------------------------------------ 02.4 attention received
MASKS = (
    [[1, 1, 1, 1], [1, 1, 0, 0]],
    [[1, 1, 1], [1, 0, 0], [0, 0, 0]],  # the last sequence has no real word
    [[1, 1, 1, 1, 1]],
    [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],  # padding in front
    [[1, 0, 1, 1, 0], [1, 1, 1, 0, 1]],  # holes
)


def _maps(generator):
    """Maps and masks; every second map leaves weight on padded keys, as a model without a mask does."""
    cases = []
    for i, rows in enumerate(MASKS * 2):
        mask = torch.tensor(rows).bool()
        scores = torch.randn(len(rows), 1 + i % 3, mask.shape[1], mask.shape[1], generator=generator)
        masked = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(dim=-1).nan_to_num()
        cases.append((scores.softmax(dim=-1) if i % 2 else masked, mask))
    return cases


def _over_queries(weights, mask):
    """The sum over real queries, mean over heads: (B, S)."""
    return weights.masked_fill(~mask[:, None, :, None], 0.0).sum(dim=2).mean(dim=1)


def _count(mask):
    return mask.sum(dim=1, keepdim=True).clamp(min=1)


def _received(weights, mask):
    return _over_queries(weights, mask).masked_fill(~mask, 0.0) / _count(mask)


def _received_after_rescaling(weights, mask):
    weights = weights * mask[:, None, None]
    return _received(weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12), mask)


def _received_by_the_first(weights, mask):
    out = torch.zeros(mask.shape)
    for b, n in enumerate(mask.sum(dim=1).tolist()):
        if n:
            out[b, :n] = weights[b, :, :n, :n].mean(dim=(0, 1))
    return out


def _nan_in_padded_rows(fn, generator):
    """Rows of padded queries mean nothing, so they may hold nan, as a softmax without a key gives."""
    for weights, mask in _maps(generator):
        spoiled = weights.masked_fill(~mask[:, None, :, None], math.nan)
        mine = fn(spoiled.clone(), mask.clone())
        if not torch.allclose(mine, _received(weights, mask), rtol=1e-5, atol=1e-5):
            return (
                "right, until the row of a padded query holds nan, as a softmax over no key gives: "
                "0 · nan is nan, so multiplying by 0 does not leave that row out"
            )
    return None


def _both_ways(says, wrong):
    """The mistake with padded keys left as they are, and with padded keys set to 0."""
    zeroed = lambda weights, mask: wrong(weights, mask) * mask  # noqa: E731
    return [Misconception(says, wrong), Misconception(says, zeroed)]


RECEIVED = Exercise(
    id="02.4",
    title="How much attention does each word get?",
    inputs=_maps,
    solution=_received,
    verify=_nan_in_padded_rows,
    misconceptions=[
        Misconception(
            "a padded key keeps its weight: a model may look at padding by mistake, but the answer there must be 0",
            lambda weights, mask: _over_queries(weights, mask) / _count(mask),
        ),
        Misconception(
            "you rescaled the rows to add up to 1 again: weight that went to the padding is lost to the real words, "
            "and the answer should say so",
            _received_after_rescaling,
        ),
        Misconception(
            "you took the first words of each sequence for the real ones: padding may also stand in front "
            "or in between; let the mask itself say where",
            _received_by_the_first,
        ),
        *_both_ways(
            "padded queries count in your mean: their rows are numbers too, but nobody asked; leave them out",
            lambda weights, mask: weights.mean(dim=(1, 2)),
        ),
        *_both_ways(
            "you left the padded queries out of the sum, but divided by T: divide by the number of real queries",
            lambda weights, mask: _over_queries(weights, mask) / weights.shape[-1],
        ),
        *_both_ways(
            "you averaged over the keys: a row adds up to 1, so that says how much a query *gives*; "
            "sum over the queries, the second but last dimension",
            lambda weights, mask: (weights.mean(dim=1) * mask[:, None]).sum(-1) / _count(mask),
        ),
        *_both_ways(
            "you averaged over the keys: a row adds up to 1, so that says how much a query *gives*; "
            "sum over the queries, the second but last dimension",
            lambda weights, mask: weights.mean(dim=(1, 3)),
        ),
        *_both_ways(
            "you added the heads up: the mean over the heads was asked",
            lambda weights, mask: _over_queries(weights, mask) * weights.shape[1] / _count(mask),
        ),
        *_both_ways("you added up over the queries: the mean over the real ones was asked", _over_queries),
        *_both_ways(
            "you divided by the number of real words in the whole batch: each sequence has its own",
            lambda weights, mask: _over_queries(weights, mask) / mask.sum().clamp(min=1),
        ),
        *_both_ways(
            "a sequence without a real word divides 0 by 0: give its keys 0",
            lambda weights, mask: _over_queries(weights, mask) / mask.sum(dim=1, keepdim=True),
        ),
    ],
    hints=[
        "Queries are the dimension before the last, keys the last. The mask is needed twice: once shaped so that it "
        "stands at the queries, once so that it stands at the keys.",
        "Sum over the real queries, mean over the heads. By what must each sequence be divided? Not by T. "
        "And what is 0 times nan?",
        "weights.masked_fill(~mask[:, None, :, None], 0.0) empties the padded rows, whatever they held; "
        "mask.sum(dim=1, keepdim=True).clamp(min=1) keeps an empty sequence from 0/0.",
    ],
)


# ------------------------------------------------------------------------------------- 02.5 a test for pairs of cuts
def cut_features(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def join_features(heads):
    return heads.transpose(1, 2).flatten(2)


def cut_every_nth(x, n_heads):
    return x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)


def join_every_nth(heads):
    return heads.permute(0, 2, 3, 1).flatten(2)


def cut_and_double(x, n_heads):
    return 2 * cut_features(x, n_heads)


def cut_storage(x, n_heads):
    return x.reshape(x.shape[0], n_heads, x.shape[1], -1)


def join_storage(heads):
    return heads.reshape(heads.shape[0], heads.shape[2], -1)


def _moved(heads, by):
    """The last head's positions moved round by some places."""
    return torch.cat([heads[:, :-1], heads[:, -1:].roll(by, dims=2)], dim=1)


def cut_and_move(x, n_heads):
    return _moved(cut_features(x, n_heads), 1)


def move_and_join(heads):
    return join_features(_moved(heads, -1))


def _exchanged(heads):
    """The last two positions of the last head change places."""
    tail = torch.cat([heads[:, -1:, :-2], heads[:, -1:, -2:].flip(dims=[2])], dim=2)
    return torch.cat([heads[:, :-1], tail], dim=1)


def cut_and_exchange(x, n_heads):
    return _exchanged(cut_features(x, n_heads))


def exchange_and_join(heads):
    return join_features(_exchanged(heads))


def _pairs(generator):
    return [
        (cut_features, join_features),
        (cut_storage, join_storage),
        (cut_every_nth, join_every_nth),
        (cut_storage, join_features),
        (cut_features, join_storage),
        (cut_and_double, join_features),
        (cut_and_move, move_and_join),
        (cut_and_exchange, exchange_and_join),
    ]


def _reach(fn, x, at, dim):
    """Does a change at position ``at`` of x reach another position of fn(x)? Positions are x's dimension -2."""
    changed = x.clone()
    changed[..., at, :] += 1.0
    moved = (fn(changed) - fn(x)).abs().transpose(0, dim).flatten(1).amax(dim=1) > 1e-6
    moved[at] = False
    return bool(moved.any())


def _split_mixes(split, positions=range(5), n_heads=3):
    x = torch.arange(2 * 5 * 6).view(2, 5, 6) / 7
    return any(_reach(lambda x: split(x, n_heads), x, at, dim=2) for at in positions)


def _join_mixes(join, positions=range(5), n_heads=3):
    heads = torch.arange(2 * n_heads * 5 * 2).view(2, n_heads, 5, 2) / 7
    return any(_reach(join, heads, at, dim=1) for at in positions)


def _round_trip_fails(split, join):
    x = torch.arange(2 * 5 * 6).view(2, 5, 6) / 7
    return not torch.equal(join(split(x, 3)), x)


def _through_mixes(split, join):
    x = torch.arange(2 * 5 * 6).view(2, 5, 6) / 7
    return any(_reach(lambda x: join(split(x, 3)), x, at, dim=1) for at in range(5))


def _differs_from_ours(split, join):
    x = torch.arange(2 * 5 * 6).view(2, 5, 6) / 7
    heads = cut_features(x, 3)
    return not (torch.equal(split(x, 3), heads) and torch.equal(join(heads), x))


ONE_END = "only one of the two functions is watched: a pair may be wrong at the other end alone"

MIXES = Exercise(
    id="02.5",
    title="A test that finds the bug",
    inputs=_pairs,
    solution=lambda split, join: _split_mixes(split) or _join_mixes(join),
    misconceptions=[
        Misconception(
            "that is a round trip: it says whether join undoes split. Two mistakes can undo each other, and a pair "
            "that changes the numbers may still keep positions apart",
            _round_trip_fails,
        ),
        Misconception(
            "you changed one position and watched join(split(x)): two mistakes undo each other there. "
            "Attention works *between* the two, so look there as well",
            _through_mixes,
        ),
        Misconception(ONE_END, lambda split, join: _split_mixes(split)),
        Misconception(ONE_END, lambda split, join: _join_mixes(join)),
        Misconception(
            "you compared with one right pair. There are others, which cut the features in another order: "
            "test the property, not the numbers",
            _differs_from_ours,
        ),
        Misconception(
            "you changed the first position only: some pairs go wrong further back",
            lambda split, join: _split_mixes(split, [0]) or _join_mixes(join, [0]),
        ),
        Misconception(
            "your test uses one head: there is nothing to cut then, and a wrong pair looks like a right one",
            lambda split, join: _split_mixes(split, n_heads=1) or _join_mixes(join, n_heads=1),
        ),
        Misconception(
            "your test can never fail: with one position, or with shapes alone, a wrong pair looks like a right one",
            lambda split, join: False,
        ),
        Misconception(
            "your test says True for every pair: changes at the position itself must not count",
            lambda split, join: True,
        ),
        Misconception(
            "the answer is turned round: True should mean that positions are mixed",
            lambda split, join: not (_split_mixes(split) or _join_mixes(join)),
        ),
    ],
    hints=[
        "It is a leak test: change position t of the input, keep the rest, and see which positions of the output move. "
        "How many heads and positions must your x have, so that a mix-up can show at all?",
        "split and join can each go wrong, and their mistakes may cancel. Test them apart: split from x "
        "(B, T, D) to heads (B, N, T, H), join from random heads back.",
        "For each t: y = x.clone(); y[:, t] += 1; then split(y, n) − split(x, n) must be 0 outside [:, :, t]. "
        "In the same way heads[:, :, t] += 1 may move join(heads) at [:, t] only.",
    ],
)

EXERCISES = [TEMPERATURE, SCALE, CAUSAL, RECEIVED, MIXES]
