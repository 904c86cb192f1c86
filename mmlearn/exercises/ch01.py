"""Exercises of chapter 01: pictures, text, audio and video as tensors; embeddings and similarity."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception

# 01.1 Patches --------------------------------------------------------------------------------------------------


def patches(images: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) as patches (B, N, 3·size·size): rows first, each patch channel by channel."""
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * size * size)


def _patches_by_reshape(images, size):
    return images.reshape(images.shape[0], -1, 3 * size * size)


def _patches_by_columns(images, size):
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 4, 2, 1, 3, 5).reshape(b, -1, c * size * size)


def _patches_colour_last(images, size):
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, c * size * size)


def _patches_turned(images, size):
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 5, 3).reshape(b, -1, c * size * size)


def _patches_of_turned_picture(images, size):
    return patches(images.mT, size)


def _patches_strided(images, size):
    b, c, h, w = images.shape
    cut = images.reshape(b, c, size, h // size, size, w // size)
    return cut.permute(0, 3, 5, 1, 2, 4).reshape(b, -1, c * size * size)


def _patches_channel_first(images, size):
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 1, 2, 4, 3, 5).reshape(b, -1, c * size * size)


def _patches_unfolded(images, size):
    return patches(images, size).mT.reshape(images.shape[0], -1, 3 * size * size)


def _patch_cases(g):
    return [
        (torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4).float(), 2),
        (torch.arange(3 * 4 * 6).reshape(1, 3, 4, 6).float(), 2),
        (torch.rand(2, 3, 12, 8, generator=g), 4),
        (torch.rand(3, 3, 5, 5, generator=g), 5),
    ]


# 01.2 Byte-pair encoding of a new word -------------------------------------------------------------------------


