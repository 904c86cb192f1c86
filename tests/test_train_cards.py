"""Run cards: what they hold, the reference band, the tables, and cards that are broken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmlearn.errors import DataError, MMLearnError
from mmlearn.expectations import expect
from mmlearn.profiles import profile
from mmlearn.train import cards, fit, live, results


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_QUIET", "1")
    monkeypatch.setenv("MMLEARN_DEVICE", "cpu")
    monkeypatch.setattr(cards, "reference_folder", lambda: tmp_path / "results")
    monkeypatch.setattr(cards, "_latest", [])


def square(model, batch):
    out = model(batch)
    return (out - batch.sum(1, keepdim=True)).square().mean(), {"size": out.abs().mean()}


def train(steps=5, **more):
    torch.manual_seed(0)
    numbers = torch.Generator().manual_seed(3)
    return fit(
        nn.Linear(4, 1),
        lambda step: torch.randn(8, 4, generator=numbers),
        loss=square,
        steps=steps,
        lr=0.05,
        warmup=0,
        **more,
    )


def reference(tmp_path, seed, profile="cpu", loss=1.0, value=0.9, name="net", steps=(0, 10), **more):
    data = {
        "chapter": "00_start",
        "name": name,
        "profile": profile,
        "seed": seed,
        "curve": {"step": list(steps), "loss": [4.0 + loss, loss], "grad_norm": [1.0, 1.0]},
        "metrics": {
            "recall@1": {"value": value, "definition": "of 1,000", "chance": 0.001, "blind": None, "paper": "0.88"}
        },
    }
    path = tmp_path / "results" / "00_start" / f"{name}-{profile}-seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data | more))
    return path


# --- what a card holds -------------------------------------------------------------------------------------------


def test_a_card_tells_how_and_where_a_result_was_reached(tmp_path):
    cfg = profile(cpu=dict(steps=5, image_size=32), gpu=dict(steps=9))
    run = train(
        cfg.steps, card="00_start/net", config=cfg, validate=lambda m: {"right": 0.5}, checkpoint=tmp_path / "c"
    )
    assert run.card == tmp_path / "runs" / "cards" / "00_start" / "net.json"
    text = run.card.read_text()
    card = json.loads(text)
    assert card["config"] == {"name": "cpu", "device": "cpu", "seed": 0, "steps": 5, "image_size": 32}
    assert (card["profile"], card["seed"], card["steps"], card["parameters"]) == ("cpu", 0, 5, 5)
    assert card["training"]["lr"] == 0.05
    assert card["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert card["device"].startswith("CPU")
    assert card["seconds"] > 0 < card["peak_memory_mb"]
    assert card["curve"]["step"] == [0, 1, 2, 3, 4]
    assert card["curve"]["loss"] == pytest.approx([loss for _, loss in run.curve], rel=1e-4)
    assert card["curve"]["grad_norm"] == pytest.approx(run.grad_norms, rel=1e-4)
    assert card["extra"]["size"]["step"] == [0, 1, 2, 3, 4]
    assert card["validation"] == [[5, {"right": 0.5}]]
    assert str(tmp_path) not in text


def test_metrics_and_expectations_join_the_card(capsys):
    run = train(card="00_start/net")
    value = run.metric("recall@1", torch.tensor(0.5), definition="of 1,000 captions", chance=0.001, paper="0.88")
    assert value == 0.5
    expect("recall@1", value, at_least=0.8)
    card = json.loads(run.card.read_text())
    assert card["metrics"] == {
        "recall@1": {"value": 0.5, "definition": "of 1,000 captions", "chance": 0.001, "blind": None, "paper": "0.88"}
    }
    bounds = {"at_least": 0.8, "at_most": None}
    assert card["expectations"] == [{"name": "recall@1", "value": 0.5, "bounds": bounds, "ok": False}]
    assert cards.latest() == card


def test_without_a_card_nothing_is_written(tmp_path):
    run = train()
    run.metric("recall@1", 0.5, definition="of 1,000")
    expect("recall@1", 0.5, at_least=0.1)
    assert run.metrics["recall@1"]["value"] == 0.5
    assert not (tmp_path / "runs").exists()
    assert cards.latest() is None


@pytest.mark.parametrize("name", ["net", "../net", "00_start/../net", "/net", "00_start/", "a/b c"])
def test_names_that_are_not_chapter_and_name_are_refused(name):
    with pytest.raises(DataError, match="chapter/name"):
        cards.split_name(name)


def test_values_become_plain_json():
    values = {
        "p": Path("/home/someone/x"),
        "t": torch.ones(2),
        "n": float("nan"),
        "f": train,
        "d": torch.device("cpu"),
        3: (1,),
    }
    assert cards.plain(values) == {"p": "x", "t": [1, 1], "n": None, "f": "train", "d": "cpu", "3": [1]}
    assert "0x" not in json.dumps(cards.plain(object()))


def test_thinning_keeps_the_course_of_a_curve():
    points = [(step, float(step)) for step in range(9_999)]
    thin = cards.thin(points)
    assert len(thin) == 200
    assert all(abs(step - value) <= 1 for step, value in thin)
    assert cards.thin(points[:200]) == points[:200]


def test_smoothing_keeps_the_ends_and_calms_the_middle():
    points = [(step, 5.0 + (-1) ** step) for step in range(200)]
    smooth = cards.smooth(points)
    assert (smooth[0], smooth[-1]) == (points[0], points[-1])
    assert all(abs(value - 5) < 0.1 for _, value in smooth[10:-10])
    assert (cards.short(0.612), cards.short(0.00123)) == ("0.61", "0.0012")


# --- the band ----------------------------------------------------------------------------------------------------


def test_the_band_reaches_from_the_lowest_to_the_highest_reference(tmp_path):
    reference(tmp_path, 0, loss=1.0)
    reference(tmp_path, 1, loss=2.0, steps=(0, 20))
    reference(tmp_path, 0, "gpu", loss=0.1)
    band = cards.band("00_start/net", "cpu")
    assert (band.steps, band.low, band.high, band.label) == ([0, 10], [5.0, 1.0], [6.0, 4.0], "2 reference runs")
    assert cards.band("00_start/other", "cpu") is None


@pytest.mark.parametrize(("loss", "word"), [(1.04, "Inside"), (1.2, "Outside, higher"), (0.8, "Outside, lower")])
def test_the_verdict(tmp_path, loss, word):
    reference(tmp_path, 0, loss=1.0)
    verdict = cards.band("00_start/net", "cpu").verdict([(0, 5.0)] + [(10, loss)] * 9)
    assert (
        verdict
        == f"{word}: over the last tenth of the steps your loss is {loss:.2f}, that of 1 reference run 1.00 to 1.00."
    )


class Shown:
    """Stands for a notebook: keeps what is displayed."""

    def __init__(self, monkeypatch):
        import IPython.display

        self.outputs, self.figures = [], []
        monkeypatch.setattr(live, "in_notebook", lambda: True)
        monkeypatch.setattr(IPython.display, "display", self.display)
        monkeypatch.setattr("mmlearn.plot.show", lambda figure, alt: self.figures.append((figure, alt)))

    def display(self, data, **_):
        self.outputs.append(data)
        return self

    def update(self, data, **_):
        self.outputs[-1] = data


def test_in_a_notebook_the_curve_is_drawn_over_the_band_and_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMLEARN_QUIET", "0")
    monkeypatch.setattr(live, "LINE_EVERY", 0.0)
    reference(tmp_path, 0, loss=1.0)
    shown, seen = Shown(monkeypatch), []
    train(card="00_start/net", stop_when=lambda *_: seen.extend(shown.outputs[-1:]))
    assert "2/5" in seen[-1]["text/plain"] or "4/5" in seen[-1]["text/plain"]
    assert "data:image/png;base64," in seen[-1]["text/html"]
    (output,) = shown.outputs  # the live display has become the summary
    assert output["text/plain"].startswith("5 steps: loss")
    assert "img" not in output["text/html"]
    ((figure, alt),) = shown.figures
    assert [c.get_label() for c in figure.axes[0].collections] == ["1 reference run"]
    assert "grey band" in alt
    assert "steps your loss is" in alt
    assert "steps your loss is" in capsys.readouterr().out


def test_quiet_in_a_notebook_shows_one_line_and_the_final_figure(monkeypatch, capsys):
    shown = Shown(monkeypatch)
    train()
    assert not shown.outputs
    assert len(shown.figures) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
    train(live=False)
    assert len(shown.figures) == 1


# --- tables ------------------------------------------------------------------------------------------------------


def test_results_compares_with_the_references(tmp_path, capsys, monkeypatch):
    for seed, value in enumerate((0.9, 0.92, 0.94)):
        reference(tmp_path, seed, value=value)
    run = train(card="00_start/net")
    run.metric("recall@1", 0.8, definition="of 1,000", chance=0.001, blind=0.002, paper="0.88")
    run.metric("median rank", 123.4, definition="1 is best")
    capsys.readouterr()
    assert results("00_start/net") is None
    text = capsys.readouterr().out
    assert "recall@1     0.800  0.920 ± 0.020 (3 seeds)  –              0.001   0.002  0.88" in text
    assert "median rank  123" in text
    assert "no GPU card yet" in text
    assert "no CPU card yet" not in text
    assert "recall@1: of 1,000" in text
    shown = Shown(monkeypatch)
    results("00_start/net")
    assert (
        '<th scope="row">recall@1</th><td>0.800</td><td>0.920 ± 0.020 (3 seeds)</td>' in shown.outputs[0]["text/html"]
    )
    assert shown.outputs[0]["text/plain"] == text.rstrip("\n")


def test_results_before_anything_was_trained(tmp_path, capsys):
    results("00_start/net")
    text = capsys.readouterr().out
    assert "no metric yet" in text
    assert "you have not trained this yet" in text
    reference(tmp_path, 0, "gpu")
    results("00_start/net")
    assert "0.900 (1 seed)" in capsys.readouterr().out


def test_broken_cards_are_left_out_with_a_sentence(tmp_path, capsys):
    reference(tmp_path, 0)
    reference(tmp_path, 1).write_text("{")
    reference(tmp_path, 2).write_text('{"chapter": "00_start"}')
    reference(tmp_path, 3).write_text("[1]")
    reference(tmp_path, 4, metrics={"recall@1": 3})
    reference(tmp_path, 5, curve={"step": [1, 2], "loss": [1]})
    assert len(cards.references("00_start/net", "cpu")) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert "net-cpu-seed1.json is left out: it cannot be read" in said[0]
    assert "it lacks name" in said[1]


def test_gather_copies_what_may_be_a_reference(tmp_path):
    for seed in (0, 1):
        train(card="00_start/net", seed=seed, config={"name": "cpu"}).metric("x", 0.5, definition="d")
        written = cards.gather(tmp_path / "runs" / "cards", tmp_path / "results")
        assert [path.name for path in written] == [f"net-cpu-seed{seed}.json"]
    train(card="00_start/net", config={"name": "smoke"})
    assert cards.gather(tmp_path / "runs" / "cards", tmp_path / "results") == []
    assert len(cards.references("00_start/net", "cpu")) == 2


def test_the_table_of_the_readme(tmp_path):
    with pytest.raises(MMLearnError, match="no run cards"):
        cards.table_markdown()
    reference(tmp_path, 0, value=0.9)
    reference(tmp_path, 0, "gpu", value=0.95)
    reference(tmp_path, 0, "gpu", value=0.7, name="other")
    assert cards.table_markdown().splitlines()[2:] == [
        "| 00_start | net | recall@1 | 0.900 (1 seed) | 0.950 (1 seed) | 0.001 | – | 0.88 |",
        "| 00_start | other | recall@1 | – | 0.700 (1 seed) | 0.001 | – | 0.88 |",
    ]


def test_the_package_loads_without_what_only_training_needs():
    """Accelerate, matplotlib and IPython are imported where they are used."""
    heavy = "{'accelerate', 'matplotlib', 'IPython', 'transformers'}"
    code = f"import sys, mmlearn.train; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
