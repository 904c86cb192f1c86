"""Notebooks: finding, cleaning, hashing, executing, linting."""

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from mmlearn import notebooks
from mmlearn.errors import MMLearnError


def save(path: Path, cells, **metadata) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def png(mode="RGB", size=(64, 64)) -> str:
    """A picture with many colours, as base64."""
    picture = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1])).convert(mode)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(data, metadata=None):
    return new_output("display_data", data=data, metadata=metadata or {})


def cleaned(*outputs, **cell):
    """The outputs of one cell after cleaning."""
    return notebooks.clean(new_notebook(cells=[new_code_cell("x", outputs=list(outputs), **cell)])).cells[0].outputs


# Finding ----------------------------------------------------------------------------------------------


def test_a_chapter_is_found_by_number_name_and_path(tmp_path):
    start = save(tmp_path / "00_start.ipynb", [])
    attention = save(tmp_path / "02_attention.ipynb", [])
    save(tmp_path / "scratch.ipynb", [])
    assert notebooks.find(where=tmp_path) == [start, attention]
    for name in ("2", "02", "attention", "02_attention", str(attention)):
        assert notebooks.find([name], tmp_path) == [attention]
    with pytest.raises(MMLearnError, match="no chapter 'clip'; there are: 00_start, 02_attention"):
        notebooks.find(["clip"], tmp_path)
    with pytest.raises(MMLearnError, match="no notebook"):
        notebooks.find(["gone.ipynb"], tmp_path)


@pytest.mark.parametrize("content", ["", "{", "7", '{"cells": []}', '{"nbformat": 4}', "\x00\xff"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "03_broken.ipynb"
    path.write_text(content)
    with pytest.raises(MMLearnError, match="03_broken.ipynb is not a notebook"):
        notebooks.read(path)


def test_writing_leaves_an_equal_file_untouched(tmp_path):
    path = save(tmp_path / "00_a.ipynb", [new_code_cell("1", id="c-a")])
    os.utime(path, (1, 1))
    notebooks.write(notebooks.read(path), path)
    assert path.stat().st_mtime == 1
    notebooks.write(new_notebook(), path)
    assert notebooks.read(path).cells == []
    assert list(tmp_path.iterdir()) == [path]


# Cleaning ---------------------------------------------------------------------------------------------

HOME = str(Path.home())
REPOSITORY = str(Path(notebooks.__file__).parents[1])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"saved {REPOSITORY}/runs/cards/a.json", "saved …/runs/cards/a.json"),
        (f"File '{HOME}/x/y.py', line 3", "File '…/x/y.py', line 3"),
        ("/home/ada/mm/a.py:1: gone", "…/mm/a.py:1: gone"),
        ("file:///Users/ada/a.png", "…/a.png"),
        (r"C:\Users\ada\a.py", r"…\a.py"),
        ("/tmp/ipykernel_77/12.py:3", "…/12.py:3"),
        ("/private/var/folders/ab/cd_e/T/tmpx1/a", "…/a"),
        ("/usr/lib/python3/site-packages/torch/nn.py", "…/torch/nn.py"),
        ("<a.B object at 0x7f12ab34cd56>", "<a.B object at 0x…>"),
        *[(text, text) for text in ("https://example.org/home/ada", "3/4, and/or, /rooted, /dev/null, a 0x10 mask")],
    ],
)
def test_paths_of_machines_go(given, kept):
    assert notebooks.without_paths(given) == kept
    assert notebooks.without_paths(kept) == kept
    assert cleaned(stream(given))[0].text == kept
    assert cleaned(shown({"text/html": given}))[0].data["text/html"] == kept


def test_long_outputs_are_cleaned_quickly():
    text = "x" * 1_000_000 + "/a" * 100_000  # an hour, were the search quadratic
    assert notebooks.without_paths(text) == text


def test_a_crash_is_told_apart_from_want_of_memory():
    assert "crashed (Segmentation fault)" in notebooks._death(10, "noise\nFatal Python error: Segmentation fault\n\n")


def test_named_folders_go_too(monkeypatch):
    monkeypatch.setenv("MMLEARN_DATA", "/srv/pictures/data")
    assert notebooks.without_paths("read /srv/pictures/data/cifar10") == "read …/cifar10"


