"""Metrics: each docstring gives the definition, the range and the source."""

from mmlearn.metrics.explanation import energy_inside, pointing_game
from mmlearn.metrics.retrieval import Retrieval, ranks, retrieval

__all__ = ["Retrieval", "energy_inside", "pointing_game", "ranks", "retrieval"]
