"""Retrieval between pictures and captions, in both directions, with several captions a picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmlearn.errors import ShapeError


def ranks(scores: Float[Tensor, "Q N"], right: Bool[Tensor, "Q N"]) -> Int[Tensor, " Q"]:
    """The rank (1 = first) of the best right candidate of each query.

    A tie counts against the model: among equal scores, wrong candidates stand first, so that a model that scores
    everything alike is last and not first. NaN counts as the lowest score. Every query needs a right candidate
    (else :class:`ShapeError`).
    """
    if not right.any(1).all():
        raise ShapeError(f"query {int((~right.any(1)).nonzero()[0])} has no right candidate")
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~right).sum(1)


@dataclass(frozen=True)
class Retrieval:
    """Ranks of the first right candidate for every query of one direction.

    n_right: how many candidates are right for each query (needed for `chance` only).
    """

    ranks: Int[Tensor, " Q"]
    candidates: int
    n_right: Int[Tensor, " Q"] | None = None

    def recall(self, k: int) -> float:
        """Share of queries with a right candidate among the first ``k`` (0…1). Say which k: recall@5 is not recall@1.

        It is *not* the share of the right candidates that are found: where a picture has five captions, one is enough.
        """
        self._check(k)
        return (self.ranks <= k).double().mean().item()

    def chance(self, k: int) -> float:
        """`recall(k)` of a random order, exactly: k / candidates with one right candidate a query, more with more."""
        self._check(k)
        right = torch.ones_like(self.ranks) if self.n_right is None else self.n_right
        left = self.candidates - torch.arange(min(k, self.candidates), device=right.device)  # before each of k draws
        wrong_left = left - right[:, None]  # (Q, k), if only wrong ones were drawn so far
        return 1 - (wrong_left.double() / left).prod(1).mean().item()

    @property
    def median_rank(self) -> float:
        """Median rank of the first right candidate (1…candidates; x.5 between two ranks).

        Chance is about half of the candidates where each query has one right candidate, less where it has more.
        """
        return self.ranks.double().quantile(0.5).item()

    @property
    def mean_rank(self) -> float:
        """Mean rank of the first right candidate (1…candidates); a few queries far off move it, not the median."""
        return self.ranks.double().mean().item()

    def _check(self, k: int) -> None:
        if k < 1:
            raise ShapeError(f"k is {k}, expected 1 or more: recall@k looks at the first k candidates")


def retrieval(
    similarity: Float[Tensor, "B N"], image_of_caption: Int[Tensor, " N"] | None = None
) -> tuple[Retrieval, Retrieval]:
    """Text→image and image→text retrieval from one similarity matrix of B pictures and N captions.

    ``image_of_caption[n]`` is the row of caption n's picture; without it caption n belongs to picture n. Text→image
    asks every caption for its picture; image→text asks every picture for any of its captions, of which it may have any
    number but 0: other captions of the same picture are right, not competitors. Ties as in `ranks`.

    Raises ShapeError for shapes that do not fit, a row that does not exist, a picture without a caption.
    Source: Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task", section 5.
    """
    if similarity.ndim != 2 or not similarity.numel():
        raise ShapeError(f"similarity has shape {tuple(similarity.shape)}, expected (pictures, captions)")
    pictures, captions = similarity.shape
    if image_of_caption is None:
        if pictures != captions:
            raise ShapeError(f"{pictures} pictures and {captions} captions: pass image_of_caption")
        image_of_caption = torch.arange(captions)
    if image_of_caption.shape != (captions,):
        raise ShapeError(f"image_of_caption has shape {tuple(image_of_caption.shape)}, expected ({captions},)")
    if image_of_caption.min() < 0 or image_of_caption.max() >= pictures:
        outside = image_of_caption[(image_of_caption < 0) | (image_of_caption >= pictures)][0]
        raise ShapeError(f"image_of_caption names picture {int(outside)}, there are 0 to {pictures - 1}")
    right = image_of_caption.to(similarity.device)[None] == torch.arange(pictures, device=similarity.device)[:, None]
    if not right.any(1).all():
        raise ShapeError(f"picture {int((~right.any(1)).nonzero()[0])} has no caption: leave it out of similarity")
    return (
        Retrieval(ranks(similarity.T, right.T), pictures, right.sum(0)),
        Retrieval(ranks(similarity, right), captions, right.sum(1)),
    )
