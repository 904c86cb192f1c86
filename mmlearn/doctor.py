"""The doctor: is everything in place for the course, and if not, what exactly puts it right?

``mmlearn doctor`` in a terminal, ``mmlearn.doctor.show()`` in a notebook. Version bounds are read from
the installed metadata, so that they cannot contradict it.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

DISTRIBUTION = "mmlearn-course"
ALWAYS_SHOWN = ("torch", "torchvision", "transformers", "datasets", "accelerate", "jupyterlab")
GB = 1e9
MEMORY_WANTED, MEMORY_NEEDED = 4 * GB, 1 * GB
DISK_WANTED, DISK_NEEDED = 5 * GB, 0.5 * GB
MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Row:
    """One finding: ``status`` is ok, warn (the course goes on) or fail (it cannot); ``fix`` is a command."""

    status: str
    what: str
    found: str
    fix: str = ""


def report() -> list[Row]:
    """All findings in a fixed order; nothing is changed on the machine."""
    checks = (_python, _packages, _device, _cores, _memory, _disk_and_permission, _data_sets, _kernel)
    return [row for check in checks for row in check()]


def text(rows: list[Row]) -> str:
    """The findings as plain lines, each fix below its problem."""
    width = max(len(row.what) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{MARKS[row.status]} {row.what:<{width}}  {row.found}")
        if row.fix:
            lines.append(f"  {'':<{width}}  → {row.fix}")
    return "\n".join([*lines, "", _verdict(rows)])


def show() -> None:
    """Print the findings in a notebook; paths of this machine are left out."""
    from mmlearn.notebooks import without_paths

    print(without_paths(text(report())))


def _verdict(rows: list[Row]) -> str:
    failed = [row.what for row in rows if row.status == "fail"]
    warned = [row.what for row in rows if row.status == "warn"]
    if failed:
        return f"To be put right first: {', '.join(failed)}."
    if warned:
        return f"The course will run. Worth a look: {', '.join(warned)}."
    return "Everything is in place."


# Versions ---------------------------------------------------------------------------------------------


def _pip(arguments: str) -> str:
    """A pip command for this very environment, whatever `python` means in the reader's shell."""
    here = Path(sys.executable)
    found = shutil.which("python")
    python = "python" if found and Path(found).parent == here.parent else f'"{here}"'
    return f"{python} -m {arguments}"


def _python() -> list[Row]:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        bound = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return [Row("ok", "python", version)]
    found = f"{version} (needs {bound})"
    if version in SpecifierSet(bound, prereleases=True):
        return [Row("ok", "python", found)]
    return [Row("fail", "python", found, "install Python 3.11 or newer, delete .venv, then: make learn")]


def _requirements() -> dict[str, str]:
    """Version bounds of the installed distribution by package name, extras left out."""
    from packaging.requirements import Requirement

    bounds = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            bounds[requirement.name] = str(requirement.specifier)
    return bounds


def _packages() -> list[Row]:
    try:
        version, bounds = importlib.metadata.version(DISTRIBUTION), _requirements()
    except importlib.metadata.PackageNotFoundError:
        fix = _pip("pip install -e .") + "  (in the course's folder)"
        return [Row("fail", "mmlearn", "not installed in this environment", fix)]
    rows = [_package(name, bounds.get(name, "")) for name in dict.fromkeys([*ALWAYS_SHOWN, *bounds])]
    shown = [row for row in rows if row.what in ALWAYS_SHOWN or row.status != "ok"]
    return [Row("ok", "mmlearn", version), *shown]


def _package(name: str, bound: str) -> Row:
    from packaging.specifiers import SpecifierSet

    fix = _pip(f'pip install "{name}{bound}"')
    needs = f" (needs {bound})" if bound else ""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row("fail", name, "missing" + needs, fix)
    if not SpecifierSet(bound, prereleases=True).contains(version):
        return Row("fail", name, version + needs, fix)
    return Row("ok", name, version)


# Device, cores, memory, disk --------------------------------------------------------------------------


def _device() -> list[Row]:
    try:
        import torch

        from mmlearn.profiles import self_test
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = _pip("pip install --force-reinstall torch torchvision")
        return [Row("fail", "device", f"torch cannot be imported ({reason})", fix)]
    wanted = os.environ.get("MMLEARN_DEVICE")
    name = wanted or _accelerator(torch)
    try:
        problem = self_test(name)
    except RuntimeError as error:  # not a device that torch knows
        problem = str(error).splitlines()[0]
    if problem and wanted:
        return [Row("fail", "device", f"MMLEARN_DEVICE is {wanted!r}, but {problem}", _set("MMLEARN_DEVICE"))]
    if problem:
        fix = _set("MMLEARN_DEVICE", "cpu")
        return [Row("warn", "device", f"{problem}; the course avoids it and computes on the CPU", fix)]
    return [Row("ok", "device", _describe(torch, name)), *_unused_gpu(torch, name)]


