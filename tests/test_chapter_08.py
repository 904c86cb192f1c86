"""Chapter 08 on VQA v2, which is not here: the notebook's own functions, on a stand-in in the original's format."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import mmlearn as mm
from mmlearn import data

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "08_vqa.ipynb"
WANTED = ("def grids_of(", "def quiz(", "def photo_loss(", "def same_photograph(", "def score(")
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def stand_in(folder, n=24):
    """Red and blue pictures, each asked for its colour (ten answers, one of them odd) and for a number (ten twos)."""
    for part, start in (("train2014", 0), ("val2014", 100)):
        asked, notes = [], []
        (folder / part).mkdir(parents=True)
        for i in range(n):
            name = ("red", "blue")[i % 2]
            picture = Image.new("RGB", (40, 30), COLOURS[name])
            picture.putpixel((0, 0), (i, i, i))  # no two pictures alike
            picture.save(folder / part / f"COCO_{part}_{start + i:012d}.jpg", "png")  # exact colours
            both = ("What colour is it?", [name] * 9 + ["green"]), ("How many?", ["2"] * 10)
            for k, (question, answers) in enumerate(both):
                number = 10 * (start + i) + k
                asked.append({"image_id": start + i, "question": question, "question_id": number})
                given = [{"answer": answer} for answer in answers]
                notes.append({"question_id": number, "multiple_choice_answer": answers[0], "answers": given})
        (folder / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps({"questions": asked}))
        (folder / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({"annotations": notes}))


@pytest.fixture
def chapter(tmp_path, monkeypatch, quiet_on_one_thread):
    """The names that the notebook's cells on photographs define, with small settings."""
    monkeypatch.setenv("MMLEARN_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    chosen = [source for source in sources if any(wanted in source for wanted in WANTED)]
    assert len(chosen) == len(WANTED)
    torch.manual_seed(0)
    names = {"mm": mm, "data": data, "torch": torch, "nn": nn, "F": F, "SimpleNamespace": SimpleNamespace}
    names["eyes"] = mm.models.image_encoder("convnet", depths=(1, 1), widths=(4, 8)).eval()
    names["cfg"] = SimpleNamespace(seed=0, photo_size=16, photo_steps=25, device=torch.device("cpu"))
    for source in chosen:
        functions = source.split("\n\n\ntrain_grids")[0]  # one cell goes on to use what it defines
        exec(compile(functions, "08_vqa.ipynb", "exec"), names)
    return names


def test_vqa_v2_through_the_chapter_s_functions(tmp_path, chapter):
    stand_in(tmp_path / "original")
    data.add("vqa_v2", tmp_path / "original")
    learn = chapter["quiz"](data.load("vqa_v2", "train"))
    judge = chapter["quiz"](data.load("vqa_v2", "validation"), like=learn)
    assert learn.ten
    assert sorted(learn.known.answers) == ["2", "blue", "red"]
    assert learn.targets.shape == (48, 3)
    assert sorted({round(x, 2) for x in learn.targets.max(dim=1).values.tolist()}) == [1.0]
    table, blind, run = chapter["compare"](learn, judge)
    assert table.keys() == {"phrases (blind)", "phrases + stacked attention"}
    assert table["phrases (blind)"].keys() == {"accuracy"}
    assert table["phrases (blind)"]["accuracy"] == pytest.approx(0.75)  # all twos, and one colour of two
    assert table["phrases + stacked attention"]["accuracy"] > 0.95  # and who looks, knows the colour
    assert blind.shape == (48, 3)


def test_one_answer_a_question_through_the_same_functions(tmp_path, chapter):
    stand_in(tmp_path / "original")
    data.add("vqa_v2", tmp_path / "original")
    rows = [data.load("vqa_v2", part).remove_columns("answers") for part in ("train", "validation")]
    learn = chapter["quiz"](rows[0])
    table, _, _ = chapter["compare"](learn, chapter["quiz"](rows[1], like=learn))
    assert table["prior"]["accuracy"] == pytest.approx(0.5)
    assert table["phrases + name of the photograph"] == table["phrases (blind)"]  # no photograph comes twice
    assert set(table["prior"]) == {"accuracy", "macro F1"}
