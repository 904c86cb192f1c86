"""Exercises of chapter 02: students' wrong answers get the message that helps, right ones in other words pass."""

import math

import torch
from torch.nn import functional as F

from tests.exercise_cases import assert_chapter, assert_right, assert_wrong


def wrong_temperature_inverse(gap, p):
    odds = p / (1 - p)
    return math.log(odds) / gap


def wrong_temperature_sign(gap, p):
    return -gap / (math.log(p) - math.log(1 - p))


def wrong_temperature_no_denominator(gap, p):
    return gap / abs(math.log(p))


def wrong_temperature_no_log(gap, p):
    return gap / (p / (1 - p))


def wrong_temperature_constant(gap, p):
    return gap


def wrong_scale_d(d, spread_q, spread_k):
    return 1 / (d * spread_q * spread_k)


def wrong_scale_only_d(d, spread_q, spread_k):
    return d**-0.5


def wrong_scale_not_inverted(d, spread_q, spread_k):
    return spread_q * spread_k * d**0.5


def wrong_scale_variance(d, spread_q, spread_k):
    variance = d * (spread_q * spread_k) ** 2
    return 1 / variance


def wrong_scale_sum(d, spread_q, spread_k):
    return 1 / math.sqrt(d * (spread_q**2 + spread_k**2))


def wrong_causal_first(n_queries, n_keys):
    return torch.tril(torch.ones(n_queries, n_keys)).bool()


def wrong_causal_upside_down(n_queries, n_keys):
    return torch.triu(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries + 1).bool()


def wrong_causal_without_itself(n_queries, n_keys):
    position = torch.arange(n_queries)[:, None] + n_keys - n_queries
    return torch.arange(n_keys) < position


def wrong_causal_numbers(n_queries, n_keys):
    return torch.tril(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries)


def wrong_causal_transposed(n_queries, n_keys):
    return torch.ones(n_keys, n_queries).triu(n_queries - n_keys).bool()


def wrong_heads_bug(x, n_heads, fn):
    batch, length, width = x.shape
    return fn(x.reshape(batch, n_heads, length, width // n_heads)).reshape(batch, length, width)


def wrong_heads_join(x, n_heads, fn):
    batch, length, width = x.shape
    heads = x.view(batch, length, n_heads, width // n_heads).transpose(1, 2)
    return fn(heads).reshape(batch, length, width)


def wrong_heads_no_transpose(x, n_heads, fn):
    batch, length, width = x.shape
    return fn(x.view(batch, length, n_heads, width // n_heads)).view(batch, length, width)


def wrong_heads_interleaved(x, n_heads, fn):
    heads = torch.stack([x[..., i::n_heads] for i in range(n_heads)], dim=1)
    return torch.stack(list(fn(heads).unbind(1)), dim=-1).flatten(2)


def wrong_received_all_queries(weights, mask):
    return weights.mean(1).mean(1)


def wrong_received_length(weights, mask):
    return (weights * mask[:, None, :, None]).mean(dim=(1, 2))


def wrong_received_axis(weights, mask):
    return weights.mean(1).mean(-1)


def wrong_received_empty(weights, mask):
    real = (weights * mask[:, None, :, None]).sum(dim=2).mean(dim=1)
    return real / mask.sum(dim=1, keepdim=True)


def wrong_received_sum_of_heads(weights, mask):
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights * mask[:, None, :, None]).sum(dim=(1, 2)) / count


WRONG = {
    "02.1": [
        (wrong_temperature_inverse, "a temperature divides them"),
        (wrong_temperature_sign, "the sign is turned round"),
        (wrong_temperature_no_denominator, "forgets the denominator"),
        (wrong_temperature_no_log, "without its logarithm"),
        (wrong_temperature_constant, "the value is not right"),
    ],
    "02.2": [
        (wrong_scale_d, "you divided by d, not by √d"),
        (wrong_scale_only_d, "for spreads of 1 only"),
        (wrong_scale_not_inverted, "it must be the inverse"),
        (wrong_scale_variance, "take its square root"),
        (wrong_scale_sum, "you added the two variances"),
    ],
    "02.3": [
        (wrong_causal_first, "stand at the *first* positions"),
        (wrong_causal_upside_down, "upside down"),
        (wrong_causal_without_itself, "may see itself as well"),
        (wrong_causal_numbers, "a mask is boolean"),
        (wrong_causal_transposed, "queries are the rows"),
    ],
    "02.4": [
        (wrong_heads_bug, "that is the bug itself"),
        (wrong_heads_join, "cutting is right, joining is not"),
        (wrong_heads_no_transpose, "fn got (B, T, N, H)"),
        (wrong_heads_interleaved, "every n-th feature"),
        (lambda x, n_heads, fn: x, "entries are not"),
    ],
    "02.5": [
        (wrong_received_all_queries, "padded queries count"),
        (wrong_received_length, "divided by T"),
        (wrong_received_axis, "you averaged over the keys"),
        (wrong_received_empty, "divides 0 by 0"),
        (wrong_received_sum_of_heads, "you added the heads up"),
    ],
}


def right_temperature(gap, p):
    return gap / (math.log(p) - math.log1p(-p))


def right_scale(d, spread_q, spread_k):
    return (d * spread_q**2 * spread_k**2) ** -0.5


def right_causal(n_queries, n_keys):
    rows = [[j <= i + n_keys - n_queries for j in range(n_keys)] for i in range(n_queries)]
    return torch.tensor(rows)


def right_heads(x, n_heads, fn):
    heads = torch.stack(x.chunk(n_heads, dim=-1), dim=1)
    return torch.cat(list(fn(heads).unbind(dim=1)), dim=-1)


def right_received(weights, mask):
    out = torch.zeros(mask.shape)
    for b, keep in enumerate(mask):
        if keep.any():
            out[b] = weights[b, :, keep].mean(dim=(0, 1))
    return out


RIGHT = {
    "02.1": right_temperature,
    "02.2": right_scale,
    "02.3": right_causal,
    "02.4": right_heads,
    "02.5": right_received,
}


def test_wrong_answers_are_told_why_and_right_ones_pass():
    assert_chapter("02", WRONG, RIGHT)


def test_right_temperature_gives_the_weight():
    tau = right_temperature(3.0, 0.8)
    assert math.isclose(F.softmax(torch.tensor([3.0, 0.0]) / tau, dim=0)[0].item(), 0.8, rel_tol=1e-6)


def test_right_scale_gives_the_spread_one():
    generator = torch.Generator().manual_seed(0)
    q, k = 0.5 * torch.randn(20_000, 64, generator=generator), 3 * torch.randn(20_000, 64, generator=generator)
    assert abs(((q * k).sum(1) * right_scale(64, 0.5, 3)).std().item() - 1) < 0.02


def test_a_forgotten_return_and_a_crash_are_told():
    assert_wrong("02.3", lambda n_queries, n_keys: None, "is there a return statement")
    assert_wrong("02.5", lambda weights, mask: weights @ mask, "raised")
    assert_right(
        "02.4", lambda x, n, fn: fn(x.unflatten(-1, (n, -1)).permute(0, 2, 1, 3)).permute(0, 2, 1, 3).flatten(2)
    )