def _accelerator(torch) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _describe(torch, name: str) -> str:
    if name.startswith("cuda"):
        card = torch.cuda.get_device_properties(name)
        return f"{name} ({card.name}, {card.total_memory / GB:.0f} GB), agrees with the CPU"
    return "mps (Apple), agrees with the CPU" if name == "mps" else f"{name}, no accelerator in use"


def _unused_gpu(torch, name: str) -> list[Row]:
    """A GPU that torch cannot use is a common reason why training is slow."""
    if name != "cpu" or os.environ.get("MMLEARN_DEVICE") or not shutil.which("nvidia-smi"):
        return []
    if torch.version.cuda is None:
        fix = _pip("pip install --force-reinstall torch torchvision") + "  (Windows: see pytorch.org)"
        return [Row("warn", "GPU", "this machine has an NVIDIA driver, but torch is built for the CPU", fix)]
    return [Row("warn", "GPU", "this machine has an NVIDIA driver, but torch cannot use it", "nvidia-smi")]


def _set(variable: str, value: str = "") -> str:
    if os.name == "nt":
        return f'set "{variable}={value}"'
    return f"export {variable}={value}" if value else f"unset {variable}"


def _cores() -> list[Row]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= 2:
        return [Row("ok", "CPU cores", str(cores))]
    slow = "1: training takes about twice the stated time"
    return [Row("warn", "CPU cores", slow, "mmlearn run 00 --profile smoke  (a look in seconds)")]


def _free_memory() -> float:
    """Bytes that programs can still take, a container's own limit included."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no such limit, or the word "max"
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
        free = min(free, int((group / "memory.max").read_text()) - used)
    return free


def _memory() -> list[Row]:
    free = _free_memory()
    found = f"{free / GB:.1f} GB free (a chapter takes up to {MEMORY_WANTED / GB:.0f} GB)"
    fix = "close other programs and notebooks: in JupyterLab, Kernel ▸ Shut Down All Kernels"
    if free >= MEMORY_WANTED:
        return [Row("ok", "memory", found)]
    return [Row("warn" if free >= MEMORY_NEEDED else "fail", "memory", found, fix)]


def _disk_and_permission() -> list[Row]:
    try:
        from mmlearn.data.places import cache_folder
        from mmlearn.train.cards import own_folder
    except (ImportError, OSError):  # the rows above say which package is missing
        return []
    return [_folder("runs folder", own_folder, "MMLEARN_RUNS"), _folder("cache", cache_folder, "MMLEARN_CACHE")]


def _folder(what: str, find: Callable[[], Path], variable: str) -> Row:
    """Can the course write where ``find`` says, and is there room? ``variable`` moves the folder elsewhere."""
    move = f"{_set(variable, 'FOLDER')}  (FOLDER: one of yours, with room)"
    try:
        folder = find().absolute()
        existing = next(place for place in [folder, *folder.parents] if place.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"mmlearn")
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Row("fail", what, f"cannot be written to ({error.strerror or error})", move)
    if free >= DISK_WANTED:
        return Row("ok", what, f"writable, {free / GB:.1f} GB of disk free")
    status = "warn" if free >= DISK_NEEDED else "fail"
    found = f"writable, only {free / GB:.1f} GB of disk free (wanted: {DISK_WANTED / GB:.0f} GB)"
    return Row(status, what, found, f"{_pip('pip cache purge')}  or  {move}")


# Data and Jupyter -------------------------------------------------------------------------------------


def _data_sets() -> list[Row]:
    try:
        from mmlearn import data
    except (ImportError, OSError):  # the rows above say which package is missing
        return []
    found = [name for name in data.names() if data.available(name)]
    absent = [name for name in data.names() if name not in found]
    rows = [Row("ok", "data sets", ", ".join(found) or "only the drawn world")]
    if absent:
        rows.append(Row("ok", "optional data", f"not here: {', '.join(absent)}", "mmlearn data list"))
    return rows


def _kernel() -> list[Row]:
    """Notebooks run in the interpreter that the kernel specification names, not in the one of the shell."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:  # reported with the packages
        return []
    fix = _pip('ipykernel install --sys-prefix --name python3 --display-name "Python 3"')
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return [Row("fail", "Jupyter kernel", "there is none named python3", fix)]
    # A bare "python" is replaced by the running interpreter when Jupyter starts the kernel.
    if Path(command).is_absolute() and Path(command).parent != Path(sys.executable).parent:
        return [Row("fail", "Jupyter kernel", "notebooks would run in another Python than this one", fix)]
    return [Row("ok", "Jupyter kernel", "runs in this environment")]
