"""The command ``mmlearn``: doctor, lab, run, reproduce, lint, data.

What a subcommand needs is imported when it runs, so that ``mmlearn --help`` answers at once.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import mmlearn
from mmlearn.errors import MMLearnError

HEARTBEAT = 20.0
PROFILES = ("cpu", "gpu", "long", "smoke")
RESULTS = ("<!-- results:begin -->", "<!-- results:end -->")


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 0 good, 1 something failed, 2 wrong use, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Windows console may lack ✓
    commands = make_parser()
    options = commands.parse_args(arguments)
    if options.command is None:
        commands.print_help()
        return 0
    try:
        return options.command(options)
    except MMLearnError as error:
        print(f"mmlearn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmmlearn: stopped", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmlearn", description="A course on vision and language, in notebooks.")
    parser.add_argument("--version", action="version", version=f"mmlearn {mmlearn.__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add(commands, "doctor", doctor, "check this machine: versions, device, memory, disk, data, Jupyter")

    lab = _add(commands, "lab", open_lab, "open JupyterLab at chapter 00")
    lab.add_argument("--no-browser", action="store_true", help="serve only, and print the address")

    run = _add(commands, "run", run_chapters, "execute chapters and sum up time, memory and expectations")
    run.add_argument("chapters", nargs="*", metavar="CHAPTER", help="02, attention or a path; none: all of them")
    run.add_argument("--profile", choices=PROFILES, help="default: cpu or gpu by the device; smoke: seconds")
    run.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=os.environ.get("MMLEARN_STRICT") == "1",
        help="a missed expectation fails the chapter (default: $MMLEARN_STRICT)",
    )
    run.add_argument("--save", action="store_true", help="write the cleaned outputs into the notebooks")
    run.add_argument("--changed", action="store_true", help="only chapters whose code is newer than their outputs")
    run.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="longest a cell may take (1800)")

    again = _add(commands, "reproduce", reproduce, "run a chapter with several seeds and keep its run cards")
    again.add_argument("chapter", metavar="CHAPTER", help="02, attention or a path")
    again.add_argument("--profile", choices=PROFILES[:3], help="default: cpu or gpu by the device; long: weights")
    again.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 … N-1 (1)")
    again.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="longest a cell may take (1800)")

    lint = _add(commands, "lint", lint_chapters, "check that chapters keep the rules for chapters")
    lint.add_argument("chapters", nargs="*", metavar="CHAPTER", help="02, attention or a path; none: all of them")

    _add_data(commands)
    return parser


def _add(commands, name: str, function, says: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.set_defaults(command=function)
    return parser


def _add_data(commands) -> None:
    data = _add(commands, "data", list_data, "list, add and check data sets")
    actions = data.add_subparsers(title="actions", metavar="ACTION")
    _add(actions, "list", list_data, "show which sets are here and how to get the others")
    add = _add(actions, "add", add_data, "take a set's original files into the course's format")
    add.add_argument("name", metavar="NAME", help="such as flickr8k")
    add.add_argument("folder", metavar="FOLDER", type=Path, help="the folder with the original files")
    check = _add(actions, "check", check_data, "check sets: files, columns, sizes, pictures")
    check.add_argument("name", metavar="NAME", nargs="?", help="one set; none: all that are here")
    check.add_argument("--deep", action="store_true", help="open every picture, not only a sample")


# doctor, lint, data -----------------------------------------------------------------------------------


def doctor(options) -> int:
    from mmlearn import doctor

    rows = doctor.report()
    print(doctor.text(rows))
    return int(any(row.status == "fail" for row in rows))


def lint_chapters(options) -> int:
    from mmlearn import notebooks

    paths = notebooks.find(options.chapters)
    findings = notebooks.lint(paths)
    for finding in findings:
        print(finding)
    print(f"{len(paths)} chapters, {len(findings)} findings")
    return int(bool(findings))


def list_data(options) -> int:
    from mmlearn import data

    print(*data.listing(), sep="\n")
    return 0


def add_data(options) -> int:
    from mmlearn import data

    if not options.folder.is_dir():
        raise MMLearnError(f"there is no folder {options.folder}; give the folder with the files of {options.name}")
    data.add(options.name, options.folder)
    return _print_check(data.check(options.name))


def check_data(options) -> int:
    from mmlearn import data

    names = [options.name] if options.name else [name for name in data.names() if data.available(name)]
    return max([_print_check(data.check(name, deep=options.deep)) for name in names])


def _print_check(check) -> int:
    print(check)
    return int(not check.ok)


# run and reproduce ------------------------------------------------------------------------------------


def run_chapters(options) -> int:
    from mmlearn import notebooks

    if options.save and "smoke" in (options.profile, os.environ.get("MMLEARN_PROFILE")):
        raise MMLearnError("--save keeps outputs that readers see; the smoke profile makes none worth keeping: use cpu")
    paths = notebooks.find(options.chapters)
    if options.changed:
        paths = notebooks.changed(paths)
    if not paths:
        print("nothing to run: every chapter's outputs are those of its code" if options.changed else "no chapters")
        return 0
    results = []
    try:
        for path in paths:
            with Progress(path.stem) as progress:
                result = notebooks.execute(
                    path,
                    profile=options.profile,
                    strict=options.strict,
                    save=options.save,
                    timeout=options.timeout,
                    on_cell=progress.cell,
                )
                results.append(result)
                progress.end(_outcome(result))
    finally:  # after Ctrl-C too
        if results:
            print(summary(results))
    return int(not all(result.ok for result in results))


def _outcome(result) -> str:
    if result.ok:
        return f"✓ {result.name}: {_clock(result.seconds)}"
    return f"✗ {result.name}: cell {result.error_cell} failed after {_clock(result.seconds)}\n{_indent(result.error)}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def summary(results) -> str:
    """A table of chapters with wall time, peak memory and expectations, and their totals."""
    width = max(7, *(len(result.name) for result in results))
    lines = ["", f"  {'chapter':<{width}}     time   memory  expectations"]
    for r in results:
        lines.append(_line("✓" if r.ok else "✗", r.name, width, r.seconds, r.peak_memory_mb, r.passed, r.failed))
    if len(results) > 1:
        total, peak = sum(r.seconds for r in results), max(r.peak_memory_mb for r in results)
        passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
        lines.append(_line(" ", "all", width, total, peak, passed, failed))
    failed = [r.name for r in results if not r.ok]
    missed = [f"  ✗ {r.name}: {e['name']} = {e['value']:.3g}" for r in results for e in r.expectations if not e["ok"]]
    lines += missed
    return "\n".join([*lines, f"{len(failed)} failed: {', '.join(failed)}" if failed else "All ran."])


def _line(mark: str, name: str, width: int, seconds: float, memory: float, passed: int, failed: int) -> str:
    reached = f"{passed} of {passed + failed}" if passed + failed else "–"
    return f"{mark} {name:<{width}}  {_clock(seconds):>7}  {memory / 1000:4.1f} GB  {reached}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress:
    """Which chapter and cell runs, and since when: one line rewritten on a terminal, else a line now and then."""

    def __init__(self, name: str, stream=None, every: float | None = None):
        self.name, self.stream = name, stream or sys.stdout
        self.live = self.stream.isatty()
        self.every = every or (0.5 if self.live else HEARTBEAT)
        self.at, self.start, self._stop = "starting", time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Progress":
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._halt()

    def cell(self, k: int, n: int) -> None:
        """Code cell ``k`` of ``n`` starts."""
        self.at = f"cell {k}/{n}"

    def end(self, says: str) -> None:
        """Replace the progress by what came out."""
        self._halt()
        print(says, file=self.stream, flush=True)

    def _halt(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.stream.write("\r\x1b[K" if self.live else "")

    def _beat(self) -> None:
        while not self._stop.wait(self.every):
            self._show()

    def _show(self) -> None:
        line = f"  {self.name}  {self.at}  {_clock(time.monotonic() - self.start)}"
        self.stream.write(f"\r\x1b[K{line}" if self.live else f"{line}\n")
        self.stream.flush()


def reproduce(options) -> int:
    """Run a chapter once for each seed, gather the run cards that it writes and refresh the README's table.

    In the profile long, the weights that the chapter keeps go into the package instead, with their cards.
    """
    from mmlearn import notebooks, weights
    from mmlearn.train import cards

    if options.seeds < 1:
        raise MMLearnError(f"--seeds is {options.seeds}; give at least 1")
    path = notebooks.find([options.chapter])[0]
    readme = notebooks.folder().parent / "README.md"
    _around_table(readme)  # better known before the hours of training than after
    results = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as runs, Progress(f"{path.stem} seed {seed}") as progress:
            result = notebooks.execute(
                path,
                profile=options.profile,
                timeout=options.timeout,
                on_cell=progress.cell,
                env={"MMLEARN_SEED": str(seed), "MMLEARN_RUNS": runs},
            )
            results.append(result)
            progress.end(_outcome(result))
            if result.ok and options.profile == "long":
                if not weights.gather(Path(runs)):
                    raise MMLearnError(f"{path.stem} kept no weights: mm.weights.keep(model, name, run)")
            elif result.ok:
                if not cards.gather(runs, cards.reference_folder()):
                    raise MMLearnError(f"{path.stem} wrote no run card; give its training a name: mm.fit(…, card=…)")
                _refresh_table(readme, cards.table_markdown())
    print(summary(results))
    return int(not all(result.ok for result in results))


def _around_table(readme: Path) -> tuple[str, str]:
    """The README's text before and after the results table, markers included."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, begin, rest = text.partition(RESULTS[0])
    _, end, after = rest.partition(RESULTS[1])
    if not end:
        raise MMLearnError(f"README.md needs the line {RESULTS[0]} and below it the line {RESULTS[1]} for the table")
    return before + begin, end + after


