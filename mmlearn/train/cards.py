"""Run cards: what a training run was and what it reached, as a small JSON file, and the tables made of them.

The learner's own lie under ``runs/cards/`` (``MMLEARN_RUNS`` moves ``runs``), the committed references under
``results/``. Only the standard library is used here.
"""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev

from mmlearn.errors import DataError, MMLearnError

FORMAT = 1
MAX_POINTS = 200
_latest: list[Path] = []  # the card that this process wrote last


# --- places ------------------------------------------------------------------------------------------------------


def root() -> Path:
    """The checkout this package runs from, or the working folder where it is installed without one."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def own_folder() -> Path:
    """Where the learner's own cards lie."""
    return Path(os.environ.get("MMLEARN_RUNS") or root() / "runs") / "cards"


def reference_folder() -> Path:
    """Where the committed references lie."""
    return root() / "results"


def split_name(card: str) -> tuple[str, str]:
    """Chapter and name of a card such as ``00_start/two_tower``."""
    chapter, _, name = card.rpartition("/")
    if not chapter or not all(c.isalnum() or c in "_-." for c in chapter + name) or not name or ".." in card:
        raise DataError(f"a card is called chapter/name, such as 00_start/two_tower, not {card!r}")
    return chapter, name


# --- writing -----------------------------------------------------------------------------------------------------


def plain(value):
    """A value as JSON can hold it: tensors as numbers, paths without their folders, functions by their name."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if isinstance(value, partial):
        return {plain(value.func): plain(value.keywords)}
    text = getattr(value, "__qualname__", None) or str(value)
    return type(value).__name__ if " at 0x" in text else text


def thin(points: list[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most ``most`` points: the mean of each stretch at the step in its middle."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * i // most for i in range(most + 1)]
    stretches = [points[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    return [(s[len(s) // 2][0], mean(value for _, value in s)) for s in stretches]


def smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """A thinned curve with each value the mean of its neighbourhood, 5 % of the curve wide and smaller at its ends."""
    half = len(points) // 40
    values = [value for _, value in points]
    reach = [min(half, i, len(points) - 1 - i) for i in range(len(points))]
    return [(points[i][0], mean(values[i - r : i + r + 1])) for i, r in enumerate(reach)]


def short(value: float) -> str:
    """A loss for a sentence: two decimals, or two digits where it is small."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def write(card: str, run, recipe, device_name: str) -> Path:
    """Write the card of a run and return its path."""
    chapter, name = split_name(card)
    norms = [(step, norm) for (step, _), norm in zip(run.curve, run.grad_norms, strict=True) if math.isfinite(norm)]
    data = {
        "format": FORMAT,
        "chapter": chapter,
        "name": name,
        "profile": recipe.profile,
        "seed": recipe.seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "config": recipe.config,
        "training": recipe.settings,
        "versions": versions(),
        "commit": commit(),
        "device": device_name,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "steps": run.steps,
        "interrupted": run.interrupted,
        "stopped_early": run.stopped_early,
        "seconds": round(run.seconds, 2),
        "samples_per_second": round(run.samples_per_second, 1),
        "peak_memory_mb": round(run.peak_memory_mb, 1),
        "curve": _columns(thin(run.curve), "loss") | {"grad_norm": [_short(v) for _, v in thin(norms)]},
        "extra": {key: _columns(thin(points), "value") for key, points in run.extra.items()},
        "validation": [[step, plain(numbers)] for step, numbers in run.validation],
        "metrics": run.metrics,
        "expectations": [],
    }
    path = own_folder() / chapter / f"{name}.json"
    _store(path, data)
    _latest[:] = [path]
    return path


def add_metric(path: Path, name: str, entry: dict) -> None:
    """Add a metric to a card that was written."""
    _change(path, lambda data: data["metrics"].update({name: entry}))


def latest() -> dict | None:
    """The card that this process wrote last, or None."""
    return read(_latest[0]) if _latest else None


def record_expectation(name: str, value: float, bounds: dict, ok: bool) -> None:
    """Add the outcome of an ``mm.expect`` to the latest card; does nothing where no card was written."""
    if not _latest:
        return
    entry = {"value": plain(float(value)), "bounds": plain(bounds), "ok": bool(ok)}
    _change(_latest[0], lambda data: data["expectations"].append({"name": name, **entry}))


def _change(path: Path, change) -> None:
    data = read(path)
    if data is not None:
        change(data)
        _store(path, data)


