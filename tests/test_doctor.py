"""The doctor: each failure is simulated, and must be reported with its fix."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from packaging.requirements import Requirement

from mmlearn import doctor, profiles

GB = 1e9


@pytest.fixture(autouse=True)
def _healthy(monkeypatch, tmp_path):
    """A machine on which nothing is wrong; each test breaks one thing."""
    monkeypatch.delenv("MMLEARN_DEVICE", raising=False)
    monkeypatch.setenv("MMLEARN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_free_memory", lambda: 9 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=90 * GB))
    monkeypatch.setattr(
        shutil, "which", lambda name: str(Path(sys.executable).parent / name) if name == "python" else None
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


def row(what: str) -> doctor.Row:
    return next(row for row in doctor.report() if row.what == what)


def pretend_versions(monkeypatch, **versions):
    real = importlib.metadata.version

    def version(name):
        if name in versions and versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_nothing_is_wrong_here():
    rows = doctor.report()
    assert [row for row in rows if row.status != "ok"] == []
    assert doctor.text(rows).endswith("\n\nEverything is in place.")
    shown = [row.what for row in rows]
    assert shown[:8] == ["python", "mmlearn", *doctor.ALWAYS_SHOWN]
    assert len(shown) == len(set(shown))


def test_an_old_torch_is_reported_with_the_bound_of_the_metadata(monkeypatch):
    pretend_versions(monkeypatch, torch="2.3.0")
    (bound,) = [
        str(r.specifier) for r in map(Requirement, importlib.metadata.requires("mmlearn-course")) if r.name == "torch"
    ]
    assert row("torch") == doctor.Row(
        "fail", "torch", f"2.3.0 (needs {bound})", f'python -m pip install "torch{bound}"'
    )
    assert "To be put right first: torch." in doctor.text(doctor.report())


@pytest.mark.parametrize("version", ["99.0", "99.0+cu130", "99.0.dev1", "99.0rc1"])
def test_newer_local_and_early_versions_satisfy_a_lower_bound(monkeypatch, version):
    pretend_versions(monkeypatch, torch=version)
    assert row("torch") == doctor.Row("ok", "torch", version)


@pytest.mark.parametrize("name", ["transformers", "safetensors"])  # one that is always shown, one that is not
def test_a_missing_package_is_reported(monkeypatch, name):
    pretend_versions(monkeypatch, **{name: None})
    found = row(name)
    assert found.status == "fail"
    assert found.found.startswith("missing (needs >=")
    assert found.fix.startswith(f'python -m pip install "{name}>=')


def test_a_course_that_is_not_installed_is_reported(monkeypatch):
    pretend_versions(monkeypatch, **{"mmlearn-course": None})
    assert row("mmlearn").status == "fail"
    assert row("mmlearn").fix.startswith("python -m pip install -e .")


def test_an_old_python_is_reported(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.2")
    assert row("python").status == "fail"
    assert row("python").found.startswith("3.9.2 (needs >=3.")


def test_the_fix_names_this_interpreter_when_python_is_another(monkeypatch):
    pretend_versions(monkeypatch, torch="2.3.0")
    monkeypatch.setattr(shutil, "which", lambda name: "/elsewhere/bin/python" if name == "python" else None)
    assert row("torch").fix.startswith(f'"{sys.executable}" -m pip install')


def test_a_torch_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert row("device").status == "fail"
    assert "force-reinstall torch" in row("device").fix


def test_a_silently_wrong_accelerator_is_reported_and_avoided(monkeypatch):
    """The real self-test, on an accelerator that is the CPU with a fault in its matrix product."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(profiles, "_on", lying := _lying(profiles._on))
    found = row("device")
    assert found.status == "warn"
    assert "computes a matrix product wrongly" in found.found
    assert "avoids it" in found.found
    assert found.fix in ("export MMLEARN_DEVICE=cpu", 'set "MMLEARN_DEVICE=cpu"')
    assert lying.asked == {"cuda", "cpu"}