def test_streams_are_joined_and_errors_and_progress_go():
    outputs = cleaned(stream("step 1\rstep 2\r"), stream("step 3\nend"), stream("Warning: x", "stderr"), stream("\n"))
    assert [(o.name, o.text) for o in outputs] == [("stdout", "step 3\nend\n")]
    assert cleaned(stream("a\r\nb"))[0].text == "a\r\nb"


def test_widgets_keep_only_their_static_form():
    view = {notebooks.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "VBox(children=…)"}
    assert cleaned(shown(view)) == []
    kept = cleaned(shown(view | {"text/html": "<b>static</b>"}))
    assert kept[0].data == {"text/plain": "VBox(children=…)", "text/html": "<b>static</b>"}
    nb = new_notebook(metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {}}})
    assert "widgets" not in notebooks.clean(nb).metadata


def test_times_and_editors_leave_no_trace():
    cell = new_code_cell("1", execution_count=7)
    cell.metadata = {"execution": {"iopub.execute_input": "2026"}, "ExecuteTime": 1, "scrolled": True}
    cell.metadata |= {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    cell.outputs = [new_output("execute_result", data={"text/plain": "1"}, execution_count=7)]
    info = {"name": "python", "version": "3.11.9", "codemirror_mode": {"name": "ipython", "version": 3}}
    noise = {"language_info": info, "jupytext": {}}
    nb = notebooks.clean(new_notebook(cells=[cell], metadata=noise | {"mmlearn": {"a": 1}}))
    assert nb.cells[0].metadata == {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    assert nb.cells[0].execution_count == nb.cells[0].outputs[0].execution_count == 1
    assert nb.metadata == {
        "kernelspec": notebooks.KERNELSPEC,
        "language_info": notebooks.LANGUAGE,
        "mmlearn": {"a": 1},
    }


def test_ids_are_the_same_on_every_machine_and_survive_editing():
    def ids(*sources):
        return [cell.id for cell in notebooks.clean(new_notebook(cells=[new_code_cell(s) for s in sources])).cells]

    assert ids("a", "b", "a") == ids("a", "b", "a")
    assert len(set(ids("a", "a", "a"))) == 3
    nb = notebooks.clean(new_notebook(cells=[new_code_cell("a")]))
    before, nb.cells[0].source = nb.cells[0].id, "a = 2"
    assert notebooks.clean(nb).cells[0].id == before


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pictures_of_few_colours_shrink_and_keep_their_alt_text(mode):
    file = io.BytesIO()
    curve = Image.new("RGB", (256, 256), "white")
    curve.paste("#0072B2", (20, 20, 200, 60))
    curve.convert(mode).save(file, "PNG", compress_level=0)
    original = base64.b64encode(file.getvalue()).decode()
    output = cleaned(shown({"image/png": original}, {"image/png": {"alt": "a bar"}}))[0]
    small = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
    assert small.mode == "P"
    assert small.size == (256, 256)
    assert len(output.data["image/png"]) < 0.7 * len(original)
    assert output.metadata == {"image/png": {"alt": "a bar"}}
    html = cleaned(shown({"text/html": f'<img alt="a" src="data:image/png;base64,{original}">'}))[0].data["text/html"]
    assert html == f'<img alt="a" src="data:image/png;base64,{output.data["image/png"]}">'


def test_pictures_of_many_colours_keep_them():
    output = cleaned(shown({"image/png": png()}, {"image/png": {"alt": "noise"}}))[0]
    assert Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).mode == "RGB"


def test_transparency_survives():
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 20, 20))
    noise = Image.open(io.BytesIO(base64.b64decode(png("RGBA", (20, 20)))))
    picture.paste(noise, (20, 20))
    file = io.BytesIO()
    picture.save(file, "PNG")
    output = cleaned(shown({"image/png": base64.b64encode(file.getvalue()).decode()}))[0]
    result = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGBA")
    assert result.getpixel((39, 0))[3] == 0
    assert result.getpixel((1, 1))[3] == 255


