"""Exercises of chapter 10: independent right answers pass, typical wrong ones are told why."""

import math
from itertools import product

import pytest
import torch

from mmlearn.exercises.ch10 import Reader
from tests.exercise_cases import assert_chapter, assert_wrong


# 10.1 -------------------------------------------------------------------------------------------------
def right_fewest(word, vocab):
    found = []
    for cuts in product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        starts = [0, *ends[:-1]]
        if all(("##" if a else "") + word[a:b] in vocab for a, b in zip(starts, ends, strict=True)):
            found.append(len(ends))
    return min(found, default=0)


def wrong_longest_match(word, vocab):
    rest, n, mark = word, 0, ""
    while rest:
        size = next((k for k in range(len(rest), 0, -1) if mark + rest[:k] in vocab), None)
        if size is None:
            return 0
        rest, n, mark = rest[size:], n + 1, "##"
    return n


def wrong_without_marks(word, vocab):
    if not word:
        return 0
    rests = [wrong_without_marks(word[k:], vocab) for k in range(1, len(word) + 1) if word[:k] in vocab]
    ends = [k for k in range(1, len(word) + 1) if word[:k] in vocab]
    possible = [1 + n for n, k in zip(rests, ends, strict=True) if n or k == len(word)]
    return min(possible, default=0)


def wrong_infinite(word, vocab):
    return right_fewest(word, vocab) or math.inf


def wrong_one_for_unknown(word, vocab):
    return right_fewest(word, vocab) or 1


def wrong_letters(word, vocab):
    return len(word)


def wrong_shortest_match(word, vocab):
    rest, n, mark = word, 0, ""
    while rest:
        size = next((k for k in range(1, len(rest) + 1) if mark + rest[:k] in vocab), None)
        if size is None:
            return 0
        rest, n, mark = rest[size:], n + 1, "##"
    return n


# 10.2 -------------------------------------------------------------------------------------------------
def right_posterior(q, seen, shares):
    joint = []
    for truth, p in enumerate(q.tolist()):
        joint.append(p * (shares[1] / len(q) + (shares[2] if truth == seen else 0)))
    return torch.tensor([p / sum(joint) for p in joint])


def wrong_random_not_shared(q, seen, shares):
    joint = q * shares[1]
    joint[seen] += q[seen] * shares[2]
    return joint / joint.sum()


def wrong_copy(q, seen, shares):
    answer = torch.zeros(len(q))
    answer[seen] = 1
    return answer


def wrong_context_only(q, seen, shares):
    return q.clone()


def wrong_mixture(q, seen, shares):
    answer = q * shares[1]
    answer[seen] += shares[2]
    return answer / answer.sum()


def wrong_not_divided(q, seen, shares):
    answer = q * shares[1] / len(q)
    answer[seen] += q[seen] * shares[2]
    return answer


def wrong_never_the_same(q, seen, shares):
    answer = q * shares[1] / len(q)
    answer[seen] = q[seen] * shares[2]
    return answer / answer.sum()


def wrong_masks_too(q, seen, shares):
    answer = q * shares[1] / len(q)
    answer[seen] += q[seen] * (shares[2] + shares[0])
    return answer / answer.sum()


# 10.3 -------------------------------------------------------------------------------------------------
def right_sides(counts):
    A, M, B = counts.shape
    total = counts.sum()
    middle = max(counts[:, m].sum() for m in range(M))
    left = sum(max(counts[a, m].sum() for m in range(M)) for a in range(A))
    right = sum(max(counts[:, m, b].sum() for m in range(M)) for b in range(B))
    both = sum(counts[a, :, b].max() for a in range(A) for b in range(B))
    return torch.stack([middle, left, right, both]) / total


def wrong_every_context_alike(counts):
    def mean(table):  # (contexts, words)
        table = table[table.sum(1) > 0]
        return (table / table.sum(1, keepdim=True)).max(1).values.mean()

    both = counts.permute(0, 2, 1).reshape(-1, counts.shape[1])
    return torch.stack([mean(t) for t in (counts.sum((0, 2))[None], counts.sum(2), counts.sum(0).T, both)])


def wrong_exchanged(counts):
    return right_sides(counts)[[0, 2, 1, 3]]


def wrong_index(counts):
    return right_sides(counts.permute(1, 0, 2))


def wrong_numbers(counts):
    return right_sides(counts) * counts.sum()


def wrong_largest_cell(counts):
    tables = counts.sum((0, 2)), counts.sum(2), counts.sum(0), counts
    return torch.stack([t.max() / t.sum() for t in tables])


def wrong_draws(counts):
    def hit(table):
        share = table / table.sum(1, keepdim=True).clamp(min=1e-9)
        return (table * share).sum() / table.sum()

    both = counts.permute(0, 2, 1).reshape(-1, counts.shape[1])
    return torch.stack([hit(t) for t in (counts.sum((0, 2))[None], counts.sum(2), counts.sum(0).T, both)])


# 10.4 -------------------------------------------------------------------------------------------------
def _score(model, rows, places, tokens):
    logp = model(torch.stack(rows)).log_softmax(-1)
    return sum(logp[i, place, tokens[place]].item() for i, place in enumerate(places))


