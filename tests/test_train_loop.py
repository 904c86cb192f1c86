"""The loop: learning, schedules, parts, precision, validation, trouble, several processes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmlearn.errors import TrainingError
from mmlearn.train import fit, live, parameter_groups
from mmlearn.train.batches import Feed, cut, parts, share
from mmlearn.train.schedules import NAMES, schedule

W = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


pytestmark = pytest.mark.usefixtures("quiet_on_one_thread")


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def task(step, n=16):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(step))
    return x, (x @ W).argmax(1)


def loss_of(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def assert_equal(a, b, **tolerance):
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}"
        )


# --- learning ----------------------------------------------------------------------------------------------------


def test_it_learns_and_says_so(capsys):
    run = fit(network(), task, loss=loss_of, steps=120, lr=0.03)
    assert run.curve[0][1] == pytest.approx(math.log(3), abs=0.5)
    assert run.loss < 0.35 < run.curve[0][1]
    assert [step for step, _ in run.curve] == list(range(120))
    assert len(run.grad_norms) == 120
    assert run.samples == 120 * 16
    assert run.finished
    assert not run.model.training
    assert all(p.grad is None for p in run.model.parameters())
    assert re.fullmatch(r"120 steps: loss \d\.\d\d → \d\.\d+\n", capsys.readouterr().out)


def test_it_is_the_loop_that_one_writes_by_hand():
    """Against AdamW, a cosine and clipping written out."""
    model = network()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.02)
    factor = schedule("cosine", 30, 5)
    for step in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * factor(step)
        loss_of(model, task(step)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    run = fit(network(), task, loss=loss_of, steps=30, lr=0.02, weight_decay=0.1, warmup=5, clip_grad=0.5)
    assert_equal(model.state_dict(), weights(run), rtol=1e-5, atol=1e-6)


def test_an_optimizer_of_ones_own_keeps_its_rates():
    rates = []

    def sgd(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    fit(network(), task, loss=loss_of, steps=4, optimizer=sgd, schedule="linear", warmup=0, lr=123)
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_weight_decay_spares_biases_norms_and_scalars():
    model = network()
    model.temperature = nn.Parameter(torch.tensor(1.0))
    model.words = nn.Embedding(5, 4)
    decayed, spared = parameter_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(16, 6), (3, 16), (5, 4)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(parameter_groups(model, 0.1, decay_embeddings=False)[0]["params"]) == 2


def test_the_outcome_depends_on_the_seed_alone():
    def final(seed, before):
        model = network(dropout=0.5)
        torch.rand(before)
        return weights(fit(model, task, loss=loss_of, steps=5, seed=seed))

    assert_equal(final(1, before=3), final(1, before=7))
    assert not torch.equal(final(1, 0)["0.weight"], final(2, 0)["0.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_schedules_rise_and_fall_within_their_bounds(name):
    factor = schedule(name, 100, 10)
    values = [factor(step) for step in range(100)]
    peak = values.index(max(values))
    assert max(values) == pytest.approx(1, abs=0.02)
    assert min(values) >= 0
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert (values[-1] == 1) if name == "constant" else (values[-1] < 0.02)
    assert schedule(name, 3, 50)(2) > 0  # three steps for a smoke test


def test_one_cycle_is_pytorchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=100)
    factor = schedule("one_cycle", 100)
    for step in range(100):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        if step < 99:
            theirs.step()


def test_bf16_computes_in_bf16_and_keeps_fp32_weights():
    seen = []

    def loss(model, batch):
        out = model(batch[0])
        seen.append(out.dtype)
        return F.cross_entropy(out, batch[1])

    run = fit(network(), task, loss=loss, steps=3, precision="bf16")
    assert seen == [torch.bfloat16] * 3
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.model(task(0)[0]).dtype == torch.float32  # nothing of it stays on the model
    fit(network(), task, loss=loss, steps=1, precision="fp32")
    assert seen[-1] == torch.float32


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_shuffling_loader_is_walked_in_epochs_in_an_order_of_the_seed():
    data = torch.arange(10)

    def order(seed, steps=8, start=0):
        feed = Feed(DataLoader(TensorDataset(data), batch_size=3, shuffle=True), seed)
        feed.seek(start // 4, start % 4)
        return [feed(step)[0].tolist() for step in range(start, steps)]

    first = order(0)
    assert sorted(sum(first[:4], [])) == list(range(10))
    assert first[:4] != first[4:]
    torch.rand(5)
    assert order(0) == first
    assert order(1) != first
    assert order(0, start=6) == first[6:]


def test_batches_that_run_out_are_named():
    with pytest.raises(TrainingError, match="ran out before step 2.*iterated again"):
        fit(network(), (task(i) for i in range(2)), loss=loss_of, steps=5)


def test_a_batch_is_cut_whatever_its_structure():
    batch = {
        "x": torch.arange(5),
        "words": ["a", "b", "c", "d", "e"],
        "pair": (torch.ones(5, 2), 7),
        "scale": torch.tensor(2.0),
    }
    piece = cut(batch, 1, 3)
    assert piece["x"].tolist() == [1, 2]
    assert piece["words"] == ["b", "c"]
    assert piece["pair"][0].shape == (2, 2)
    assert (piece["pair"][1], piece["scale"].item()) == (7, 2.0)
    assert [n for n, _ in parts(batch, 2)] == [2, 2, 1]
    assert [share(batch, rank, 3)[0] for rank in range(3)] == [1, 2, 2]
    with pytest.raises(TrainingError, match=r"batch\[1\] has the shape \(4,\) in a batch of 5"):
        cut((torch.zeros(5), torch.zeros(4)), 0, 2)


@pytest.mark.parametrize("accumulate", [2, 4, 5])
def test_accumulating_gives_the_gradient_of_the_mean(accumulate):
    """16 examples in 5 parts are 4 + 4 + 4 + 4; in batches of 10 the last part is smaller."""
    sizes = partial(task, n=10)
    whole = fit(network(), sizes, loss=loss_of, steps=10, lr=0.05)
    inparts = fit(network(), sizes, loss=loss_of, steps=10, lr=0.05, accumulate=accumulate)
    assert_equal(weights(whole), weights(inparts), rtol=1e-4, atol=1e-6)
    assert [v for _, v in whole.curve] == pytest.approx([v for _, v in inparts.curve], rel=1e-5)


# --- out of memory -----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Raises as a GPU does when it sees more than ``most`` examples."""

    def __init__(self, most, error=None):
        super().__init__()
        self.inner, self.most, self.seen = network(), most, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("error", [None, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_result(capsys, error):
    batches = partial(task, n=11)
    small = Small(3, error)
    run = fit(small, batches, loss=loss_of, steps=8, lr=0.05)
    whole = fit(network(), batches, loss=loss_of, steps=8, lr=0.05)
    assert small.seen[:7] == [11, 6, 3, 3, 3, 2, 3]
    assert_equal(whole.model.state_dict(), small.inner.state_dict(), rtol=1e-4, atol=1e-6)
    assert [v for _, v in run.curve] == pytest.approx([v for _, v in whole.curve], rel=1e-5)
    said = capsys.readouterr().out
    assert said.count("Out of memory") == 2
    assert "each batch of 11 is now computed in parts of 3" in said


def test_gradients_added_before_memory_ran_out_do_not_count_twice():
    def loss(model, batch):
        calls.append(len(batch[0]))
        if len(calls) == 6:  # the second of the two parts of step 2
            raise RuntimeError("MPS backend out of memory")
        return loss_of(model, batch)

    calls = []
    run = fit(network(), task, loss=loss, steps=6, lr=0.05, accumulate=2)
    assert calls[4:10] == [8, 8, 4, 4, 4, 4]
    assert_equal(weights(run), weights(fit(network(), task, loss=loss_of, steps=6, lr=0.05)), rtol=1e-4, atol=1e-6)


def test_out_of_memory_where_the_batch_cannot_be_split():
    with pytest.raises(TrainingError, match="batch of 16, which cannot be computed in parts.*smaller batch") as caught:
        fit(Small(3), task, loss=loss_of, steps=2, splittable=False)
    assert caught.value.__context__ is None  # its traceback would hold on to the tensors
    with pytest.raises(TrainingError, match="even with one example"):
        fit(Small(0), task, loss=loss_of, steps=2)
    with pytest.raises(TrainingError, match="accumulate"):
        fit(network(), task, loss=loss_of, steps=2, splittable=False, accumulate=2)


def test_other_errors_of_the_model_pass_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(network(), lambda step: (torch.zeros(4, 5), torch.zeros(4).long()), loss=loss_of, steps=2)


# --- not a number ------------------------------------------------------------------------------------------------


def test_bad_input_is_named_and_the_weights_are_kept():
    def batches(step):
        x, y = task(step)
        if step == 3:
            x[2, 1] = float("nan")
        return {"x": x, "y": y}

    model = network()
    with pytest.raises(TrainingError) as caught:
        fit(model, batches, loss=lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), steps=9)
    text = str(caught.value)
    assert "step 3: the loss is nan" in text
    assert "bad input: batch['x']" in text
    assert "1 of 96 not finite" in text
    assert "batch['y'] (16,), range 0 … 2" in text
    assert "layer whose output is not finite: 0" in text
    assert all(p.isfinite().all() for p in model.parameters())


def test_causes_are_told_apart():
    def stopped(loss, model=None, **more):
        with pytest.raises(TrainingError) as caught:
            fit(model or network(), task, loss=loss, steps=60, **more)
        return str(caught.value)

    zero = stopped(lambda m, b: loss_of(m, b) + (m(b[0]) * 0).sum().log())
    assert "step 0: the loss is -inf" in zero
    assert "log(0)" in zero
    root = stopped(lambda m, b: loss_of(m, b) + (m(b[0]) * 0).sum().sqrt())
    assert "its gradient is not finite" in root
    assert "square root" in root
    assert "gradient not finite: 0.weight" in root
    wild = stopped(
        lambda m, b: (m(b[0]) ** 2).mean(),
        nn.Linear(6, 3),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e6),
        warmup=0,
        clip_grad=None,
    )
    assert "learning rate is too high" in wild


