"""Exercises of chapter 04: the smallest picture, pooling as convolution, windows with holes, folding."""

import torch

from mmlearn.exercises import Exercise, Misconception


# ------------------------------------------------------------------------------------------ 04.1 the smallest picture
def _plans(generator):
    fixed = [
        [(3, 1, 0)],
        [(3, 2, 1), (3, 2, 1)],
        [(7, 2, 3), (3, 2, 1), (3, 1, 1)],
        [(2, 2, 0), (2, 2, 0), (5, 1, 0)],
        [(1, 1, 0)],
        [(3, 1, 2), (1, 3, 0), (4, 2, 0)],
        [(5, 1, 3), (5, 1, 3)],
        [(5, 1, 0), (1, 1, 2)],
        [(6, 2, 0), (3, 1, 2), (2, 1, 1)],
        [],
    ]
    for _ in range(4):
        n = int(torch.randint(2, 5, (1,), generator=generator))
        k, s, p = (torch.randint(low, high, (n,), generator=generator) for low, high in ((1, 6), (1, 4), (0, 3)))
        fixed.append(list(zip(k.tolist(), s.tolist(), p.tolist(), strict=True)))
    return [(plan,) for plan in fixed]


def _backwards(one_layer, order=reversed, least=1):
    """Answers made layer by layer: side = one_layer(side, k, s, p), never below `least` (None: no bound)."""

    def answer(layers):
        side = 1
        for k, s, p in order(layers):
            side = one_layer(side, k, s, p)
            side = side if least is None else max(least, side)
        return side

    return answer


def _field(layers):
    size, step = 1, 1
    for k, s, _ in layers:
        size, step = size + (k - 1) * step, step * s
    return size


SMALLEST = Exercise(
    id="04.1",
    title="The smallest picture",
    inputs=_plans,
    solution=_backwards(lambda side, k, s, p: (side - 1) * s + k - 2 * p),
    misconceptions=[
        Misconception(
            "a layer cannot be fed with fewer pixels than one: where the padding alone would fill the window, "
            "the side below is still at least 1",
            _backwards(lambda side, k, s, p: (side - 1) * s + k - 2 * p, least=None),
        ),
        Misconception(
            "a side of at least 1 is needed at *every* layer, not only at the picture: "
            "between two layers, too, it may not fall below 1",
            lambda layers: max(1, _backwards(lambda side, k, s, p: (side - 1) * s + k - 2 * p, least=None)(layers)),
        ),
        Misconception(
            "you went through the layers from first to last: the known side, 1, is that of the *last* output",
            _backwards(lambda side, k, s, p: (side - 1) * s + k - 2 * p, order=list),
        ),
        Misconception(
            "you went through the layers from first to last: the known side, 1, is that of the *last* output "
            "(and no side may fall below 1)",
            _backwards(lambda side, k, s, p: (side - 1) * s + k - 2 * p, order=list, least=None),
        ),
        Misconception(
            "padding lies at both ends of a side: it counts twice",
            _backwards(lambda side, k, s, p: (side - 1) * s + k - p),
        ),
        Misconception(
            "n outputs are n - 1 steps and one window: you took n steps",
            _backwards(lambda side, k, s, p: side * s + k - 2 * p),
        ),
        Misconception(
            "you turned the formula's division into a multiplication and forgot that the + 1 stands outside: "
            "one output needs a window, not a stride more",
            _backwards(lambda side, k, s, p: side * s - s + k + s - 1 - 2 * p),
        ),
        Misconception(
            "that is the receptive field: padding gives some of those pixels for nothing",
            _field,
        ),
    ],
    hints=[
        "Start at the end: the last layer gives one output. How many numbers must it be fed with, of which how many "
        "are padding?",
        "For m outputs a layer makes m - 1 steps of s and needs one window of k; 2p of these pixels are padding.",
        "side = 1; for each layer from the last to the first: side = max(1, (side - 1)·s + k - 2p).",
    ],
)


