"""Checkpoints: killed and resumed bit-equal, tampered, truncated, full disk, other models and settings."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmlearn.errors import CheckpointError
from mmlearn.train import checkpoints, fit

STEPS = 60


pytestmark = pytest.mark.usefixtures("quiet_on_one_thread")


class Net(nn.Module):
    """Dropout, batch statistics and a tied weight."""

    def __init__(self, width=12):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(6, width, bias=False)
        self.out.weight = self.first.weight

    def forward(self, x):
        hidden = F.dropout(self.norm(self.first(x)).relu(), 0.3, self.training)
        return hidden @ self.out.weight


def net(width=12):
    torch.manual_seed(0)
    return Net(width)


class Noisy(Dataset):
    """Examples that draw a random number each time they are read, as an augmentation does."""

    def __len__(self):
        return 22

    def __getitem__(self, i):
        noise = torch.rand(6) + random.random() + np.random.rand()  # noqa: NPY002
        return torch.full((6,), i / 22), noise


def function(step):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    return x, x.cumsum(1) + torch.rand(8, 6)  # the function draws from the global numbers too


def loss_of(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def train(form, folder=None, steps=STEPS, before=None, width=12, **more):
    """One run; ``before(step)`` is called ahead of each step."""
    source = function if form == "function" else DataLoader(Noisy(), batch_size=4, shuffle=True)

    def loss(model, batch):
        if before and model.training:
            before(len(done))
            done.append(1)
        return loss_of(model, batch)

    done = []
    settings = dict(steps=steps, checkpoint=folder, checkpoint_every=7, schedule="one_cycle", lr=0.01) | more
    return fit(net(width), source, loss=loss, **settings)


def same(a, b):
    assert a.curve == b.curve
    assert a.grad_norms == b.grad_norms
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def steps_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# --- killed ------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_train_checkpoints as t
t.torch.set_num_threads(1)
def before(step):
    print("step", step, flush=True)
    time.sleep(0.004)
t.train(sys.argv[2], sys.argv[3], before=before, optimizer=t.sgd if sys.argv[2] == "loader" else None)
"""


