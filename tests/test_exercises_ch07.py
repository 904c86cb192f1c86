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


def wrong_four_colours_only(row):
    counts = [row.count(colour) for colour in ("red", "green", "blue", "yellow")]
    return math.lgamma(len(row) + 1) - sum(math.lgamma(n + 1) for n in counts)


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


def wrong_mix_word_before(tokens, own, coin):
    inputs = tokens.clone()
    for i in range(tokens.shape[0]):
        for t in range(1, tokens.shape[1]):
            if coin[i, t] and tokens[i, t - 1] != 0:
                inputs[i, t] = own[i, t - 1]
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


def wrong_beam_best_parent(scores, log_probs):
    best = scores.argmax()
    words = log_probs[best].argsort(descending=True)[: len(scores)]
    return best.expand(len(words)), words, scores[best] + log_probs[best][words]


def wrong_beam_lowest(scores, log_probs):
    best, index = (scores.view(-1, 1) + log_probs).reshape(-1).sort()
    best, index = best[: len(scores)], index[: len(scores)]
    return index // log_probs.shape[1], index % log_probs.shape[1], best


def wrong_beam_cut(scores, log_probs):
    best, index = (scores.view(-1, 1) + log_probs).reshape(-1).topk(len(scores))
    return torch.div(index, len(scores), rounding_mode="floor"), index.remainder(len(scores)), best


# ---------------------------------------------------------------------------------------------------------------- 07.4
def wrong_whole_looks(n_words, n_places):
    looks = [0] * n_places
    for word in range(n_words):
        looks[word % n_places] += 1
    return sum((1 - n) ** 2 for n in looks)


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
        (wrong_all_orders, "the same row several times"),
        (lambda row: math.log(len(set(row)) ** len(row)), "how many of each: the counts are known"),
        (wrong_drawn_anew, "used up"),
        (lambda row: right_least_loss(row) / math.log(2), "in bits"),
        (lambda row: round(math.exp(right_least_loss(row))), "guess among so many"),
        (lambda row: right_least_loss(row) / len(row), "the sum over the row"),
        (lambda row: len(row) * math.log(4), "knows nothing"),
        (lambda row: math.log(math.factorial(len(row)) / math.factorial(len({*row}))), "how many tiles each one has"),
        (lambda row: wrong_drawn_anew(row) / len(row), "entropy of the colour of one tile"),
        (
            lambda row: math.lgamma(len(row) + 1) - sum(math.lgamma(row.count(colour) + 1) for colour in row),
            "once for every *tile*",
        ),
        (wrong_four_colours_only, "the value is not right"),
        (lambda row: 0.0, "the value is not right"),
    ],
    "07.2": [
        (wrong_mix_same_place, "it stands for the word at t + 1"),
        (lambda tokens, own, coin: torch.where(coin, own, tokens), "it stands for the word at t + 1"),
        (wrong_mix_roll, "comes round to the front"),
        (wrong_mix_roll_everything, "<start> and the padding are replaced"),
        (wrong_mix_padding, "after <end> nothing is said"),
        (wrong_mix_coin, "coin is turned round"),
        (lambda tokens, own, coin: torch.where(coin & (tokens > 3), own.roll(1, 1), tokens), "<end> never gives way"),
        (lambda tokens, own, coin: torch.where(coin & (tokens != 2), own, tokens), "and replace the padding, too"),
        (lambda tokens, own, coin: torch.where(coin & (tokens != 0), own, tokens), "and replace <start>, too"),
        (wrong_mix_word_before, "the word *before* is padding"),
        (lambda tokens, own, coin: tokens, "entries are not"),
    ],
    "07.3": [
        (wrong_beam_each, "They compete"),
        (wrong_beam_words_only, "parent's score *plus*"),
        (wrong_beam_cut, "a row of the table has V entries"),
        (lambda s, p: (torch.arange(len(s)), p.argmax(1), s + p.amax(1)), "the best child should come first"),
        (lambda s, p: [x.flip(0) for x in right_beam(s, p)], "the order is not"),
        (
            lambda s, p: [x[right_beam(s, p)[0].argsort(stable=True)] for x in right_beam(s, p)],
            "order of their parents",
        ),
        (lambda s, p: [*right_beam(s, p)[:2], right_beam(s, p)[2].exp()], "those are probabilities"),
        (lambda s, p: [*right_beam(s, p)[:2], p[right_beam(s, p)[:2]]], "the new word's alone"),
        (wrong_beam_best_parent, "have one parent"),
        (wrong_beam_lowest, "least probable"),
        (lambda s, p: right_beam(s, p.exp()), "take log_probs as they are"),
        (lambda s, p: [right_beam(s, p)[i] for i in (1, 0, 2)], "return (parents, words, scores)"),
    ],
    "07.4": [
        (lambda words, places: 0, "zero is out of reach"),
        (lambda words, places: places - words if places > words else words - places, "may spread its weights"),
        (lambda words, places: ((places - words) / places) ** 2, "added up over all places"),
        (lambda words, places: (places - words) ** 2, "you squared the sum"),
        (lambda words, places: (places - words) ** 2 / words, "exchanged words and places"),
        (lambda words, places: 0.0 if words >= places else (places - words) ** 2 / places, "looked at too *much*"),
        (lambda words, places: max(places - words, 0), "as far as the places last"),
        (lambda words, places: places - words, "not of their squares"),
        (lambda words, places: (places - words) ** 2 // places, "without rounding"),
        (wrong_whole_looks, "whole looks allow"),
        (lambda words, places: float(places), "the value is not right"),
    ],
    "07.5": [
        (lambda x: x.mean(dim=1).argmax().item(), "votes for itself"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).mean(dim=0).argmax().item(), "mean of its *row*"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).max(dim=1).values.argmax().item(), "not the largest"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 0).sum(dim=1).argmin().item(), "agree least"),
        (lambda x: x.masked_fill(torch.eye(len(x)).bool(), 1e9).amin(1).argmax().item(), "could forbid"),
        (lambda x: (x + x.T - 2 * torch.diag(x.diagonal())).sum(1).argmax().item(), "both in your sum"),
        (lambda x: x.diagonal().argmax().item(), "looked at the diagonal"),
        (lambda x: ((x.sum(1) - x.diagonal()) / (len(x) - 1)).max().item(), "the *number* of the sentence"),
        (lambda x: (x - torch.diag(x.diagonal())).abs().sum(1).argmax().item(), "value is not right"),
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
