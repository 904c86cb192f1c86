"""Exercises of chapter 09: patches back to pictures, the price of a finer grid, positions, rollout, epsilon."""

import operator

import torch
import torch.nn.functional as F

from mmlearn.exercises import Exercise, Misconception


def _reaches(inputs, what):
    """A `verify`: the answer is differentiable in its first argument; ``what`` is lost where it is not."""

    def verify(fn, generator):
        first, *others = inputs(generator)[0]
        first.requires_grad_()
        answer = fn(first, *others)
        if not answer.requires_grad:
            return f"the numbers are right, but no gradient comes back through them: {what}"
        answer.sum().backward()
        return None

    return verify


# ------------------------------------------------------------------------------------------ 09.1 together again
def _rows_of_patches(generator):
    sizes = [(2, 2, 2, 3), (1, 3, 3, 2), (2, 4, 2, 3), (1, 1, 5, 3), (3, 2, 3, 1), (1, 4, 2, 1)]
    cases = []
    for p, rows, columns, channels in sizes:
        patches = torch.randn(2, rows * columns, channels * p * p, generator=generator)
        cases.append((patches, p, rows, columns))
    return cases


def _together(order=(0, 3, 1, 4, 2, 5), sizes=lambda p, rows, columns, channels: (rows, columns, channels, p, p)):
    """Cut the patches into six dimensions of the given sizes, and put these into the given order."""

    def answer(patches, patch_size, rows, columns):
        channels = patches.shape[2] // patch_size**2
        x = patches.reshape(len(patches), *sizes(patch_size, rows, columns, channels)).permute(order)
        return x.reshape(len(patches), channels, rows * patch_size, columns * patch_size)

    return answer


def _no_permutation(patches, patch_size, rows, columns):
    return patches.reshape(len(patches), -1, rows * patch_size, columns * patch_size)


def _square(patches, patch_size, rows, columns):
    side = round((rows * columns) ** 0.5)
    return _together()(patches, patch_size, side, side)


TOGETHER = Exercise(
    id="09.1",
    title="Together again",
    inputs=_rows_of_patches,
    solution=_together(),
    misconceptions=[
        Misconception(
            "the numbers have only been given a new shape, none was moved: two neighbours in a row of the picture "
            "can come from two patches",
            _no_permutation,
        ),
        Misconception(
            "the colours of a patch stand one after the other: first all red numbers, then all green, then all blue; "
            "you read red, green and blue of one pixel next to each other",
            _together((0, 5, 1, 3, 2, 4), lambda p, rows, columns, channels: (rows, columns, p, p, channels)),
        ),
        Misconception(
            "the patches run from left to right and then down: you laid them from top to bottom first",
            _together((0, 3, 2, 4, 1, 5), lambda p, rows, columns, channels: (columns, rows, channels, p, p)),
        ),
        Misconception(
            "each patch lies on its side: its own rows and columns are exchanged",
            _together((0, 3, 1, 5, 2, 4)),
        ),
        Misconception(
            "the whole picture lies on its side: rows and columns are exchanged everywhere",
            _together((0, 3, 2, 5, 1, 4), lambda p, rows, columns, channels: (columns, rows, channels, p, p)),
        ),
        Misconception(
            "a pixel's row is (row of the patch, row inside it), the patch first: you have the two the other way round",
            _together((0, 3, 4, 1, 5, 2)),
        ),
        Misconception("that is right for square pictures only: rows and columns are given, use both", _square),
        Misconception(
            "the colours come first only *inside* a patch: you took the colour for the slowest of all numbers, "
            "the place of the patch is slower",
            _together((0, 1, 2, 4, 3, 5), lambda p, rows, columns, channels: (channels, rows, columns, p, p)),
        ),
        Misconception(
            "the place of a patch is the slowest number, its row and then its column: you put the colour between them "
            "or before them",
            _together((0, 3, 1, 4, 2, 5), lambda p, rows, columns, channels: (channels, rows, columns, p, p)),
        ),
    ],
    verify=_reaches(_rows_of_patches, "a network that draws could not be trained through the picture"),
    hints=[
        "Which three things must be known to find a number of the picture? Its colour, its row and its column. Row and "
        "column each fall into two parts: which patch, and where in the patch.",
        "Make it six dimensions, (B, rows, columns, C, p, p), in the order in which the numbers lie in memory.",
        "Then permute to (B, C, rows, p, columns, p), and merge rows with p and columns with p.",
    ],
)


