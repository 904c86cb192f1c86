"""Figures carry alt text, are small, and refuse what they cannot draw."""

import io

import pytest
import torch
from PIL import Image

import mmlearn as mm
from mmlearn.errors import MMLearnError, ShapeError
from mmlearn.plot.figures import shrink, to_png


def test_show_needs_alt_text_that_says_something():
    figure = mm.plot.bars({"a": 1.0}, xlabel="value")
    with pytest.raises(MMLearnError, match="says too little"):
        mm.show(figure, alt="figure")
    with pytest.raises(TypeError, match="alt"):
        mm.show(figure)


def test_alt_text_reaches_the_output(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda value, **_: shown.append(value))
    mm.show(mm.plot.curves({"loss": [3, 2, 1]}, xlabel="step", ylabel="loss"), alt="The loss falls from 3 to 1.")
    assert shown[0].alt == "The loss falls from 3 to 1."
    assert shown[0]._repr_mimebundle_()[1]["image/png"]["alt"] == "The loss falls from 3 to 1."


def test_alt_text_stands_folded_under_the_figure_as_text_and_not_as_html(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda value, **_: shown.append(value))
    mm.show(mm.plot.curves({"loss": [3, 2]}, xlabel="step", ylabel="loss"), alt="The loss is < 3 & falls.")
    assert shown[1]["text/plain"] == "The loss is < 3 & falls."
    assert "The loss is &lt; 3 &amp; falls.</details>" in shown[1]["text/html"]


def test_curves_are_small_palette_pictures_and_drawn_scenes_keep_their_colours():
    curve = to_png(mm.plot.curves({"loss": [3, 2, 1]}, xlabel="step", ylabel="loss"))
    assert Image.open(io.BytesIO(curve)).mode == "P"
    assert len(curve) < 20_000
    scenes = mm.scenes.draw(mm.scenes.World("hard").scenes("train", range(16)), image_size=96)
    sheet = to_png(mm.plot.pictures(scenes))
    assert Image.open(io.BytesIO(sheet)).mode == "RGB"
    assert len(sheet) < 250_000
    assert shrink(curve) == curve


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


def test_the_search_box_answers_what_is_typed(monkeypatch):
    shown, asked = [], []
    monkeypatch.setattr("IPython.display.display", lambda value, **_: shown.append(value))

    def search(sentence):
        asked.append(sentence)
        return mm.plot.bars({sentence: 1.0}, xlabel="score")

    mm.plot.search_box(search, "a red star")
    box, found = shown[0].children
    box.value = 'a "blue" ring'
    assert found.value.startswith(
        '<img alt="The pictures that fit best to the words: a &quot;blue&quot; ring." src="data:'
    )
    box.value = "  "
    assert found.value == ""
    assert asked == ["a red star", 'a "blue" ring']