def test_what_cannot_be_trained_is_said():
    frozen = network().requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train"):
        fit(frozen, task, loss=loss_of, steps=2)
    with pytest.raises(TrainingError, match="gave float: return one number as a tensor"):
        fit(network(), task, loss=lambda m, b: loss_of(m, b).item(), steps=2)
    with pytest.raises(TrainingError, match=r"shape \(16,\)"):
        fit(network(), task, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), steps=2)
    with pytest.raises(TrainingError, match="no schedule 'cosin'"):
        fit(network(), task, loss=loss_of, steps=2, schedule="cosin")
    with pytest.raises(TrainingError, match="steps is 0"):
        fit(network(), task, loss=loss_of, steps=0)
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        fit(network(), task, loss=loss_of, steps=2, precision="fp16")


def test_on_an_accelerator_losses_are_read_later_and_the_step_is_still_named(monkeypatch):
    """There the loss is read every few steps; the batch is asked for again to describe it."""
    from mmlearn.train import work

    class Later(work.Log):
        def __init__(self, *parts):
            super().__init__(*parts)
            self.every = 4

    at_once = fit(network(), task, loss=loss_of, steps=10)
    monkeypatch.setattr("mmlearn.train.loop.Log", Later)
    later = fit(network(), task, loss=loss_of, steps=10, validate=lambda m: {"a": 1}, validate_every=3)
    assert later.curve == at_once.curve
    assert later.grad_norms == at_once.grad_norms

    def batches(step):
        x, y = task(step)
        return (x if step != 5 else x / 0), y

    with pytest.raises(TrainingError, match=r"step 5: the loss is nan(?s:.*)bad input: batch\[0\]"):
        fit(network(), batches, loss=loss_of, steps=10)


