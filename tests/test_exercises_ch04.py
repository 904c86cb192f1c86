"""Exercises of chapter 04: students' wrong answers get the message that helps, right ones in other words pass."""

import torch
import torch.nn.functional as F
from torch import nn

from mmlearn.nn import conv_size
from tests.exercise_cases import assert_chapter, assert_wrong


def wrong_side_unbounded(layers):
    n = 1
    for k, s, p in layers[::-1]:
        n = s * (n - 1) + k - p - p
    return n


def wrong_side_bounded_at_the_end(layers):
    return max(wrong_side_unbounded(layers), 1)


def wrong_side_forward(layers):
    n = 1
    for k, s, p in layers:
        n = max((n - 1) * s + k - 2 * p, 1)
    return n


def wrong_side_one_padding(layers):
    n = 1
    for k, s, p in layers[::-1]:
        n = max(1, (n - 1) * s + k - p)
    return n


def wrong_side_receptive_field(layers):
    size = 1
    for k, s, _ in reversed(layers):
        size = (size - 1) * s + k
    return size


def wrong_side_forward_unbounded(layers):
    n = 1
    for k, s, p in layers:
        n = s * (n - 1) + k - p - p
    return n


def wrong_side_search_that_looks_at_the_end_only(layers):
    for n in range(1, 10_000):
        m = n
        for k, s, p in layers:
            m = (m + 2 * p - k) // s + 1
        if m >= 1:
            return n


def wrong_pool_all(C, k):
    return torch.ones(C, C, k, k) / (k * k)


def wrong_pool_mean_of_all(C, k):
    return torch.ones(C, C, k, k) / (C * k * k)


def wrong_pool_sum(C, k):
    weight = torch.zeros(C, C, k, k)
    for c in range(C):
        weight[c, c] = 1
    return weight


def wrong_pool_depthwise(C, k):
    return torch.ones(C, 1, k, k).div(k * k)


def wrong_pool_k(C, k):
    return wrong_pool_sum(C, k) / k


def wrong_pool_first_pixel(C, k):
    weight = torch.zeros(C, C, k, k)
    for c in range(C):
        weight[c, c, 0, 0] = 1
    return weight


def wrong_pool_diagonal_of_the_window(C, k):
    return torch.diag(torch.full((k,), 1 / k)).repeat(C, C, 1, 1)


def wrong_field_plain(layers):
    size, step = 1, 1
    for k, s, _ in layers:
        size += step * k - step
        step *= s
    return size, step


def wrong_field_kd(layers):
    size, step = 1, 1
    for k, s, d in layers:
        effective = k * d
        size += (effective - 1) * step
        step *= s
    return size, step


def wrong_field_step(layers):
    size, step = 1, 1
    for k, s, d in layers:
        size += (k - 1) * d * step
        step *= s * d
    return size, step


def wrong_field_own_stride(layers):
    size, step = 1, 1
    for k, s, d in layers:
        step = step * s
        size = size + d * (k - 1) * step
    return size, step


def wrong_field_holes(layers):
    size, step = 1, 1
    for k, s, d in layers:
        size += (k + (k - 1) * d - 1) * step
        step *= s
    return size, step


def wrong_field_span(layers):
    size, step = 1, 1
    for k, s, d in layers:
        span = d * (k - 1) + 1
        size, step = size + span * step, step * s
    return size, step


def wrong_field_size_alone(layers):
    return right_field(layers)[0]


