"""Chapter 01's exercises: right answers written in other ways pass, and typical mistakes are named."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.exercise_cases import assert_chapter, assert_right, assert_wrong

# 01.1 ---------------------------------------------------------------------------------------------------------


def patches_by_loop(images, size):
    rows = []
    for y in range(0, images.shape[2], size):
        for x in range(0, images.shape[3], size):
            rows.append(images[:, :, y : y + size, x : x + size].flatten(1))
    return torch.stack(rows, 1)


def patches_by_unfold(images, size):
    return F.unfold(images, size, stride=size).transpose(1, 2)


def patches_viewed(images, size):
    return images.view(len(images), -1, 3 * size**2)


def patches_down_columns(images, size):
    rows = []
    for x in range(0, images.shape[3], size):
        for y in range(0, images.shape[2], size):
            rows.append(images[:, :, y : y + size, x : x + size].flatten(1))
    return torch.stack(rows, 1)


def patches_with_colour_last(images, size):
    blocks = images.unfold(2, size, size).unfold(3, size, size)  # (B, 3, h, w, size, size)
    return blocks.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)


def patches_every_nth_pixel(images, size):
    h, w = images.shape[2] // size, images.shape[3] // size
    return torch.stack([images[:, :, y::h, x::w].flatten(1) for y in range(h) for x in range(w)], 1)


def patches_one_axis_short(images, size):
    return patches_by_loop(images, size)[0]


def patches_unfolded_only(images, size):
    return images.unfold(2, size, size).unfold(3, size, size).reshape(len(images), -1, 3 * size**2)


def patches_unfolded_and_viewed(images, size):
    return F.unfold(images, size, stride=size).reshape(len(images), -1, 3 * size**2)


# 01.2 ---------------------------------------------------------------------------------------------------------


def merges_by_rank(word, merges):
    pieces, rank = list(word), {tuple(pair): n for n, pair in enumerate(merges)}
    while True:
        pairs = list(zip(pieces, pieces[1:], strict=False))
        best = min((rank[pair] for pair in pairs if pair in rank), default=None)
        if best is None:
            return pieces
        i = pairs.index(tuple(merges[best]))
        pieces = [*pieces[:i], "".join(merges[best]), *pieces[i + 2 :]]


def longest_piece(word, merges):
    vocab = set(word) | {a + b for a, b in merges}
    out = []
    while word:
        piece = max((p for p in vocab if word.startswith(p)), key=len)
        out.append(piece)
        word = word[len(piece) :]
    return out


def merge_first_place_only(word, merges):
    pieces = list(word)
    for a, b in merges:
        for i in range(len(pieces) - 1):
            if pieces[i] == a and pieces[i + 1] == b:
                pieces = pieces[:i] + [a + b] + pieces[i + 2 :]
                break
    return pieces


def merge_leftmost(word, merges):
    pieces = list(word)
    changed = True
    while changed:
        changed = False
        for i in range(len(pieces) - 1):
            if any(pieces[i] == a and pieces[i + 1] == b for a, b in merges):
                pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
                changed = True
                break
    return pieces


def merge_growing(word, merges):
    out = []
    rest = list(word)
    while rest:
        piece = rest.pop(0)
        while rest and (piece, rest[0]) in merges:
            piece += rest.pop(0)
        out.append(piece)
    return out


def merge_backwards(word, merges):
    pieces = list(word)
    for a, b in merges[::-1]:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == (a, b):
                pieces[i : i + 2] = [a + b]
            i += 1
    return pieces


def merge_in_text(word, merges):
    text = " ".join(word)
    for a, b in merges:
        text = text.replace(a + " " + b, a + b)
    return text.split()


def merge_nothing(word, merges):
    return list(word)


# 01.3 ---------------------------------------------------------------------------------------------------------


def mean_by_loop(vectors, mask):
    none = torch.zeros(vectors.shape[2])
    return torch.stack([v[m].mean(0) if m.any() else none for v, m in zip(vectors, mask, strict=True)])


def mean_by_where(vectors, mask):
    kept = torch.where(mask.unsqueeze(-1), vectors, torch.zeros(()))
    return kept.sum(dim=1) / torch.maximum(mask.sum(1), torch.tensor(1)).unsqueeze(1)


def mean_over_rows(vectors, mask):
    return torch.stack([v[m].mean(0) for v, m in zip(vectors, mask, strict=True)])


def kept_vectors(vectors, mask):
    return torch.where(mask[..., None], vectors, 0.0)


# 01.4 ---------------------------------------------------------------------------------------------------------


def turn_by_loop(turns, frames, spokes):
    turn, period = 360 * turns / frames, 360 / spokes
    while turn >= period / 2:
        turn -= period
    while turn < -period / 2:
        turn += period
    return turn


def turn_by_floor(turns, frames, spokes):
    angle = 360 * turns / frames
    return angle - 360 / spokes * math.floor(angle * spokes / 360 + 0.5)


# 01.5 ---------------------------------------------------------------------------------------------------------


def cosine_by_normalize(a, b):
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def cosine_by_pairs(a, b):
    return F.cosine_similarity(a[:, None], b[None], dim=-1)


RIGHT = {
    "01.1": patches_by_loop,
    "01.2": merges_by_rank,
    "01.3": mean_by_loop,
    "01.4": turn_by_loop,
    "01.5": cosine_by_normalize,
}

ALSO_RIGHT = [
    ("01.1", patches_by_unfold),
    ("01.3", mean_by_where),
    ("01.4", turn_by_floor),
    ("01.5", lambda a, b: (a / a.norm(dim=1, keepdim=True).clamp(min=1e-12)) @ F.normalize(b, dim=-1).mT),
    ("01.5", cosine_by_pairs),
    ("01.5", lambda a, b: F.normalize(a) @ F.normalize(b).T),
]

WRONG = {
    "01.1": [
        (patches_viewed, "reshape alone does not cut patches"),
        (patches_down_columns, "rows first, as one reads"),
        (patches_with_colour_last, "the whole red patch"),
        (patches_every_nth_pixel, "every n-th pixel"),
        (lambda images, size: patches_by_loop(images.mT, size), "height and width are swapped"),
        (patches_one_axis_short, "expected the shape"),
        (patches_unfolded_only, "channel before patch"),
        (patches_unfolded_and_viewed, "the two axes must be exchanged"),
        (lambda images, size: patches_by_loop(images, size).float() / 255, "entries are not"),
    ],
    "01.2": [
        (longest_piece, "that is WordPiece"),
        (merge_first_place_only, "at every place of the word"),
        (merge_leftmost, "you merge from the left"),
        (merge_growing, "you merge from the left"),
        (merge_backwards, "you go through the merges backwards"),
        (merge_in_text, "Compare pieces, not characters"),
        (merge_nothing, "your answer"),
        (lambda word, merges: " ".join(merges_by_rank(word, merges)), "expected list, got str"),
    ],
    "01.3": [
        (lambda v, m: v.mean(dim=1), "padding still counts"),
        (lambda v, m: (v * m.unsqueeze(-1)).mean(1), "still divide by T"),
        (lambda v, m: (v * ~m[..., None]).sum(1) / (~m).sum(1)[:, None], "the wrong way round"),
        (lambda v, m: v.masked_fill(m[..., None], 0).sum(1) / (~m).sum(1, keepdim=True), "the wrong way round"),
        (mean_over_rows, "0/0 = nan"),
        (lambda v, m: (v * m[..., None].float()).sum(1) / m.sum(1, keepdim=True).clamp(min=1), "what is 0 * nan?"),
        (lambda v, m: (v * m[..., None]).sum(1) / m.sum(1, keepdim=True), "0/0 = nan"),
        (lambda v, m: mean_by_loop(v, m).sum(0), "expected the shape"),
        (lambda v, m: kept_vectors(v, m).sum(1) / (kept_vectors(v, m) != 0).sum(1).clamp(min=1), "what is not zero"),
        (lambda v, m: (v.nan_to_num(0) * m[..., None]).sum(1) / m.sum(1, True).clamp(min=1), "you hide it"),
        (lambda v, m: kept_vectors(v, m).sum(1) / (m.sum(1, keepdim=True) + 1e-6), "added to the count"),
        (lambda v, m: mean_by_loop(v.detach(), m), "no gradient"),
        (lambda v, m: mean_by_loop(0.5 * (v + v.detach()), m), "the gradient is not"),
    ],
    "01.4": [
        (lambda turns, frames, spokes: turns / frames * 360, "how far the wheel really turned"),
        (lambda turns, frames, spokes: (360 * turns / frames + 180) % 360 - 180, "you forgot the spokes"),
        (lambda turns, frames, spokes: 360 * turns / frames % (360 / spokes), "can never turn backwards"),
        (lambda turns, frames, spokes: math.remainder(360 * turns / frames, 360 / spokes), "half a period"),
        (lambda turns, frames, spokes: turn_by_loop(turns, frames, spokes) / 360, "that is in turns"),
        (lambda turns, frames, spokes: turn_by_loop(turns, frames, spokes) * frames, "that is per second"),
        (lambda turns, frames, spokes: turn_by_loop(frames, turns, spokes), "input"),
        (lambda turns, frames, spokes: turn_by_loop(turns, frames, min(spokes, 8)), "not right"),
    ],
    "01.5": [
        (lambda a, b: torch.einsum("nd,md->nm", a, b), "that is the dot product"),
        (lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T, "length of the columns"),
        (lambda a, b: F.normalize(a, dim=1) @ b.T, "only one of the two sides"),
        (lambda a, b: torch.nn.functional.cosine_similarity(a[:1], b[:1]), "expected the shape"),
        (lambda a, b: a @ b.T / torch.outer(a.norm(dim=1), b.norm(dim=1)), "a zero vector gives"),
        (lambda a, b: a @ b.T / (a.norm(dim=1)[:, None] * b.norm(dim=1) + 1e-2), "your answer"),
        (lambda a, b: a @ b.T / (a.norm() * b.norm()).clamp(min=1e-12), "one length for the whole matrix"),
        (lambda a, b: F.normalize(a, eps=1e-6) @ F.normalize(b, eps=1e-6).T, "smallest length that you allow"),
        (lambda a, b: (a / (a.norm(dim=1, keepdim=True) + 1e-8)) @ F.normalize(b).T, "your answer"),
        (lambda a, b: a @ b.T / (torch.outer(a.norm(dim=1), b.norm(dim=1)) + 1e-12), "the constant that you add"),
    ],
}


def test_chapter():
    assert_chapter("01", WRONG, RIGHT)


@pytest.mark.parametrize(("id", "fn"), ALSO_RIGHT)
def test_other_right_answers_pass(id, fn):
    assert_right(id, fn)


def test_a_batch_of_one_is_not_enough():
    """A solution that ignores all but the first picture is refused."""
    assert_wrong("01.1", lambda images, size: patches_by_loop(images[:1], size).expand(len(images), -1, -1), "")