def _refresh_table(readme: Path, table: str) -> None:
    before, after = _around_table(readme)
    readme.write_text(f"{before}\n{table.strip()}\n{after}", encoding="utf-8")


# lab --------------------------------------------------------------------------------------------------


def open_lab(options) -> int:
    """Serve JupyterLab until Ctrl-C, in a browser where there is a display."""
    from mmlearn import notebooks

    start, root = notebooks.find(["00"])[0], notebooks.folder().parent.resolve()
    page = start.resolve().relative_to(root).as_posix()
    browser = has_display() and not options.no_browser
    port, token = free_port(), secrets.token_urlsafe(16)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", f"--port={port}", "-y"]
    command += ["--log-level=ERROR", *([page] if browser else ["--no-browser"])]
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in containers; Jupyter refuses otherwise
    environment = os.environ | {"JUPYTER_TOKEN": token}
    # In a session of its own, so that Ctrl-C comes here only and the server is ended once, in order.
    server = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.default_int_handler)  # a closed terminal leaves no server
    try:
        if _answers(server, port):
            print(_address(port, page, token), flush=True)
        return server.wait()
    except KeyboardInterrupt:
        _end(server)
        print("\nJupyterLab has stopped; your notebooks are saved as JupyterLab last saved them")
        return 0


def _end(server: subprocess.Popen) -> None:
    """Ask the server to shut down its kernels and stop; after ten seconds make it."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=10)
    server.kill()
    server.wait()


def has_display() -> bool:
    """Can a browser be opened here? Not over SSH, nor on a Linux machine without a graphical session."""
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def free_port(first: int = 8888, tries: int = 100) -> int:
    """The first free TCP port from ``first`` up."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise MMLearnError(f"no port from {first} to {first + tries - 1} is free; stop another server first")


def _answers(server: subprocess.Popen, port: int, seconds: float = 60) -> bool:
    """Wait until the server takes connections; False when it ended or did not come up in time."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.2)
    return False


def _address(port: int, page: str, token: str) -> str:
    url = f"http://localhost:{port}/lab/tree/{page}?token={token}"
    lines = ["JupyterLab is served here (stop it with Ctrl-C):", "", f"  {url}", ""]
    if os.environ.get("SSH_CONNECTION"):
        lines.append(f"From your own machine, first:  ssh -L {port}:localhost:{port} THIS_MACHINE")
    return "\n".join(lines)