# ------------------------------------------------------------------------------------------ 09.2 the price
def _pictures(generator):
    fixed = [(224, 224, 16, 768), (32, 32, 4, 64), (32, 32, 8, 64), (32, 64, 4, 96), (48, 16, 16, 10), (8, 8, 8, 3)]
    drawn = torch.randint(1, 7, (3, 4), generator=generator).tolist()
    return fixed + [(rows * p, columns * p, p, 4 * d) for rows, columns, p, d in drawn]


def _price(tokens=lambda h, w, p: (h // p) * (w // p) + 1, each=lambda d: 12 * d * d, pairs=lambda T, d: 2 * T * T * d):
    def answer(height, width, patch_size, d_model):
        T = tokens(height, width, patch_size)
        return T * each(d_model) + pairs(T, d_model)

    return answer


def _whole(fn, generator):
    """A number of multiplications is a whole number, also where it is too large for a float."""
    answer = fn(2**14, 2**14, 1, 2**10)
    try:
        answer = operator.index(answer)
    except TypeError:
        return f"the value is right, but it is a {type(answer).__name__}: asked is a whole number"
    if answer != _price()(2**14, 2**14, 1, 2**10):
        return "for a very large picture the value is no longer exact: no fraction may arise on the way"
    return None


PRICE = Exercise(
    id="09.2",
    title="The price of a finer grid",
    inputs=_pictures,
    solution=_price(),
    misconceptions=[
        Misconception(
            "the class token is a token like the others: it costs as much", _price(lambda h, w, p: h // p * (w // p))
        ),
        Misconception(
            "that is the number of patches on one side: they fill an area", _price(lambda h, w, p: h // p + 1)
        ),
        Misconception(
            "that is right for square pictures only: height and width differ", _price(lambda h, w, p: (h // p) ** 2 + 1)
        ),
        Misconception(
            "that is right for square pictures only: height and width differ", _price(lambda h, w, p: (w // p) ** 2 + 1)
        ),
        Misconception("you counted every pixel as a token", _price(lambda h, w, p: h * w + 1)),
        Misconception(
            "every token is compared with every token, and then as many vectors are mixed: the two products "
            "that have no weights are missing",
            _price(pairs=lambda T, d: 0),
        ),
        Misconception(
            "there are two products without weights, the scores and the mixing of the values: you counted one",
            _price(pairs=lambda T, d: T * T * d),
        ),
        Misconception(
            "the scores are T × T products *of vectors*: each costs d_model multiplications",
            _price(pairs=lambda T, d: 2 * T * T),
        ),
        Misconception(
            "where is the feed-forward network? It holds more weights than attention", _price(each=lambda d: 4 * d * d)
        ),
        Misconception(
            "the output of attention goes through a matrix too: queries, keys, values *and* output",
            _price(each=lambda d: 11 * d * d),
        ),
        Misconception(
            "the feed-forward network has two matrices: out to 4 · d_model, and back", _price(each=lambda d: 8 * d * d)
        ),
        Misconception("the feed-forward network is four times wider than d_model", _price(each=lambda d: 6 * d * d)),
        Misconception("those are the weights: each token is multiplied by all of them", lambda h, w, p, d: 12 * d * d),
        Misconception(
            "every token is multiplied by all the weights: you counted the weights for one token",
            lambda h, w, p, d: 12 * d * d + 2 * (h // p * (w // p) + 1) ** 2 * d,
        ),
        Misconception(
            "the class token looks and is looked at like the others: it is missing in the scores and the mixing",
            _price(pairs=lambda T, d: 2 * (T - 1) ** 2 * d),
        ),
        Misconception(
            "that is twice too much: asked are the multiplications alone, not the additions that go with them",
            lambda h, w, p, d: 2 * _price()(h, w, p, d),
        ),
        Misconception(
            "that is a network of twelve layers: asked is the price of one",
            lambda h, w, p, d: 12 * _price()(h, w, p, d),
        ),
        Misconception(
            "the matrix that makes vectors out of patches stands before the first layer: asked is one layer",
            lambda h, w, p, d: _price()(h, w, p, d) + h * w * 3 * d,
        ),
    ],
    verify=_whole,
    hints=[
        "How many tokens T are there? Then ask of each matrix: how many weights, and how often is it used?",
        "Each token meets every weight once: four matrices of d × d in attention, two of d × 4d in the feed-forward.",
        "Without weights: T² scores of d multiplications each, and the mixing of the values, as many again. "
        "(Cutting into heads changes neither.)",
    ],
)


# ------------------------------------------------------------------------------------------ 09.3 positions
def _grids(generator):
    cases = []
    for old, new, width in (((2, 3), (4, 6), 5), ((3, 3), (5, 4), 4), ((4, 2), (2, 4), 3), ((3, 5), (3, 5), 2)):
        cases.append((torch.randn(1, 1 + old[0] * old[1], width, generator=generator), old, new))
    return cases


def _stretched(
    square=lambda x, old: x.transpose(1, 2).unflatten(2, old), keep=True, mode="bicubic", turn=False, align=False
):
    def answer(positions, old, new):
        head, places = positions[:, :1], positions[:, 1:]
        x = square(places, old)
        x = F.interpolate(
            x, size=new[::-1] if turn else new, mode=mode, align_corners=None if mode == "nearest" else align
        )
        x = x.flatten(2).transpose(1, 2)
        return x if not keep else torch.cat([head, x], dim=1)

    return answer


def _last_token_kept(positions, old, new):
    turned = torch.cat([positions[:, -1:], positions[:, :-1]], dim=1)
    x = _stretched(keep=False)(turned, old, new)
    return torch.cat([x, positions[:, -1:]], dim=1)


def _one_line(positions, old, new):
    n = 1 + new[0] * new[1]
    return F.interpolate(positions.transpose(1, 2), size=n, mode="linear").transpose(1, 2)


def _one_line_of_places(positions, old, new):
    x = F.interpolate(positions[:, 1:].transpose(1, 2), size=new[0] * new[1], mode="linear").transpose(1, 2)
    return torch.cat([positions[:, :1], x], dim=1)


def _new_shape_twice(positions, old, new):
    width = positions.shape[2]
    x = F.interpolate(positions[:, 1:].reshape(1, width, *old), size=new, mode="bicubic")
    return torch.cat([positions[:, :1], x.reshape(1, -1, width)], dim=1)


def _both_turned(positions, old, new):
    return _stretched()(positions, old[::-1], new[::-1])


def _smoothed(positions, old, new):
    x = positions[:, 1:].transpose(1, 2).unflatten(2, old)
    x = F.interpolate(x, size=new, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :1], x], dim=1)


def _only_counted(positions, old, new):
    return positions if old[0] * old[1] == new[0] * new[1] else _stretched()(positions, old, new)


def _class_averaged(positions, old, new):
    return torch.cat([positions[:, 1:].mean(1, keepdim=True), _stretched(keep=False)(positions, old, new)], dim=1)


def _behind(positions, old, new):
    x = _stretched()(positions, old, new)
    return torch.cat([x[:, 1:], x[:, :1]], dim=1)


POSITIONS = Exercise(
    id="09.3",
    title="Another size",
    inputs=_grids,
    solution=_stretched(),
    misconceptions=[
        Misconception(
            "the class token's position is lost: it has no place in the grid, but it is needed", _stretched(keep=False)
        ),
        Misconception(
            "you stretched one long row, in which two places below each other are far apart: stretch a grid",
            _one_line_of_places,
        ),
        Misconception(
            "you stretched one long row, and the class token with it: it has no place in the grid", _one_line
        ),
        Misconception(
            "the features must come *before* the grid by moving them (transpose), not by a new shape: "
            "now the numbers of different places are mixed",
            _stretched(lambda x, old: x.reshape(1, -1, *old)),
        ),
        Misconception(
            "height and width of the old grid are exchanged: the places run from left to right, then down",
            _stretched(lambda x, old: x.transpose(1, 2).unflatten(2, old[::-1])),
        ),
        Misconception("height and width of the new grid are exchanged", _stretched(turn=True)),
        Misconception("the class token stands first, not last", _last_token_kept),
        Misconception("the class token stands first: you put its position behind the others", _behind),
        Misconception(
            "that is bilinear interpolation: the question asks for the smoother, bicubic one",
            _stretched(mode="bilinear"),
        ),
        Misconception(
            "that takes the nearest place: neighbouring patches would share one position", _stretched(mode="nearest")
        ),
        Misconception(
            "align_corners=True lays the middles of the outermost patches on each other, but a patch is an area",
            _stretched(align=True),
        ),
        Misconception(
            "features and grid are exchanged by moving them (transpose), there and back, not by a new shape: now the "
            "numbers of different places are mixed",
            _new_shape_twice,
        ),
        Misconception(
            "height and width are exchanged, in the old grid and in the new one: the places run from left to right, "
            "then down",
            _both_turned,
        ),
        Misconception(
            "antialias=True smooths while it stretches, with another curve: plain bicubic is asked for", _smoothed
        ),
        Misconception("as many places, but a grid of another shape: they move all the same", _only_counted),
        Misconception(
            "the class token keeps its own position: yours comes from the places of the picture", _class_averaged
        ),
    ],
    verify=_reaches(_grids, "at the new size the positions could not be trained on"),
    hints=[
        "F.interpolate wants (1, features, height, width). What is the order of your dimensions?",
        "Cut off the first row, transpose(1, 2), unflatten(2, old); and all the way back afterwards.",
        "F.interpolate(square, size=new, mode='bicubic'), then flatten(2).transpose(1, 2), then torch.cat on dim 1.",
    ],
)


# ------------------------------------------------------------------------------------------ 09.4 rollout
def _stacks(generator):
    cases = []
    for layers, heads, tokens in ((2, 2, 3), (1, 3, 4), (3, 1, 5), (4, 2, 2)):
        scores = 2 * torch.randn(layers, heads, tokens, tokens, generator=generator)
        cases.append((list(scores.softmax(dim=-1)),))
    return cases


def _rolled(
    mix=lambda A: 0.5 * A + 0.5 * torch.eye(A.shape[-1]),
    heads=lambda A: A.mean(dim=0),
    last_first=True,
    read=lambda R: R.mean(dim=0),
):
    def answer(maps):
        total = torch.eye(maps[0].shape[-1])
        for A in maps:
            step = mix(heads(A))
            total = step @ total if last_first else total @ step
        return read(total)

    return answer


def _heads_apart(maps):
    total = torch.eye(maps[0].shape[-1]).expand_as(maps[0])
    for A in maps:
        total = (0.5 * A + 0.5 * torch.eye(A.shape[-1])) @ total
    return total.mean(dim=(0, 1))


ROLLOUT = Exercise(
    id="09.4",
    title="Rollout without a class token",
    inputs=_stacks,
    solution=_rolled(),
    misconceptions=[
        Misconception(
            "the residual stream is missing: each layer *adds* to what a token was, so half of it stays where it is",
            _rolled(mix=lambda A: A),
        ),
        Misconception(
            "the layers are in the wrong order: what the last layer reads was mixed by the layers before it",
            _rolled(last_first=False),
        ),
        Misconception(
            "that is the first token's row: there is no class token here, the picture's vector is the mean of all",
            _rolled(read=lambda R: R[0]),
        ),
        Misconception(
            "a row says from whom a token collects: you took the mean along the row, which is the same for all",
            _rolled(read=lambda R: R.mean(dim=1)),
        ),
        Misconception(
            "the shares do not add up to one: attention and identity each count one half",
            _rolled(mix=lambda A: A + torch.eye(A.shape[-1])),
        ),
        Misconception(
            "the shares do not add up to one: that is the sum over the tokens, the picture's vector is their mean",
            _rolled(read=lambda R: R.sum(dim=0)),
        ),
        Misconception(
            "the heads are added, but each row must still add up to one: take their mean",
            _rolled(heads=lambda A: A.sum(dim=0)),
        ),
        Misconception("you kept the heads apart through all layers: after every layer they are mixed", _heads_apart),
        Misconception(
            "you took the largest head: here the mean of the heads was asked for",
            _rolled(heads=lambda A: A.amax(dim=0)),
        ),
        Misconception(
            "that is the last layer alone: its tokens had been mixed by the layers below",
            lambda maps: _rolled()(maps[-1:]),
        ),
        Misconception("that is the whole table: average over the tokens that are pooled", _rolled(read=lambda R: R)),
        Misconception(
            "you took the largest head: here the mean of the heads was asked for",
            _rolled(heads=lambda A: A.amax(dim=0) / A.amax(dim=0).sum(dim=-1, keepdim=True)),
        ),
        Misconception(
            "the layers stand side by side in your answer: the second reads what the first has already mixed",
            lambda maps: torch.stack([A.mean(dim=(0, 1)) for A in maps]).mean(dim=0),
        ),
        Misconception(
            "the layers stand side by side in your answer: the second reads what the first has already mixed",
            lambda maps: torch.stack([_rolled()([A]) for A in maps]).mean(dim=0),
        ),
        Misconception(
            "that is what each token kept of itself: asked is what all tokens together hold of each patch",
            _rolled(read=lambda R: R.diagonal() / R.diagonal().sum()),
        ),
        Misconception(
            "that is what each token kept of itself: asked is what all tokens together hold of each patch",
            _rolled(read=lambda R: R.diagonal()),
        ),
        Misconception(
            "there is no class token here: you left out the first patch", _rolled(read=lambda R: R[:, 1:].mean(dim=0))
        ),
        Misconception(
            "there is no class token here: you left out the first patch", _rolled(read=lambda R: R[1:].mean(dim=0))
        ),
        Misconception(
            "there is no class token here: you left out the first patch",
            _rolled(read=lambda R: R[1:, 1:].mean(dim=0)),
        ),
    ],
    hints=[
        "After one layer, token i holds one half of itself and one half of what it read. Write this as a matrix.",
        "Two layers: the second mixes what the first made, so its matrix stands on the left: A₂ A₁.",
        "Rows of the product are tokens at the end, columns are patches at the start: the mean pool averages the rows.",
    ],
)


# ------------------------------------------------------------------------------------------ 09.5 epsilon
def _streams(generator):
    cases = []
    for tokens, width, spread, eps in ((3, 4, 1.0, 1e-1), (2, 8, 0.1, 1e-2), (4, 3, 1e-2, 1e-5), (2, 5, 3.0, 0.5)):
        x = 2 + spread * torch.randn(2, tokens, width, generator=generator)
        cases.append((x, eps))
    return cases


def _variance(x, **options):
    return x.var(dim=-1, correction=0, **options)


EPSILON = Exercise(
    id="09.5",
    title="What epsilon takes away",
    inputs=_streams,
    solution=lambda x, eps: (_variance(x) / (_variance(x) + eps)).sqrt(),
    misconceptions=[
        Misconception(
            "LayerNorm divides by the root of (variance + eps): the root is missing",
            lambda x, eps: _variance(x) / (_variance(x) + eps),
        ),
        Misconception(
            "LayerNorm divides the squares by D, not by D - 1: torch.var does the latter unless you say correction=0",
            lambda x, eps: (x.var(dim=-1) / (x.var(dim=-1) + eps)).sqrt(),
        ),
        Misconception(
            "eps is added to the variance, inside the root, not to the standard deviation",
            lambda x, eps: _variance(x).sqrt() / (_variance(x).sqrt() + eps),
        ),
        Misconception(
            "every token is normalised by itself: you took one variance over all of them",
            lambda x, eps: (x.var(correction=0) / (x.var(correction=0) + eps)).sqrt().expand(x.shape[:-1]),
        ),
        Misconception(
            "that normalises over the tokens: LayerNorm goes over the features of each token",
            lambda x, eps: (x.var(dim=1, correction=0) / (x.var(dim=1, correction=0) + eps)).sqrt(),
        ),
        Misconception(
            "the fraction stands upside down: with eps the output gets *smaller*",
            lambda x, eps: ((_variance(x) + eps) / _variance(x)).sqrt(),
        ),
        Misconception(
            "that is the mean of the squares: LayerNorm takes the mean away first",
            lambda x, eps: (x.square().mean(-1) / (x.square().mean(-1) + eps)).sqrt(),
        ),
        Misconception(
            "the numbers are right; one for each token, so the shape is (B, T)",
            lambda x, eps: (_variance(x, keepdim=True) / (_variance(x, keepdim=True) + eps)).sqrt(),
        ),
        Misconception(
            "that is what is lost; asked is what is left",
            lambda x, eps: 1 - (_variance(x) / (_variance(x) + eps)).sqrt(),
        ),
        Misconception(
            "eps is added to the variance as it is: you squared it",
            lambda x, eps: (_variance(x) / (_variance(x) + eps**2)).sqrt(),
        ),
        Misconception(
            "the root is taken of the sum, not of the variance and of eps one by one",
            lambda x, eps: _variance(x).sqrt() / (_variance(x).sqrt() + eps**0.5),
        ),
        Misconception(
            "every token is normalised by itself: you took the mean of their variances",
            lambda x, eps: (_variance(x).mean() / (_variance(x).mean() + eps)).sqrt().expand(x.shape[:-1]),
        ),
        Misconception(
            "that is the length that is left, not the share of it: compare with the length without epsilon",
            lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=eps).norm(dim=-1),
        ),
    ],
    hints=[
        "Write both outputs: (x - mean)/√variance and (x - mean)/√(variance + eps). What remains of their ratio?",
        "√(variance / (variance + eps)), one number a token. Over which dimension, and divided by D or by D - 1?",
        "x.var(dim=-1, correction=0) is LayerNorm's variance.",
    ],
    atol=1e-4,
)

EXERCISES = [TOGETHER, PRICE, POSITIONS, ROLLOUT, EPSILON]
