"""Exercises of chapter 03, the Transformer: what each checks and the mistakes it recognises."""

import math

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception


# --------------------------------------------------------------------------------------------- 03.1 only the distance
def _pairs(generator):
    cases = []
    for distance, rate in ((0, 1.0), (1, 1.0), (5, 0.1), (-3, 0.5), (40, 0.01), (2, 0.7)):
        q, k = torch.randn(2, 2, generator=generator).tolist()
        cases.append((tuple(q), tuple(k), distance, rate))
    return cases


def _turn(v, angle):
    x, y = v
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1]


DISTANCE = Exercise(
    id="03.1",
    title="Only the distance",
    inputs=_pairs,
    solution=lambda q, k, distance, rate: _dot(_turn(q, distance * rate), k),
    misconceptions=[
        Misconception(
            "you turned the wrong way: the key is distance steps *behind* the query, so seen from the key "
            "the query is turned forwards",
            lambda q, k, distance, rate: _dot(_turn(q, -distance * rate), k),
        ),
        Misconception(
            "you turned both by the same angle: turning both changes nothing, only the difference counts",
            lambda q, k, distance, rate: _dot(q, k),
        ),
        Misconception(
            "you turned both, in opposite directions, by the whole distance each: the difference is twice too large",
            lambda q, k, distance, rate: _dot(_turn(q, distance * rate), _turn(k, -distance * rate)),
        ),
        Misconception(
            "you turned by the distance alone: the angle is distance · rate, in radians",
            lambda q, k, distance, rate: _dot(_turn(q, distance), k),
        ),
        Misconception(
            "your angle is in degrees: math.cos and math.sin take radians, leave it as distance · rate",
            lambda q, k, distance, rate: _dot(_turn(q, math.radians(distance * rate)), k),
        ),
        Misconception(
            "q · k times the cosine of the angle is only half of it: the sine part mixes the two features",
            lambda q, k, distance, rate: _dot(q, k) * math.cos(distance * rate),
        ),
        Misconception(
            "you took the distance without its sign: where the key is ahead of the query, the angle is negative",
            lambda q, k, distance, rate: _dot(_turn(q, abs(distance) * rate), k),
        ),
        Misconception(
            "you multiplied two complex numbers as they are, which adds their angles: a dot product needs the "
            "difference of the angles, so mirror one of the two first",
            lambda q, k, distance, rate: _dot(_turn(q, distance * rate), (k[0], -k[1])),
        ),
    ],
    hints=[
        "Both were turned: q by i · rate, k by j · rate. A dot product does not change when both vectors are turned "
        "by the same angle. By which angle can you turn both to make one of them simple?",
        "Turn both back by j · rate: the key stands still, and the query is turned by (i − j) · rate.",
        "Turn q by a = distance · rate with (x cos a − y sin a, x sin a + y cos a), then take the dot product with k.",
    ],
)


# ------------------------------------------------------------------------------------------------ 03.2 count weights
def _shapes(generator):
    return [
        (64, 4, 2, 256, 47, 32),
        (128, 8, 6, 512, 1000, 64),
        (32, 2, 1, 96, 50, 10),
        (768, 12, 12, 3072, 50257, 1024),
        (16, 1, 3, 16, 5, 100),
    ]


def _count(
    d,
    n,
    layers,
    ff,
    vocab,
    longest,
    *,
    attention=4,
    heads=1,
    attention_bias=1,
    ff_bias=1,
    norms=4,
    final=2,
    tied=1,
    table=1,
):
    layer = attention * (heads * d * d + attention_bias * d) + 2 * d * ff + ff_bias * (ff + d) + norms * d
    return layers * layer + (2 - tied) * vocab * d + table * longest * d + final * d


def _whole(fn, generator) -> str | None:
    count = fn(*_shapes(generator)[0])
    if type(count) is float:
        return "the number is right, but a count is a whole number: yours is a float, and loses digits in large models"
    return None


