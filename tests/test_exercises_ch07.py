"""Exercises of chapter 07: students' wrong answers get the message that helps, right ones in other words pass."""

import math

import torch

from tests.exercise_cases import assert_chapter, assert_right, assert_wrong


# ---------------------------------------------------------------------------------------------------------------- 07.1
def right_least_loss(row):
    """Tile by tile: how many of the tiles that are left have this colour."""
    left, loss = list(row), 0.0
    for colour in row:
        loss -= math.log(left.count(colour) / len(left))
        left.remove(colour)
    return loss


def wrong_all_orders(row):
    return math.lgamma(len(row) + 1)


def wrong_drawn_anew(row):
    return -sum(math.log(row.count(colour) / len(row)) for colour in row)


# ---------------------------------------------------------------------------------------------------------------- 07.2
def right_mix(tokens, own, coin):
    inputs = tokens.clone()
    for i in range(tokens.shape[0]):
        for t in range(1, tokens.shape[1]):
            if coin[i, t] and tokens[i, t] != 0:
                inputs[i, t] = own[i, t - 1]
    return inputs


def wrong_mix_same_place(tokens, own, coin):
    inputs = tokens.clone()
    real = (tokens != 0) & coin
    real[:, 0] = False
    inputs[real] = own[real]
    return inputs


def wrong_mix_roll(tokens, own, coin):
    return torch.where(coin & (tokens != 0), own.roll(1, 1), tokens)


def wrong_mix_roll_everything(tokens, own, coin):
    return torch.where(coin, own.roll(1, 1), tokens)


def wrong_mix_padding(tokens, own, coin):
    inputs = tokens.clone()
    inputs[:, 1:][coin[:, 1:]] = own[:, :-1][coin[:, 1:]]
    return inputs


def wrong_mix_coin(tokens, own, coin):
    inputs = own.roll(1, 1)
    inputs[coin | (tokens == 0)] = tokens[coin | (tokens == 0)]
    inputs[:, 0] = tokens[:, 0]
    return inputs


# ---------------------------------------------------------------------------------------------------------------- 07.3
def right_beam(scores, log_probs):
    children = [
        (float(scores[k] + log_probs[k, v]), k, v) for k in range(len(scores)) for v in range(log_probs.shape[1])
    ]
    best = sorted(children, reverse=True)[: len(scores)]
    return (
        torch.tensor([k for _, k, _ in best]),
        torch.tensor([v for _, _, v in best]),
        torch.tensor([score for score, _, _ in best]),
    )


def wrong_beam_each(scores, log_probs):
    total = scores[:, None] + log_probs
    best, words = total.topk(1, dim=1)
    best, order = best[:, 0].sort(descending=True)
    return order, words[order, 0], best


def wrong_beam_words_only(scores, log_probs):
    best, index = log_probs.reshape(-1).topk(len(scores))
    return index // log_probs.shape[1], index % log_probs.shape[1], best


def wrong_beam_cut(scores, log_probs):
    best, index = (scores.view(-1, 1) + log_probs).reshape(-1).topk(len(scores))
    return torch.div(index, len(scores), rounding_mode="floor"), index.remainder(len(scores)), best


# ---------------------------------------------------------------------------------------------------------------- 07.5
def right_consensus(likeness):
    best, found = -math.inf, None
    for i in range(len(likeness)):
        mean = sum(float(likeness[i, j]) for j in range(len(likeness)) if j != i)
        if mean > best:
            best, found = mean, i
    return found


WRONG = {
    "07.1": [
        (wrong_all_orders, "divide such orders out"),
        (lambda row: math.log(len(set(row)) ** len(row)), "how many of each: the counts are known"),
        (wrong_drawn_anew, "used up"),
        (lambda row: right_least_loss(row) / math.log(2), "in bits"),
        (lambda row: round(math.exp(right_least_loss(row))), "its logarithm"),
        (lambda row: 0.0, "the value is not right"),
    ],
    "07.2": [
        (wrong_mix_same_place, "it stands for the word at t + 1"),
        (lambda tokens, own, coin: torch.where(coin, own, tokens), "it stands for the word at t + 1"),
        (wrong_mix_roll, "comes round to the front"),
        (wrong_mix_roll_everything, "<start> and the padding are replaced"),
        (wrong_mix_padding, "after <end> nothing is said"),
        (wrong_mix_coin, "coin is turned round"),
        (lambda tokens, own, coin: tokens, "entries are not"),
    ],
    "07.3": [
        (wrong_beam_each, "They compete"),
        (wrong_beam_words_only, "parent's score *plus*"),
        (wrong_beam_cut, "a row of the table has V entries"),
        (lambda s, p: right_beam(s, p.exp()), "take log_probs as they are"),
        (lambda s, p: [right_beam(s, p)[i] for i in (1, 0, 2)], "return (parents, words, scores)"),
    ],
    "07.4": [
        (lambda words, places: 0, "zero is out of reach"),
        (lambda words, places: places - words if places > words else words - places, "an even look"),
        (lambda words, places: ((places - words) / places) ** 2, "added up over all places"),
        (lambda words, places: (places - words) ** 2, "you squared the sum"),
        (lambda words, places: (places - words) ** 2 / words, "exchanged words and places"),
        (lambda words, places: float(places), "the value is not right"),
    ],
    "07.5": [
        (lambda x: x.mean(dim=1).argmax().item(), "votes for itself"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).mean(dim=0).argmax().item(), "mean of its *row*"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).max(dim=1).values.argmax().item(), "not the largest"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).sum(dim=1).argmin().item(), "agree least"),
        (lambda x: 0, "value is not right"),
    ],
}

RIGHT = {
    "07.1": right_least_loss,
    "07.2": right_mix,
    "07.3": right_beam,
    "07.4": lambda words, places: places * (1 - words / places) ** 2,
    "07.5": right_consensus,
}


def test_all_exercises():
    assert_chapter("07", WRONG, RIGHT)


def test_other_right_answers():
    assert_right(
        "07.1", lambda row: math.log(math.factorial(len(row))) - sum(math.lgamma(row.count(c) + 1) for c in {*row})
    )
    assert_right("07.3", lambda s, p: [*right_beam(s, p)])
    assert_right("07.5", lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).mean(dim=1).argmax())


def test_whole_numbers_are_wanted():
    assert_wrong(
        "07.2", lambda tokens, own, coin: right_mix(tokens, own, coin).float(), "expected the type torch.int64"
    )