def _store(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _columns(points: list[tuple[int, float]], name: str) -> dict:
    return {"step": [step for step, _ in points], name: [_short(value) for _, value in points]}


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def versions() -> dict[str, str]:
    """Versions of what the result may depend on."""
    found = {"python": platform.python_version()}
    loaded = [name for name in ("transformers", "torchvision") if name in sys.modules]
    for name in ("mmlearn-course", "torch", "accelerate", *loaded):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


@cache
def commit() -> str | None:
    """The git commit of the checkout, with + where files differ from it; None outside one."""
    if not (root() / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root())]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", "mmlearn"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "") if head.returncode == 0 else None


# --- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> dict | None:
    """A card; None with one sentence where the file is broken."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        why = _fault(data)
        if not why:
            return data
    except (OSError, ValueError, TypeError) as error:
        why = f"it cannot be read, {type(error).__name__}"
    print(f"The card {Path(path).name} is left out: {why}.")
    return None


def _fault(data) -> str:
    """What is wrong with the content of a card; empty where nothing is."""
    if not isinstance(data, dict):
        return "it is not a card"
    for key, kind in {"chapter": str, "name": str, "profile": str, "seed": int, "curve": dict, "metrics": dict}.items():
        if key not in data:
            return f"it lacks {key}"
        if not isinstance(data[key], kind):
            return f"its {key} is {data[key]!r}"
    steps, losses = data["curve"].get("step", []), data["curve"].get("loss", [])
    if len(steps) != len(losses) or not all(isinstance(value, int | float) for value in [*steps, *losses]):
        return "its curve is incomplete"
    broken = [name for name, entry in data["metrics"].items() if not isinstance(entry, dict) or "value" not in entry]
    return f"its metric {broken[0]} has no value" if broken else ""


def references(card: str, profile: str, folder: Path | None = None) -> list[dict]:
    """The committed cards of a name and profile, one a seed."""
    chapter, name = split_name(card)
    found = sorted(((folder or reference_folder()) / chapter).glob(f"{name}-{profile}-seed*.json"))
    return [data for data in map(read, found) if data is not None]


@dataclass(frozen=True)
class Band:
    """The lowest and highest loss of the reference runs by step."""

    steps: list[int]
    low: list[float]
    high: list[float]
    runs: int

    @property
    def label(self) -> str:
        """Name in a legend."""
        return f"{self.runs} reference run{'s' if self.runs > 1 else ''}"

    def verdict(self, curve: list[tuple[int, float]]) -> str:
        """Whether the last tenth of a curve ends inside the band, widened by its own width or 10 % of its level."""
        tail = curve[-max(1, len(curve) // 10) :]
        mine = mean(loss for _, loss in tail)
        low = mean(_at(step, self.steps, self.low) for step, _ in tail)
        high = mean(_at(step, self.steps, self.high) for step, _ in tail)
        margin = max(high - low, 0.1 * abs(low + high) / 2)
        inside = low - margin <= mine <= high + margin
        word = "Inside" if inside else "Outside, lower" if mine < low else "Outside, higher"
        ends = f"{short(mine)}, that of {self.label} {short(low)} to {short(high)}"
        return f"{word}: over the last tenth of the steps your loss is {ends}."


def band(card: str, profile: str, folder: Path | None = None) -> Band | None:
    """The band of the references of a card, or None where there are none."""
    found = [data["curve"] for data in references(card, profile, folder) if data["curve"].get("step")]
    if not found:
        return None
    curves = [smooth(list(zip(curve["step"], curve["loss"], strict=True))) for curve in found]
    steps = [step for step, _ in max(curves, key=len)]
    at = [[_at(step, *zip(*curve, strict=True)) for curve in curves] for step in steps]
    return Band(steps, [min(values) for values in at], [max(values) for values in at], len(curves))


def _at(step: float, steps: Sequence[int], values: Sequence[float]) -> float:
    """The value at a step, on straight lines between the points and level beyond them."""
    if step <= steps[0]:
        return values[0]
    for (a, u), (b, v) in zip(zip(steps, values, strict=True), zip(steps[1:], values[1:], strict=True), strict=False):
        if step <= b:
            return u + (v - u) * (step - a) / (b - a)
    return values[-1]


# --- gathering and tables ----------------------------------------------------------------------------------------


def gather(from_folder: Path | str, to: Path | str = "results") -> list[Path]:
    """Copy the cards below a folder to ``to/<chapter>/<name>-<profile>-seed<k>.json``; return the new paths.

    Cards of the ``smoke`` profile and of interrupted runs are left out.
    """
    written = []
    for path in sorted(Path(from_folder).rglob("*.json")):
        data = read(path)
        if data is None or data["profile"] == "smoke" or data.get("interrupted"):
            continue
        split_name(f"{data['chapter']}/{data['name']}")
        target = Path(to) / data["chapter"] / f"{data['name']}-{data['profile']}-seed{data['seed']}.json"
        _store(target, data)
        written.append(target)
    return written


@dataclass(frozen=True)
class Row:
    """One metric: the learner's value beside the references. Texts, ready to print."""

    metric: str
    you: str
    cpu: str
    gpu: str
    chance: str
    blind: str
    paper: str