COUNT = Exercise(
    id="03.2",
    title="How many weights?",
    inputs=_shapes,
    solution=_count,
    verify=_whole,
    misconceptions=[
        Misconception(
            "you counted the projections once for every head: heads are slices of the same matrices and cost nothing",
            lambda d, n, *rest: _count(d, n, *rest, attention=4 * n),
        ),
        Misconception(
            "you counted the projections once for every head: heads are slices of the same matrices and cost nothing",
            lambda d, n, *rest: _count(d, n, *rest, heads=n),
        ),
        Misconception(
            "you counted the matrix of the predictions as well: it is tied, the same numbers as the token vectors",
            lambda *sizes: _count(*sizes, tied=0),
        ),
        Misconception(
            "the biases are missing: every linear layer has one number for each of its outputs",
            lambda *sizes: _count(*sizes, attention_bias=0, ff_bias=0),
        ),
        Misconception(
            "attention has biases too, one number for each output of its matrices",
            lambda *sizes: _count(*sizes, attention_bias=0),
        ),
        Misconception(
            "the feed-forward network has biases too, one number for each output of both its matrices",
            lambda *sizes: _count(*sizes, ff_bias=0),
        ),
        Misconception(
            "the normalisations are missing: each has a weight and a bias for every feature",
            lambda *sizes: _count(*sizes, norms=0, final=0),
        ),
        Misconception(
            "the normalisations inside the layers are missing: one for each sublayer",
            lambda *sizes: _count(*sizes, norms=0),
        ),
        Misconception(
            "you counted one normalisation in a layer: each of the two sublayers has its own",
            lambda *sizes: _count(*sizes, norms=2),
        ),
        Misconception(
            "a normalisation has two numbers for every feature, a scale and a shift: you counted one",
            lambda *sizes: _count(*sizes, norms=2, final=1),
        ),
        Misconception(
            "one normalisation is missing: pre-norm ends with one more, after the last layer",
            lambda *sizes: _count(*sizes, final=0),
        ),
        Misconception(
            "attention has four matrices, not three: the one that mixes the heads' answers is missing",
            lambda *sizes: _count(*sizes, attention=3),
        ),
        Misconception(
            "the table of positions is missing: learned positions are max_len vectors",
            lambda *sizes: _count(*sizes, table=0),
        ),
        Misconception(
            "the width inside the feed-forward network is d_ff: four times d_model is only the custom",
            lambda d, n, layers, ff, *rest: _count(d, n, layers, 4 * d, *rest),
        ),
        Misconception(
            "you counted one layer: there are n_layers of them",
            lambda d, n, layers, *rest: _count(d, n, 1, *rest),
        ),
    ],
    hints=[
        "Print `[(name, p.shape) for name, p in layer.named_parameters()]` of one layer and group what you see.",
        "A layer: four square matrices, two of d_model · d_ff, a bias for each of the six, two normalisations "
        "of 2 · d_model.",
        "Then n_layers of these, vocab_size · d_model for tokens, max_len · d_model for positions, and one last "
        "normalisation. n_heads does not occur.",
    ],
)


# ---------------------------------------------------------------------------------------------------- 03.4 the nucleus
def _distributions(generator):
    cases = [
        (torch.tensor([0.5, 0.3, 0.15, 0.05]), p) for p in (0.4, 0.6, 0.85, 0.97)
    ]  # sorted ones first: simple to look at
    cases += [(torch.tensor([0.1, 0.6, 0.05, 0.25]), p) for p in (0.5, 0.7)]
    cases += [(torch.tensor([0.0625, 0.5, 0.1875, 0.25]), p) for p in (0.5, 0.75, 1.0)]  # sums that meet p exactly
    cases += [(torch.tensor([0.15, 0.5, 0.1, 0.25]), 0.7505)]  # two tokens miss it by very little
    for n, p in ((6, 0.9), (20, 0.5), (50, 0.95)):
        cases.append((torch.randn(n, generator=generator).mul(2).softmax(dim=0), p))
    return cases


def _nucleus(probabilities: Tensor, p: float, *, keeps=lambda before, total, p: before < p, renormalise=True) -> Tensor:
    ordered, order = probabilities.sort(descending=True)
    total = ordered.cumsum(dim=0)
    keep = keeps(total - ordered, total, p)
    out = torch.zeros_like(probabilities)
    out[order[keep]] = ordered[keep]
    return out / out.sum() if renormalise else out


def _up_to(before: Tensor, total: Tensor, p: float) -> Tensor:
    return total <= p


def _ties(fn, generator) -> str | None:
    """Equal probabilities at the edge: which of them stays is free, how many is not."""
    for values, p in (([0.25] * 4, 0.5), ([0.125, 0.5, 0.125, 0.25], 0.875)):
        probabilities = torch.tensor(values)
        out = fn(probabilities.clone(), p)
        kept, right = out > 0, _nucleus(probabilities, p)
        if not torch.allclose(out.sort().values, right.sort().values) or not torch.allclose(
            out, probabilities * kept / probabilities[kept].sum()
        ):
            return (
                "among equally probable tokens at the edge only as many may stay as are needed to reach p: the set is "
                f"the smallest\ninput 1: {values}\ninput 2: {p}\nyour answer: {[round(x, 3) for x in out.tolist()]}"
            )
    return None


def _unsorted(probabilities: Tensor, p: float) -> Tensor:
    out = probabilities * (probabilities.cumsum(dim=0) - probabilities < p)
    return out / out.sum()