def apply_merges(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Pieces of ``word``: each merge in the order in which it was learned, everywhere, from the left."""
    pieces = list(word)
    for pair in merges:
        pieces = _merge_everywhere(pieces, pair)
    return pieces


def _merge_everywhere(pieces, pair):
    out, i = [], 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == tuple(pair):
            out.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out


def _longest_first(word, merges):
    vocab, out, i = {a + b for a, b in merges}, [], 0
    while i < len(word):
        size = next((n for n in range(len(word) - i, 1, -1) if word[i : i + n] in vocab), 1)
        out.append(word[i : i + size])
        i += size
    return out


def _merges_once_per_word(word, merges):
    pieces = list(word)
    for pair in merges:
        i = next((i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == tuple(pair)), None)
        if i is not None:
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def _merges_left_to_right(word, merges):
    pieces, known = list(word), {tuple(pair) for pair in merges}
    while True:
        i = next((i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) in known), None)
        if i is None:
            return pieces
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def _merges_grown_from_the_left(word, merges):
    pieces, known, i = list(word), {tuple(pair) for pair in merges}, 0
    while i < len(pieces) - 1:
        if (pieces[i], pieces[i + 1]) in known:
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        else:
            i += 1
    return pieces


def _merges_in_sweeps(word, merges):
    pieces, known = list(word), {tuple(pair) for pair in merges}
    while True:
        out, i = [], 0
        while i < len(pieces):
            both = tuple(pieces[i : i + 2]) in known
            out.append("".join(pieces[i : i + 2]) if both else pieces[i])
            i += 2 if both else 1
        if out == pieces:
            return out
        pieces = out


def _merges_latest_first(word, merges):
    pieces, rank = list(word), {tuple(pair): n for n, pair in enumerate(merges)}
    while True:
        found = [pair for pair in zip(pieces, pieces[1:], strict=False) if pair in rank]
        if not found:
            return pieces
        pieces = _merge_everywhere(pieces, max(found, key=rank.get))


def _merges_backwards(word, merges):
    pieces = list(word)
    for pair in reversed(merges):
        pieces = _merge_everywhere(pieces, pair)
    return pieces


def _merges_as_text(word, merges):
    text = " ".join(word)
    for a, b in merges:
        text = text.replace(f"{a} {b}", a + b)
    return text.split(" ") if text else []


def _merge_cases(g):
    toy = [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w"), ("n", "e"), ("ne", "w"), ("new", "est")]
    crossing = [("a", "b"), ("b", "c"), ("ab", "c"), ("bc", "d"), ("c", "d")]
    return [
        ("lowest", toy),
        ("news", toy),
        ("newestnewest", toy),
        ("", toy),
        ("q", toy),
        ("bcd", [("c", "d"), ("b", "c"), ("bc", "d")]),
        ("nest", toy),
        ("aaaaa", [("a", "a"), ("aa", "a")]),
        ("abcd", crossing),
        ("xabab", [("x", "a"), ("a", "b")]),
        ("abc", [("b", "c"), ("a", "bc"), ("a", "b")]),
    ]


# 01.3 Mean with a mask -----------------------------------------------------------------------------------------


def masked_mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, D) of the vectors (B, T, D) that the mask (B, T) keeps; zeros where it keeps none."""
    total = vectors.masked_fill(~mask[..., None], 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def _mean_of_all(vectors, mask):
    return vectors.mean(1)


def _mean_over_batch(vectors, mask):
    return vectors[mask].mean(0).expand(vectors.shape[0], -1)


def _mean_variant(keep=lambda mask: mask, count=lambda mask: mask.sum(1, keepdim=True), fill=True, clamp=True):
    """A masked mean with one thing wrong, in the ways in which students write it."""

    def wrong(vectors, mask):
        kept = keep(mask)[..., None]
        total = (vectors.masked_fill(~kept, 0) if fill else vectors * kept).sum(1)
        number = count(keep(mask))
        return total / (number.clamp(min=1) if clamp else number)

    return wrong


def _mean_counting_numbers(vectors, mask):
    kept = vectors.masked_fill(~mask[..., None], 0)
    return kept.sum(1) / (kept != 0).sum(1).clamp(min=1)


def _mean_counting_vectors(vectors, mask):
    kept = vectors.masked_fill(~mask[..., None], 0)
    return kept.sum(1) / (kept != 0).any(-1).sum(1, keepdim=True).clamp(min=1)


def _mean_without_nan(vectors, mask):
    return masked_mean(vectors.nan_to_num(), mask)


def _verify_mean(fn, generator) -> str | None:
    """The mean of one vector is that vector, and the kept vectors get their gradient."""
    vectors = 1 + torch.rand(2, 3, 4, generator=generator)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    if (fn(vectors.clone(), mask.clone())[0] - vectors[0, 0]).abs().max() > 4e-7:
        return (
            "the mean of a single vector is not quite that vector. Is something added to the count? Only the count of "
            "an empty row may change"
        )
    vectors.requires_grad_()
    mean = fn(vectors, mask.clone())
    if not mean.requires_grad:
        return (
            "the values are right, but no gradient comes back to the vectors, so an embedding before this mean could "
            "not learn. Where does your function leave PyTorch's graph?"
        )
    (gradient,) = torch.autograd.grad(mean.sum(), vectors)
    right = (mask / mask.sum(1, keepdim=True))[..., None].expand_as(gradient)
    if not torch.allclose(gradient, right, atol=1e-5):
        return "the values are right, but the gradient is not: each kept vector should get 1/count, the others 0"
    return None


def _mean_misconceptions() -> list[Misconception]:
    """Each mistake with and without the care for empty rows and for nan, so that it is recognised either way."""

    def told(says, styles, **wrong):
        return [Misconception(says, _mean_variant(**wrong, **style)) for style in styles]

    nan, zero = {"fill": False}, {"clamp": False}
    every = [{}, nan, zero, {**nan, **zero}]
    return [
        Misconception(
            "padding still counts: you average over all T places. A caption's vector would depend on how long its "
            "neighbours in the batch are",
            _mean_of_all,
        ),
        *told(
            "you zero the padding but still divide by T: short captions get short vectors. Divide by the number of "
            "words kept, one number a caption",
            [{}, nan],
            count=lambda mask: torch.full((len(mask), 1), mask.shape[1]),
        ),
        *told(
            "your mask is the wrong way round: here True = keep. (PyTorch's key_padding_mask is the opposite, True = "
            "ignore: this is one of the most frequent mistakes of all)",
            every,
            keep=lambda mask: ~mask,
        ),
        *told(
            "a row in which nothing is kept gives 0/0 = nan; the text asks for zeros there. One nan in a batch is "
            "enough to spoil a whole training run",
            [zero, {**nan, **zero}],
        ),
        *told(
            "you multiply by the mask: what is 0 * nan? A masked place must not matter, whatever stands there",
            [nan],
        ),
        *(
            Misconception(
                "you count what is not zero: a real word's vector may hold zeros, or be all zeros. What says which "
                "places are real?",
                wrong,
            )
            for wrong in (_mean_counting_numbers, _mean_counting_vectors)
        ),
        Misconception(
            "you turn every nan into a number, at the kept places too: there a nan is a fault that must be seen, and "
            "you hide it",
            _mean_without_nan,
        ),
        Misconception("you average over the whole batch: every caption needs its own mean", _mean_over_batch),
        *told(
            "you divide every caption by the same number; each needs its own count of words",
            every,
            count=lambda mask: mask.sum() / len(mask),
        ),
    ]


def _mask_cases(g):
    lengths = torch.tensor([5, 2, 1, 4])
    random = torch.randn(4, 5, 3, generator=g)
    ragged = torch.arange(5)[None] < lengths[:, None]
    return [
        (torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])),
        (random, ragged),
        (torch.randn(3, 4, 2, generator=g), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0]]).bool()),
        (torch.randn(2, 3, 2, generator=g), torch.tensor([[True, True, True], [False, False, False]])),
        (torch.tensor([[[1.0, 2.0], [3.0, 6.0], [float("nan"), 9.0]]]), torch.tensor([[True, True, False]])),
        (torch.tensor([[[0.0, 2.0], [3.0, 6.0], [0.0, 0.0]]]), torch.tensor([[True, True, True]])),
        (torch.tensor([[[1.0, float("nan")], [3.0, 6.0], [5.0, 9.0]]]), torch.tensor([[True, True, False]])),
    ]