def test_cleaning_twice_changes_nothing():
    cells = [
        new_markdown_cell("# a"),
        new_code_cell("x", execution_count=3, outputs=[stream(f"{HOME}/a\rb\n"), shown({"image/png": png()})]),
        new_code_cell("y", outputs=[shown({"text/html": f'<img src="data:image/png;base64,{png("RGBA")}">'})]),
        new_code_cell("z", outputs=[new_output("error", ename="E", evalue=HOME, traceback=[f"{HOME}/z"])]),
    ]
    given = new_notebook(cells=cells)
    before = nbformat.writes(given)
    once = notebooks.clean(given)
    assert nbformat.writes(given) == before  # the argument is left alone
    assert nbformat.writes(notebooks.clean(once)) == nbformat.writes(once)
    assert HOME not in nbformat.writes(once)
    nbformat.validate(once)


def test_the_hash_follows_the_code_only():
    nb = new_notebook(cells=[new_markdown_cell("# a"), new_code_cell("x = 1")])
    before = notebooks.source_hash(nb)
    nb.cells[0].source = "# better words"
    nb.cells[1].outputs = [stream("1")]
    assert notebooks.source_hash(nb) == before
    nb.cells[1].source = "x = 2"
    assert notebooks.source_hash(nb) != before


# Executing --------------------------------------------------------------------------------------------

CHAPTER = """
import json, os, pathlib
beside = pathlib.Path("beside.txt").exists()
print(os.environ["MMLEARN_PROFILE"], os.environ["MMLEARN_STRICT"], os.environ["EXTRA"], beside)
---
def note(**event):
    with open(os.environ["MMLEARN_EVENTS"], "a") as file:
        file.write(json.dumps(event) + "\\n")

note(event="expect", name="accuracy", value=0.9, ok=True)
note(event="expect", name="recall", value=0.1, ok=False)
note(event="fit", step=3)
---
block = bytearray(250_000_000)
block[::4096] = b"x" * len(block[::4096])
---
import time
time.sleep(0.5)
del block
---
from IPython.display import display, HTML
handle = display(HTML("first"), display_id=True)
handle.update(HTML("last"))
print(os.getcwd())
""".strip().split("\n---\n")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """One chapter, executed and saved once for all tests that look at it."""
    where = tmp_path_factory.mktemp("chapter")
    (where / "beside.txt").write_text("")
    cells = [new_markdown_cell("# A"), *(new_code_cell(source) for source in CHAPTER), new_code_cell("")]
    path = save(where / "05_rnn.ipynb", cells)
    assert notebooks.changed([path]) == [path]
    seen = []
    result = notebooks.execute(
        path, profile="cpu", save=True, on_cell=lambda k, n: seen.append((k, n)), env={"EXTRA": "more"}
    )
    return path, result, seen


def test_a_chapter_is_executed_in_its_folder_and_environment(executed):
    path, result, seen = executed
    assert result.ok, result.error
    assert result.name == "05_rnn"
    assert seen == [(k, 5) for k in range(1, 6)]
    assert notebooks.read(path).cells[1].outputs[0].text == "cpu 0 more True\n"


def test_time_memory_and_expectations_are_measured(executed):
    _, result, _ = executed
    assert (result.passed, result.failed) == (1, 1)
    assert [event["name"] for event in result.expectations] == ["accuracy", "recall"]
    assert set(result.cell_seconds) == {1, 2, 3, 4, 5}
    assert result.seconds > sum(result.cell_seconds.values()) > 0.5
    assert result.cell_seconds[4] >= 0.5
    assert 250 < result.peak_memory_mb < 2000


def test_what_is_saved_is_clean_and_current(executed):
    path, _, _ = executed
    nb = notebooks.read(path)
    assert nbformat.writes(notebooks.clean(nb)) == nbformat.writes(nb)
    assert nb.cells[5].outputs[0].data["text/html"] == "last"
    assert nb.cells[5].outputs[1].text.startswith("…")
    assert notebooks.changed([path]) == []
    assert set(nb.metadata["mmlearn"]) == {"source_hash"}


def test_an_edit_or_a_lost_output_makes_it_changed(executed, tmp_path):
    nb = notebooks.read(executed[0])
    nb.cells[0].source = "# Other prose"
    notebooks.write(nb, tmp_path / "a.ipynb")
    nb.cells[1].source += "\n1"
    notebooks.write(nb, tmp_path / "b.ipynb")
    nb = notebooks.read(executed[0])
    nb.cells[1].execution_count = None
    notebooks.write(nb, tmp_path / "c.ipynb")
    paths = [tmp_path / name for name in ("a.ipynb", "b.ipynb", "c.ipynb")]
    assert notebooks.changed(paths) == paths[1:]