HEADS = ("metric", "you", "CPU reference", "GPU reference", "chance", "blind", "paper")
NOTHING = "–"


def rows(card: str, folder: Path | None = None) -> list[Row]:
    """The table of a card: one row a metric, of the learner's card and of the references."""
    chapter, name = split_name(card)
    path = own_folder() / chapter / f"{name}.json"
    own = read(path) if path.exists() else None
    cards = {profile: references(card, profile, folder) for profile in ("cpu", "gpu")}
    every = ([own] if own else []) + cards["cpu"] + cards["gpu"]
    names = list(dict.fromkeys(metric for data in every for metric in data["metrics"]))
    return [_row(metric, own, cards, every) for metric in names]


def _row(metric: str, own: dict | None, cards: dict, every: list[dict]) -> Row:
    given = [data["metrics"][metric] for data in every if metric in data["metrics"]]
    about = {key: next((e[key] for e in given if e.get(key) is not None), None) for key in ("chance", "blind", "paper")}
    mine = own["metrics"].get(metric, {}).get("value") if own else None
    references = {profile: _spread(metric, found) for profile, found in cards.items()}
    return Row(metric, number(mine), **references, **{key: number(value) for key, value in about.items()})


def _spread(metric: str, cards: list[dict]) -> str:
    values = [card["metrics"][metric]["value"] for card in cards if metric in card["metrics"]]
    values = [value for value in values if value is not None]
    if not values:
        return NOTHING
    if len(values) == 1:
        return f"{number(values[0])} (1 seed)"
    return f"{number(mean(values))} ± {number(stdev(values))} ({len(values)} seeds)"


def number(value) -> str:
    """A value for a table: three decimals, or whole from 100 up; texts stay as they are."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def results(card: str, folder: Path | None = None) -> None:
    """Show the table "metric · you · CPU reference · GPU reference · chance · blind · paper" of a card.

    References are mean ± standard deviation over seeds. What is absent is said in a sentence below.
    """
    table, notes = rows(card, folder), missing(card, folder)
    if not table:
        notes.insert(0, "no metric yet: train, then call run.metric(…)")
    text = "\n".join([*(_as_text(table) if table else []), *(f"· {note}" for note in notes)])
    from mmlearn.train.live import in_notebook

    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text, "text/html": _as_html(table, notes)}, raw=True)


def missing(card: str, folder: Path | None = None) -> list[str]:
    """Sentences about cards that are not there, and what each metric counts."""
    chapter, name = split_name(card)
    path = own_folder() / chapter / f"{name}.json"
    own = read(path) if path.exists() else None
    notes = [] if own else ["you have not trained this yet"]
    found = [] if own is None else [own]
    for profile, word in (("cpu", "CPU"), ("gpu", "GPU")):
        cards = references(card, profile, folder)
        found += cards
        if not cards:
            notes.append(f"no {word} card yet")
    definitions = {m: e.get("definition") for data in reversed(found) for m, e in data["metrics"].items()}
    return [f"{metric}: {text}" for metric, text in reversed(definitions.items()) if text] + notes


def _as_text(table: list[Row]) -> list[str]:
    lines = [HEADS, *[_cells(row) for row in table]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [padded[0], "  ".join("─" * width for width in widths), *padded[1:]]


def _cells(row: Row) -> tuple[str, ...]:
    return (row.metric, row.you, row.cpu, row.gpu, row.chance, row.blind, row.paper)


def _as_html(table: list[Row], notes: list[str]) -> str:
    from html import escape

    head = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    body = ""
    for row in table:
        first, *others = map(escape, _cells(row))
        body += f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
    below = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{below}</ul>"


def table_markdown(folder: Path | None = None) -> str:
    """All committed references as one Markdown table, for the README."""
    folder = folder or reference_folder()
    known = {}
    for path in sorted(folder.glob("*/*-seed*.json")):
        data = read(path)
        if data is not None:
            known[f"{data['chapter']}/{data['name']}"] = None
    lines = ["| chapter | model | metric | CPU | GPU | chance | blind | paper |", "|---|---|---|---|---|---|---|---|"]
    for card in known:
        chapter, name = split_name(card)
        cards = {profile: references(card, profile, folder) for profile in ("cpu", "gpu")}
        every = cards["cpu"] + cards["gpu"]
        for metric in dict.fromkeys(m for data in every for m in data["metrics"]):
            cells = [chapter, name, metric, *_cells(_row(metric, None, cards, every))[2:]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if len(lines) == 2:
        raise MMLearnError(f"there are no run cards in {folder.name}: run mmlearn reproduce first")
    return "\n".join(lines)
