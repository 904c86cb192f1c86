"""Exercises of chapter 03: students' wrong answers get the message that helps, right ones in other words pass."""

import cmath
import math

import torch

from mmlearn.exercises.ch03 import COUNT
from mmlearn.nn import CausalLM, TransformerConfig, nucleus_filter
from tests.exercise_cases import assert_chapter, assert_right


def turned(v, angle):
    return complex(*v) * cmath.exp(1j * angle)


def score(a, b):
    return (a * b.conjugate()).real


def wrong_distance_backwards(q, k, distance, rate):
    return score(complex(*q), turned(k, distance * rate))


def wrong_distance_both(q, k, distance, rate):
    return score(turned(q, distance * rate), turned(k, distance * rate))


def wrong_distance_twice(q, k, distance, rate):
    return score(turned(q, distance * rate), turned(k, -distance * rate))


def wrong_distance_without_rate(q, k, distance, rate):
    return score(turned(q, distance), complex(*k))


def wrong_distance_degrees(q, k, distance, rate):
    return score(turned(q, distance * rate * math.pi / 180), complex(*k))


def wrong_distance_cosine(q, k, distance, rate):
    return (q[0] * k[0] + q[1] * k[1]) * math.cos(distance * rate)


def wrong_distance_without_sign(q, k, distance, rate):
    return score(turned(q, abs(distance * rate)), complex(*k))


def wrong_distance_not_conjugated(q, k, distance, rate):
    return (turned(q, distance * rate) * complex(*k)).real


def layer(d, ff):
    return 4 * (d * d + d) + (d * ff + ff) + (ff * d + d) + 4 * d


def wrong_count_heads(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) + 4 * (n - 1) * (d * d + d)) + (vocab + longest + 2) * d


def wrong_count_tied(d, n, layers, ff, vocab, longest):
    return layers * layer(d, ff) + (2 * vocab + longest + 2) * d


def wrong_count_biases(d, n, layers, ff, vocab, longest):
    return layers * (4 * d**2 + 2 * d * ff + 4 * d) + (vocab + longest + 2) * d


def wrong_count_norms(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) - 4 * d) + (vocab + longest) * d


def wrong_count_last_norm(d, n, layers, ff, vocab, longest):
    return layers * layer(d, ff) + (vocab + longest) * d


def wrong_count_out(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) - d * d - d) + (vocab + longest + 2) * d


def wrong_count_heads_but_not_biases(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) + 4 * (n - 1) * d * d) + (vocab + longest + 2) * d


def wrong_count_attention_biases(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) - 4 * d) + (vocab + longest + 2) * d


def wrong_count_feed_forward_biases(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) - ff - d) + (vocab + longest + 2) * d


def wrong_count_half_norms(d, n, layers, ff, vocab, longest):
    return layers * (layer(d, ff) - 2 * d) + (vocab + longest + 1) * d


def wrong_count_four_times(d, n, layers, ff, vocab, longest):
    return layers * layer(d, 4 * d) + (vocab + longest + 2) * d


def wrong_count_table(d, n, layers, ff, vocab, longest):
    return layers * layer(d, ff) + (vocab + 2) * d


def wrong_count_one_layer(d, n, layers, ff, vocab, longest):
    return layer(d, ff) + (vocab + longest + 2) * d


def wrong_count_as_a_float(d, n, layers, ff, vocab, longest):
    return layers * layer(d, ff) + (vocab + longest + 4 / 2) * d


def wrong_nucleus_strictly_below(probabilities, p):
    ordered, order = probabilities.sort(descending=True)
    kept = order[ordered.cumsum(0) < p]
    out = torch.zeros_like(probabilities)
    out[kept] = probabilities[kept]
    return out / out.sum()


def wrong_nucleus_one_more(probabilities, p):
    out, total = torch.zeros_like(probabilities), 0.0
    for i in probabilities.argsort(descending=True):
        if total > p:
            break
        out[i] = probabilities[i]
        total += probabilities[i].item()
    return out / out.sum()


def wrong_nucleus_epsilon(probabilities, p):
    return right_nucleus(probabilities, p - 1e-3)


def wrong_nucleus_all_that_tie(probabilities, p):
    level = probabilities[right_nucleus(probabilities, p) > 0].min()
    kept = torch.where(probabilities >= level, probabilities, 0)
    return kept / kept.sum()


def wrong_nucleus_without_crossing(probabilities, p):
    out, total = torch.zeros_like(probabilities), 0.0
    for i in probabilities.argsort(descending=True):
        total += probabilities[i].item()
        if total > p:
            break
        out[i] = probabilities[i]
    return out / out.sum()


def wrong_nucleus_sum(probabilities, p):
    return right_nucleus(probabilities, p, renormalise=False)


def wrong_nucleus_order(probabilities, p):
    keep = probabilities.cumsum(0) - probabilities < p
    return torch.where(keep, probabilities, 0) / probabilities[keep].sum()


def wrong_nucleus_sorted(probabilities, p):
    ordered = probabilities.sort(descending=True).values
    ordered = ordered * (ordered.cumsum(0) - ordered < p)
    return ordered / ordered.sum()


def wrong_nucleus_level(probabilities, p):
    kept = torch.where(probabilities >= 1 - p, probabilities, 0)
    return kept / kept.sum()