def _hidden(tokens, *places):
    row = tokens.clone()
    row[list(places)] = 4
    return row


def right_judge(model, tokens):
    places = [i for i, token in enumerate(tokens.tolist()) if token not in (0, 1, 2, 3, 4)]
    return _score(model, [_hidden(tokens, place) for place in places], places, tokens)


def wrong_nothing_hidden(model, tokens):
    logp = model(tokens[None])[0].log_softmax(-1)
    return logp[torch.arange(len(tokens)), tokens][tokens > 4].sum().item()


def wrong_all_hidden(model, tokens):
    logp = model(torch.where(tokens > 4, 4, tokens)[None])[0].log_softmax(-1)
    return logp[torch.arange(len(tokens)), tokens][tokens > 4].sum().item()


def wrong_left_to_right(model, tokens):
    places = (tokens > 4).nonzero()[:, 0].tolist()
    return _score(model, [_hidden(tokens, *[p for p in places if p >= place]) for place in places], places, tokens)


def wrong_with_specials(model, tokens):
    places = (tokens != 0).nonzero()[:, 0].tolist()
    return _score(model, [_hidden(tokens, place) for place in places], places, tokens)


def wrong_with_padding(model, tokens):
    places = list(range(len(tokens)))
    return _score(model, [_hidden(tokens, place) for place in places], places, tokens)


def wrong_mean(model, tokens):
    return right_judge(model, tokens) / (tokens > 4).sum().item()


def wrong_sign(model, tokens):
    return -right_judge(model, tokens)


def wrong_all_copies(model, tokens):
    places = (tokens > 4).nonzero()[:, 0].tolist()
    rows = [torch.where(tokens == tokens[place], 4, tokens) for place in places]
    return _score(model, rows, places, tokens)


WRONG = {
    "10.1": [
        (wrong_longest_match, "the longest match takes"),
        (wrong_without_marks, "written with ##"),
        (wrong_infinite, "has the answer 0"),
        (wrong_one_for_unknown, "has the answer 0"),
        (wrong_letters, "you counted letters"),
        (wrong_shortest_match, "*shortest* match"),
    ],
    "10.2": [
        (wrong_random_not_shared, "share their part"),
        (wrong_copy, "put there at random"),
        (wrong_context_only, "do not look at the visible word"),
        (wrong_mixture, "mixes the copy and the context"),
        (wrong_not_divided, "do not add up to 1"),
        (wrong_never_the_same, "by chance be the right one"),
        (wrong_masks_too, "was not hidden"),
    ],
    "10.3": [
        (wrong_every_context_alike, "the same weight"),
        (wrong_exchanged, "left and right are exchanged"),
        (wrong_index, "the *middle* index"),
        (wrong_numbers, "numbers of right guesses"),
        (wrong_largest_cell, "not of the whole table"),
        (wrong_draws, "*draws* a word"),
    ],
    "10.4": [
        (wrong_nothing_hidden, "nothing was hidden"),
        (wrong_all_hidden, "hidden at once"),
        (wrong_left_to_right, "BERT may read both sides"),
        (wrong_with_specials, "<start> or <end>"),
        (wrong_with_padding, "the padding and the special tokens"),
        (wrong_mean, "that is the mean"),
        (wrong_sign, "the sign"),
        (wrong_all_copies, "every copy of the word"),
    ],
}
RIGHT = {"10.1": right_fewest, "10.2": right_posterior, "10.3": right_sides, "10.4": right_judge}


def test_chapter():
    assert_chapter("10", WRONG, RIGHT)


def test_the_answer_at_a_visible_word_is_what_drawing_gives():
    torch.manual_seed(0)
    q, n, shares = torch.tensor([0.5, 0.3, 0.2]), 400_000, (0.8, 0.1, 0.1)
    truth = torch.multinomial(q, n, replacement=True)
    what, other = torch.rand(n), torch.randint(3, (n,))
    visible = what >= shares[0]
    seen = torch.where(what < shares[0] + shares[1], other, truth)
    chosen = truth[visible & (seen == 2)]
    drawn = torch.bincount(chosen, minlength=3) / len(chosen)
    assert right_posterior(q, 2, shares).tolist() == pytest.approx(drawn.tolist(), abs=0.02)


def test_two_sides_never_know_less_than_one():
    for seed in range(20):
        counts = torch.randint(0, 5, (4, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
        middle, left, right, both = right_sides(counts)
        assert middle <= min(left, right) + 1e-6
        assert max(left, right) <= both + 1e-6


def test_changing_the_tokens_of_the_sentence_is_told():
    def changes(model, tokens):
        tokens[1] = 4
        return right_judge(model, tokens)

    assert_wrong("10.4", changes, "changed its input in place")
    assert_wrong("10.4", lambda model, tokens: None, "is there a return statement")


def test_the_made_up_model_reads_the_whole_row():
    tokens = torch.tensor([[2, 5, 6, 7, 3]])
    other = torch.tensor([[2, 5, 6, 8, 3]])
    model = Reader(0)
    assert not torch.allclose(model(tokens)[0, 1], model(other)[0, 1])