# 01.4 The wheel that turns backwards ---------------------------------------------------------------------------


def apparent_turn(turns_per_second: float, frames_per_second: float, spokes: int) -> float:
    """Degrees per frame, from −180/spokes up to but not including 180/spokes, that an eye reads from a filmed wheel."""
    period = 360 / spokes
    turn = 360 * turns_per_second / frames_per_second
    return (turn + period / 2) % period - period / 2


def _turn_true(turns_per_second, frames_per_second, spokes):
    return 360 * turns_per_second / frames_per_second


def _turn_without_spokes(turns_per_second, frames_per_second, spokes):
    return apparent_turn(turns_per_second, frames_per_second, 1)


def _turn_never_negative(turns_per_second, frames_per_second, spokes):
    return (360 * turns_per_second / frames_per_second) % (360 / spokes)


def _turn_one_period(turns_per_second, frames_per_second, spokes):
    period, turn = 360 / spokes, 360 * turns_per_second / frames_per_second
    if turn >= period / 2:
        turn -= period
    return turn + period if turn < -period / 2 else turn


def _turn_half_forward(turns_per_second, frames_per_second, spokes):
    return -apparent_turn(-turns_per_second, frames_per_second, spokes)


def _turn_upside_down(turns_per_second, frames_per_second, spokes):
    return apparent_turn(frames_per_second, turns_per_second, spokes) if turns_per_second else 0.0


