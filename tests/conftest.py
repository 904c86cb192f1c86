"""Shape claims (jaxtyping) are checked in every test; no test may need a network or another's settings."""

import os

import matplotlib
import pytest
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
