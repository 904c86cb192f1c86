"""Shape claims (jaxtyping) are checked in every test; no test may need a network or another's settings."""

import os

import jaxtyping
import matplotlib
import pytest
import torch
from jaxtyping import install_import_hook

matplotlib.use("Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("MMLEARN_PROFILE", "MMLEARN_STRICT", "MMLEARN_SEED", "MMLEARN_EVENTS", "MMLEARN_RUNS", "MMLEARN_DEVICE"):
    os.environ.pop(name, None)
install_import_hook(["mmlearn.nn", "mmlearn.models", "mmlearn.scenes", "mmlearn.data"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Run cards and caches of a test go to its own folder."""
    monkeypatch.setenv("MMLEARN_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def unchecked():
    """As a learner meets the functions: without the import hook that checks shapes in tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def quiet_on_one_thread(monkeypatch):
    """Training without live output, on one CPU thread: bit-equal from run to run."""
    monkeypatch.setenv("MMLEARN_QUIET", "1")
    monkeypatch.setenv("MMLEARN_DEVICE", "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