# ------------------------------------------------------------------------------------------ 04.2 pooling as convolution
def _channels_and_windows(generator):
    drawn = torch.randint(1, 6, (3, 2), generator=generator).tolist()
    return [(1, 2), (3, 2), (2, 1), (4, 3), (1, 1), (2, 2), *map(tuple, drawn)]


def _diagonal(value):
    def weight(C, k):
        return torch.eye(C)[:, :, None, None].expand(C, C, k, k) * value(C, k)

    return weight


POOLING = Exercise(
    id="04.2",
    title="Pooling is a convolution",
    inputs=_channels_and_windows,
    solution=_diagonal(lambda C, k: 1 / k**2),
    misconceptions=[
        Misconception(
            "your filter adds all channels together: pooling keeps each channel to itself, "
            "so what should the weight from channel i to channel j be?",
            lambda C, k: torch.full((C, C, k, k), 1 / k**2),
        ),
        Misconception(
            "your filter takes the mean over all channels as well: pooling keeps each channel to itself",
            lambda C, k: torch.full((C, C, k, k), 1 / (C * k**2)),
        ),
        Misconception(
            "that adds the pixels of a window up: a mean divides by their number", _diagonal(lambda C, k: 1.0)
        ),
        Misconception("a window of side k has k² pixels: you divided by k", _diagonal(lambda C, k: 1 / k)),
        Misconception(
            "that takes one pixel of each window and forgets the others: which of them belong to a mean?",
            lambda C, k: torch.eye(C)[:, :, None, None] * (torch.arange(k * k) == 0).float().view(k, k),
        ),
        Misconception(
            "your identity lies in the window: which two dimensions say *which channel* looks at which?",
            lambda C, k: torch.eye(k).expand(C, C, k, k) / k,
        ),
        Misconception(
            "each channel looks at itself only, but you also divided by the number of channels",
            _diagonal(lambda C, k: 1 / (C * k**2)),
        ),
        Misconception(
            "that is the weight of a depthwise convolution (groups=C): here it must be (C, C, k, k)",
            lambda C, k: torch.full((C, 1, k, k), 1 / k**2),
        ),
    ],
    hints=[
        "weight[o, c] is the small grid with which output channel o looks at input channel c. What should it be for "
        "o = c, and what for o ≠ c?",
        "For o ≠ c nothing but zeros. For o = c all k² numbers are equal and add up to 1.",
        "torch.eye(C) has the right pattern of ones and zeros; give it two more dimensions and divide.",
    ],
)


# ------------------------------------------------------------------------------------------ 04.3 windows with holes
def _dilated_plans(generator):
    fixed = [[(3, 1, 2)], [(3, 2, 1), (3, 1, 2)], [(5, 2, 3), (2, 2, 1), (3, 3, 2)], [(1, 2, 4), (3, 1, 1)], []]
    for _ in range(4):
        n = int(torch.randint(2, 5, (1,), generator=generator))
        k, s, d = (torch.randint(1, high, (n,), generator=generator) for high in (6, 4, 5))
        fixed.append(list(zip(k.tolist(), s.tolist(), d.tolist(), strict=True)))
    return [(plan,) for plan in fixed]


def _grown(add, stretch=lambda s, d: s, stride_first=False, order=list):
    def answer(layers):
        size, step = 1, 1
        for k, s, d in order(layers):
            if stride_first:
                step *= stretch(s, d)
            size += add(k, d) * step
            if not stride_first:
                step *= stretch(s, d)
        return size, step

    return answer


