"""Exercises of chapter 05: students' wrong answers get the message that helps, right ones in other words pass."""

import math

import torch

from tests.exercise_cases import assert_chapter, assert_right, assert_wrong


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def wrong_gru_one_minus(weight):
    out = weight.clone()
    third = len(weight) // 3
    out[third : 2 * third] = 1 - out[third : 2 * third]
    return out


def wrong_gru_first(weight):
    reset, rest = weight[: len(weight) // 3], weight[len(weight) // 3 :]
    return torch.cat([-reset, rest])


def wrong_gru_exchanged(weight):
    r, z, n = weight.chunk(3)
    return torch.cat([z, r, n])


def wrong_gru_square(weight):
    width = weight.shape[-1]
    return torch.cat([weight[:width], -weight[width : 2 * width], weight[2 * width :]])


def wrong_gru_columns(weight):
    left, middle, right = weight.chunk(3, dim=-1)
    return torch.cat([left, -middle, right], dim=-1)


def wrong_gru_in_place(weight):
    third = len(weight) // 3
    weight[third : 2 * third] *= -1
    return weight


def wrong_states_view(h):
    return h[-2:].contiguous().view(h.shape[1], -1)


def wrong_states_all_view(h):
    return h.view(h.shape[1], -1)


def wrong_states_all(h):
    return h.permute(1, 0, 2).reshape(h.shape[1], -1)


def wrong_perplexity_per_caption(loss, mask):
    means = [row[keep].mean() for row, keep in zip(loss, mask, strict=True)]
    return torch.exp(torch.stack(means).mean())


WRONG = {
    "05.1": [
        (lambda: (6.0, 3.0, 0.0), "not negative"),
        (lambda: (6.0, 0.9, -1.0), "forgotten after"),
        (lambda: (2.0, 3.0, -1.0), "w has to win"),
        (lambda: (3.0, 0.0, -1.0), "forgotten after 1"),
        (lambda: (6.0, -3.0, -1.0), "only b speaks"),
        (lambda: (6.0, 3.0), "expected three numbers"),
        (lambda: (8.0, 3.0, -3.5), "forgotten after"),
        (lambda: (5.0, 1.0, -1e-9), "not for ever"),
        (lambda: (2.0, 1.2, -0.0564), "not for ever"),
        (lambda: (math.nan, 1.0, 1.0), "finite"),
    ],
    "05.3": [
        (lambda n, share: math.exp(math.log(share) / n), "value of the gate"),
        (lambda n, share: -math.log(1 / share - 1), "share^n would be left"),
        (lambda n, share: sigmoid(share ** (1 / n)), "inverse is needed"),
        (lambda n, share: math.log(share ** (-1 / n) - 1), "sign is turned round"),
        (lambda n, share: math.log(share ** (1 / n)), "not ln(gate)"),
        (lambda n, share: float(n), "the value is not right"),
        (lambda n, share: -math.log(1 / share - 1) / n, "divided the bias"),
        (lambda n, share: -math.log(share**-n - 1), "nearer to 1"),
        (lambda n, share: -math.log(share ** (-1 / (n + 1)) - 1), "one step too many"),
        (lambda n, share: -math.log(share ** (-1 / (n - 1)) - 1) if n > 1 else math.inf, "one step too few"),
        (lambda n, share: math.log(share ** (1 / n) / (1 - share ** (1 / n) + 1e-6)), "the value is not right"),
        (lambda n, share: round(-math.log(share ** (-1 / n) - 1), 2), "the value is not right"),
    ],
    "05.2": [
        (wrong_gru_one_minus, "1 − weight"),
        (lambda weight: weight * -1.0, "all three blocks"),
        (wrong_gru_first, "reset gate; the one that mixes"),
        (wrong_gru_exchanged, "exchanged the first two"),
        (lambda weight: weight + 0, "unchanged"),
        (lambda weight: weight if weight.ndim == 1 else RIGHT["05.2"](weight), "the bias unchanged"),
        (wrong_gru_square, "square blocks only"),
        (wrong_gru_columns, "stacked, H rows each"),
        (wrong_gru_in_place, "in place"),
    ],
    "05.4": [
        (wrong_states_view, "different"),
        (wrong_states_all_view, "sequences* end up in one row"),
        (wrong_states_all, "all layers"),
        (lambda h: torch.cat((h[0], h[1]), 1), "*first* layer"),
        (lambda h: torch.cat((h[-1], h[-2]), 1), "exchanged"),
        (lambda h: torch.cat((h[-2], h[-1])), "side by side"),
        (lambda h: h[-1], "one direction only"),
        (lambda h: torch.cat((h[-1], h[-1]), 1), "both halves"),
        (lambda h: torch.cat((h[-2], h[-1]), 1).detach(), "no gradient comes back"),
        (lambda h: torch.cat((h[-2].detach(), h[-1]), 1), "no gradient comes back"),
        (lambda h: torch.cat((h[2], h[3]), 1), "IndexError"),
    ],
    "05.5": [
        (lambda loss, mask: torch.exp(loss.mean()), "padding is counted"),
        (lambda loss, mask: torch.exp(loss.masked_fill(~mask, 0).mean()), "still counts in the mean"),
        (wrong_perplexity_per_caption, "short caption weighs more"),
        (lambda loss, mask: loss.exp()[mask].mean(), "exp first"),
        (lambda loss, mask: (loss * mask).sum() / mask.sum(), "mean loss in nats"),
        (lambda loss, mask: torch.exp2(loss[mask].mean()), "base is e"),
        (
            lambda loss, mask: torch.stack([r[m].mean().exp() for r, m in zip(loss, mask, strict=True)]).mean(),
            "averaged",
        ),
        (lambda loss, mask: torch.exp(loss.sum() / mask.sum()), "still in the sum"),
        (lambda loss, mask: torch.exp(loss[mask].sum()), "sum of all losses"),
        (lambda loss, mask: torch.exp(-loss[mask].mean()), "sign is turned"),
        (lambda loss, mask: loss[loss != 0].mean().exp(), "padding is counted"),
        (lambda loss, mask: torch.exp((loss * mask).sum() / (mask.sum() + 1e-3)), "entries are not"),
    ],
}

RIGHT = {
    "05.1": lambda: (10.0, 4.0, -2.0),
    "05.3": lambda n, share: -math.log(share ** (-1 / n) - 1),
    "05.2": lambda weight: (
        weight * torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(len(weight) // 3).view(-1, *[1] * (weight.ndim - 1))
    ),
    "05.4": lambda h: h[-2:].transpose(0, 1).flatten(1),
    "05.5": lambda loss, mask: torch.exp((loss * mask).sum() / mask.sum()),
}


def test_the_chapter():
    assert_chapter("05", WRONG, RIGHT)


def test_a_latch_may_be_built_in_many_ways():
    for weights in ((5.5, 2.5, -0.5), (40.0, 10.0, -5.0), (6, 3, -1), torch.tensor([9.0, 2, -0.1])):
        assert_right("05.1", lambda weights=weights: weights)


def test_an_error_is_told_to_the_learner():
    assert_wrong("05.4", lambda h: h.nonsense, "AttributeError")