def wrong_fold_variance(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / (var + eps)
    return weight * scale.reshape(-1, 1, 1, 1), (bias - mean) * scale + beta


def wrong_fold_bias(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma * torch.rsqrt(var + eps)
    return weight * scale.reshape(-1, 1, 1, 1), bias + beta - mean * scale


def wrong_fold_no_eps(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma * torch.rsqrt(var)
    return weight * scale.reshape(-1, 1, 1, 1), (bias - mean) * scale + beta


def wrong_fold_broadcast(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / torch.sqrt(var + eps)
    return weight * scale, (bias - mean) * scale + beta


def wrong_fold_inputs(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / torch.sqrt(var + eps)
    return weight * scale[None, :, None, None], (bias - mean) * scale + beta


def wrong_fold_lost_bias(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / torch.sqrt(var + eps)
    return weight * scale.view(-1, 1, 1, 1), beta - mean * scale


def wrong_fold_inputs_if_square(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / torch.sqrt(var + eps)
    square = weight.shape[0] == weight.shape[1]
    return weight * (scale[None, :, None, None] if square else scale.view(-1, 1, 1, 1)), (bias - mean) * scale + beta


def wrong_fold_own_eps(weight, bias, mean, var, gamma, beta, eps):
    return right_fold(weight, bias, mean, var, gamma, beta, 1e-5)


def wrong_fold_clamped(weight, bias, mean, var, gamma, beta, eps):
    return right_fold(weight, bias, mean, var.clamp(min=eps), gamma, beta, 0.0)


def wrong_fold_upside_down(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma * torch.sqrt(var + eps)
    return weight * scale.view(-1, 1, 1, 1), (bias - mean) * scale + beta


def wrong_fold_plus_mean(weight, bias, mean, var, gamma, beta, eps):
    return right_fold(weight, bias, -mean, var, gamma, beta, eps)


def wrong_fold_minus_beta(weight, bias, mean, var, gamma, beta, eps):
    return right_fold(weight, bias, mean, var, gamma, -beta, eps)


def wrong_fold_bias_without_gamma(weight, bias, mean, var, gamma, beta, eps):
    scale = gamma / torch.sqrt(var + eps)
    return weight * scale.view(-1, 1, 1, 1), (bias - mean) / torch.sqrt(var + eps) + beta


def wrong_fold_bias_shape(weight, bias, mean, var, gamma, beta, eps):
    scale = (gamma / torch.sqrt(var + eps))[:, None, None]
    return weight * scale[:, None], (bias - mean)[:, None, None] * scale + beta[:, None, None]


def wrong_fold_weight_alone(*args):
    return right_fold(*args)[0]


WRONG = {
    "04.1": [
        (wrong_side_unbounded, "at least 1"),
        (wrong_side_bounded_at_the_end, "at *every* layer"),
        (wrong_side_forward, "from first to last"),
        (wrong_side_one_padding, "it counts twice"),
        (wrong_side_receptive_field, "that is the receptive field"),
        (wrong_side_forward_unbounded, "from first to last"),
        (wrong_side_search_that_looks_at_the_end_only, "at *every* layer"),
    ],
    "04.2": [
        (wrong_pool_all, "adds all channels together"),
        (wrong_pool_mean_of_all, "mean over all channels"),
        (wrong_pool_sum, "divides by their number"),
        (wrong_pool_depthwise, "depthwise"),
        (wrong_pool_k, "you divided by k"),
        (wrong_pool_first_pixel, "one pixel of each window"),
        (wrong_pool_diagonal_of_the_window, "lies in the window"),
    ],
    "04.3": [
        (wrong_field_plain, "the dilation is nowhere"),
        (wrong_field_kd, "k - 1 gaps, not k"),
        (wrong_field_step, "dilation does not move the window"),
        (wrong_field_own_stride, "own stride"),
        (wrong_field_holes, "d - 1 empty ones"),
        (wrong_field_span, "beyond"),
        (wrong_field_size_alone, "a pair"),
    ],
    "04.4": [
        (wrong_fold_variance, "without its root"),
        (wrong_fold_bias, "the convolution's own bias is normalised"),
        (wrong_fold_no_eps, "eps is missing"),
        (wrong_fold_broadcast, "columns of the window"),
        (wrong_fold_inputs, "input channels"),
        (wrong_fold_lost_bias, "bias is lost"),
        (wrong_fold_inputs_if_square, "as many input as output"),
        (wrong_fold_own_eps, "eps is an argument"),
        (wrong_fold_clamped, "eps is *added*"),
        (wrong_fold_upside_down, "upside down"),
        (wrong_fold_plus_mean, "running mean has the wrong sign"),
        (wrong_fold_minus_beta, "beta has the wrong sign"),
        (wrong_fold_bias_without_gamma, "gamma multiplies it"),
        (wrong_fold_bias_shape, "in the wrong shape"),
        (wrong_fold_weight_alone, "the weight alone"),
    ],
}


def right_side(layers):
    """Try every side, and count with the package's formula."""

    def works(side):
        for k, s, p in layers:
            if side < 1 or side + 2 * p < k:
                return False
            side = conv_size(side, k, s, p)
        return True

    return next(side for side in range(1, 10_000) if works(side))


def right_pool(C, k):
    weight = torch.zeros(C, C, k, k)
    for c in range(C):
        weight[c, c] = 1 / k**2
    return weight


def right_field(layers):
    """From the last layer to the first, as one output's window grows."""
    size, step = 1, 1
    for k, s, d in reversed(layers):
        size = (size - 1) * s + d * (k - 1) + 1
        step *= s
    return size, step


def right_fold(weight, bias, mean, var, gamma, beta, eps):
    std = torch.sqrt(var + eps)
    return torch.einsum("ockl,o->ockl", weight, gamma / std), beta + gamma * (bias - mean) / std


RIGHT = {"04.1": right_side, "04.2": right_pool, "04.3": right_field, "04.4": right_fold}


def test_wrong_answers_are_told_why_and_right_ones_pass():
    assert_chapter("04", WRONG, RIGHT)


def test_pooling_weight_pools():
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(F.conv2d(x, right_pool(3, 2), stride=2), F.avg_pool2d(x, 2))


def test_folded_layer_is_the_same_layer():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    norm(conv(torch.randn(8, 3, 9, 9)))
    norm.eval()
    weight, bias = right_fold(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    )
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(F.conv2d(x, weight, bias), norm(conv(x)), atol=1e-5, rtol=1e-4)


def test_a_missing_return_and_a_crash_are_told():
    assert_wrong("04.4", lambda *args: None, "is there a return statement")
    assert_wrong("04.2", lambda C, k: torch.eye(C) / k**2, "expected the shape")
    assert_wrong("04.3", lambda layers: sum(k for k, _, _ in layers), "the value is not right")