FIELD = Exercise(
    id="04.3",
    title="Windows with holes",
    inputs=_dilated_plans,
    solution=_grown(lambda k, d: d * (k - 1)),
    misconceptions=[
        Misconception(
            "the dilation is nowhere in your answer: the gaps make a window wider", _grown(lambda k, d: k - 1)
        ),
        Misconception(
            "a window with k weights has k - 1 gaps, not k: draw k = 3, d = 2 and count the pixels",
            _grown(lambda k, d: d * k - 1),
        ),
        Misconception("between k weights are k - 1 gaps: you counted k of them", _grown(lambda k, d: d * k)),
        Misconception(
            "a layer adds what it sees *beyond* the pixel that is counted already: with k = 1 it adds nothing",
            _grown(lambda k, d: d * (k - 1) + 1),
        ),
        Misconception(
            "that is the size alone: the answer is a pair, (size, step)",
            lambda layers: _grown(lambda k, d: d * (k - 1))(layers)[0],
        ),
        Misconception(
            "d pixels *apart* means d - 1 empty ones between: with d = 1 there is no gap at all",
            _grown(lambda k, d: (d + 1) * (k - 1)),
        ),
        Misconception(
            "dilation does not move the window: it widens it, and the step between two outputs stays",
            _grown(lambda k, d: d * (k - 1), stretch=lambda s, d: s * d),
        ),
        Misconception(
            "a layer's own stride moves *its* outputs apart: it counts for the layers above, not for its own window",
            _grown(lambda k, d: d * (k - 1), stride_first=True),
        ),
        Misconception(
            "you went from the last layer to the first: with steps that are multiplied on the way the order matters",
            _grown(lambda k, d: d * (k - 1), order=lambda layers: list(reversed(layers))),
        ),
        Misconception(
            "strides below make every gap longer: the addition has to be multiplied by the step",
            lambda layers: (
                1 + sum(d * (k - 1) for k, _, d in layers),
                int(torch.tensor([s for _, s, _ in layers]).prod()),
            ),
        ),
    ],
    hints=[
        "How many pixels lie from the first to the last weight of a window with k = 3 and d = 2, both included?",
        "k weights that stand d apart span d·(k - 1) + 1 pixels. What changes in size += (k - 1)·step?",
        "size += d·(k - 1)·step, then step *= s: the step does not know of d.",
    ],
)


# ------------------------------------------------------------------------------------------ 04.4 folding
def _layers(generator):
    cases = []
    for out_channels, in_channels, kernel in ((4, 3, 3), (3, 3, 3), (1, 2, 1), (5, 5, 5), (6, 1, 3)):
        weight = torch.randn(out_channels, in_channels, kernel, kernel, generator=generator)
        bias, mean, beta = torch.randn(3, out_channels, generator=generator)
        var, gamma = torch.rand(2, out_channels, generator=generator)
        gamma = gamma * torch.tensor([-1.0, 1.0]).repeat(out_channels)[:out_channels] * 2
        eps = (1e-5, 1e-1)[len(cases) % 2]
        cases.append((weight, bias, mean, var if len(cases) else var * 0.01, gamma, beta, eps))
    return cases


def _folded(scale, bias_of, axis=0):
    def answer(weight, bias, mean, var, gamma, beta, eps):
        factor = scale(gamma, var, eps)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        return weight * factor.view(shape), bias_of(bias, mean, factor, beta)

    return answer


def _right_scale(gamma, var, eps):
    return gamma / (var + eps).sqrt()


def _right_bias(bias, mean, factor, beta):
    return (bias - mean) * factor + beta


