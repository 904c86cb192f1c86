"""The command line: parsing, messages, exit codes, progress, and the files that it writes."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import mmlearn
from mmlearn import cli, data, doctor, notebooks
from mmlearn.errors import MMLearnError
from mmlearn.train import cards

ROOT = Path(mmlearn.__file__).parents[1]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two chapters in a folder of its own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(notebooks, "folder", lambda: folder)
    for name, code in (("00_start", "x = 1"), ("01_wrong", "1 / 0")):
        nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell(code)]), folder / f"{name}.ipynb")
    return folder


@pytest.fixture
def executions(monkeypatch):
    """Stands in for `execute`: notes how it was called; chapters with "wrong" in their name fail."""
    calls = []

    def execute(path, **how):
        calls.append((path.stem, how))
        how["on_cell"](1, 2)
        wrong = "wrong" in path.stem
        result = notebooks.ChapterResult(path.stem, not wrong, 65.0, 1234.0, error="ValueError: x" if wrong else "")
        result.error_cell = 4 if wrong else None
        result.expectations = [{"name": "recall", "value": 0.25, "ok": not wrong}]
        return result

    monkeypatch.setattr(notebooks, "execute", execute)
    return calls


def test_version_and_help_need_no_torch():
    code = (
        "import sys, mmlearn.cli\n"
        "for arguments in (['--help'], ['--version'], ['run', '--help']):\n"
        "    try: mmlearn.cli.main(arguments)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert mmlearn.cli.main([]) == 0\n"
        "heavy = {'torch', 'nbformat', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert f"mmlearn {mmlearn.__version__}" in result.stdout
    for command in ("doctor", "lab", "run", "reproduce", "lint", "data"):
        assert re.search(rf"^ +{command}\s", result.stdout, re.MULTILINE)


def test_an_error_is_one_sentence_and_two(course, capsys):
    assert cli.main(["run", "clip"]) == 2
    assert capsys.readouterr().err == "mmlearn: there is no chapter 'clip'; there are: 00_start, 01_wrong\n"


def test_a_wrong_option_is_refused():
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--profile", "huge"])
    assert end.value.code == 2


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_only_when_the_course_cannot_run(monkeypatch, capsys, status, code):
    monkeypatch.setattr(doctor, "report", lambda: [doctor.Row(status, "memory", "little", "close programs")])
    assert cli.main(["doctor"]) == code
    assert "→ close programs" in capsys.readouterr().out


# run --------------------------------------------------------------------------------------------------


def test_run_executes_all_and_sums_up(course, executions, capsys):
    assert cli.main(["run", "--strict", "--profile", "cpu", "--timeout", "60"]) == 1
    assert [name for name, _ in executions] == ["00_start", "01_wrong"]
    how = executions[0][1]
    assert (how["profile"], how["strict"], how["save"], how["timeout"]) == ("cpu", True, False, 60)
    out = capsys.readouterr().out
    assert "✓ 00_start: 1:05\n" in out
    assert "✗ 01_wrong: cell 4 failed after 1:05\n  ValueError: x\n" in out
    table = out.partition("expectations\n")[2].splitlines()
    assert table == [
        "✓ 00_start     1:05   1.2 GB  1 of 1",
        "✗ 01_wrong     1:05   1.2 GB  0 of 1",
        "  all          2:10   1.2 GB  1 of 2",
        "  ✗ 01_wrong: recall = 0.25",
        "1 failed: 01_wrong",
    ]


def test_run_takes_names_and_succeeds(course, executions):
    assert cli.main(["run", "start", "0", str(course / "00_start.ipynb")]) == 0
    assert [name for name, _ in executions] == ["00_start"] * 3


@pytest.mark.parametrize(
    ("variable", "options", "strict"), [("1", [], True), ("1", ["--no-strict"], False), ("", [], False)]
)
def test_strict_follows_the_environment_unless_told(course, executions, monkeypatch, variable, options, strict):
    monkeypatch.setenv("MMLEARN_STRICT", variable)
    cli.main(["run", "00", *options])
    assert executions[0][1]["strict"] is strict


def test_changed_chapters_only(course, executions, capsys):
    nb = notebooks.read(course / "01_wrong.ipynb")
    nb.cells[1].execution_count = 1
    nb.metadata["mmlearn"] = {"source_hash": notebooks.source_hash(nb)}
    notebooks.write(nb, course / "01_wrong.ipynb")
    assert cli.main(["run", "--changed"]) == 0
    assert [name for name, _ in executions] == ["00_start"]
    assert cli.main(["run", "01", "--changed"]) == 0
    assert "nothing to run" in capsys.readouterr().out


def test_outputs_of_the_smoke_profile_are_not_kept(course, executions, monkeypatch, capsys):
    assert cli.main(["run", "--save", "--profile", "smoke"]) == 2
    monkeypatch.setenv("MMLEARN_PROFILE", "smoke")
    assert cli.main(["run", "--save"]) == 2
    assert executions == []
    assert "--save" in capsys.readouterr().err


def test_ctrl_c_still_sums_up_what_ran(course, executions, monkeypatch, capsys):
    real = notebooks.execute

    def stop_at_second(path, **how):
        if executions:
            raise KeyboardInterrupt
        return real(path, **how)

    monkeypatch.setattr(notebooks, "execute", stop_at_second)
    assert cli.main(["run"]) == 130
    captured = capsys.readouterr()
    assert "✓ 00_start     1:05" in captured.out
    assert captured.err == "\nmmlearn: stopped\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_rewrites_one_line():
    stream = Terminal()
    with cli.Progress("02_attention", stream, every=60) as progress:
        progress.cell(3, 40)
        progress._show()
        progress.end("✓ done")
    assert "02_attention  cell 3/40  0:00" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K✓ done\n")
    assert stream.getvalue().count("\n") == 1


def test_progress_in_a_log_beats_while_a_cell_is_long():
    class Log(io.StringIO):
        def write(self, text):
            super().write(text)
            if self.getvalue().count("cell 7/9") >= 2:
                enough.set()

    enough = threading.Event()
    stream = Log()
    with cli.Progress("02_attention", stream, every=0.01) as progress:
        progress.cell(7, 9)
        assert enough.wait(10)
    assert "\r" not in stream.getvalue()
    assert "  02_attention  cell 7/9  0:00\n" in stream.getvalue()


def test_progress_in_a_log_is_sparse():
    assert cli.Progress("a", io.StringIO()).every >= 20


# reproduce --------------------------------------------------------------------------------------------


@pytest.fixture
def gathered(monkeypatch, course):
    """References go beside the course of the test, not into this checkout."""
    monkeypatch.setattr(cards, "reference_folder", lambda: course.parent / "results")
    (course.parent / "README.md").write_text(f"# T\n\nbefore\n{cli.RESULTS[0]}\nold\n{cli.RESULTS[1]}\nafter\n")
    return course.parent


CARD = """
import json, os, pathlib
seed = int(os.environ["MMLEARN_SEED"])
card = {"chapter": "00_start", "name": "tower", "profile": "cpu", "seed": seed, "curve": {"step": [0], "loss": [1.0]}}
card["metrics"] = {"recall@1": {"value": 0.5 + 0.25 * seed, "definition": "d"}}
folder = pathlib.Path(os.environ["MMLEARN_RUNS"]) / "cards" / "00_start"
folder.mkdir(parents=True)
(folder / "tower.json").write_text(json.dumps(card))
"""


def test_reproduce_gathers_cards_of_each_seed_into_the_readme(gathered, course, capsys):
    nbformat.write(new_notebook(cells=[new_code_cell(CARD)]), course / "00_start.ipynb")
    assert cli.main(["reproduce", "00", "--profile", "cpu", "--seeds", "2"]) == 0
    kept = sorted(path.name for path in (gathered / "results" / "00_start").iterdir())
    assert kept == ["tower-cpu-seed0.json", "tower-cpu-seed1.json"]
    assert json.loads((gathered / "results/00_start/tower-cpu-seed1.json").read_text())["seed"] == 1
    readme = (gathered / "README.md").read_text()
    assert readme.startswith(f"# T\n\nbefore\n{cli.RESULTS[0]}\n|")
    assert readme.endswith(f"|\n{cli.RESULTS[1]}\nafter\n")
    assert "0.625 ± 0.177 (2 seeds)" in readme
    assert "old" not in readme


WEIGHTS = """
folder = pathlib.Path(os.environ["MMLEARN_RUNS"]) / "weights" / "tower"
folder.mkdir(parents=True)
(folder / "card.json").write_text(json.dumps(card | {"profile": os.environ["MMLEARN_PROFILE"]}))
"""


def test_reproduce_in_the_profile_long_takes_weights_into_the_package(gathered, course, monkeypatch, capsys):
    monkeypatch.setattr("mmlearn.weights.bundled", lambda: gathered / "weights")
    before = (gathered / "README.md").read_text()
    nbformat.write(new_notebook(cells=[new_code_cell(CARD)]), course / "00_start.ipynb")
    assert cli.main(["reproduce", "00", "--profile", "long"]) == 2
    assert "00_start kept no weights" in capsys.readouterr().err
    nbformat.write(new_notebook(cells=[new_code_cell(CARD + WEIGHTS)]), course / "00_start.ipynb")
    assert cli.main(["reproduce", "00", "--profile", "long"]) == 0
    assert json.loads((gathered / "weights/tower/card.json").read_text())["profile"] == "long"
    assert (gathered / "README.md").read_text() == before
    assert not (gathered / "results").exists()


def test_reproduce_refuses_before_it_trains(gathered, executions, capsys):
    assert cli.main(["reproduce", "00", "--seeds", "0"]) == 2
    (gathered / "README.md").write_text(f"{cli.RESULTS[1]}\n{cli.RESULTS[0]}\n")
    assert cli.main(["reproduce", "00"]) == 2
    assert executions == []
    assert "README.md needs the line" in capsys.readouterr().err


def test_reproduce_says_when_a_chapter_failed_or_wrote_no_card(gathered, executions, capsys):
    before = (gathered / "README.md").read_text()
    assert cli.main(["reproduce", "01"]) == 1
    assert cli.main(["reproduce", "00"]) == 2
    assert "00_start wrote no run card" in capsys.readouterr().err
    assert (gathered / "README.md").read_text() == before


# lint and data ----------------------------------------------------------------------------------------


def test_lint_prints_findings_and_fails(course, capsys):
    assert cli.main(["lint"]) == 1
    out = capsys.readouterr().out
    assert "01_wrong.ipynb:1: this cell has not run: mmlearn run 01_wrong --save\n" in out
    assert out.splitlines()[-1].startswith("2 chapters, ")


def test_data_commands_reach_the_data_module(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, "listing", lambda: ["daquar: here", "coco: absent"])
    monkeypatch.setattr(data, "names", lambda: ["daquar", "coco"])
    monkeypatch.setattr(data, "available", lambda name: name == "daquar")
    added = []
    monkeypatch.setattr(data, "add", lambda name, folder: added.append((name, folder)))

    class Verdict(SimpleNamespace):
        def __str__(self):
            return f"{self.name} {'deep' if self.deep else 'sampled'}"

    monkeypatch.setattr(data, "check", lambda name, deep=False: Verdict(name=name, ok=name == "daquar", deep=deep))
    assert cli.main(["data"]) == cli.main(["data", "list"]) == 0
    assert capsys.readouterr().out == "daquar: here\ncoco: absent\n" * 2
    assert cli.main(["data", "add", "daquar", str(tmp_path)]) == 0
    assert added == [("daquar", tmp_path)]
    assert cli.main(["data", "check"]) == 0
    assert cli.main(["data", "check", "coco", "--deep"]) == 1
    assert capsys.readouterr().out == "daquar sampled\ndaquar sampled\ncoco deep\n"
    assert cli.main(["data", "add", "daquar", str(tmp_path / "gone")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_data_errors_are_sentences(capsys):
    assert cli.main(["data", "check", "mnist"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mmlearn: ")
    assert "mnist" in err
    assert "Traceback" not in err


# lab --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environment", "display"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ":10", "SSH_CONNECTION": "a b"}, False),
        ("darwin", {}, True),
        ("darwin", {"SSH_TTY": "/dev/pts/0"}, False),
        ("win32", {}, True),
    ],
)
def test_where_a_browser_can_open(monkeypatch, platform, environment, display):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cli.has_display() is display


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.free_port(port) > port
        with pytest.raises(MMLearnError, match="no port from"):
            cli.free_port(port, tries=1)


def test_lab_serves_chapter_00_and_stops(course):
    """The real server, on a course of its own: the address it prints answers with the page."""
    code = (
        "import pathlib, sys; from mmlearn import cli, notebooks\n"
        f"notebooks.folder = lambda: pathlib.Path({str(course)!r})\n"
        "sys.exit(cli.main(['lab', '--no-browser']))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
    try:
        lines = iter(server.stdout.readline, "")
        address = next(line.strip() for line in lines if "http://" in line)
        assert "/lab/tree/notebooks/00_start.ipynb?token=" in address
        listing = address.replace("/lab/tree/", "/api/contents/")
        with urllib.request.urlopen(listing, timeout=20) as answer:
            assert json.load(answer)["name"] == "00_start.ipynb"
    finally:
        server.send_signal(signal.SIGTERM)  # ends as Ctrl-C does
        said, _ = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "JupyterLab has stopped" in said
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(listing, timeout=5)