def _turn_in_turns(turns_per_second, frames_per_second, spokes):
    return apparent_turn(turns_per_second, frames_per_second, spokes) / 360


def _turn_per_second(turns_per_second, frames_per_second, spokes):
    return apparent_turn(turns_per_second, frames_per_second, spokes) * frames_per_second


def _turn_cases(g):
    random = torch.rand(6, 2, generator=g).tolist()
    return [
        (1.0, 24.0, 1),
        (0.0, 24.0, 4),
        (20.0, 24.0, 1),
        (5.0, 24.0, 4),
        (3.0, 24.0, 4),
        (-5.0, 24.0, 4),
        (6.0, 24.0, 4),
        (31.0, 25.0, 3),
        (4.5, 24.0, 12),
        (-17.0, 30.0, 12),
        *((60 * a - 30, 12 + 48 * b, 1 + i) for i, (a, b) in enumerate(random)),
    ]


# 01.5 Cosine similarities --------------------------------------------------------------------------------------


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities (n, m) of the rows of ``a`` (n, d) with those of ``b`` (m, d); 0 for a zero vector."""
    return _unit(a) @ _unit(b).T


def _unit(x):
    length = x.norm(dim=1, keepdim=True)
    return torch.where(length > 0, x / length, 0.0)


def _cosine_dot(a, b):
    return a @ b.T


def _cosine_columns(a, b):
    return (a / a.norm(dim=0)) @ (b / b.norm(dim=0)).T


def _cosine_columns_normalised(a, b):
    return F.normalize(a, dim=0) @ F.normalize(b, dim=0).T


def _cosine_one_side(a, b):
    return _unit(a) @ b.T


def _cosine_one_side_nan(a, b):
    return (a / a.norm(dim=1, keepdim=True)) @ b.T


def _cosine_nan(a, b):
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def _cosine_squared(a, b):
    squares = a.square().sum(1)[:, None] * b.square().sum(1)[None]
    return torch.where(squares > 0, a @ b.T / squares, 0.0)


def _cosine_whole(a, b):
    return a @ b.T / (a.norm() * b.norm()).clamp(min=1e-12)


def _cosine_bounded(eps, added, of_product):
    """Cosines with ``eps`` added to each length (or as its lower bound), or to the product of the two lengths."""

    def bound(length):
        return length + eps if added else length.clamp(min=eps)

    def wrong(a, b):
        lengths = a.norm(dim=1)[:, None], b.norm(dim=1)[None]
        return a @ b.T / (bound(lengths[0] * lengths[1]) if of_product else bound(lengths[0]) * bound(lengths[1]))

    return wrong


def _cosine_bounds() -> list[Callable]:
    """The bounds that are too coarse for vectors of length 1e-8."""
    kinds = [(added, of_product) for added in (True, False) for of_product in (True, False)]
    return [_cosine_bounded(10.0**-k, *kind) for k in range(2, 15) for kind in kinds]


def _cosine_cases(g):
    zero = torch.randn(4, 3, generator=g)
    zero[2] = 0
    return [
        (torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0], [0.0, 5.0]])),
        (torch.randn(3, 5, generator=g), torch.randn(2, 5, generator=g)),
        (zero, torch.randn(2, 3, generator=g)),
        (torch.randn(2, 4, generator=g) * 1e-4, torch.randn(3, 4, generator=g) * 1e3),
        tuple(1e-8 * F.normalize(torch.randn(n, 4, generator=g), dim=1) for n in (2, 3)),
        (torch.zeros(1, 2), torch.zeros(2, 2)),
    ]


EXERCISES = [
    Exercise(
        id="01.1",
        title="A picture as a row of patches",
        inputs=_patch_cases,
        solution=patches,
        misconceptions=[
            Misconception(
                "reshape alone does not cut patches: it takes the numbers in the order in which they lie in memory, "
                "so your 'patch' is a stretch of the first rows of the red channel. Split H and W into (how many, "
                "size) first, then bring the axes into order",
                _patches_by_reshape,
            ),
            Misconception(
                "your patches run down the columns; the text asks for rows first, as one reads. Look at the order of "
                "the two axes that count patches",
                _patches_by_columns,
            ),
            Misconception(
                "inside a patch you put the three colours of one pixel side by side; the text asks for the whole red "
                "patch, then green, then blue",
                _patches_colour_last,
            ),
            *(
                Misconception(
                    "height and width are swapped: the picture, or each patch, is mirrored along its diagonal", wrong
                )
                for wrong in (_patches_turned, _patches_of_turned_picture)
            ),
            Misconception(
                "you split each axis into (size, how many): that takes every n-th pixel, a small copy of the whole "
                "picture, not a patch of neighbours. Which comes first in memory, the patch or the place in it?",
                _patches_strided,
            ),
            Misconception(
                "channel before patch: the squares are cut well, but each of your rows is filled from one channel's "
                "patches. Bring the two patch axes to the front, before the channel",
                _patches_channel_first,
            ),
            Misconception(
                "the numbers of a patch stand before the patches here: the two axes must be exchanged, and a reshape "
                "only gives them new names",
                _patches_unfolded,
            ),
        ],
        hints=[
            "Do it on paper for one channel, 4 × 4 numbers and patches of 2 × 2. Which numbers are the second patch?",
            "Every axis of the picture becomes two: which patch, and where in the patch. Splitting an axis never mixes "
            "it with another one; after it, the axes must come into another order.",
            "reshape splits (H into H/size and size), permute orders. After the split there are six axes: B, C, rows "
            "of patches, row in the patch, columns of patches, column in the patch. Which three must stand last, in "
            "which order, before the last reshape?",
        ],
        atol=0.0,
    ),
    Exercise(
        id="01.2",
        title="Cut a new word with learned merges",
        inputs=_merge_cases,
        solution=apply_merges,
        misconceptions=[
            Misconception(
                "you take the longest known piece from the left: that is WordPiece. Byte-pair encoding repeats its "
                "merges in the order in which they were learned, even where a longer piece would fit",
                _longest_first,
            ),
            Misconception(
                "you make each merge once per word, at its first place; it must be made at every place of the word",
                _merges_once_per_word,
            ),
            *(
                Misconception(
                    "you merge from the left; take the earliest-learned pair first, wherever in the word it stands",
                    wrong,
                )
                for wrong in (_merges_left_to_right, _merges_grown_from_the_left, _merges_in_sweeps)
            ),
            Misconception(
                "you begin with the merges learned last; begin with those learned first, they were the most frequent",
                _merges_latest_first,
            ),
            Misconception(
                "you go through the merges backwards: a late merge needs the pieces that the earlier ones make",
                _merges_backwards,
            ),
            Misconception(
                "replacing in the text 'l o w' also hits pairs that only look the same: in 'xa b' the text 'a b' is "
                "found, though no piece is 'a'. Compare pieces, not characters",
                _merges_as_text,
            ),
        ],
        hints=[
            "Start with the single characters. The first merge of the list was the most frequent pair in training: it "
            "is made first, everywhere in the word.",
            "A loop over the merges, and inside it a walk over the pieces from the left: is this piece and the next "
            "one the pair? Then write them as one and step over both, else keep the piece and step on.",
            "For ('a', 'a') in 'aaaaa' the walk gives aa, aa, a: step over both pieces after a merge.",
        ],
    ),
    Exercise(
        id="01.3",
        title="The mean of the real words",
        inputs=_mask_cases,
        solution=masked_mean,
        misconceptions=_mean_misconceptions(),
        hints=[
            "A mean is a sum and a count. Which of the two does padding disturb? Both.",
            "The sum: put a zero at every masked place before you sum, whatever stood there. Which shape must the mask "
            "have to fit over (B, T, D)? The count: one number a caption, shape (B, 1), from the mask alone.",
            "masked_fill replaces where a mask is True, and mask[..., None] has the shape (B, T, 1). The count of an "
            "empty row may not stay 0, and every other count must stay as it is: look at clamp.",
        ],
        verify=_verify_mean,
    ),
    Exercise(
        id="01.4",
        title="The wheel that turns backwards",
        inputs=_turn_cases,
        solution=apparent_turn,
        misconceptions=[
            Misconception(
                "that is how far the wheel really turned between two frames. Nobody sees that: after 1/spokes of a "
                "turn the wheel looks the same as before",
                _turn_true,
            ),
            Misconception(
                "you forgot the spokes: a wheel with four spokes looks the same after a quarter of a turn, so the "
                "period is not 360°",
                _turn_without_spokes,
            ),
            Misconception(
                "your wheel can never turn backwards: of the turns that look alike, the eye takes the smallest, and "
                "that may be negative",
                _turn_never_negative,
            ),
            Misconception(
                "you take one period off, once; a fast wheel may have passed several spokes between two frames",
                _turn_one_period,
            ),
            Misconception(
                "one case is left: exactly half a period counts as backwards here, so it is negative",
                _turn_half_forward,
            ),
            Misconception(
                "you divided frames by turns: how far does a wheel turn in one frame if it makes 2 turns in a second "
                "of 24 frames?",
                _turn_upside_down,
            ),
            Misconception("that is in turns; the text asks for degrees", _turn_in_turns),
            Misconception("that is per second; the text asks for degrees per frame", _turn_per_second),
        ],
        hints=[
            "How many degrees does the wheel really turn between two frames? After how many degrees does a wheel with "
            "`spokes` equal spokes look the same?",
            "All turns that differ by whole periods look alike. Take the one nearest to zero; half a period exactly "
            "counts as backwards.",
            "Python's % gives a result from 0 up to the period, for negative numbers too. The result here must run as "
            "far, but begin below zero: where, and how do you get it there?",
        ],
        atol=1e-6,
    ),
    Exercise(
        id="01.5",
        title="Cosine similarities, zero vectors included",
        inputs=_cosine_cases,
        solution=cosine_matrix,
        misconceptions=[
            Misconception("that is the dot product: long vectors win. Cosine divides by both lengths", _cosine_dot),
            *(
                Misconception(
                    "you divided by the length of the columns (dim=0): each number would depend on the other vectors. "
                    "The length of a row sums over its features, dim=1",
                    wrong,
                )
                for wrong in (_cosine_columns, _cosine_columns_normalised)
            ),
            *(
                Misconception("only one of the two sides has length one: divide the other by its length too", wrong)
                for wrong in (_cosine_one_side, _cosine_one_side_nan)
            ),
            Misconception(
                "a zero vector gives 0/0 = nan: an empty caption must be similar to nothing, so 0", _cosine_nan
            ),
            Misconception(
                "you divided by the squared lengths: the length is the square root of the sum of squares",
                _cosine_squared,
            ),
            Misconception(
                "you divided by one length for the whole matrix: norm() without dim runs over all entries",
                _cosine_whole,
            ),
            *(
                Misconception(
                    "the constant that you add to a length, or the smallest length that you allow, is not small beside "
                    "honest short vectors: down to a length of 1e-8, on both sides at once too, length must not matter",
                    wrong,
                )
                for wrong in _cosine_bounds()
            ),
        ],
        hints=[
            "First give every row the length one, then the dot products are the cosines.",
            "The length of a row sums over its features. To divide each row by its own, the lengths need the shape "
            "(n, 1), not (n,).",
            "norm with keepdim=True keeps that axis. 0/0 is nan, but 0 divided by any positive number is 0: what is "
            "the smallest change to a length that helps the zero vector and touches no honest one?",
        ],
        atol=2e-4,
    ),
]
