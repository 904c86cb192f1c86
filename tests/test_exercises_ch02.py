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


def wrong_causal_shift(n_queries, n_keys):
    return torch.ones(n_queries, n_keys).tril(diagonal=n_queries - n_keys).bool()


def moved_positions(fn, x, at):
    """(..., T) of the output that move when position ``at`` of the last but one dimension does."""
    changed = x.clone()
    changed[..., at, :] = torch.randn_like(changed[..., at, :])
    return (fn(changed) - fn(x)).abs().sum(dim=-1) > 0


def leaks(fn, x, positions):
    for at in positions:
        moved = moved_positions(fn, x, at)
        moved[..., at] = False
        if moved.any():
            return True
    return False


def wrong_mixes_round_trip(split, join):
    x = torch.randn(2, 6, 8)
    return not torch.allclose(join(split(x, 4)), x)


def wrong_mixes_through(split, join):
    return leaks(lambda x: join(split(x, 4)), torch.randn(2, 6, 8), range(6))


def wrong_mixes_split_only(split, join):
    return leaks(lambda x: split(x, 4), torch.randn(2, 6, 8), range(6))


def wrong_mixes_join_only(split, join):
    return leaks(join, torch.randn(2, 4, 6, 2), range(6))


def wrong_mixes_first_position(split, join):
    return leaks(lambda x: split(x, 4), torch.randn(2, 6, 8), [0]) or leaks(join, torch.randn(2, 4, 6, 2), [0])


def wrong_mixes_shapes(split, join):
    heads = split(torch.randn(2, 6, 8), 4)
    return heads.shape != (2, 4, 6, 2) or join(heads).shape != (2, 6, 8)


def wrong_mixes_one_head(split, join):
    return leaks(lambda x: split(x, 1), torch.randn(2, 6, 8), range(6)) or leaks(
        join, torch.randn(2, 1, 6, 8), range(6)
    )


def wrong_mixes_compared(split, join):
    x = torch.randn(2, 6, 8)
    heads = torch.stack(x.chunk(4, dim=-1), dim=1)
    return not torch.allclose(split(x, 4), heads) or not torch.allclose(join(heads), x)


def wrong_mixes_turned_round(split, join):
    return not right_mixes(split, join)


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


def wrong_received_padded_keys(weights, mask):
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights * mask[:, None, :, None]).sum(dim=2).mean(dim=1) / count


def wrong_received_rescaled(weights, mask):
    kept = weights * mask[:, None, None, :]
    kept = (kept / kept.sum(dim=-1, keepdim=True)).nan_to_num() * mask[:, None, :, None]
    return kept.sum(dim=2).mean(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def wrong_received_first_words(weights, mask):
    out = torch.zeros(mask.shape)
    for b in range(len(mask)):
        n = int(mask[b].sum())
        out[b, :n] = weights[b, :, :n, :n].mean(dim=0).sum(dim=0) / max(n, 1)
    return out


def wrong_received_times_zero(weights, mask):
    both = mask[:, None, :, None] * mask[:, None, None, :]
    return (weights * both).sum(dim=2).mean(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def wrong_received_nan_to_num_at_the_end(weights, mask):
    return wrong_received_times_zero(weights, mask).nan_to_num()


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
        (wrong_causal_shift, "the shift goes the wrong way"),
    ],
    "02.4": [
        (wrong_received_all_queries, "padded queries count"),
        (wrong_received_length, "divided by T"),
        (wrong_received_axis, "you averaged over the keys"),
        (wrong_received_empty, "divides 0 by 0"),
        (wrong_received_sum_of_heads, "you added the heads up"),
        (wrong_received_padded_keys, "a padded key keeps its weight"),
        (wrong_received_rescaled, "you rescaled the rows"),
        (wrong_received_first_words, "padding may also stand in front"),
        (wrong_received_times_zero, "0 · nan is nan"),
        (wrong_received_nan_to_num_at_the_end, "0 · nan is nan"),
    ],
    "02.5": [
        (wrong_mixes_round_trip, "that is a round trip"),
        (wrong_mixes_through, "two mistakes undo each other"),
        (wrong_mixes_split_only, "only one of the two functions"),
        (wrong_mixes_join_only, "only one of the two functions"),
        (wrong_mixes_first_position, "the first position only"),
        (wrong_mixes_shapes, "can never fail"),
        (wrong_mixes_one_head, "uses one head"),
        (wrong_mixes_compared, "compared with one right pair"),
        (wrong_mixes_turned_round, "turned round"),
    ],
}


def right_temperature(gap, p):
    return gap / (math.log(p) - math.log1p(-p))


def right_scale(d, spread_q, spread_k):
    return (d * spread_q**2 * spread_k**2) ** -0.5


def right_causal(n_queries, n_keys):
    rows = [[j <= i + n_keys - n_queries for j in range(n_keys)] for i in range(n_queries)]
    return torch.tensor(rows)


def right_received(weights, mask):
    out = torch.zeros(mask.shape)
    for b, keep in enumerate(mask):
        if keep.any():
            out[b, keep] = weights[b][:, keep][:, :, keep].mean(dim=(0, 1))
    return out


def right_mixes(split, join):
    x, heads = torch.randn(2, 6, 8), torch.randn(2, 4, 6, 2)
    return leaks(lambda x: split(x, 4), x, range(6)) or leaks(join, heads, range(6))


def right_mixes_by_a_function_between(split, join):
    """Something that works on each position alone stands between the two, as attention would."""
    average = lambda heads: heads.mean(dim=(1, 3), keepdim=True).expand_as(heads).contiguous()  # noqa: E731
    return leaks(lambda x: join(average(split(x, 4))), torch.randn(2, 6, 8), range(6))


RIGHT = {
    "02.1": right_temperature,
    "02.2": right_scale,
    "02.3": right_causal,
    "02.4": right_received,
    "02.5": right_mixes,
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
    assert_wrong("02.4", lambda weights, mask: weights @ mask, "raised")


def test_a_temperature_in_single_precision_passes():
    assert_right("02.1", lambda gap, p: gap / torch.logit(torch.tensor(p)))


def test_another_way_to_find_mixed_positions_passes():
    assert_right("02.5", right_mixes_by_a_function_between)
