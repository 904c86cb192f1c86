"""Exercises of chapter 08: students' wrong answers get the message that helps, right ones in other words pass."""

import random
from collections import Counter
from itertools import groupby

import torch

from tests.exercise_cases import assert_chapter, assert_right


def right_picture(objects):
    """Try exchanges of colours until the objects are others."""
    generator = random.Random(0)
    while True:
        colours = [colour for _, colour in objects]
        generator.shuffle(colours)
        other = [(shape, colour) for (shape, _), colour in zip(objects, colours, strict=True)]
        if sorted(other) != sorted(objects):
            return other


def wrong_first_two(objects):
    (a, b), (c, d), *rest = objects
    return [(a, d), (c, b), *rest]


def wrong_rotation(objects):
    colours = [colour for _, colour in objects]
    return [(shape, colour) for (shape, _), colour in zip(objects, colours[1:] + colours[:1], strict=True)][:1]


def wrong_turned(objects):
    """Colours handed on by one object: right for most pictures, by luck."""
    colours = [colour for _, colour in objects]
    return [(shape, colour) for (shape, _), colour in zip(objects, colours[1:] + colours[:1], strict=True)]


def wrong_first_and_last(objects):
    (a, b), *rest, (c, d) = objects
    return [(a, d), *rest, (c, b)]


def wrong_partner_of_first(objects):
    """Exchange the first object's colour with the first that differs in both; some pictures have none."""
    (shape, colour), *rest = objects
    for k, (other_shape, other_colour) in enumerate(rest):
        if other_shape != shape and other_colour != colour:
            return [(shape, other_colour), *rest[:k], (other_shape, colour), *rest[k + 1 :]]
    return objects


def wrong_sorted_colours(objects):
    colours = sorted(colour for _, colour in objects)
    return [(shape, colour) for (shape, _), colour in zip(objects, colours, strict=True)]


def right_blind(types, answers):
    pairs = Counter(zip(types, answers, strict=True))
    best = {}
    for (kind, _), n in pairs.items():
        best[kind] = max(best.get(kind, 0), n)
    return sum(best.values()) / len(types)


def wrong_blind_macro(types, answers):
    shares = []
    for kind in set(types):
        mine = [a for t, a in zip(types, answers, strict=True) if t == kind]
        shares.append(mine.count(max(set(mine), key=mine.count)) / len(mine))
    return sum(shares) / len(shares)


def wrong_blind_guess(types, answers):
    right = 0
    for kind in set(types):
        mine = [a for t, a in zip(types, answers, strict=True) if t == kind]
        right += len(mine) / len(set(mine))
    return right / len(types)


def wrong_blind_runs(types, answers):
    runs = [list(run) for _, run in groupby(zip(types, answers, strict=True), key=lambda pair: pair[0])]
    return sum(Counter(run).most_common(1)[0][1] for run in runs) / len(answers)


def wrong_blind_ties(types, answers):
    pairs = Counter(zip(types, answers, strict=True))
    return sum(n for (kind, _), n in pairs.items() if n == max(m for (k, _), m in pairs.items() if k == kind)) / len(
        types
    )


def right_repair(weights, mask):
    return weights.log().masked_fill(~mask, -torch.inf).softmax(dim=-1)


def wrong_repair_detour(weights, mask):
    kept = torch.where(mask, weights, torch.zeros_like(weights))
    return kept + (1 - kept.sum(-1, keepdim=True)) / mask.sum(-1, keepdim=True) * mask


def wrong_repair_first_places(weights, mask):
    out = torch.zeros_like(weights)
    for row, n in enumerate(mask.sum(dim=1).tolist()):
        out[row, :n] = weights[row, :n] / weights[row, :n].sum()
    return out


def right_ten(n):
    people = [1] * n + [0] * (10 - n)
    return sum(min(1, (n - one) / 3) for one in people) / 10


def right_parrot(counts):
    first = max(counts)
    precision = first / sum(counts)
    return 2 * precision / (precision + 1) / len(counts)


