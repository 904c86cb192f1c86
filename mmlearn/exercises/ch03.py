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


def _count(d, n, layers, ff, vocab, longest, *, biases=1, norms=2, final=1, attention=4, unembed=0, positions=1):
    layer = attention * (d * d + biases * d) + 2 * d * ff + biases * (ff + d) + norms * 2 * d
    return layers * layer + vocab * d * (1 + unembed) + positions * longest * d + final * 2 * d


COUNT = Exercise(
    id="03.2",
    title="How many weights?",
    inputs=_shapes,
    solution=_count,
    misconceptions=[
        Misconception(
            "you counted the projections once for every head: heads are slices of the same matrices and cost nothing",
            lambda d, n, *rest: _count(d, n, *rest, attention=4 * n),
        ),
        Misconception(
            "you counted the matrix of the predictions as well: it is tied, the same numbers as the token vectors",
            lambda *sizes: _count(*sizes, unembed=1),
        ),
        Misconception(
            "the biases are missing: every linear layer has one number for each of its outputs",
            lambda *sizes: _count(*sizes, biases=0),
        ),
        Misconception(
            "the normalisations are missing: each has a weight and a bias for every feature",
            lambda *sizes: _count(*sizes, norms=0, final=0),
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
            lambda *sizes: _count(*sizes, positions=0),
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
    for n, p in ((6, 0.9), (20, 0.5), (50, 0.95)):
        cases.append((torch.randn(n, generator=generator).mul(2).softmax(dim=0), p))
    return cases


def _nucleus(probabilities: Tensor, p: float, *, crossing=True, renormalise=True) -> Tensor:
    ordered, order = probabilities.sort(descending=True)
    total = ordered.cumsum(dim=0)
    keep = total - ordered < p if crossing else total <= p
    out = torch.zeros_like(probabilities)
    out[order[keep]] = ordered[keep]
    return out / out.sum() if renormalise else out


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
    misconceptions=[
        Misconception(
            "you dropped the token that crosses p: without it the set does not reach p. It must stay",
            lambda probabilities, p: _nucleus(probabilities, p, crossing=False),
        ),
        Misconception(
            "you dropped the token that crosses p: without it the set does not reach p. It must stay",
            lambda probabilities, p: _nucleus(probabilities, p, crossing=False, renormalise=False),
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
            "others go on as the last word did",
            lambda mask: (mask.long().cumsum(dim=1) - 1) * mask,
        ),
        Misconception(
            "you shifted every sentence by its number of padded places without looking where they are: "
            "on the right they change nothing",
            lambda mask: (torch.arange(mask.shape[1]) - (~mask).sum(dim=1, keepdim=True)).clamp(min=0),
        ),
    ],
    hints=[
        "A word's position is the number of real words before it. How do you count real words up to each place?",
        "mask.cumsum(dim=1) counts up to and including the word itself.",
        "Take one off; what is below 0 becomes 0 (clamp).",
    ],
)

EXERCISES = [DISTANCE, COUNT, PADDED, NUCLEUS]
