"""Exercises of chapter 08: students' wrong answers get the message that helps, right ones in other words pass."""

import random
from collections import Counter

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


def right_repair(weights, mask):
    return weights.log().masked_fill(~mask, -torch.inf).softmax(dim=-1)


def wrong_repair_detour(weights, mask):
    kept = torch.where(mask, weights, torch.zeros_like(weights))
    return kept + (1 - kept.sum(-1, keepdim=True)) / mask.sum(-1, keepdim=True) * mask


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
        (wrong_rotation, "another number of objects"),
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
    ],
    "08.5": [
        (lambda weights, mask: torch.where(mask, weights, 0.0), "no longer sum to 1"),
        (lambda weights, mask: weights.softmax(-1), "entries are not"),
        (lambda weights, mask: torch.softmax(weights.masked_fill(~mask, float("-inf")), 1), "second softmax"),
        (wrong_repair_detour, "divided equally"),
        (lambda weights, mask: weights * mask / (weights * mask).sum(), "one sum for the whole batch"),
        (lambda weights, mask: weights * mask / ((weights * mask).sum(1, True) + 1e-6), "constant in the denominator"),
        (lambda weights, mask: mask.float() / mask.sum(1, keepdim=True), "weights are even"),
    ],
    "08.4": [
        (lambda n: min(n / 3, 1), "many repositories"),
        (lambda n: 0.1 * n, "share of people"),
        (lambda n: min(max(0, n - 1) / 3, 1), "left out only people"),
        (lambda n: right_ten(n) * 10, "their mean"),
        (lambda n: 1.0 if n >= 6 else 0.0, "majority"),
    ],
    "08.3": [
        (lambda counts: max(counts) / sum(counts), "accuracy"),
        (lambda counts: 2 * max(counts) / (max(counts) + sum(counts)), "mean over *all*"),
        (lambda counts: max(counts) / (sum(counts) * len(counts)), "recall of 1"),
        (lambda counts: 1 / len(counts), "recall"),
    ],
}

RIGHT = {"08.1": right_picture, "08.2": right_blind, "08.5": right_repair, "08.4": right_ten, "08.3": right_parrot}


def test_exercises():
    assert_chapter("08", WRONG, RIGHT)


def test_other_right_answers_pass():
    assert_right("08.5", lambda w, m: (w * m) / (w * m).norm(p=1, dim=1)[:, None])
    assert_right("08.4", lambda n: [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1][n])