FOLD = Exercise(
    id="04.4",
    title="Make it disappear",
    inputs=_layers,
    solution=_folded(_right_scale, _right_bias),
    misconceptions=[
        Misconception(
            "the variance went in without its root: normalisation divides by a standard deviation",
            _folded(lambda gamma, var, eps: gamma / (var + eps), _right_bias),
        ),
        Misconception(
            "eps is missing: where a channel hardly varies, it is what you divide by",
            _folded(lambda gamma, var, eps: gamma / var.sqrt(), _right_bias),
        ),
        Misconception(
            "eps belongs to the variance, inside the root",
            _folded(lambda gamma, var, eps: gamma / (var.sqrt() + eps), _right_bias),
        ),
        Misconception(
            "the convolution's own bias is normalised as well: it must be scaled like the rest",
            _folded(_right_scale, lambda bias, mean, factor, beta: bias - mean * factor + beta),
        ),
        Misconception(
            "the mean is subtracted *before* the scaling, so it must be scaled too",
            _folded(_right_scale, lambda bias, mean, factor, beta: bias * factor - mean + beta),
        ),
        Misconception(
            "the convolution's bias is lost: it goes through the normalisation like everything else",
            _folded(_right_scale, lambda bias, mean, factor, beta: beta - mean * factor),
        ),
        Misconception(
            "the running mean is missing: the new bias has to take it away",
            _folded(_right_scale, lambda bias, mean, factor, beta: bias * factor + beta),
        ),
        Misconception(
            "beta is added after the scaling: it is not scaled itself",
            _folded(_right_scale, lambda bias, mean, factor, beta: (bias - mean + beta) * factor),
        ),
        Misconception(
            "gamma is missing: the scale is gamma over the standard deviation",
            _folded(lambda gamma, var, eps: 1 / (var + eps).sqrt(), _right_bias),
        ),
        Misconception(
            "the scale was laid along the input channels: normalisation comes after the convolution, "
            "so it belongs to the output channels, the first dimension of the weight",
            _folded(_right_scale, _right_bias, axis=1),
        ),
        Misconception(
            "where there are as many input as output channels the scale was laid along the input channels: "
            "it belongs to the output channels, the first dimension of the weight",
            lambda weight, *rest: _folded(_right_scale, _right_bias, axis=int(weight.shape[0] == weight.shape[1]))(
                weight, *rest
            ),
        ),
        Misconception(
            "the scale was laid along the columns of the window (the last dimension): "
            "each *output channel* has its own",
            _folded(_right_scale, _right_bias, axis=3),
        ),
        Misconception(
            "eps is an argument: networks differ in it, and you put in 1e-5",
            _folded(lambda gamma, var, eps: gamma / (var + 1e-5).sqrt(), _right_bias),
        ),
        Misconception(
            "eps is *added* to the variance, also where the variance is large",
            _folded(lambda gamma, var, eps: gamma / var.clamp(min=eps).sqrt(), _right_bias),
        ),
        Misconception(
            "the scale stands upside down: normalisation divides by the standard deviation",
            _folded(lambda gamma, var, eps: gamma * (var + eps).sqrt(), _right_bias),
        ),
        Misconception(
            "the weight is right; in the bias the running mean has the wrong sign",
            _folded(_right_scale, lambda bias, mean, factor, beta: (bias + mean) * factor + beta),
        ),
        Misconception(
            "the weight is right; in the bias beta has the wrong sign",
            _folded(_right_scale, lambda bias, mean, factor, beta: (bias - mean) * factor - beta),
        ),
        Misconception(
            "the weight is right; the bias was divided by the standard deviation, but gamma multiplies it as well",
            lambda weight, bias, mean, var, gamma, beta, eps: (
                weight * _right_scale(gamma, var, eps).view(-1, 1, 1, 1),
                (bias - mean) / (var + eps).sqrt() + beta,
            ),
        ),
        Misconception(
            "the weight is right; the bias has the right numbers in the wrong shape: it must be (O,)",
            _folded(_right_scale, lambda bias, mean, factor, beta: ((bias - mean) * factor + beta)[:, None, None]),
        ),
        Misconception(
            "that is the weight alone: return (weight, bias)",
            lambda *args: _folded(_right_scale, _right_bias)(*args)[0],
        ),
        Misconception(
            "the bias is right and the weight was not scaled",
            lambda weight, bias, mean, var, gamma, beta, eps: (
                weight,
                (bias - mean) * gamma / (var + eps).sqrt() + beta,
            ),
        ),
    ],
    hints=[
        "Write y = γ·(W·x + b - μ)/√(σ² + ε) + β and sort: what stands at x, what stands alone?",
        "With s = γ/√(σ² + ε): y = (s·W)·x + s·(b - μ) + β. There is one s for each output channel.",
        "The weight is (O, C, K, K) and s is (O,): s[:, None, None, None] lays it along the first dimension.",
    ],
    atol=1e-4,
)

EXERCISES = [SMALLEST, POOLING, FIELD, FOLD]