def wrong_positions_arange(mask):
    return torch.arange(mask.shape[1]).repeat(len(mask), 1)


def wrong_positions_from_one(mask):
    return mask.cumsum(1)


def wrong_positions_minus_one(mask):
    return mask.cumsum(1) - 1


def wrong_positions_zero_on_the_right(mask):
    return torch.where(mask, mask.cumsum(1) - 1, 0)


def wrong_positions_shift(mask):
    hidden = mask.shape[1] - mask.sum(1)
    return (torch.arange(mask.shape[1])[None] - hidden[:, None]).clamp(min=0)


def wrong_positions_counting_on(mask):
    first = mask.float().argmax(1)[:, None]
    return (torch.arange(mask.shape[1])[None] - first).clamp(min=0)


def wrong_positions_one_in_padding(mask):
    return torch.where(mask, mask.cumsum(1) - 1, 1)


WRONG = {
    "03.1": [
        (wrong_distance_backwards, "the wrong way"),
        (wrong_distance_both, "turned both by the same angle"),
        (wrong_distance_twice, "twice too large"),
        (wrong_distance_without_rate, "the angle is distance"),
        (wrong_distance_degrees, "in degrees"),
        (wrong_distance_cosine, "only half of it"),
        (wrong_distance_without_sign, "without its sign"),
        (wrong_distance_not_conjugated, "adds their angles"),
    ],
    "03.2": [
        (wrong_count_heads, "once for every head"),
        (wrong_count_tied, "it is tied"),
        (wrong_count_biases, "biases are missing"),
        (wrong_count_norms, "normalisations are missing"),
        (wrong_count_last_norm, "one more, after the last layer"),
        (wrong_count_out, "not three"),
        (wrong_count_heads_but_not_biases, "once for every head"),
        (wrong_count_attention_biases, "attention has biases too"),
        (wrong_count_feed_forward_biases, "feed-forward network has biases too"),
        (wrong_count_half_norms, "a scale and a shift"),
        (wrong_count_four_times, "only the custom"),
        (wrong_count_table, "table of positions"),
        (wrong_count_one_layer, "n_layers of them"),
        (wrong_count_as_a_float, "whole number"),
    ],
    "03.4": [
        (wrong_nucleus_without_crossing, "crosses p"),
        (wrong_nucleus_sum, "do not add up to 1"),
        (wrong_nucleus_order, "sort by probability first"),
        (wrong_nucleus_sorted, "in sorted order"),
        (wrong_nucleus_level, "a fixed level"),
        (wrong_nucleus_strictly_below, "crosses p"),
        (wrong_nucleus_one_more, "meets p exactly"),
        (wrong_nucleus_epsilon, "entries are not"),
        (wrong_nucleus_all_that_tie, "the set is the smallest"),
    ],
    "03.3": [
        (wrong_positions_arange, "you counted the padding"),
        (wrong_positions_from_one, "you count from 1"),
        (wrong_positions_minus_one, "gets −1"),
        (wrong_positions_zero_on_the_right, "on the right as well"),
        (wrong_positions_shift, "where they are"),
        (wrong_positions_counting_on, "there is no first one"),
        (wrong_positions_one_in_padding, "padding gets 1"),
    ],
}


def right_distance(q, k, distance, rate):
    return score(turned(q, distance * rate), complex(*k))


def right_count(d, n, layers, ff, vocab, longest):
    return layers * layer(d, ff) + (vocab + longest + 2) * d


def right_nucleus(probabilities, p, renormalise=True):
    out, total = torch.zeros_like(probabilities), 0.0
    for i in probabilities.argsort(descending=True):
        if total >= p:
            break
        out[i] = probabilities[i]
        total += probabilities[i].item()
    return out / out.sum() if renormalise else out


def right_positions(mask):
    rows = []
    for row in mask.tolist():
        seen = [sum(row[: i + 1]) for i in range(len(row))]
        rows.append([max(0, n - 1) for n in seen])
    return torch.tensor(rows)


RIGHT = {"03.1": right_distance, "03.2": right_count, "03.4": right_nucleus, "03.3": right_positions}


def test_wrong_answers_are_told_why_and_right_ones_pass():
    assert_chapter("03", WRONG, RIGHT)


def test_which_of_two_equals_stays_is_free():
    def last_of_equals(probabilities, p):
        return right_nucleus(probabilities.flip(0), p).flip(0)

    assert_right("03.4", last_of_equals)
    assert_right("03.4", lambda probabilities, p: nucleus_filter(probabilities.log()[None], p)[0].softmax(0))


def test_the_count_is_that_of_the_model():
    config = TransformerConfig(d_model=16, n_heads=2, n_layers=3, d_ff=24, vocab_size=11, max_len=7)
    weights = sum(p.numel() for p in CausalLM(config).parameters())
    assert COUNT.solution(16, 2, 3, 24, 11, 7) == right_count(16, 2, 3, 24, 11, 7) == weights


def test_the_nucleus_is_that_of_generate():
    probabilities = torch.randn(30, generator=torch.Generator().manual_seed(1)).softmax(0)
    expected = nucleus_filter(probabilities.log()[None], 0.8)[0].softmax(0)
    torch.testing.assert_close(right_nucleus(probabilities, 0.8), expected)