def test_a_failing_cell_is_told_and_nothing_is_saved(tmp_path):
    code = "def f(x):\n    return 1 / x\n\nf(0)  # here"
    path = save(tmp_path / "01_a.ipynb", [new_markdown_cell("# A"), new_code_cell(code), new_code_cell("print(1)")])
    before = path.read_bytes()
    result = notebooks.execute(path, save=True)
    assert not result.ok
    assert result.error_cell == 1
    assert result.error == "ZeroDivisionError: division by zero\n  at: f(0)  # here"
    assert path.read_bytes() == before


def test_an_error_shown_on_purpose_is_no_failure_and_strict_is_passed_on(tmp_path):
    wrong = new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]})
    strict = new_code_cell("import os; assert os.environ['MMLEARN_STRICT'] == '1'")
    assert notebooks.execute(save(tmp_path / "01_a.ipynb", [wrong, strict]), strict=True).ok


def test_a_dying_kernel_is_explained(tmp_path):
    events = 'open(os.environ[\'MMLEARN_EVENTS\'], \'w\').write(\'{"event": "expect", "ok": true}\\n{"eve\')'
    cells = [new_code_cell(f"import os; _ = {events}"), new_code_cell("os.kill(os.getpid(), 9)"), new_code_cell("1")]
    result = notebooks.execute(save(tmp_path / "01_a.ipynb", cells))
    assert not result.ok
    assert result.error_cell == 1
    assert result.error.startswith("the kernel died while it used ")
    assert "memory" in result.error
    assert result.passed == 1
    assert result.peak_memory_mb > 10


def test_a_cell_that_never_ends_is_stopped(tmp_path):
    path = save(tmp_path / "01_a.ipynb", [new_code_cell("while True: pass")])
    start = time.monotonic()
    result = notebooks.execute(path, timeout=1)
    assert not result.ok
    assert "longer than 1 s" in result.error
    assert time.monotonic() - start < 15


def test_a_missing_kernel_points_to_the_doctor(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def absent(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", absent)
    with pytest.raises(MMLearnError, match="mmlearn doctor"):
        notebooks.execute(save(tmp_path / "01_a.ipynb", [new_code_cell("1")]))


def test_ctrl_c_ends_the_kernel_and_leaves_the_file(tmp_path):
    cell = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    path = save(tmp_path / "01_a.ipynb", [new_code_cell(cell)])
    before = path.read_bytes()
    command = [sys.executable, "-m", "mmlearn", "run", str(path), "--save"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": REPOSITORY}, **pipes)
    noted = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (noted.exists() and noted.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, (out, err)
    assert err.strip().splitlines()[-1] == "mmlearn: stopped"  # an old debugger warns before it
    assert "Traceback" not in err
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.part")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)


# Linting ----------------------------------------------------------------------------------------------

SET_UP = "import math\n\nimport mmlearn as mm"


def exercise_cells(id="02.1"):
    return [
        new_markdown_cell(f"### Exercise {id} - Scaled scores\n\nDerive it."),
        new_code_cell("def f(q):\n    ...", metadata={"tags": ["exercise"]}),
        new_code_cell(f'mm.check("{id}", f)', metadata={"tags": ["check"]}),
        new_code_cell(
            f'def g(q):\n    return q\n\nmm.check("{id}", g)',
            metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}},
        ),
    ]


def chapter(*more):
    """A chapter that keeps every rule, with further cells at the end."""
    figure = new_code_cell('mm.show(fig, alt="a curve that falls")')
    figure.outputs = [shown({"image/png": png("P"), "text/plain": "<Image>"}, {"image/png": {"alt": "a curve"}})]
    cells = [new_markdown_cell("# 02 · A\n\n```\n# not a heading\n```"), new_code_cell(SET_UP), figure]
    return [*cells, *exercise_cells(), *more]


def lint(tmp_path, cells, run=True, **metadata) -> list[str]:
    nb = new_notebook(cells=cells, metadata=metadata)
    if run:
        for cell in cells:
            if cell.cell_type == "code" and cell.execution_count is None:
                cell.execution_count = 1
        nb.metadata["mmlearn"] = {"source_hash": notebooks.source_hash(nb)}
    path = tmp_path / "02_a.ipynb"
    nbformat.write(nb, path)
    return [str(finding) for finding in notebooks.lint([path])]


def test_a_good_chapter_has_no_findings(tmp_path):
    assert lint(tmp_path, chapter()) == []


ERROR = new_output("error", ename="ValueError", evalue="x", traceback=[])


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (new_markdown_cell("# Second"), "2 headings of the first level"),
        (new_code_cell("mm.show(fig)"), "mm.show needs alt"),
        (new_code_cell('mm.show(fig, alt=" ")'), "mm.show needs alt"),
        (new_code_cell("plt.show()"), "plt.show() has no alt text"),
        (new_code_cell("!pip install x"), "`!pip install x` runs a shell"),
        (new_code_cell("if True:\n    %pip install x"), "`%pip install x` runs a shell"),
        (new_code_cell("from math import *"), "`from math import *` hides"),
        (new_code_cell("x ="), "line 1 is not Python"),
        (new_code_cell("1 / 0", outputs=[ERROR]), "the output is an error (ValueError)"),
        (new_code_cell("x", outputs=[stream("/home/ada/a.py")]), "shows a path: '/home/ada/a.py'"),
        (new_code_cell("x", outputs=[shown({"text/html": f"<b>{HOME}/a</b>"})]), "shows a path"),
        (new_code_cell("x", outputs=[stream("Warning", "stderr")]), "error stream"),
        (new_code_cell("x", outputs=[shown({"image/png": png("P")})]), "the picture has no alt text"),
        (new_code_cell("x", outputs=[shown({notebooks.WIDGET_VIEW: {}})]), "a live widget is stored"),
        (new_code_cell("x", metadata={"tags": ["solution"]}), "stands under no such heading"),
        (new_markdown_cell("### Exercise 02.2 - b"), "02.2 needs cells tagged exercise, check and solution"),
    ],
)
def test_each_fault_is_found(tmp_path, cell, says):  # the faulty cell stands before the exercise
    cells = chapter()
    cells.insert(3, cell)
    found = lint(tmp_path, cells)
    assert any(says in finding and finding.startswith("02_a.ipynb:") for finding in found), found


