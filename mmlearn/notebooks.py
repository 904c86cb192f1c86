"""Notebooks as files: found by name, cleaned of noise, executed with measurements, and linted.

A committed chapter carries outputs, but nothing of the machine that made them: no paths, no times, no widget
state. Which code made the outputs is stored as a hash in the notebook's metadata under "mmlearn".
"""

import ast
import base64
import hashlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmlearn.errors import MMLearnError

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
CELL_METADATA = {"deletable", "editable", "jupyter", "nbgrader", "slideshow", "tags"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
CELL_SECONDS = 1800
MAX_BYTES = 1_000_000


# Files ------------------------------------------------------------------------------------------------


def folder() -> Path:
    """The notebooks of this checkout: beside the package, or in the working directory."""
    places = [Path(__file__).parents[1] / "notebooks", Path("notebooks")]
    for place in places:
        if place.is_dir():
            return place
    raise MMLearnError("there is no folder notebooks/ here; change to the folder of the course and run this again")


def find(names: Sequence[str] = (), where: Path | None = None) -> list[Path]:
    """Chapters by number ("02", "2"), name ("attention", "02_attention") or path; without names all of them."""
    where = where or folder()
    chapters = sorted(where.glob("[0-9][0-9]_*.ipynb"))
    return [_find_one(name, chapters) for name in names] if names else chapters


def _find_one(name: str, chapters: list[Path]) -> Path:
    if name.endswith(".ipynb"):
        if Path(name).is_file():
            return Path(name)
        raise MMLearnError(f"there is no notebook {name}")
    for path in chapters:
        number, _, title = path.stem.partition("_")
        if name in (path.stem, title) or (name.isdecimal() and int(name) == int(number)):
            return path
    known = ", ".join(path.stem for path in chapters) or "none"
    raise MMLearnError(f"there is no chapter {name!r}; there are: {known}")


def read(path: Path) -> NotebookNode:
    """A notebook from a file; one that cannot be read gets an error that names it."""
    try:
        text = path.read_text(encoding="utf-8")
        if {"cells", "nbformat"} <= set(json.loads(text)):
            return nbformat.reads(text, as_version=4)
    except FileNotFoundError as error:
        raise MMLearnError(f"there is no notebook {path}") from error
    except (ValueError, TypeError, AttributeError, KeyError):  # not JSON, or JSON of something else
        pass
    raise MMLearnError(f"{path} is not a notebook, or was cut short; restore it: git checkout {path}")


def write(nb: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all; an equal file stays untouched."""
    content = (nbformat.writes(nb) + "\n").encode()
    if path.exists() and path.read_bytes() == content:
        return
    part = path.with_suffix(".ipynb.part")
    part.write_bytes(content)
    part.replace(path)


def source_hash(nb: NotebookNode) -> str:
    """A hash of the code cells: prose may change without running the chapter again."""
    sources = [cell.source.strip() for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def changed(paths: Iterable[Path]) -> list[Path]:
    """Those chapters whose outputs were not made by the code that they hold now."""
    return [path for path in paths if not is_current(read(path))]


def is_current(nb: NotebookNode) -> bool:
    """True where every code cell has run and the stored hash is that of the code."""
    stored = nb.metadata.get("mmlearn", {}).get("source_hash")
    return stored == source_hash(nb) and not any(_not_run(cell) for cell in nb.cells)


def _not_run(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip()) and cell.execution_count is None


# Cleaning ---------------------------------------------------------------------------------------------


def clean(nb: NotebookNode) -> NotebookNode:
    """A copy without what differs from machine to machine or run to run; cleaning twice changes nothing."""
    nb = deepcopy(nb)
    kept = {key: nb.metadata[key] for key in ("mmlearn", "title") if key in nb.metadata}
    nb.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE, **kept})
    nb.nbformat, nb.nbformat_minor = 4, 5
    ids: set[str] = set()
    count = 0
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        cell.id = _stable_id(cell, ids)
        if cell.cell_type == "code":
            count += cell.execution_count is not None
            _clean_outputs(cell, count if cell.execution_count is not None else None)
    return nb


def _stable_id(cell: NotebookNode, taken: set[str]) -> str:
    """Ids that editors drew at random become a hash of the first text; given once, an id stays."""
    id = cell.get("id", "")
    if not id.startswith("c-") or id in taken:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        same = (f"c-{digest}" + (f"-{n}" if n else "") for n in range(len(taken) + 1))
        id = next(candidate for candidate in same if candidate not in taken)
    taken.add(id)
    return id


def _clean_outputs(cell: NotebookNode, count: int | None) -> None:
    cell.execution_count = count
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            _add_stream(kept, output)
        elif output.output_type == "error":
            output.evalue = without_paths(output.evalue)
            output.traceback = [without_paths(line) for line in output.traceback]
            kept.append(output)
        elif _has_static_form(output):
            output.data.pop(WIDGET_VIEW, None)
            output.data = nbformat.from_dict({k: _clean_data(k, v) for k, v in output.data.items()})
            if "execution_count" in output:
                output.execution_count = count
            kept.append(output)
    cell.outputs = kept


def _add_stream(kept: list[NotebookNode], output: NotebookNode) -> None:
    """Join pieces of printed text and show what a terminal would: after a carriage return, the last text."""
    if output.name == "stderr":
        return
    before = kept.pop().text if kept and kept[-1].output_type == "stream" else ""
    output.text = re.sub(r"[^\n]*\r(?!\n)", "", before + without_paths(output.text))
    if output.text:
        kept.append(output)


def _has_static_form(output: NotebookNode) -> bool:
    """A live widget is kept only with something to look at when no kernel runs."""
    static = {"text/html", "text/markdown", *PICTURES}
    return WIDGET_VIEW not in output.data or bool(static & set(output.data))


def _clean_data(mime: str, data):
    if mime == "image/png":
        return _shrink_png(data)
    if isinstance(data, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
        inline = r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+"
        return without_paths(re.sub(inline, lambda png: _shrink_png(png[0]), data))
    return data


def _shrink_png(data: str) -> str:
    """A PNG (base64) with fewer colours where that is not to be seen; transparent and animated ones stay."""
    from PIL import Image

    from mmlearn.plot.figures import shrink

    raw = base64.b64decode(data)
    picture = Image.open(io.BytesIO(raw))
    opaque = picture.mode == "RGB" or (picture.mode == "RGBA" and picture.getextrema()[3][0] == 255)
    if opaque and getattr(picture, "n_frames", 1) == 1:
        raw = shrink(raw)
    return base64.b64encode(raw).decode()


def without_paths(text: str) -> str:
    """Text in which folders of this or another machine are "…", and memory addresses "0x…"."""
    text = re.sub(r"""(?<![^\s'"<>()=,])[^\s'"<>()=,]*[/\\]site-packages""", "…", text)
    own = "|".join(re.escape(root) for root in _own_folders())
    temporary = rf"(?:/private)?(?:{re.escape(tempfile.gettempdir())}|/tmp)(?:[/\\][\w.-]+)?"
    anybody = (
        r"/home/[\w.-]+|/Users/[\w.-]+|/root|[A-Za-z]:\\+Users\\+[\w.-]+"
        r"|(?:/private)?/var/folders/[\w.+-]+/[\w.+-]+/T(?:/[\w.-]+)?"
    )
    text = re.sub(rf"(?<![\w.+/…])(?:file://)?(?:{own}|{temporary}|{anybody})(?![\w-])", "…", text)
    return re.sub(r"\bat 0x[0-9a-fA-F]{6,}", "at 0x…", text)


def _own_folders() -> list[str]:
    """Folders of this machine, the longest first, so that a whole prefix goes."""
    places = [Path.cwd(), Path.home(), Path(__file__).parents[1], Path(sys.prefix)]
    places += [Path(os.environ[v]) for v in ("MMLEARN_DATA", "MMLEARN_RUNS", "HF_HOME") if os.environ.get(v)]
    absolute = {str(p) for place in places for p in (place.absolute(), place.resolve()) if len(p.parts) > 1}
    return sorted(absolute, key=len, reverse=True)


# Executing --------------------------------------------------------------------------------------------


@dataclass
class ChapterResult:
    """What one execution of a chapter took and reached; ``seconds`` of wall time, memory in MB (10⁶ bytes)."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    expectations: list[dict] = field(default_factory=list)
    cell_seconds: dict[int, float] = field(default_factory=dict)
    error_cell: int | None = None
    error: str = ""

    @property
    def passed(self) -> int:
        return sum(bool(event["ok"]) for event in self.expectations)

    @property
    def failed(self) -> int:
        return len(self.expectations) - self.passed


def execute(
    path: Path,
    *,
    profile: str | None = None,
    strict: bool = False,
    save: bool = False,
    timeout: float | None = CELL_SECONDS,
    on_cell: Callable[[int, int], None] | None = None,
    env: dict[str, str] | None = None,
) -> ChapterResult:
    """Run a chapter from top to bottom in a fresh kernel, in the folder of the notebook.

    ``timeout`` is in seconds a cell; ``on_cell(k, n)`` is called as code cell k of n starts; ``env`` is added to
    the kernel's environment. With ``save`` the cleaned outputs are written, if all cells ran. An error
    in a cell, a cell that takes too long and a kernel that dies are told in the result, not raised.
    """
    nb = read(path)
    result = ChapterResult(path.stem)
    with tempfile.TemporaryDirectory() as temporary:
        events = Path(temporary) / "events.jsonl"
        variables = {"MMLEARN_EVENTS": str(events), "MMLEARN_STRICT": "1" if strict else "0", **(env or {})}
        if profile:
            variables["MMLEARN_PROFILE"] = profile
        start = time.monotonic()
        try:
            with (Path(temporary) / "stderr.txt").open("w+", errors="replace") as stderr:
                _run_cells(nb, path.parent, os.environ | variables, timeout, on_cell, result, stderr)
        finally:
            result.seconds = time.monotonic() - start
            result.expectations = [e for e in _read_events(events) if e.get("event") == "expect"]
    if result.ok and save:
        nb.metadata["mmlearn"] = {"source_hash": source_hash(nb)}
        write(clean(nb), path)
    return result


def _run_cells(nb, where: Path, env: dict, timeout: float | None, on_cell, result: ChapterResult, stderr) -> None:
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    silent = logging.getLogger("mmlearn.notebooks.nbclient")
    silent.setLevel(logging.CRITICAL + 1)  # what nbclient logs as an error is told in the result
    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(where.resolve())}},
        log=silent,
    )
    try:
        with client.setup_kernel(env=env, stderr=stderr), _PeakMemory(client.km.provisioner.pid) as memory:
            try:
                result.error_cell, result.error = _run_each(client, nb, on_cell, result.cell_seconds)
            except DeadKernelError:
                stderr.seek(0)
                result.error_cell, result.error = max(result.cell_seconds), _death(memory.peak, stderr.read())
            except BaseException:
                client.shutdown_kernel = "immediate"  # Ctrl-C: do not wait for the cell to end
                raise
    except (NoSuchKernel, RuntimeError) as error:
        if result.error:  # the kernel died, so it could not be shut down
            return
        raise MMLearnError(f"no notebook can be run here ({error}); `mmlearn doctor` says what to do") from error
    result.peak_memory_mb = memory.peak / 1e6
    result.ok = not result.error


def _run_each(client, nb, on_cell, seconds: dict[int, float]) -> tuple[int | None, str]:
    """Run the code cells in order; returns the first that failed (its index among all cells) and why."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
    for k, i in enumerate(code, 1):
        if on_cell:
            on_cell(k, len(code))
        start = time.monotonic()
        try:
            client.execute_cell(nb.cells[i], i, execution_count=k)
        except CellExecutionError as error:
            return i, _short(error)
        except CellTimeoutError:
            client.shutdown_kernel = "immediate"
            return i, f"the cell took longer than {client.timeout:.0f} s; allow more with --timeout SECONDS"
        finally:
            seconds[i] = time.monotonic() - start
    return None, ""


def _short(error) -> str:
    """The error in a line or two, and the line of the cell that raised it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)
    line = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    where = f"\n  at: {line[1].strip()}" if line else ""
    return without_paths(f"{error.ename}: {error.evalue}{where}")


def _death(peak: int, stderr: str) -> str:
    crash = re.search(r"^Fatal Python error: (.*)", stderr, re.MULTILINE)
    if crash:
        return f"the kernel crashed ({crash[1]}): a fault in a library, not in the cell; see `mmlearn doctor`"
    return (
        f"the kernel died while it used {peak / 1e6:,.0f} MB. That is nearly always the system ending it for want of "
        "memory: close other programs (`mmlearn doctor` shows what is free), then run the chapter again"
    )


def _read_events(path: Path) -> Iterator[dict]:
    """What `expect` and `fit` noted; a line cut short by a dying kernel is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


class _PeakMemory:
    """Samples the resident memory of a process and its children, in bytes, while the block runs."""

    def __init__(self, pid: int, every: float = 0.1):
        self.pid, self.every, self.peak = pid, every, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        with suppress(psutil.Error):  # the process has ended
            kernel = psutil.Process(self.pid)
            while True:
                total = kernel.memory_info().rss
                for child in kernel.children(recursive=True):
                    with suppress(psutil.Error):
                        total += child.memory_info().rss
                self.peak = max(self.peak, total)
                if self._stop.wait(self.every):
                    return


# Linting ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something to repair: the file, the cell (from 0, or None for the file) and one sentence."""

    file: str
    cell: int | None
    says: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.cell is None else f':{self.cell}'}: {self.says}"


def lint(paths: Iterable[Path]) -> list[Finding]:
    """Everything in which these chapters fall short of the rules that every chapter keeps."""
    findings = []
    for path in paths:
        nb = read(path)
        checks = (_lint_file, _lint_set_up, _lint_code, _lint_outputs, _lint_exercises)
        findings += [Finding(path.name, cell, says) for check in checks for cell, says in check(nb, path)]
    return findings


Problems = Iterator[tuple[int | None, str]]


def _code(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]


def _lint_file(nb: NotebookNode, path: Path) -> Problems:
    size = path.stat().st_size
    if size > MAX_BYTES:
        yield None, f"the file has {size / 1e6:.2f} MB, at most {MAX_BYTES / 1e6:.0f} is allowed: show fewer pictures"
    titles = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "markdown" for _ in _headings(cell.source)]
    if len(titles) != 1:
        yield (titles[1] if titles else None), f"there are {len(titles)} headings of the first level; write one"
    if "widgets" in nb.metadata:
        yield None, f"the state of widgets is stored: mmlearn run {path.stem} --save"
    unrun = [i for i, cell in _code(nb) if _not_run(cell)]
    yield from ((i, f"this cell has not run: mmlearn run {path.stem} --save") for i in unrun)
    if not unrun and not is_current(nb):
        yield None, f"the outputs are not those of the code as it is now: mmlearn run {path.stem} --save"


def _headings(markdown: str) -> list[str]:
    """Headings of the first level, code blocks aside."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^# .+", prose, re.MULTILINE)


def _lint_set_up(nb: NotebookNode, path: Path) -> Problems:
    """The first code cell is the same in every chapter of the folder; the first chapter's is the measure."""
    code, first = _code(nb), find(where=path.parent)
    measure = _code(read(first[0])) if first else code
    if not code:
        yield None, "there is no set-up cell"
    elif measure and code[0][1].source.strip() != measure[0][1].source.strip():
        yield code[0][0], f"the set-up cell differs from that of {first[0].name}"


def _lint_code(nb: NotebookNode, path: Path) -> Problems:
    for i, cell in _code(nb):
        shell = re.findall(r"^\s*(?:!|%%?(?:pip|conda|sh|bash|system)\b).*", cell.source, re.MULTILINE)
        yield from ((i, f"`{line.strip()}` runs a shell or installs: leave that to make and pip") for line in shell)
        python = re.sub(r"^(\s*)[!%].*$", r"\1pass", cell.source, flags=re.MULTILINE)
        try:
            tree = ast.parse(python)
        except SyntaxError as error:
            yield i, f"line {error.lineno} is not Python: {error.msg}"
            continue
        yield from ((i, says) for node in ast.walk(tree) for says in _lint_node(node))


def _lint_node(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
        yield f"`from {node.module} import *` hides where names come from: name them"
    if not isinstance(node, ast.Call):
        return
    name = ast.unparse(node.func)
    if name == "plt.show":
        yield "plt.show() has no alt text: mm.show(fig, alt=…)"
    if name in ("mm.show", "plot.show", "mm.plot.show"):
        alt = next((keyword.value for keyword in node.keywords if keyword.arg == "alt"), ast.Constant(""))
        if isinstance(alt, ast.Constant) and not str(alt.value).strip():
            yield f"{name} needs alt=…: what is to be seen, in one or two sentences"


def _lint_outputs(nb: NotebookNode, path: Path) -> Problems:
    for i, cell in _code(nb):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                yield i, f"the output is an error ({output.ename})"
            if output.output_type == "stream" and output.name == "stderr":
                yield i, f"something was written to the error stream: mmlearn run {path.stem} --save"
            data = output.get("data", {})
            if WIDGET_VIEW in data:
                yield i, f"a live widget is stored: mmlearn run {path.stem} --save"
            if any(mime in data for mime in PICTURES) and not _alt(output):
                yield i, "the picture has no alt text: show it with mm.show(fig, alt=…)"
            yield from ((i, f"the output shows a path: {shown!r}") for shown in _paths_shown(output))


def _alt(output: NotebookNode) -> str:
    """The alternative text of a picture, kept beside it in the output's metadata."""
    metadata = output.get("metadata", {})
    return metadata.get("alt", "") or next((m["alt"] for k in PICTURES if "alt" in (m := metadata.get(k, {}))), "")


def _paths_shown(output: NotebookNode) -> list[str]:
    """The lines of an output that cleaning would change because of a path, the first of each form."""
    texts = [output.get("text", ""), *output.get("traceback", [])]
    texts += [value for mime, value in output.get("data", {}).items() if mime.startswith(("text/", "image/svg"))]
    lines = [next((line for line in text.splitlines() if without_paths(line) != line), "") for text in texts]
    return [line.strip()[:80] for line in lines if line]


def _lint_exercises(nb: NotebookNode, path: Path) -> Problems:
    """A statement, then an attempt, its check and a hidden, checked solution."""
    heads = [
        (i, found[1])
        for i, cell in enumerate(nb.cells)
        if cell.cell_type == "markdown" and (found := re.search(r"^#{2,4} Exercise (\d\d\.\d+)", cell.source, re.M))
    ]
    roles = ("exercise", "check", "solution")
    stray = [i for i, cell in _code(nb) if set(roles) & set(cell.metadata.get("tags", []))]
    ends = [*(i for i, _ in heads[1:]), len(nb.cells)]
    for (start, id), end in zip(heads, ends, strict=False):  # without exercises there is an end and no start
        cells = [(i, cell) for i, cell in _code(nb) if start < i < end]
        tagged = [(role, i, c) for i, c in cells for role in roles if role in c.metadata.get("tags", [])]
        stray = [i for i in stray if not start < i < end]
        if [role for role, _, _ in tagged] != list(roles):
            found = ", ".join(role for role, _, _ in tagged) or "none"
            yield start, f"exercise {id} needs cells tagged exercise, check and solution in this order; found: {found}"
            continue
        for role, i, cell in tagged[1:]:
            if not re.search(rf"""\bcheck\(\s*["']{re.escape(id)}["']""", cell.source):
                yield i, f'the {role} cell does not call mm.check("{id}", …)'
        if not tagged[2][2].metadata.get("jupyter", {}).get("source_hidden"):
            yield tagged[2][1], f"the solution of {id} is not hidden (jupyter.source_hidden)"
    yield from ((i, "this cell is tagged as part of an exercise, but stands under no such heading") for i in stray)
