"""Scores of classification: among the first k, near in a hierarchy, and as sure as it is right.

scores are (N, C), higher = more likely; labels (N,) number the right class of each row, 0 to C - 1. As in retrieval
a tie counts against the model, and not-a-number is the lowest score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmlearn.errors import DataError, ShapeError
from mmlearn.metrics.retrieval import ranks


def top_k(scores: Float[Tensor, "N C"], labels: Int[Tensor, " N"], k: int = 1) -> float:
    """The share of rows whose right class is among the k highest scores, 0…1; chance is k / C.

    Among equal scores the right class stands last, so that a model without opinion scores 0 (for k < C). Top-5 is not
    accuracy: say which k it is. Also called flat hit@k.

    Raises ShapeError for shapes that do not fit, no row, a label or k out of range.
    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015, section 4.1.
    """
    _check(scores, labels, k)
    return (ranks(scores, _one_hot(scores, labels)) <= k).double().mean().item()


def hierarchical_precision(
    scores: Float[Tensor, "N C"],
    labels: Int[Tensor, " N"],
    distances: Float[Tensor, "C C"] | Int[Tensor, "C C"],
    k: int,
) -> float:
    """Hierarchical precision at k, 0…1: the share of the k highest classes that lie near the right one.

    Near are the classes within a radius of the right one in the hierarchy, the radius growing from 0 until at least k
    classes lie inside. At k = 1 it is `top_k` with k = 1; at k = C it is 1 for every model. Among equal scores classes
    outside stand first.

    Args:
        distances: (C, C), steps between classes in the hierarchy, 0 on the diagonal only (see `tree_distances`).
        k: 1 to C.

    Raises ShapeError as `top_k`, and for distances that are not (C, C) with a diagonal of 0.
    Source: Frome et al., "DeViSE", NeurIPS 2013, appendix A; the distance in a hierarchy as a score is Deng et al.,
    "What Does Classifying More Than 10,000 Image Categories Tell Us?", ECCV 2010.
    """
    _check(scores, labels, k)
    near = _near(distances, scores.shape[1], k)[labels]  # (N, C)
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = near.int().argsort(dim=1, stable=True)  # outsiders first, so that they win ties
    best = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True)[:, :k])
    return near.gather(1, best).double().mean().item()


def _near(distances: Tensor, n_classes: int, k: int) -> Bool[Tensor, "C C"]:
    """For each class, which classes lie within the smallest radius that holds k of them."""
    if distances.shape != (n_classes, n_classes):
        raise ShapeError(f"distances have shape {tuple(distances.shape)}, expected {(n_classes, n_classes)}")
    if not torch.equal(distances == 0, torch.eye(n_classes, dtype=torch.bool, device=distances.device)):
        raise ShapeError("distances must be 0 between a class and itself, and nowhere else")
    radius = distances.sort(dim=1).values[:, k - 1 : k]
    return distances <= radius


def tree_distances(names: Sequence[str], parents: dict[str, str]) -> Int[Tensor, "C C"]:
    """How many steps lie between classes in a tree, up to the nearest common ancestor and down again.

    Args: names, the C classes in the order of their numbers; parents, the parent of every class and inner node, except
    the root's: tree_distances(["cat", "dog", "car"], {"cat": "animal", "dog": "animal", "animal": "thing",
    "car": "thing"}) has 2 between cat and dog, 3 between cat and car.

    Raises DataError for a class that is not in the tree, for two trees, and for a circle.
    """
    paths = [_path(name, parents) for name in names]
    if len({path[-1] for path in paths}) > 1:
        raise DataError(f"the classes have several roots, {sorted({path[-1] for path in paths})}: expected one tree")
    steps = [{node: i for i, node in enumerate(path)} for path in paths]
    return torch.tensor(
        [[next(i + up[node] for i, node in enumerate(path) if node in up) for up in steps] for path in paths]
    )


def _path(name: str, parents: dict[str, str]) -> list[str]:
    """From a class up to the root."""
    if name not in parents:
        raise DataError(f"class {name!r} has no parent: name one in parents")
    path = [name]
    while path[-1] in parents:
        path.append(parents[path[-1]])
        if path[-1] in path[:-1]:
            raise DataError(f"the parents of {name!r} go in a circle: {' → '.join(path)}")
    return path


@dataclass(frozen=True)
class Calibration:
    """How sure a model is and how often it is right, by bins of its confidence.

    error: the expected calibration error, 0 (as sure as right) … 1. confidence, accuracy (bins,): means in each bin,
    not-a-number where it is empty. count (bins,): rows in each. edges (bins + 1,): 0 … 1, bin b is
    (edges[b], edges[b + 1]].
    """

    error: float
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    count: Int[Tensor, " bins"]
    edges: Float[Tensor, " edges"]


def calibration(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"], bins: int = 15) -> Calibration:
    """The expected calibration error and what a reliability diagram needs.

    A row's confidence is its highest probability, right or wrong by its class. ECE is the mean over bins of
    |accuracy - confidence|, weighted by the rows in them. It depends on the number of bins and says nothing about
    accuracy: a model that always gives the classes' frequencies has 0. Two classes equally probable count as wrong.

    Args: probabilities, rows that sum to 1 (pass softmax(logits)); bins, equally wide.
    Raises ShapeError as `top_k`, and DataError for rows that are no probabilities, NaN included.
    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 2, equation 3.
    """
    _check(probabilities, labels, 1)
    if bins < 1:
        raise DataError(f"bins is {bins}, expected 1 or more: 15 is the usual number")
    p = probabilities.double()
    bad = ~((p >= 0).all(1) & ((p.sum(1) - 1).abs() < 1e-2))
    if bad.any():
        raise DataError(f"row {int(bad.nonzero()[0])} is no probability (0 or more, sum 1): pass softmax(logits)")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=p.device)
    confidence = p.amax(1).clamp(max=1)
    right = (ranks(p, _one_hot(p, labels)) == 1).double()
    bin_of = (torch.bucketize(confidence, edges) - 1).clamp(min=0)  # (edges[b], edges[b + 1]]
    count = bin_of.bincount(minlength=bins)
    sure, hits = (bin_of.bincount(weights=w, minlength=bins) for w in (confidence, right))
    error = (hits - sure).abs().sum() / len(p)
    return Calibration(error.item(), sure / count, hits / count, count, edges)


def _one_hot(scores: Tensor, labels: Tensor) -> Bool[Tensor, "N C"]:
    return labels[:, None].to(scores.device) == torch.arange(scores.shape[1], device=scores.device)


def _check(scores: Tensor, labels: Tensor, k: int) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ShapeError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)}: expected (N, C) and (N,)")
    if not scores.numel():
        raise ShapeError(f"scores are empty, {tuple(scores.shape)}: there is nothing to score")
    n_classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ShapeError(f"a label is outside 0 … {n_classes - 1}: {int(labels.min())} to {int(labels.max())}")
    if not 1 <= k <= n_classes:
        raise ShapeError(f"k is {k}, expected 1 to {n_classes}, the number of classes")
