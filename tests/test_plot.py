"""Figures carry alt text, are small, and refuse what they cannot draw."""

import io

import pytest
import torch
from PIL import Image

import mmlearn as mm
from mmlearn.errors import MMLearnError, ShapeError
from mmlearn.plot.figures import to_png


def test_show_needs_alt_text_that_says_something():
    figure = mm.plot.bars({"a": 1.0}, xlabel="value")
    with pytest.raises(MMLearnError, match="says too little"):
        mm.show(figure, alt="figure")
    with pytest.raises(TypeError, match="alt"):
        mm.show(figure)


def test_alt_text_reaches_the_output(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    mm.show(mm.plot.curves({"loss": [3, 2, 1]}, xlabel="step", ylabel="loss"), alt="The loss falls from 3 to 1.")
    assert shown[0].alt == "The loss falls from 3 to 1."
    assert shown[0]._repr_mimebundle_()[1]["image/png"]["alt"] == "The loss falls from 3 to 1."


def test_png_is_a_small_palette_picture():
    data = to_png(mm.plot.pictures(torch.randint(0, 255, (8, 3, 32, 32), dtype=torch.uint8), ["a caption"] * 8))
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert len(data) < 80_000


def test_every_kind_of_figure_draws():
    to_png(mm.plot.heatmap(torch.eye(3), rows=list("abc"), columns=["left", "middle", "right"]))
    to_png(mm.plot.heatmap(torch.full((2, 2), float("-inf")).fill_diagonal_(0.5)))
    to_png(
        mm.plot.curves({"a": ([1, 10], [torch.tensor(1.0), 2])}, xlabel="n", ylabel="s", log="xy", lines={"chance": 1})
    )
    to_png(mm.plot.bars({"a": 0.2, "b": 0.9}, xlabel="accuracy", lines={"chance": 0.1}, title="t"))
    to_png(mm.plot.pictures([torch.rand(3, 8, 8), torch.rand(8, 8)], colours=["red", "green"], captions=["x", "y"]))


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match="2 pictures but 1 captions"):
        mm.plot.pictures(torch.rand(2, 3, 8, 8), ["a"])
    with pytest.raises(ShapeError, match="needs a matrix"):
        mm.plot.heatmap(torch.rand(3))
    with pytest.raises(ShapeError, match="no pictures"):
        mm.plot.pictures([])
