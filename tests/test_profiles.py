"""Profiles, the choice of the device, and expectations."""

import json

import pytest
import torch

import mmlearn as mm
from mmlearn import profiles
from mmlearn.errors import ExpectationError, MMLearnError


def test_profile_chooses_by_name(monkeypatch):
    settings = dict(cpu=dict(steps=900, warm_steps=50, image_size=32), gpu=dict(steps=20_000))
    monkeypatch.setenv("MMLEARN_PROFILE", "cpu")
    assert mm.profile(**settings).steps == 900
    monkeypatch.setenv("MMLEARN_PROFILE", "gpu")
    gpu = mm.profile(**settings)
    assert (gpu.steps, gpu.image_size, gpu.name) == (20_000, 32, "gpu")
    monkeypatch.setenv("MMLEARN_PROFILE", "smoke")
    smoke = mm.profile(**settings)
    assert (smoke.steps, smoke.warm_steps, smoke.image_size, smoke.smoke) == (3, 3, 32, True)


def test_profile_seeds_everything(monkeypatch):
    monkeypatch.setenv("MMLEARN_SEED", "7")
    assert mm.profile(cpu={}).seed == 7
    first = torch.rand(3)
    mm.profile(cpu={})
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("MMLEARN_PROFILE", "fast", "use one of cpu, gpu, long, smoke"), ("MMLEARN_SEED", "-1", "whole number")],
)
def test_wrong_environment_is_named(monkeypatch, variable, value, says):
    monkeypatch.setenv(variable, value)
    with pytest.raises(MMLearnError, match=says):
        mm.profile(cpu=dict(steps=1))


def test_profile_is_read_only_and_names_what_is_missing():
    cfg = mm.profile(cpu=dict(steps=1))
    with pytest.raises(AttributeError, match="read-only"):
        cfg.steps = 2
    with pytest.raises(AttributeError, match="no setting 'batch'; it has name, device, seed, steps"):
        _ = cfg.batch
    with pytest.raises(MMLearnError, match="cpu lacks: batch"):
        mm.profile(cpu=dict(steps=1), gpu=dict(batch=1))
    json.dumps(cfg.asdict())


def test_a_device_that_computes_wrongly_is_avoided(monkeypatch):
    def lying(where, op):
        y, g = honest(torch.device("cpu"), op)
        return (y + 1, g) if where.type != "cpu" else (y, g)

    honest = profiles._on
    monkeypatch.setattr(profiles, "_on", lying)
    monkeypatch.setattr(profiles, "_best_present", lambda: "cuda")
    profiles.device.cache_clear()
    with pytest.warns(UserWarning, match="computes a matrix product wrongly .* using the CPU instead"):
        assert profiles.device().type == "cpu"
    profiles.device.cache_clear()
    monkeypatch.setenv("MMLEARN_DEVICE", "cuda")
    with pytest.raises(MMLearnError, match="MMLEARN_DEVICE is 'cuda', but"):
        profiles.device()
    profiles.device.cache_clear()


def test_the_self_test_accepts_a_right_device_and_names_a_broken_one(monkeypatch):
    honest = profiles._on
    monkeypatch.setattr(profiles, "_on", lambda where, op: honest(torch.device("cpu"), op))
    assert profiles.self_test("cuda") is None

    def broken(where, op):
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr(profiles, "_on", broken)
    assert profiles.self_test("cuda") == "the device cuda does not work (no kernel image)"


def test_expect(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MMLEARN_EVENTS", str(tmp_path / "events"))
    mm.expect("accuracy", 0.95, at_least=0.9)
    mm.expect("accuracy", 0.85, at_least=0.9, hint="train longer")
    mm.expect("loss", float("nan"), at_most=1)
    out = capsys.readouterr().out
    assert "✓ accuracy: 0.950 (expected at least 0.9)" in out
    assert "✗ accuracy: 0.850" in out
    assert "hint: train longer" in out
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [e["ok"] for e in events] == [True, False, False]
    monkeypatch.setenv("MMLEARN_STRICT", "1")
    with pytest.raises(ExpectationError, match="accuracy: 0.850"):
        mm.expect("accuracy", 0.85, at_least=0.9)
    monkeypatch.setenv("MMLEARN_PROFILE", "smoke")
    mm.expect("accuracy", 0.0, at_least=0.9)
    assert "nothing is expected" in capsys.readouterr().out
    with pytest.raises(MMLearnError, match="could never fail"):
        mm.expect("accuracy", 1.0)


def test_long_overrides_cpu_and_not_gpu(monkeypatch):
    settings = {"cpu": {"steps": 9, "size": 32}, "gpu": {"size": 64}, "long": {"steps": 90}}
    monkeypatch.setenv("MMLEARN_DEVICE", "cpu")
    for name, expected in (("cpu", (9, 32)), ("gpu", (9, 64)), ("long", (90, 32)), ("smoke", (3, 32))):
        monkeypatch.setenv("MMLEARN_PROFILE", name)
        cfg = mm.profile(**settings)
        assert (cfg.steps, cfg.size) == expected
    with pytest.raises(MMLearnError, match="long has settings that cpu lacks: depth"):
        mm.profile(cpu={"steps": 1}, long={"depth": 2})
