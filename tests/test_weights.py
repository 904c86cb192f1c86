"""Weights that come with the course: kept with their card, taken in whole, small enough, and readable."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mmlearn as mm
from mmlearn import weights
from mmlearn.errors import CheckpointError, DataError
from mmlearn.nn import ViT, ViTConfig

LIMIT = 20_000_000  # bytes, all together

MODEL = ViT(ViTConfig(8, 4, 8, 2, 1))


@pytest.fixture
def run(tmp_path):
    card = {"chapter": "09_vit", "name": "shapes", "profile": "long", "seed": 0, "curve": {}, "metrics": {}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    return SimpleNamespace(card=tmp_path / "card.json")


def test_weights_are_kept_taken_in_and_found_by_name(tmp_path, monkeypatch, run):
    monkeypatch.setattr(weights, "bundled", lambda: tmp_path / "package")
    folder = weights.keep(MODEL, "small", run)
    assert folder == tmp_path / "runs" / "weights" / "small"
    (folder / "old").touch()
    assert not (weights.keep(MODEL, "small", run) / "old").exists()
    assert weights.gather(tmp_path / "runs") == [tmp_path / "package" / "small"]
    assert weights.names() == ["small"]
    assert torch.equal(ViT.from_pretrained(weights.path("small")).positions, MODEL.positions)
    assert weights.card("small")["name"] == "shapes"
    with pytest.raises(CheckpointError, match="no weights 'large' come with the course; there are small"):
        weights.path("large")
    (tmp_path / "package" / "small" / "card.json").write_text("{")
    with pytest.raises(CheckpointError, match="card of the weights 'small' is broken"):
        weights.card("small")


def test_weights_need_a_plain_name_and_a_card(run):
    with pytest.raises(DataError, match=r"called by one word such as vit, not '\.\./vit'"):
        weights.keep(MODEL, "../vit", run)
    with pytest.raises(DataError, match="need the card of their run"):
        weights.keep(MODEL, "vit", SimpleNamespace(card=None))


def test_a_chapter_keeps_weights_of_what_it_trained(quiet_on_one_thread, monkeypatch):
    monkeypatch.setenv("MMLEARN_PROFILE", "cpu")
    cfg = mm.profile(cpu={"steps": 2})
    model = ViT(ViTConfig(8, 4, 8, 2, 1, n_classes=2))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    done = mm.fit(
        model,
        lambda step: (images, labels),
        loss=lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1]),
        steps=cfg.steps,
        card="09_vit/small",
        config=cfg,
    )
    folder = mm.weights.keep(done.model, "small", done)
    assert json.loads((folder / "card.json").read_text())["steps"] == 2


def test_what_comes_with_the_course_is_small_and_says_how_it_was_made():
    files = [path for path in weights.bundled().rglob("*") if path.suffix in (".safetensors", ".json")]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    for name in weights.names():
        assert weights.card(name)["profile"] == "long"
        assert not weights.card(name)["interrupted"]
