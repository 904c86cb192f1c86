"""Exercises of chapter 13: independent right answers pass, typical wrong ones are told why."""

import math

import torch

from mmlearn.models import contrastive_loss, sigmoid_loss
from tests.exercise_cases import assert_chapter, assert_right, assert_wrong


# 13.4 -------------------------------------------------------------------------------------------------
def _asked(scores, owner, skip):
    """Mean over both directions of -log of the right share, by loops; skip(i, j) leaves cell j of row i out."""
    total = 0.0
    for table in (scores, scores.T):
        for i in range(len(owner)):
            kept = [table[i, j] for j in range(len(owner)) if not skip(owner, i, j)]
            total = total + torch.stack(kept).logsumexp(0) - table[i, i]
    return total / (2 * len(owner))


def right_rivals(scores, owner):
    return _asked(scores, owner, lambda o, i, j: i != j and o[i] == o[j])


def wrong_all_rivals(scores, owner):
    return contrastive_loss(scores)


def wrong_zero(scores, owner):
    same = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    return contrastive_loss(torch.where(same, torch.zeros(()), scores))


def wrong_positives(scores, owner):
    same = (owner[:, None] == owner).float()
    rows = -(scores.log_softmax(1) * same).sum(1) / same.sum(1)
    columns = -(scores.log_softmax(0) * same).sum(0) / same.sum(0)
    return (rows.mean() + columns.mean()) / 2


def wrong_one_way(scores, owner):
    same = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    return -scores.masked_fill(same, -1e9).log_softmax(1).diagonal().mean()


def wrong_nothing_left(scores, owner):
    return contrastive_loss(scores.masked_fill(owner[:, None] == owner, -torch.inf))


# 13.3 -------------------------------------------------------------------------------------------------
def right_pairs(scores):
    n, total = len(scores), scores.new_zeros(())
    for i in range(n):
        for j in range(n):
            total = total + torch.nn.functional.softplus(-scores[i, j] if i == j else scores[i, j])
    return total / n


def wrong_mean(scores):
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.eye(len(scores)))


def wrong_positive_only(scores):
    return torch.nn.functional.softplus(-scores.diagonal()).mean()


def wrong_log(scores):
    signs = torch.eye(len(scores)) * 2 - 1
    return -(signs * scores).sigmoid().log().sum() / len(scores)


def wrong_epsilon(scores):
    signs = torch.eye(len(scores)) * 2 - 1
    return -((signs * scores).sigmoid() + 1e-8).log().sum() / len(scores)


def wrong_softmax(scores):
    return contrastive_loss(scores)


# 13.2 -------------------------------------------------------------------------------------------------
def right_ensemble(vectors):
    rows = []
    for one in vectors:
        total = sum(one)
        rows.append(total / total.dot(total).sqrt())
    return torch.stack(rows)


def wrong_short(vectors):
    return vectors.sum(1) / vectors.shape[1]


def wrong_other_axis(vectors):
    return torch.nn.functional.normalize(vectors.sum(0), dim=-1)


def wrong_one_length(vectors):
    middle = vectors.mean(1)
    return middle / middle.norm()


def wrong_over_classes(vectors):
    middle = vectors.mean(1)
    return middle / middle.norm(dim=0)


# 13.1 -------------------------------------------------------------------------------------------------
def right_scaled(cosines, log_scale):
    return cosines * min(math.exp(min(log_scale.item(), 10)), 100.0)


def wrong_unclipped(cosines, log_scale):
    return cosines * torch.exp(log_scale)


def wrong_late(cosines, log_scale):
    return cosines * torch.exp(torch.minimum(log_scale, torch.tensor(100.0)))


def wrong_temperature(cosines, log_scale):
    return cosines / torch.exp(log_scale).clamp(max=100)


def wrong_logits(cosines, log_scale):
    return torch.clamp(cosines * torch.exp(log_scale), -100, 100)


def wrong_linear(cosines, log_scale):
    return cosines * torch.clamp(log_scale, max=100)


WRONG = {
    "13.4": [
        (wrong_all_rivals, "still count as wrong answers"),
        (wrong_zero, "still a candidate"),
        (wrong_positives, "neither right nor wrong"),
        (wrong_one_way, "only pictures ask"),
        (wrong_nothing_left, "no rival of itself"),
    ],
    "13.3": [
        (wrong_mean, "the mean over all cells"),
        (wrong_positive_only, "the wrong pairs are missing"),
        (wrong_log, "an infinite loss"),
        (wrong_epsilon, "hides large mistakes"),
        (wrong_softmax, "that is a softmax"),
    ],
    "13.2": [
        (wrong_short, "shorter than 1"),
        (wrong_other_axis, "mixed the classes"),
        (wrong_one_length, "one common length"),
        (wrong_over_classes, "over the classes"),
    ],
    "13.1": [
        (wrong_unclipped, "a limit is missing"),
        (wrong_late, "far too late"),
        (wrong_temperature, "one *over* the temperature"),
        (wrong_logits, "lose their order"),
        (wrong_linear, "the *logarithm*"),
    ],
}
RIGHT = {"13.4": right_rivals, "13.3": right_pairs, "13.2": right_ensemble, "13.1": right_scaled}


def test_chapter():
    assert_chapter("13", WRONG, RIGHT)


def test_ways_of_writing_that_are_right_too():
    assert_right("13.3", sigmoid_loss)
    assert_right("13.2", lambda x: x.sum(1) / x.sum(1).norm(dim=-1, keepdim=True))
    assert_right("13.1", lambda c, s: torch.minimum(s.exp(), torch.tensor(100.0)) * c)

    def by_minus_a_lot(scores, owner):
        same = (owner[:, None] == owner).fill_diagonal_(False)
        return contrastive_loss(scores - 1e9 * same)

    assert_right("13.4", by_minus_a_lot)


def test_a_blank_return_is_told():
    assert_wrong("13.2", lambda vectors: None, "is there a return statement")
