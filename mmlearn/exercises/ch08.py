"""Exercises of chapter 08, visual question answering."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception

# ---------------------------------------------------------------------------------------- 08.1 what the mean forgets
Objects = list[tuple[str, str]]
PICTURES: list[Objects] = [
    [("star", "red"), ("heart", "blue")],
    [("star", "red"), ("heart", "red"), ("moon", "blue")],  # exchanging the first two colours changes nothing
    [("star", "red"), ("star", "blue"), ("moon", "green")],  # nor does exchanging those of the two stars
    [("cross", "pink"), ("cross", "pink"), ("bar", "cyan"), ("ring", "pink")],
    [("moon", "grey"), ("heart", "cyan"), ("moon", "grey"), ("star", "cyan")],
    [("star", "red"), ("star", "blue"), ("heart", "red")],  # the first has no partner; turning colours round is no help
    [("star", "red"), ("heart", "blue"), ("star", "blue"), ("heart", "red")],  # nor here, in either direction
]


def _pictures(generator: torch.Generator) -> list[Objects]:
    """The pictures above, and twelve drawn ones of few shapes and colours, so that many objects are alike."""
    drawn = []
    while len(drawn) < 12:
        shapes, colours = torch.randint(3, (2, 2 + len(drawn) % 3), generator=generator).tolist()
        picture = [
            (("ring", "bar", "moon")[s], ("pink", "grey", "cyan")[c]) for s, c in zip(shapes, colours, strict=True)
        ]
        if _exchange(picture) != picture:  # there is another picture with this mean
            drawn.append(picture)
    return PICTURES + drawn


def _counts(objects: Objects) -> tuple[Counter, Counter]:
    return Counter(shape for shape, _ in objects), Counter(colour for _, colour in objects)


def _check_same_mean(fn, generator: torch.Generator) -> str | None:
    for picture in _pictures(generator):
        other = fn(list(picture))
        shown = f"for the picture {picture} you gave {other!r}"
        if not isinstance(other, Sequence) or isinstance(other, str) or any(len(tuple(o)) != 2 for o in other):
            return f"expected a list of pairs (shape, colour); {shown}"
        other = [tuple(pair) for pair in other]
        if len(other) != len(picture):
            return f"give as many objects as the picture has, {len(picture)}: {shown}"
        (shapes, colours), (mine_shapes, mine_colours) = _counts(picture), _counts(other)
        if shapes != mine_shapes or colours != mine_colours:
            what = "shapes" if shapes != mine_shapes else "colours"
            return f"the mean differs, because other {what} are there than before: {shown}"
        if Counter(picture) == Counter(other):
            return (
                "the same objects, so every question has the same answer (their order is no part of a picture): "
                f"{shown}"
            )
    return None


def _exchange(picture: Objects) -> Objects:
    for i, (shape, colour) in enumerate(picture):
        for j, (other_shape, other_colour) in enumerate(picture):
            if shape != other_shape and colour != other_colour:
                out = list(picture)
                out[i], out[j] = (shape, other_colour), (other_shape, colour)
                if Counter(out) != Counter(picture):
                    return out
    return picture


SAME_MEAN = Exercise(
    id="08.1",
    title="What the mean forgets",
    verify=_check_same_mean,
    hints=[
        "The mean keeps how many objects have each shape, and how many have each colour. What does it not keep?",
        "Exchange the colours of two objects. Then the counts stay, but which two must you choose?",
        "Two objects of the same shape, or of the same colour, change nothing when they exchange colours: look for a "
        "pair in which both differ.",
    ],
)


# ------------------------------------------------------------------------------------------ 08.2 the best blind score
TYPES = ["colour", "count", "where"]


def _questions(generator):
    def draw(n, kinds, answers):
        kind = torch.randint(len(kinds), (n,), generator=generator).tolist()
        answer = torch.randint(answers, (n,), generator=generator).tolist()
        return [kinds[k] for k in kind], [f"{kinds[k][0]}{a}" for k, a in zip(kind, answer, strict=True)]

    uneven = (["count"] * 8 + ["colour"] * 2, ["2"] * 5 + ["1"] * 3 + ["red", "blue"])
    shared = (["is"] * 4 + ["are"] * 4, ["yes"] * 3 + ["no"] + ["no"] * 4)  # the same words, in other shares
    return [uneven, shared, (["count"], ["2"]), draw(30, TYPES, 3), draw(40, TYPES[:2], 5), draw(25, TYPES, 2)]


def _tally(types, answers) -> dict[str, Counter]:
    counts = defaultdict(Counter)
    for type, answer in zip(types, answers, strict=True):
        counts[type][answer] += 1
    return counts


def _best_blind(types, answers) -> float:
    return sum(max(c.values()) for c in _tally(types, answers).values()) / len(answers)


def _first(pair):
    return pair[0]


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


BLIND = Exercise(
    id="08.2",
    title="The best blind score",
    inputs=_questions,
    solution=_best_blind,
    misconceptions=[
        Misconception(
            "that is one answer for all questions; a blind model may read the question, and so its type: give each "
            "type its own answer",
            lambda types, answers: max(Counter(answers).values()) / len(answers),
        ),
        Misconception(
            "you took the mean over the *types*; accuracy is a mean over questions, so a common type counts more",
            lambda types, answers: _mean(max(c.values()) / c.total() for c in _tally(types, answers).values()),
        ),
        Misconception(
            "one over the number of different answers is chance for a model that guesses; whoever has counted gives "
            "the commonest answer every time",
            lambda types, answers: sum(c.total() / len(c) for c in _tally(types, answers).values()) / len(answers),
        ),
        Misconception(
            "that is guessing in proportion to how often each answer comes, right with the sum of squared shares; "
            "always giving the commonest is at least as good",
            lambda types, answers: (
                sum(sum(n * n for n in c.values()) / c.total() for c in _tally(types, answers).values()) / len(answers)
            ),
        ),
        Misconception(
            "you counted every answer that is as common as the commonest; a model gives *one* answer to a question",
            lambda types, answers: (
                sum(n for c in _tally(types, answers).values() for n in c.values() if n == max(c.values()))
                / len(answers)
            ),
        ),
        Misconception(
            "you counted within runs of neighbouring questions: those of one type need not stand together",
            lambda types, answers: (
                sum(
                    max(Counter(a for _, a in run).values())
                    for _, run in groupby(zip(types, answers, strict=True), _first)
                )
                / len(answers)
            ),
        ),
        Misconception(
            "that is the number of questions answered right, not their share",
            lambda types, answers: sum(max(c.values()) for c in _tally(types, answers).values()),
        ),
    ],
    hints=[
        "For one type alone: which single answer is right most often, and how often?",
        "Count the answers of each type; add up the largest counts of all types.",
        "Divide by the number of all questions.",
    ],
)


# ------------------------------------------------------------------------------------------ 08.3 macro F1 of a parrot
def _answer_counts(generator):
    drawn = [torch.randint(1, 40, (k,), generator=generator) for k in (2, 5, 12)]
    return [
        ([7, 3],),
        ([5],),
        ([10, 1, 1, 1, 1],),
        ([1, 4, 2],),
        ([6, 2, 6, 1],),
        *((counts.tolist(),) for counts in drawn),
    ]


def _parrot(counts) -> float:
    return 2 * max(counts) / (sum(counts) + max(counts)) / len(counts)


PARROT = Exercise(
    id="08.3",
    title="The macro F1 of a parrot",
    inputs=_answer_counts,
    solution=_parrot,
    misconceptions=[
        Misconception(
            "that is the parrot's accuracy",
            lambda counts: max(counts) / sum(counts),
        ),
        Misconception(
            "that is the F1 of the one answer it gives; macro F1 is the mean over *all* answers, and the others have "
            "an F1 of 0",
            lambda counts: 2 * max(counts) / (sum(counts) + max(counts)),
        ),
        Misconception(
            "accuracy divided by the number of answers: the answer it gives has a recall of 1, not only a precision",
            lambda counts: max(counts) / sum(counts) / len(counts),
        ),
        Misconception(
            "the answer it gives has been given an F1 of 1: its recall is 1, but it is predicted for *every* question, "
            "also where it is wrong",
            lambda counts: 1 / len(counts),
        ),
        Misconception(
            "that is right only where the commonest answer comes first in the list",
            lambda counts: 2 * counts[0] / (sum(counts) + counts[0]) / len(counts),
        ),
        Misconception(
            "where two answers are equally common, the parrot still gives *one* of them",
            lambda counts: _parrot(counts) * list(counts).count(max(counts)),
        ),
        Misconception(
            "you weighted every answer's F1 by how often it is asked for: that is the weighted F1, in which the "
            "common answer counts most",
            lambda counts: 2 * max(counts) / (sum(counts) + max(counts)) * max(counts) / sum(counts),
        ),
    ],
    hints=[
        "F1 = 2 · hits / (times predicted + times true). Work it out for the answer it always gives.",
        "Every other answer is never predicted: no hits, F1 = 0.",
        "2 · largest / (all + largest), divided by the number of answers.",
    ],
    atol=1e-6,
)


# ---------------------------------------------------------------------------------------------- 08.4 ten people
def _numbers(generator):
    return [(n,) for n in range(11)]


def _ten_people(n: int) -> float:
    return (n * min(1.0, (n - 1) / 3) + (10 - n) * min(1.0, n / 3)) / 10


TEN = Exercise(
    id="08.4",
    title="What ten people make of an answer",
    inputs=_numbers,
    solution=_ten_people,
    misconceptions=[
        Misconception(
            "that is min(1, n/3), which some repositories print; the official number leaves each of the ten out in "
            "turn, and sometimes the one left out had given this very answer",
            lambda n: min(1.0, n / 3),
        ),
        Misconception(
            "that is the share of people who agree; three of them are enough for full marks",
            lambda n: n / 10,
        ),
        Misconception(
            "you left out only people who gave this answer; the ten are left out one after the other, also those who "
            "said something else",
            lambda n: min(1.0, max(n - 1, 0) / 3),
        ),
        Misconception(
            "that is the majority's vote: the official score gives part of the mark to an answer of a minority",
            lambda n: float(n > 5),
        ),
        Misconception(
            "the score of one case is never more than 1: where is the min?",
            lambda n: (n * (n - 1) / 3 + (10 - n) * n / 3) / 10,
        ),
        Misconception(
            "you left out only people who gave this answer; where nobody gave it, n − 1 is below 0",
            lambda n: min(1.0, (n - 1) / 3),
        ),
        Misconception(
            "you added up the ten scores; it is their mean",
            lambda n: 10 * _ten_people(n),
        ),
    ],
    hints=[
        "Ten people, each left out once: in how many of the ten cases is the one left out somebody who said it?",
        "In n cases n − 1 others agree, in 10 − n cases all n do. The score of one case is min(1, agreeing / 3).",
        "(n · min(1, (n − 1)/3) + (10 − n) · min(1, n/3)) / 10, in your own words.",
    ],
    atol=1e-6,
)


# ------------------------------------------------------------------------------------------- 08.5 repair the weights
def _leaky(generator):
    cases = []
    for n, length in ((2, 4), (3, 6), (1, 3), (4, 5)):
        lengths = torch.randint(1, length + 1, (n,), generator=generator)
        lengths[0] = length - 1
        mask = torch.arange(length) < lengths[:, None]
        scores = 4 * torch.randn(n, length, generator=generator)
        if n == 4:
            scores[1] = torch.where(mask[1], -12.0 + scores[1], scores[1] + 4)  # nearly all weight on the padding
        cases.append((scores.softmax(dim=-1), mask))
    mask = torch.tensor([[False, False, True, True], [True, False, True, False], [True] * 4])  # padding anywhere
    cases.append(((4 * torch.randn(3, 4, generator=generator)).softmax(dim=-1), mask))
    scores = torch.tensor([[-19.0, -18.0, -17.0, 0.0, 1.0], [-23.0, -22.0, 0.0, 1.0, 0.0]])  # hardly any on the words
    cases.append((scores.softmax(dim=-1), torch.arange(5) < torch.tensor([[3], [2]])))
    return cases


def _first_places(weights: Tensor, mask: Tensor) -> Tensor:
    """As if the words were always the first places of a row."""
    kept = weights * (torch.arange(mask.shape[1]) < mask.sum(dim=1, keepdim=True))
    return kept / kept.sum(dim=1, keepdim=True)


def _shared_out(weights: Tensor, mask: Tensor) -> Tensor:
    """What lies on the padding, divided equally among the words."""
    lost = (weights * ~mask).sum(dim=1, keepdim=True)
    return weights * mask + mask * lost / mask.sum(dim=1, keepdim=True)


REPAIR = Exercise(
    id="08.5",
    title="Weights mended afterwards",
    inputs=_leaky,
    solution=lambda weights, mask: weights * mask / (weights * mask).sum(dim=-1, keepdim=True),
    misconceptions=[
        Misconception(
            "the padding has no weight any more, but the rows no longer sum to 1: what was taken away must be given "
            "back to the words",
            lambda weights, mask: weights * mask,
        ),
        Misconception(
            "a second softmax takes the weights for scores: they all lie between 0 and 1, so what comes out is nearly "
            "even",
            lambda weights, mask: weights.masked_fill(~mask, -torch.inf).softmax(dim=-1),
        ),
        Misconception(
            "what lay on the padding was divided equally among the words; a softmax over the words alone keeps the "
            "*ratios* between them",
            _shared_out,
        ),
        Misconception(
            "these weights are even: the model's own preferences among the words are lost",
            lambda weights, mask: mask / mask.sum(dim=-1, keepdim=True),
        ),
        Misconception(
            "right on paper, but 1 − (the weight on padding) loses all its digits where nearly everything lies on "
            "padding: there is a sum without a difference",
            lambda weights, mask: weights * mask / (1 - (weights * ~mask).sum(dim=-1, keepdim=True)),
        ),
        Misconception(
            "you took the first places for the words: padding may stand anywhere, and the mask says where",
            _first_places,
        ),
        *(
            Misconception(
                "a constant in or below the denominator makes rows sum to less than 1, by most where little weight "
                "was on the words",
                wrong,
            )
            for tiny in (1e-5, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12)
            for wrong in (
                lambda weights, mask, tiny=tiny: weights * mask / ((weights * mask).sum(dim=-1, keepdim=True) + tiny),
                lambda weights, mask, tiny=tiny: (
                    weights * mask / (weights * mask).sum(-1, keepdim=True).clamp(min=tiny)
                ),
            )
        ),
        Misconception(
            "you divided by one sum for the whole batch: each question has its own",
            lambda weights, mask: weights * mask / (weights * mask).sum(),
        ),
    ],
    hints=[
        "Softmax over the words is exp(s) / Σ exp(s), the sum over words only. You know exp(s) / Z at every place.",
        "Z cancels in the ratio of two weights: so the ratios among the words are right already.",
        "Set the padding to zero and divide each row by what is left in it.",
    ],
    atol=1e-6,
)


EXERCISES = [SAME_MEAN, BLIND, PARROT, TEN, REPAIR]
