"""Figures: every one has alt text and a palette that colour-blind people can read.

``show(fig, alt=…)`` is the only way in which a chapter shows a figure.
"""

from mmlearn.plot.figures import PALETTE, bars, curves, heatmap, pictures, show
from mmlearn.plot.search import search_box

__all__ = ["PALETTE", "bars", "curves", "heatmap", "pictures", "search_box", "show"]