def _lying(honest):
    def on(where, op):
        on.asked.add(where.type)
        output, gradient = honest(torch.device("cpu"), op)
        wrong = where.type == "cuda" and op is profiles._OPERATIONS["a matrix product"]
        return (output + 0.5 if wrong else output), gradient

    on.asked = set()
    return on


def test_a_wrong_device_chosen_by_hand_stops_the_course(monkeypatch):
    monkeypatch.setattr(profiles, "self_test", lambda where: f"the device {where} computes attention wrongly")
    monkeypatch.setenv("MMLEARN_DEVICE", "mps")
    assert row("device").status == "fail"
    assert row("device").fix in ("unset MMLEARN_DEVICE", 'set "MMLEARN_DEVICE="')


def test_a_device_that_does_not_exist_is_reported(monkeypatch):
    monkeypatch.setenv("MMLEARN_DEVICE", "abacus")
    assert row("device").status == "fail"
    assert "abacus" in row("device").found


def test_a_gpu_that_torch_cannot_use_is_reported(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert row("GPU").status == "warn"
    assert "pip install --force-reinstall torch" in row("GPU").fix


@pytest.mark.parametrize(("free", "status"), [(4, "ok"), (3.9, "warn"), (0.5, "fail")])
def test_low_memory_is_reported(monkeypatch, free, status):
    monkeypatch.setattr(doctor, "_free_memory", lambda: free * GB)
    assert row("memory").status == status
    assert f"{free:.1f} GB free" in row("memory").found
    assert bool(row("memory").fix) == (status != "ok")


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.undo()
    files = {
        "memory.max": "3000000000",
        "memory.current": "2500000000",
        "memory.stat": "anon 1\ninactive_file 400000000",
    }
    real = Path.read_text
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB))
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: files.get(path.name) or real(path, *a, **k))
    assert doctor._free_memory() == 0.9 * GB
    files["memory.max"] = "max"
    assert doctor._free_memory() == 64 * GB


@pytest.mark.parametrize(("free", "status"), [(6, "ok"), (2, "warn"), (0.1, "fail")])
def test_a_full_disk_is_reported(monkeypatch, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GB))
    for what, variable in (("runs folder", "MMLEARN_RUNS"), ("cache", "MMLEARN_CACHE")):
        assert row(what).status == status
        assert (variable in row(what).fix) == (status != "ok")


def test_folders_that_cannot_be_written_are_reported(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for what, variable in (("runs folder", "MMLEARN_RUNS"), ("cache", "MMLEARN_CACHE")):
        assert row(what).status == "fail"
        assert row(what).found == "cannot be written to (Permission denied)"
        assert variable in row(what).fix


def test_a_file_in_place_of_the_cache_is_reported(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("")
    assert row("cache").status == "fail"


def test_one_core_is_reported(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert row("CPU cores").status == "warn"


def test_absent_data_is_no_problem_but_the_way_to_it_is_told(monkeypatch):
    from mmlearn import data

    monkeypatch.setattr(data, "available", lambda name: name == "daquar")
    assert row("data sets") == doctor.Row("ok", "data sets", "daquar")
    assert "flickr8k" in row("optional data").found
    assert row("optional data").fix == "mmlearn data list"


def test_a_kernel_of_another_environment_is_reported(monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def names(command):
        monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: SimpleNamespace(argv=[command]))
        return row("Jupyter kernel")

    assert names("/elsewhere/bin/python3").status == "fail"
    assert names("/elsewhere/bin/python3").fix.startswith("python -m ipykernel install --sys-prefix --name python3")
    assert names(sys.executable).status == "ok"
    assert names("python").status == "ok"

    def absent(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", absent)
    assert row("Jupyter kernel").status == "fail"


def test_show_prints_plain_rows_without_paths(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "_free_memory", lambda: 2 * GB)
    pretend_versions(monkeypatch, torch="2.3.0")
    doctor.show()
    out = capsys.readouterr().out
    assert "✗ torch " in out
    assert "! memory " in out
    assert str(Path(sys.prefix)) not in out
    assert str(Path.home()) not in out