@pytest.mark.parametrize("form", ["function", "loader"])
def test_killed_at_a_random_step_and_resumed_it_ends_bit_equal(form, tmp_path):
    """SIGKILL; dropout, batch statistics, momentum or AdamW, one_cycle, and batches that draw random numbers."""
    at = random.SystemRandom().randrange(9, STEPS - 3)
    (tmp_path / "train.py").write_text(SCRIPT)
    arguments = [sys.executable, str(tmp_path / "train.py"), str(Path(__file__).parent), form, str(tmp_path / "c")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == f"step {at}\n":
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"to be killed at step {at}"
    process.stdout.close()
    assert (tmp_path / "c").exists()
    optimizer = sgd if form == "loader" else None
    resumed = train(form, tmp_path / "c", optimizer=optimizer)
    whole = train(form, optimizer=optimizer)
    assert len(resumed.curve) == STEPS, f"killed at step {at}"
    same(resumed, whole)
    assert steps_in(tmp_path / "c") == ["step-000056", "step-000060"]


@pytest.mark.parametrize("at", [1, 6, 7, 11, 12, 13, 20])
@pytest.mark.parametrize("form", ["function", "loader"])
def test_resuming_is_exact_at_each_position_of_an_epoch(form, at, tmp_path):
    """Six batches an epoch: within one, at its end, at the start of the next."""

    class Stop(Exception):
        pass

    def before(step):
        if step == at:
            raise Stop

    with pytest.raises(Stop):
        train(form, tmp_path / "c", steps=21, before=before, checkpoint_every=1)
    same(train(form, tmp_path / "c", steps=21, checkpoint_every=1), train(form, steps=21))


def test_a_finished_run_returns_at_once(tmp_path, capsys):
    first = train("function", tmp_path / "c", steps=9)
    after = torch.rand(1)

    def never(step):
        raise AssertionError("trained again")

    again = train("function", tmp_path / "c", steps=9, before=never)
    assert torch.equal(torch.rand(1), after)  # what follows sees the same random numbers
    same(first, again)
    assert "already trained: 9 steps" in capsys.readouterr().out
    fresh = train("function", tmp_path / "c", steps=8, resume=False)
    assert fresh.steps == 8
    assert steps_in(tmp_path / "c") == ["step-000007", "step-000008"]


def test_a_stopped_run_is_finished_and_more_steps_go_on(tmp_path, capsys):
    stop = dict(stop_when=lambda step, loss, validation: step == 5)
    assert train("function", tmp_path / "a", steps=9, **stop).steps == 5
    assert train("function", tmp_path / "a", steps=9, **stop).stopped_early
    constant = dict(schedule="constant", warmup=0)
    train("function", tmp_path / "b", steps=9, **constant)
    longer = train("function", tmp_path / "b", steps=15, **constant)
    assert "planned for 9 steps and now has 15" in capsys.readouterr().out
    same(longer, train("function", steps=15, **constant))
    with pytest.raises(CheckpointError, match="further than the 9 steps"):
        train("function", tmp_path / "b", steps=9, **constant)


def test_the_micro_batch_found_by_running_out_of_memory_is_kept(tmp_path):
    def loss(model, batch):
        seen.append(len(batch[0]))
        if len(batch[0]) > 2:
            raise RuntimeError("CUDA out of memory")
        if len(seen) == stop:
            raise KeyboardInterrupt
        return loss_of(model, batch)

    seen, stop = [], 20
    settings = dict(loss=loss, steps=9, checkpoint=tmp_path / "c")
    assert fit(net(), function, **settings).interrupted
    seen, stop = [], None
    fit(net(), function, **settings)
    assert set(seen) == {2}


# --- broken ------------------------------------------------------------------------------------------------------


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def edit(path):
    path.write_text(path.read_text().replace('"step": 15', '"step": 16'))


BROKEN = {
    "cut off": ("model.safetensors", cut_off, "model.safetensors is cut off or was changed"),
    "changed": ("optimizer.safetensors", flip, "optimizer.safetensors is cut off or was changed"),
    "edited": ("state.json", edit, "state.json was changed"),
    "cut state": ("state.json", cut_off, "step-000015 cannot be read"),
    "lost": ("random.safetensors", Path.unlink, "lacks the file random.safetensors"),
    "lost state": ("state.json", Path.unlink, "lacks the file state.json"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_checkpoint_is_refused_and_the_one_before_used(how, tmp_path, capsys):
    name, breaks, sentence = BROKEN[how]
    train("function", tmp_path / "c", steps=15)
    whole = train("function", steps=15)
    breaks(tmp_path / "c" / "step-000015" / name)
    capsys.readouterr()
    same(train("function", tmp_path / "c", steps=15), whole)
    said = capsys.readouterr().out
    assert sentence in said
    assert "Going on from step 14 of 15 (step-000014)" in said
    for step in ("step-000014", "step-000015"):
        cut_off(tmp_path / "c" / step / name)
    with pytest.raises(CheckpointError, match="no checkpoint in c can be used.*resume=False"):
        train("function", tmp_path / "c", steps=15)


def test_a_full_disk_loses_nothing_older(tmp_path, capsys, monkeypatch):
    real, calls = os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) == 7:  # in the second checkpoint: six calls make the first
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    def look(step):
        if step == 15:
            seen.extend(p.name for p in (tmp_path / "c").iterdir())

    seen = []
    monkeypatch.setattr(os, "fsync", full)
    run = train("function", tmp_path / "c", steps=22, before=look)
    said = capsys.readouterr().out
    assert "checkpoint of step 14 could not be saved (No space left on device): the last one is step-000007" in said
    assert seen == ["step-000007"]
    assert steps_in(tmp_path / "c") == ["step-000021", "step-000022"]
    monkeypatch.undo()
    assert run.finished


def test_a_write_that_truly_fails_is_survived(tmp_path, capsys):
    """The operating system refuses files above a size, as a quota does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        run = train("function", tmp_path / "c", steps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.finished
    assert steps_in(tmp_path / "c") == []
    assert capsys.readouterr().out.count("could not be saved") == 2


def test_another_model_or_other_settings_are_refused(tmp_path):
    train("function", tmp_path / "c", steps=9)
    with pytest.raises(CheckpointError, match=r"first.weight is \(12, 6\) there, \(13, 6\) here"):
        train("function", tmp_path / "c", steps=9, width=13)
    with pytest.raises(CheckpointError, match="trained with lr = 0.01, now it is 0.02: pass resume=False"):
        train("function", tmp_path / "c", steps=9, lr=0.02)
    with pytest.raises(CheckpointError, match="config.dropout = None, now it is 0.5"):
        train("function", tmp_path / "c", steps=9, config={"dropout": 0.5})
    with pytest.raises(CheckpointError, match="no tensor weight"):
        fit(nn.Linear(6, 6), function, loss=loss_of, steps=9, checkpoint=tmp_path / "c")


# --- the format --------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_safetensors_and_json_with_tied_weights_stored_once(tmp_path):
    train("function", tmp_path / "c", steps=3)
    folder = tmp_path / "c" / "step-000003"
    assert steps_in(folder) == ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"]
    state, tensors = checkpoints.read(folder)
    assert state["aliases"] == {"out.weight": "first.weight"}
    assert "out.weight" not in tensors["model"]
    assert len(json.loads((folder / "state.json").read_text())["sha256"]["model.safetensors"]) == 64
    assert "pickle" not in Path(checkpoints.__file__).read_text().replace("Nothing is ever pickled", "")


def test_trees_survive():
    shared = torch.arange(6.0)
    tree = {"a": [1, 2.5, None, True, "x"], 3: (shared.view(2, 3).t(), {"deep": ()}), "inf": float("inf")}
    tensors = {}
    text = json.dumps(checkpoints.pack(tree, tensors))
    back = checkpoints.unpack(json.loads(text), tensors)
    assert back.keys() == tree.keys()
    assert back["a"] == tree["a"]
    assert torch.equal(back[3][0], tree[3][0])
    assert back[3][1] == {"deep": ()}
    kept, aliases = checkpoints.without_copies({"all": shared, "part": shared[2:], "again": shared})
    assert aliases == {"again": "all"}
    assert kept["part"].tolist() == [2, 3, 4, 5]
    assert kept["part"].untyped_storage().data_ptr() != shared.untyped_storage().data_ptr()


def test_random_numbers_go_on_where_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    tensors = {}
    packed = checkpoints.pack(checkpoints.random_state(), tensors)
    first = draw()
    checkpoints.restore_random_state(checkpoints.unpack(json.loads(json.dumps(packed)), tensors))
    assert draw() == first