def _in_sorted_order(probabilities: Tensor, p: float) -> Tensor:
    return _nucleus(probabilities, p)[probabilities.argsort(descending=True)]


def _threshold(probabilities: Tensor, p: float) -> Tensor:
    out = probabilities * (probabilities >= 1 - p)
    return out / out.sum()


NUCLEUS = Exercise(
    id="03.4",
    title="The nucleus",
    inputs=_distributions,
    solution=_nucleus,
    verify=_ties,
    misconceptions=[
        Misconception(
            "you dropped the token that crosses p: without it the set does not reach p. It must stay",
            lambda probabilities, p: _nucleus(probabilities, p, keeps=_up_to),
        ),
        Misconception(
            "you dropped the token that crosses p: without it the set does not reach p. It must stay",
            lambda probabilities, p: _nucleus(probabilities, p, keeps=_up_to, renormalise=False),
        ),
        Misconception(
            "you dropped the token that crosses p: without it the set does not reach p. It must stay",
            lambda probabilities, p: _nucleus(probabilities, p, keeps=lambda before, total, p: total < p),
        ),
        Misconception(
            "where a sum meets p exactly, the set is large enough: you kept one token more",
            lambda probabilities, p: _nucleus(probabilities, p, keeps=lambda before, total, p: before <= p),
        ),
        Misconception(
            "the right tokens stay, but their probabilities do not add up to 1: divide by their sum",
            lambda probabilities, p: _nucleus(probabilities, p, renormalise=False),
        ),
        Misconception(
            "you added up in the order of the vocabulary: sort by probability first, the largest in front",
            _unsorted,
        ),
        Misconception(
            "the probabilities are right but stand in sorted order: give each back to its own token",
            _in_sorted_order,
        ),
        Misconception(
            "you kept the tokens above a fixed level: p is the *sum* of the set, not the least probability in it",
            _threshold,
        ),
    ],
    hints=[
        "Sort, add up from the largest (cumsum). Which tokens are needed to reach p?",
        "A token is needed if the sum of those *before* it is still below p. That keeps the one that crosses.",
        "ordered, order = probabilities.sort(descending=True); keep = ordered.cumsum(0) - ordered < p; "
        "then fill a tensor of zeros at order[keep] and divide by its sum.",
    ],
)


# ------------------------------------------------------------------------------------------- 03.3 positions, padded
def _masks(generator):
    lengths = ([4, 2, 3], [5, 1], [3, 3, 3], [2, 6, 0])
    left = [(torch.arange(max(n)) >= max(n) - torch.tensor(n)[:, None],) for n in lengths]
    right = [(torch.arange(max(n)) < torch.tensor(n)[:, None],) for n in lengths[:2]]
    return left + right


def _positions(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


PADDED = Exercise(
    id="03.3",
    title="Where does a padded sentence begin?",
    inputs=_masks,
    solution=_positions,
    misconceptions=[
        Misconception(
            "you counted the padding: the first real word of every sentence stands at position 0",
            lambda mask: torch.arange(mask.shape[1]).expand(mask.shape),
        ),
        Misconception(
            "you count from 1: the first real word has position 0",
            lambda mask: mask.long().cumsum(dim=1),
        ),
        Misconception(
            "padding on the left gets −1: no table has a row −1 (PyTorch takes the last one on a tensor, and raises "
            "in an embedding); any row will do, take 0",
            lambda mask: mask.long().cumsum(dim=1) - 1,
        ),
        Misconception(
            "you set padded places to 0 on the right as well: only those before the first word are to be 0, the "
            "others repeat the last word's position",
            lambda mask: (mask.long().cumsum(dim=1) - 1) * mask,
        ),
        Misconception(
            "you shifted every sentence by its number of padded places without looking where they are: "
            "on the right they change nothing",
            lambda mask: (torch.arange(mask.shape[1]) - (~mask).sum(dim=1, keepdim=True)).clamp(min=0),
        ),
        Misconception(
            "you counted on from the first real word: padding after the last word does not count, and in a row "
            "without a word there is no first one (argmax says 0 all the same)",
            lambda mask: (torch.arange(mask.shape[1]) - mask.int().argmax(dim=1, keepdim=True)).clamp(min=0),
        ),
        Misconception(
            "padding gets 1 here: transformers does that, and nobody reads it, but what is asked is 0 before the "
            "first word and the last word's position after the last",
            lambda mask: (mask.long().cumsum(dim=1) - 1).masked_fill(~mask, 1),
        ),
    ],
    hints=[
        "A word's position is the number of real words before it. How do you count real words up to each place?",
        "mask.cumsum(dim=1) counts up to and including the word itself.",
        "Take one off; what is below 0 becomes 0 (clamp).",
    ],
)

EXERCISES = [DISTANCE, COUNT, PADDED, NUCLEUS]
