"""Metrics: each docstring gives the definition, the range and the source."""

from mmlearn.metrics.retrieval import Retrieval, ranks, retrieval

__all__ = ["Retrieval", "ranks", "retrieval"]