def test_an_error_on_purpose_is_allowed(tmp_path):
    assert lint(tmp_path, chapter(new_code_cell("1/0", metadata={"tags": ["raises-exception"]}, outputs=[ERROR]))) == []


def test_faults_of_exercises_are_found(tmp_path):
    def found(change):
        cells = chapter()
        change(cells)
        return "\n".join(lint(tmp_path, cells))

    assert "not hidden" in found(lambda cells: cells[6].metadata.pop("jupyter"))
    assert "found: exercise, solution" in found(lambda cells: cells.pop(5))
    assert "found: exercise, solution, check" in found(lambda cells: cells.append(cells.pop(5)))
    assert 'check cell does not call mm.check("02.1"' in found(lambda cells: cells[5].update(source="check('02.9', f)"))
    assert 'solution cell does not call mm.check("02.1"' in found(lambda cells: cells[6].update(source="x = 1"))


def test_faults_of_the_file_are_found(tmp_path):
    assert "cell has not run" in "\n".join(lint(tmp_path, chapter(), run=False))
    assert "state of widgets" in "\n".join(lint(tmp_path, chapter(), widgets={}))
    large = new_code_cell("x", outputs=[stream("x" * 1_100_000)])
    assert "at most 1 is allowed" in "\n".join(lint(tmp_path, chapter(large)))
    assert "0 headings" in "\n".join(lint(tmp_path, chapter()[1:]))
    lint(tmp_path, chapter())
    nb = json.loads((tmp_path / "02_a.ipynb").read_text())
    nb["cells"][1]["source"] = "import mmlearn"
    (tmp_path / "02_a.ipynb").write_text(json.dumps(nb))
    assert [f.says for f in notebooks.lint([tmp_path / "02_a.ipynb"])] == [
        "the outputs are not those of the code as it is now: mmlearn run 02_a --save"
    ]


def test_the_set_up_cell_is_the_same_everywhere(tmp_path):
    save(tmp_path / "00_start.ipynb", [new_code_cell(SET_UP)])
    assert lint(tmp_path, chapter()) == []
    save(tmp_path / "00_start.ipynb", [new_code_cell(SET_UP + "\nimport os")])
    assert lint(tmp_path, chapter()) == ["02_a.ipynb:1: the set-up cell differs from that of 00_start.ipynb"]
