"""DeViSE: pictures into the space of word vectors, so that a label never seen can be named by its word.

Source: Frome, Corrado, Shlens, Bengio, Dean, Ranzato and Mikolov, "DeViSE: A Deep Visual-Semantic Embedding Model",
NIPS 2013. Chapter 06 builds everything by hand.
Dimensions: B pictures, D numbers a word vector, C labels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import ShapeError


class DeViSE(nn.Module):
    """A picture encoder and one linear map into word-vector space (section 3.3); every vector has length 1.

    Args:
        encoder: pictures (B, 3, H, W) to features (B, encoder.d_model), such as `image_encoder("convnet")`.
        d_words: D, the numbers of a word vector.
    """

    def __init__(self, encoder: nn.Module, d_words: int):
        super().__init__()
        self.encoder = encoder
        self.project = nn.Linear(encoder.d_model, d_words)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Where each normalised picture lies among the words: unit vectors."""
        return F.normalize(self.project(self.encoder(images)), dim=1)

    def scores(self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "C D"]) -> Float[Tensor, "B C"]:
        """The cosine of each picture with each label's vector. Any labels will do, seen in training or not."""
        return self(images) @ F.normalize(labels, dim=1).T


class SoftmaxClassifier(nn.Module):
    """The baseline: the same encoder with one score for each of n_classes labels. It cannot name another label."""

    def __init__(self, encoder: nn.Module, n_classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.d_model, n_classes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Scores (logits) of each label for normalised pictures."""
        return self.head(self.encoder(images))


def hinge_rank_loss(
    scores: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"],
    margin: float = 0.1,
    wrong: str = "all",
    ignore: Bool[Tensor, "B C"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Every wrong label should score less than the right one by a margin (section 3.3, equation 1).

    The mean over pictures of Σ_j max(0, margin - scores[label] + scores[j]), over the wrong labels j.

    Args:
        scores: cosines of B pictures with C labels.
        labels: the right one of each picture.
        wrong: "all" adds up all wrong labels; "first" takes the paper's short cut, the first label that violates the
            margin when they are tried in random order, and nothing where none does. The first of a random order is one
            drawn evenly among those that violate, which is how it is computed. "hardest" counts the wrong label of
            highest score only (Faghri, Fleet, Kiros and Fidler, "VSE++", BMVC 2018).
        ignore: True where a label is right too and must not count as wrong: a synonym, another caption of the picture.
        generator: of the draws of "first".

    Raises ShapeError for shapes that do not fit, a label out of range, or another word for `wrong`.
    """
    _check(scores, labels, wrong)
    violation = (margin - scores.gather(1, labels[:, None]) + scores).relu()  # (B, C)
    own = F.one_hot(labels, scores.shape[1]).bool()
    violation = violation.masked_fill(own if ignore is None else own | ignore, 0.0)
    if wrong == "all":
        return violation.sum(dim=1).mean()
    if wrong == "hardest":
        return violation.amax(dim=1).mean()
    lottery = torch.rand(scores.shape, generator=generator).to(scores.device)
    first = (lottery * (violation > 0)).argmax(dim=1, keepdim=True)
    return violation.gather(1, first).mean()


def nearest_labels(
    vectors: Float[Tensor, "B D"], labels: Float[Tensor, "C D"], k: int = 1
) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
    """The k labels nearest to each vector by cosine, best first: their numbers and cosines."""
    cosines = F.normalize(vectors, dim=1) @ F.normalize(labels, dim=1).T
    values, numbers = cosines.topk(k, dim=1)
    return numbers, values


def _check(scores: Tensor, labels: Tensor, wrong: str) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ShapeError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)}: expected (B, C) and (B,)")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise ShapeError(f"a label lies outside 0 … {scores.shape[1] - 1}: {int(labels.min())} … {int(labels.max())}")
    if wrong not in ("all", "first", "hardest"):
        raise ShapeError(f"wrong is {wrong!r}: choose 'all', 'first' or 'hardest'")