WRONG = {
    "08.1": [
        (lambda objects: objects, "the same objects"),
        (lambda objects: objects[::-1], "order is no part of a picture"),
        (wrong_first_two, "the same objects"),
        (wrong_rotation, "as many objects as"),
        (wrong_turned, "the same objects"),
        (wrong_first_and_last, "the same objects"),
        (wrong_partner_of_first, "the same objects"),
        (wrong_sorted_colours, "the same objects"),
        (lambda objects: [("star", "red")] * len(objects), "other shapes"),
        (lambda objects: [(shape, "red") for shape, _ in objects], "other colours"),
        (lambda objects: "star", "list of pairs"),
    ],
    "08.2": [
        (lambda types, answers: answers.count(max(answers, key=answers.count)) / len(answers), "one answer for all"),
        (wrong_blind_macro, "mean over the *types*"),
        (wrong_blind_guess, "for a model that guesses"),
        (lambda types, answers: right_blind(types, answers) * len(types), "not their share"),
        (lambda types, answers: 0.5, "the value is not right"),
        (wrong_blind_runs, "need not stand together"),
        (wrong_blind_ties, "*one* answer to a question"),
    ],
    "08.5": [
        (lambda weights, mask: torch.where(mask, weights, 0.0), "no longer sum to 1"),
        (lambda weights, mask: weights.softmax(-1), "entries are not"),
        (lambda weights, mask: torch.softmax(weights.masked_fill(~mask, float("-inf")), 1), "second softmax"),
        (wrong_repair_detour, "divided equally"),
        (lambda weights, mask: weights * mask / (weights * mask).sum(), "one sum for the whole batch"),
        (lambda weights, mask: weights * mask / ((weights * mask).sum(1, True) + 1e-6), "constant in or below"),
        (lambda weights, mask: mask.float() / mask.sum(1, keepdim=True), "weights are even"),
        (lambda weights, mask: weights * mask / (weights * mask).sum(1, True).clamp(min=1e-8), "constant in or below"),
        (lambda weights, mask: weights * mask / ((weights * mask).sum(1, True) + 1e-12), "constant in or below"),
        (lambda weights, mask: weights * mask / (1 - (weights * ~mask).sum(1, True)), "right on paper"),
        (wrong_repair_first_places, "padding may stand anywhere"),
        (lambda weights, mask: weights * mask / (weights * mask).sum(-1), "RuntimeError"),
        (lambda weights, mask: weights * mask / (weights * mask).sum(0), "entries are not"),
        (lambda weights, mask: weights.mul_(mask) / weights.sum(1, True), "in place"),
    ],
    "08.4": [
        (lambda n: min(n / 3, 1), "some repositories"),
        (lambda n: 0.1 * n, "share of people"),
        (lambda n: min(max(0, n - 1) / 3, 1), "left out only people"),
        (lambda n: right_ten(n) * 10, "their mean"),
        (lambda n: 1.0 if n >= 6 else 0.0, "majority"),
        (lambda n: min((n - 1) / 3, 1), "is below 0"),
        (lambda n: 0.3 * n, "never more than 1"),
        (lambda n: min(1, n // 3), "the value is not right"),
    ],
    "08.3": [
        (lambda counts: max(counts) / sum(counts), "accuracy"),
        (lambda counts: 2 * max(counts) / (max(counts) + sum(counts)), "mean over *all*"),
        (lambda counts: max(counts) / (sum(counts) * len(counts)), "recall of 1"),
        (lambda counts: 1 / len(counts), "*every* question"),
        (lambda counts: 2 * counts[0] / (sum(counts) + counts[0]) / len(counts), "comes first in the list"),
        (lambda counts: right_parrot(counts) * counts.count(max(counts)), "*one* of them"),
        (lambda counts: right_parrot(counts) * len(counts) / len(set(counts)), "the value is not right"),
    ],
}

RIGHT = {"08.1": right_picture, "08.2": right_blind, "08.5": right_repair, "08.4": right_ten, "08.3": right_parrot}


def test_exercises():
    assert_chapter("08", WRONG, RIGHT)


def test_other_right_answers_pass():
    assert_right("08.5", lambda w, m: (w * m) / (w * m).norm(p=1, dim=1)[:, None])
    assert_right("08.4", lambda n: min(1, 3 * n / 10))
    assert_right("08.4", lambda n: [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1][n])