# --- validation, early outcome, Ctrl-C ---------------------------------------------------------------------------


def test_validation_changes_nothing():
    modes = []

    def validate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        torch.rand(9), np.random.rand(3)  # noqa: NPY002
        return {"accuracy": torch.tensor(0.25)}

    def trained(**more):
        model = network(dropout=0.5)
        model[1].register_forward_hook(lambda m, i, o: frozen.append(m.training))
        return fit(model, task, loss=loss_of, steps=7, **more)

    frozen = []
    without = trained()
    run = trained(validate=validate, validate_every=3)
    assert_equal(weights(without), weights(run))
    assert run.validation == [(3, {"accuracy": 0.25}), (6, {"accuracy": 0.25}), (7, {"accuracy": 0.25})]
    assert modes == [(False, False)] * 3
    assert all(frozen)
    with pytest.raises(TrainingError, match="validate.*gave float"):
        fit(network(), task, loss=loss_of, steps=1, validate=lambda m: 0.5)


def test_an_early_outcome_ends_the_run(capsys):
    run = fit(
        network(),
        task,
        loss=loss_of,
        steps=50,
        validate=lambda m: {"right": 0.9},
        validate_every=4,
        stop_when=lambda step, loss, validation: bool(validation and validation["right"] > 0.8 and loss < 99),
    )
    assert (run.steps, run.stopped_early, run.finished) == (4, True, True)
    assert run.validation == [(4, {"right": 0.9})]
    assert "(stopped early)" in capsys.readouterr().out


