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
    """Ranks of the first right candidate for every query of one direction."""

    ranks: Int[Tensor, " Q"]
    candidates: int

    def recall(self, k: int) -> float:
        """Share of queries with a right candidate among the first ``k`` (0…1; chance ≈ k / candidates)."""
        return (self.ranks <= k).float().mean().item()

    @property
    def median_rank(self) -> float:
        """Median rank of the first right candidate (1…candidates; chance ≈ half of the candidates)."""
        return self.ranks.double().quantile(0.5).item()

    @property
    def mean_rank(self) -> float:
        """Mean rank of the first right candidate (1…candidates)."""
        return self.ranks.double().mean().item()


def retrieval(
    similarity: Float[Tensor, "B N"], image_of_caption: Int[Tensor, " N"] | None = None
) -> tuple[Retrieval, Retrieval]:
    """Text→image and image→text retrieval from one similarity matrix of B pictures and N captions.

    ``image_of_caption[n]`` is the row of caption n's picture; without it caption n belongs to picture n. Text→image
    asks every caption for its picture; image→text asks every picture for any of its captions.
    Source: Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task", section 5.
    """
    pictures, captions = similarity.shape
    if image_of_caption is None:
        if pictures != captions:
            raise ShapeError(f"{pictures} pictures and {captions} captions: pass image_of_caption")
        image_of_caption = torch.arange(captions)
    right = image_of_caption.to(similarity.device)[None] == torch.arange(pictures, device=similarity.device)[:, None]
    return Retrieval(ranks(similarity.T, right.T), pictures), Retrieval(ranks(similarity, right), captions)
