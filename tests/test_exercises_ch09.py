"""Exercises of chapter 09: students' wrong answers get the message that helps, right ones in other words pass."""

import torch
import torch.nn.functional as F

from mmlearn.nn import ViT, ViTConfig, patchify, resize_positions, unpatchify
from tests.exercise_cases import assert_chapter, assert_wrong


# ------------------------------------------------------------------------------------------ 09.1
def right_together(patches, patch_size, rows, columns):
    """Patch by patch, as one would with scissors and glue."""
    channels = patches.shape[2] // patch_size**2
    picture = torch.zeros(len(patches), channels, rows * patch_size, columns * patch_size)
    for number in range(rows * columns):
        i, j = patch_size * (number // columns), patch_size * (number % columns)
        piece = patches[:, number].view(-1, channels, patch_size, patch_size)
        picture[:, :, i : i + patch_size, j : j + patch_size] = piece
    return picture


def wrong_together_view(patches, patch_size, rows, columns):
    return patches.view(len(patches), -1, rows * patch_size, columns * patch_size)


def _glued(piece_of, place_of=lambda number, rows, columns: (number // columns, number % columns)):
    def wrong(patches, patch_size, rows, columns):
        channels = patches.shape[2] // patch_size**2
        picture = torch.zeros(len(patches), channels, rows * patch_size, columns * patch_size)
        for number in range(rows * columns):
            i, j = (patch_size * x for x in place_of(number, rows, columns))
            piece = piece_of(patches[:, number], channels, patch_size)
            picture[:, :, i : i + patch_size, j : j + patch_size] = piece
        return picture

    return wrong


def _piece(patch, channels, p):
    return patch.view(-1, channels, p, p)


wrong_together_colours_last = _glued(lambda patch, channels, p: patch.view(-1, p, p, channels).movedim(3, 1))
wrong_together_turned = _glued(lambda patch, channels, p: _piece(patch, channels, p).mT)
wrong_together_down_first = _glued(_piece, lambda number, rows, columns: (number % rows, number // rows))


def wrong_together_interleaved(patches, patch_size, rows, columns):
    channels = patches.shape[2] // patch_size**2
    x = patches.view(-1, rows, columns, channels, patch_size, patch_size)
    return torch.einsum("brqcij->bcirjq", x).reshape(len(patches), channels, rows * patch_size, -1)


def wrong_together_package(patches, patch_size, rows, columns):
    """unpatchify, which refuses what is not square."""
    return unpatchify(patches, patch_size, patches.shape[2] // patch_size**2)


def wrong_together_fold_transposed(patches, patch_size, rows, columns):
    size = (columns * patch_size, rows * patch_size)
    return F.fold(patches.transpose(1, 2), size, patch_size, stride=patch_size).mT


def wrong_together_colour_slowest(patches, patch_size, rows, columns):
    x = patches.view(len(patches), -1, rows, columns, patch_size, patch_size)
    return torch.einsum("bcrqij->bcriqj", x).reshape(len(patches), -1, rows * patch_size, columns * patch_size)


def wrong_together_colour_first(patches, patch_size, rows, columns):
    x = patches.reshape(len(patches), -1, rows, columns, patch_size, patch_size)
    channels = x.shape[1]
    x = x.permute(0, 3, 1, 4, 2, 5)
    return x.reshape(len(patches), channels, rows * patch_size, columns * patch_size)


# ------------------------------------------------------------------------------------------ 09.2
def right_price(height, width, patch_size, d_model):
    """Count, matrix by matrix."""
    T = 1 + (height * width) // patch_size**2
    matrices = [(d_model, d_model)] * 4 + [(d_model, 4 * d_model), (4 * d_model, d_model)]
    return sum(T * a * b for a, b in matrices) + T * T * d_model + T * T * d_model


def _counted(T, weights=12, pairs=2):
    return lambda h, w, p, d: T(h, w, p) * weights * d * d + pairs * T(h, w, p) ** 2 * d


def _all(h, w, p):
    return h * w // p**2 + 1


def wrong_price_scores_without_width(h, w, p, d):
    return _all(h, w, p) * 12 * d**2 + 2 * _all(h, w, p) ** 2


def wrong_price_weights_alone(h, w, p, d):
    return 4 * d * d + 8 * d * d


# ------------------------------------------------------------------------------------------ 09.3
def right_positions(positions, old, new):
    """Feature by feature."""
    rows = [positions[0, :1]]
    grid = positions[0, 1:].reshape(*old, -1)
    maps = [F.interpolate(grid[None, None, :, :, d], size=new, mode="bicubic") for d in range(grid.shape[-1])]
    rows.append(torch.stack([m.flatten() for m in maps], dim=1))
    return torch.cat(rows)[None]


def wrong_positions_without_class(positions, old, new):
    return right_positions(positions, old, new)[:, 1:]


def wrong_positions_view(positions, old, new):
    grid = positions[:, 1:].reshape(1, positions.shape[2], *old)
    grid = F.interpolate(grid, size=new, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :1], grid], dim=1)


def wrong_positions_new_shape_twice(positions, old, new):
    grid = F.interpolate(positions[:, 1:].reshape(1, -1, *old), size=new, mode="bicubic")
    return torch.cat([positions[:, :1], grid.reshape(1, new[0] * new[1], -1)], dim=1)


def wrong_positions_class_averaged(positions, old, new):
    out = right_positions(positions, old, new)
    out[:, 0] = positions[:, 1:].mean(dim=1)
    return out


def resize_positions_of_a_square(positions, old, new):
    return resize_positions(positions, new)


def wrong_positions_line(positions, old, new):
    return F.interpolate(positions.mT, size=1 + new[0] * new[1], mode="linear").mT


def wrong_positions_line_of_places(positions, old, new):
    line = F.interpolate(positions[:, 1:].mT, size=new[0] * new[1], mode="linear").mT
    return torch.cat([positions[:, :1], line], dim=1)


def _other(mode="bicubic", old_turned=False, new_turned=False, **options):
    def wrong(positions, old, new):
        old, new = old[::-1] if old_turned else old, new[::-1] if new_turned else new
        grid = positions[:, 1:].reshape(1, *old, -1).movedim(3, 1)
        grid = F.interpolate(grid, size=new, mode=mode, **options).flatten(2).mT
        return torch.cat([positions[:, :1], grid], dim=1)

    return wrong


def wrong_positions_class_behind(positions, old, new):
    return right_positions(positions, old, new).roll(-1, dims=1)


# ------------------------------------------------------------------------------------------ 09.4
def right_rollout(maps):
    """Follow one row vector from the pool back to the picture."""
    share = torch.full((1, maps[0].shape[-1]), 1 / maps[0].shape[-1])
    for A in reversed(maps):
        share = (share + share @ A.mean(dim=0)) / 2
    return share[0]


def _table(maps, step=lambda A: (A.mean(0) + torch.eye(A.shape[-1])) / 2):
    total = step(maps[0])
    for A in maps[1:]:
        total = step(A) @ total
    return total


def wrong_rollout_forward(maps):
    share = torch.full((1, maps[0].shape[-1]), 1 / maps[0].shape[-1])
    for A in maps:
        share = (share + share @ A.mean(dim=0)) / 2
    return share[0]


def wrong_rollout_heads_apart(maps):
    return sum(_table([A[head : head + 1] for A in maps]) for head in range(len(maps[0]))).mean(0) / len(maps[0])


def wrong_rollout_largest_rescaled(maps):
    def step(A):
        largest = F.normalize(A.amax(0), p=1, dim=-1)
        return (largest + torch.eye(len(largest))) / 2

    return _table(maps, step).mean(0)


# ------------------------------------------------------------------------------------------ 09.5
def right_epsilon(x, eps):
    """From the outputs themselves: the ratio of their lengths."""
    x = x.double()
    plain = F.layer_norm(x, x.shape[-1:], eps=0.0)
    return (F.layer_norm(x, x.shape[-1:], eps=eps).norm(dim=-1) / plain.norm(dim=-1)).float()


def _from_variance(variance, ratio=lambda v, eps: torch.sqrt(v / (v + eps))):
    return lambda x, eps: ratio(variance(x), eps)


def _own(x):
    return (x - x.mean(-1, keepdim=True)).pow(2).mean(-1)


WRONG = {
    "09.1": [
        (wrong_together_view, "none was moved"),
        (wrong_together_colours_last, "first all red numbers"),
        (wrong_together_turned, "lies on its side"),
        (wrong_together_down_first, "from top to bottom first"),
        (wrong_together_interleaved, "the other way round"),
        (wrong_together_package, "square"),
        (wrong_together_fold_transposed, "whole picture lies on its side"),
        (wrong_together_colour_slowest, "the slowest of all numbers"),
        (wrong_together_colour_first, "the place of a patch is the slowest"),
        (lambda *given: right_together(*given).detach(), "no gradient"),
    ],
    "09.2": [
        (_counted(lambda h, w, p: h * w // p**2), "the class token is a token"),
        (_counted(lambda h, w, p: h // p + 1), "fill an area"),
        (_counted(lambda h, w, p: (h // p) ** 2 + 1), "height and width differ"),
        (_counted(lambda h, w, p: h * w + 1), "every pixel"),
        (_counted(_all, pairs=0), "no weights are missing"),
        (_counted(_all, pairs=1), "you counted one"),
        (_counted(_all, weights=4), "where is the feed-forward"),
        (_counted(_all, weights=11), "output of attention"),
        (_counted(_all, weights=8), "two matrices"),
        (_counted(_all, weights=6), "four times wider"),
        (wrong_price_scores_without_width, "*of vectors*"),
        (wrong_price_weights_alone, "those are the weights"),
        (lambda h, w, p, d: right_price(h, w, p, d) - (_all(h, w, p) - 1) * 12 * d * d, "for one token"),
        (lambda h, w, p, d: right_price(h, w, p, d) - 2 * d * (2 * _all(h, w, p) - 1), "missing in the scores"),
        (lambda h, w, p, d: 2 * right_price(h, w, p, d), "additions"),
        (lambda h, w, p, d: 12 * right_price(h, w, p, d), "twelve layers"),
        (lambda h, w, p, d: right_price(h, w, p, d) + (_all(h, w, p) - 1) * 3 * p * p * d, "before the first layer"),
        (lambda h, w, p, d: _counted(lambda h, w, p: (h / p) * (w / p) + 1)(h, w, p, d), "it is a float"),
        (lambda h, w, p, d: int(_counted(lambda h, w, p: (h / p) * (w / p) + 1)(h, w, p, d)), "no longer exact"),
    ],
    "09.3": [
        (wrong_positions_without_class, "position is lost"),
        (wrong_positions_view, "different places are mixed"),
        (wrong_positions_line, "the class token with it"),
        (wrong_positions_line_of_places, "stretch a grid"),
        (_other(old_turned=True), "old grid are exchanged"),
        (_other(new_turned=True), "new grid are exchanged"),
        (_other("bilinear"), "bilinear"),
        (_other("nearest"), "nearest place"),
        (_other(align_corners=True), "align_corners"),
        (wrong_positions_class_behind, "behind the others"),
        (wrong_positions_new_shape_twice, "there and back"),
        (_other(old_turned=True, new_turned=True), "and in the new one"),
        (_other(antialias=True), "antialias"),
        (lambda x, old, new: x if x.shape[1] == 1 + new[0] * new[1] else right_positions(x, old, new), "move all the"),
        (wrong_positions_class_averaged, "keeps its own position"),
        (lambda *given: right_positions(*given).detach(), "no gradient"),
        (resize_positions_of_a_square, "square"),
    ],
    "09.4": [
        (wrong_rollout_forward, "wrong order"),
        (wrong_rollout_heads_apart, "kept the heads apart"),
        (lambda maps: _table(maps, lambda A: A.mean(0)).mean(0), "residual stream is missing"),
        (lambda maps: _table(maps)[0], "no class token here"),
        (lambda maps: _table(maps).mean(1), "along the row"),
        (lambda maps: _table(maps).sum(0), "sum over the tokens"),
        (lambda maps: _table(maps, lambda A: A.mean(0) + torch.eye(A.shape[-1])).mean(0), "each count one half"),
        (lambda maps: _table(maps, lambda A: (A.sum(0) + torch.eye(A.shape[-1])) / 2).mean(0), "heads are added"),
        (lambda maps: _table(maps, lambda A: (A.amax(0) + torch.eye(A.shape[-1])) / 2).mean(0), "largest head"),
        (lambda maps: _table(maps[-1:]).mean(0), "last layer alone"),
        (_table, "whole table"),
        (wrong_rollout_largest_rescaled, "largest head"),
        (lambda maps: sum(A.mean((0, 1)) for A in maps) / len(maps), "side by side"),
        (lambda maps: sum(_table([A]).mean(0) for A in maps) / len(maps), "side by side"),
        (lambda maps: _table(maps).diagonal() / _table(maps).trace(), "kept of itself"),
        (lambda maps: _table(maps).diagonal(), "kept of itself"),
        (lambda maps: _table(maps)[:, 1:].mean(0), "left out the first patch"),
        (lambda maps: _table(maps)[1:].mean(0), "left out the first patch"),
    ],
    "09.5": [
        (_from_variance(_own, lambda v, eps: v / (v + eps)), "root is missing"),
        (_from_variance(lambda x: torch.var(x, -1)), "not by D - 1"),
        (_from_variance(_own, lambda v, eps: v**0.5 / (v**0.5 + eps)), "not to the standard deviation"),
        (_from_variance(lambda x: x.var(correction=0).expand(x.shape[:2])), "one variance over all"),
        (_from_variance(lambda x: x.var(dim=1, correction=0)), "over the tokens"),
        (_from_variance(_own, lambda v, eps: ((v + eps) / v) ** 0.5), "upside down"),
        (_from_variance(lambda x: x.pow(2).mean(-1)), "takes the mean away first"),
        (_from_variance(lambda x: _own(x)[..., None]), "one for each token"),
        (_from_variance(_own, lambda v, eps: 1 - (v / (v + eps)) ** 0.5), "what is lost"),
        (_from_variance(_own, lambda v, eps: (v / (v + eps * eps)) ** 0.5), "you squared it"),
        (_from_variance(_own, lambda v, eps: v**0.5 / (v**0.5 + eps**0.5)), "one by one"),
        (_from_variance(lambda x: _own(x).mean().expand(x.shape[:2])), "mean of their variances"),
        (lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=eps).square().sum(-1).sqrt(), "not the share"),
    ],
}

RIGHT = {
    "09.1": right_together,
    "09.2": right_price,
    "09.3": right_positions,
    "09.4": right_rollout,
    "09.5": right_epsilon,
}


def test_wrong_answers_are_told_why_and_right_ones_pass():
    assert_chapter("09", WRONG, RIGHT)


def test_together_undoes_patchify():
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(right_together(patchify(images, 4), 4, 2, 3), images)


def test_the_price_is_what_a_layer_multiplies():
    model = ViT(ViTConfig(image_size=8, patch_size=4, d_model=12, n_heads=3, n_layers=1))
    layer = model.transformer.layers[0]
    matrices = sum(p.numel() for name, p in layer.named_parameters() if p.ndim == 2)
    T = model.positions.shape[1]
    assert right_price(8, 8, 4, 12) == T * matrices + 2 * T * T * 12


def test_rollout_sums_to_one():
    maps = [torch.randn(2, 5, 5).softmax(-1) for _ in range(3)]
    torch.testing.assert_close(right_rollout(maps).sum(), torch.tensor(1.0))


def test_a_crash_and_a_missing_return_are_told():
    assert_wrong("09.4", lambda maps: None, "is there a return statement")
    assert_wrong("09.5", lambda x, eps: x.var(), "expected the shape")