def test_ctrl_c_finishes_the_step_and_keeps_what_was_learned(capsys, tmp_path):
    def batches(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return task(step)

    run = fit(network(0.5), batches, loss=loss_of, steps=12, checkpoint=tmp_path / "c")
    assert (run.interrupted, run.finished, run.steps, len(run.curve)) == (True, False, 6, 6)
    assert "Interrupted" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = fit(network(0.5), task, loss=loss_of, steps=12, checkpoint=tmp_path / "c")
    assert_equal(weights(resumed), weights(fit(network(0.5), task, loss=loss_of, steps=12)))


def test_an_interrupt_raised_within_a_step_counts_the_steps_done():
    """In the loss, and between the loss and the update."""

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    def adam(parameters):
        optimizer = torch.optim.Adam(parameters)
        optimizer.register_step_pre_hook(interrupt)
        return optimizer

    for more in (dict(loss=lambda m, b: interrupt() or loss_of(m, b)), dict(loss=loss_of, optimizer=adam)):
        calls = []
        run = fit(network(), task, steps=9, **more)
        assert (run.interrupted, run.steps, len(run.curve), len(run.grad_norms)) == (True, 3, 3, 3)


# --- what is seen ------------------------------------------------------------------------------------------------


def test_a_line_tells_step_loss_time_rate_and_memory(monkeypatch, capsys):
    monkeypatch.setenv("MMLEARN_QUIET", "0")
    monkeypatch.setattr(live, "HEARTBEAT", 0.0)
    fit(network(), task, loss=loss_of, steps=4)
    lines = capsys.readouterr().out.splitlines()
    pattern = r"█+░+ 2/4 · loss \d\.\d{3} · \d+:\d\d left · [\d,]+ samples/s · [\d,]+ MB"
    assert re.fullmatch(pattern, lines[1])
    assert re.fullmatch(r"4 steps: loss .* in 0:\d\d \([\d,]+ samples/s\)", lines[-1])


def test_events_are_appended(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_EVENTS", str(tmp_path / "events"))
    fit(network(), task, loss=loss_of, steps=2, card="00_start/net")
    (event,) = map(json.loads, (tmp_path / "events").read_text().splitlines())
    assert (event["event"], event["card"], event["steps"]) == ("fit", "00_start/net", 2)
    assert event["loss"] > 0
    assert "seconds" in event


# --- several processes -------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from functools import partial
sys.path.insert(0, sys.argv[1])
import test_train_loop as t
from safetensors.torch import save_file
t.torch.set_num_threads(1)
model = t.network()
model[0].unused = t.nn.Linear(2, 2)
run = t.fit(model, partial(t.task, n=7), loss=lambda m, b: (t.loss_of(m, b), {"size": float(len(b[0]))}),
            steps=6, lr=0.05, accumulate=2, checkpoint=sys.argv[2] + "/c", checkpoint_every=2, card="00_start/two")
if run.card:
    save_file({**run.model.state_dict(), "curve": t.torch.tensor([v for _, v in run.curve])}, sys.argv[2] + "/end")
"""


def test_two_processes_reach_the_weights_of_one(tmp_path):
    """gloo, batches of 7 shared as 3 + 4, each in two parts, some parameters unused."""
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(tmp_path / "train.py")]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("6 steps: loss") == 1
    two = load_file(tmp_path / "end")
    one = fit(network(), partial(task, n=7), loss=loss_of, steps=6, lr=0.05)
    assert two.pop("curve").tolist() == pytest.approx([v for _, v in one.curve], rel=1e-5)
    assert_equal(weights(one), two, rtol=1e-4, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-000004", "step-000006"]


def test_a_loss_that_compares_examples_is_not_shared_silently(monkeypatch):
    from mmlearn.train import work

    monkeypatch.setattr(work, "_accelerator", lambda recipe: type("A", (), dict(
        device=torch.device("cpu"), num_processes=2, process_index=0))())  # fmt: skip
    with pytest.raises(TrainingError, match="2 processes each see a share.*gathers = True"):
        fit(network(), task, loss=loss_of, steps=1, splittable=False)
