"""Metrics: each docstring gives the definition, the range and the source.

The scores of captions, answers and classes stand in modules of their own: metrics.captions, metrics.vqa,
metrics.classification.
"""

from mmlearn.metrics import captions, classification, vqa
from mmlearn.metrics.explanation import energy_inside, pointing_game
from mmlearn.metrics.retrieval import Retrieval, ranks, retrieval

__all__ = [
    "Retrieval", "captions", "classification", "energy_inside", "pointing_game", "ranks", "retrieval", "vqa",
]  # fmt: skip
