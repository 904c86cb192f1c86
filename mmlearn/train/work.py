"""The work of one step on the device: gradients in parts where memory is short, shared among processes."""

import gc
import math
import platform
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mmlearn.errors import TrainingError
from mmlearn.expectations import log_event
from mmlearn.train import cards
from mmlearn.train.batches import Feed, parts, share, size, to_device
from mmlearn.train.checkpoints import random_state, restore_random_state
from mmlearn.train.live import say
from mmlearn.train.recipe import Recipe
from mmlearn.train.run import Run
from mmlearn.train.trouble import explain, out_of_memory

READ_EVERY = 20  # steps between two readings of the loss on an accelerator


class LossOf(nn.Module):
    """Model and loss as one module, so that autocast and several processes surround both."""

    def __init__(self, model: nn.Module, loss: Callable):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch) -> tuple[Tensor, dict]:
        result = self.loss(self.model, batch)
        loss, extra = result if isinstance(result, tuple) else (result, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(
                f"loss(model, batch) gave {what}: return one number as a tensor that depends on the model's "
                "parameters (no .item(), no torch.no_grad()), or that and a dict of numbers"
            )
        return loss.squeeze(), extra


class Work:
    """Model, loss and device behind Accelerate; ``largest`` is the micro-batch that memory was found to allow."""

    def __init__(self, model: nn.Module, loss: Callable, recipe: Recipe):
        self.recipe = recipe
        self.accelerator = _accelerator(recipe)
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        self.rank = self.accelerator.process_index
        self.largest: int | None = None
        self.model, self.loss = model.to(self.device).train(), loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise TrainingError("nothing to train: no parameter of the model has requires_grad=True")
        if self.world > 1 and not recipe.splittable and not getattr(loss, "gathers", False):
            raise TrainingError(
                f"splittable=False says that the loss compares the examples of a batch with one another, but "
                f"{self.world} processes each see a share: let the loss gather them and set loss.gathers = True"
            )
        self.module = LossOf(model, loss)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def prepare(self, optimizer: torch.optim.Optimizer):
        """Wrap the model for precision and processes, and the optimiser where fp16 scales the loss."""
        self.module, wrapped = self.accelerator.prepare(self.module, optimizer)
        return wrapped if self.accelerator.scaler else optimizer

    def add_gradients(self, batch) -> tuple[Tensor, dict]:
        """Add the gradients of a batch's mean loss to the parameters; return this process's part of loss and numbers.

        Out of memory, the micro-batch is halved until it fits.
        """
        total = size(batch)
        n, mine = share(batch, self.rank, self.world)
        mine = to_device(mine, self.device)
        while True:
            largest = min(math.ceil(n / self.recipe.accumulate), self.largest or n)
            try:
                return self._in_parts(parts(mine, largest), total)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self._release()  # outside the except block: the error's traceback holds on to tensors
            self._halve(largest, n)

    def _in_parts(self, pieces: list, total: int) -> tuple[Tensor, dict]:
        """Each part counts by its number of examples, so that the sum is the gradient of the mean."""
        mean, numbers = torch.zeros((), device=self.device), {}
        for i, (n, piece) in enumerate(pieces):
            last = i == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                loss, extra = self.module(piece)
                # processes average their gradients: times their number makes it a sum over all examples
                self.accelerator.backward(loss * (n / total * self.world))
            mean += loss.detach() * (n / total)
            for name, value in extra.items():
                value = torch.as_tensor(value, device=self.device).detach().float()
                if value.numel() != 1:
                    raise TrainingError(
                        f"loss gave {name!r} of shape {tuple(value.shape)}: give one number for each name"
                    )
                numbers[name] = numbers.get(name, 0) + value.squeeze() * (n / total)
        return mean, numbers

    def _halve(self, tried: int, n: int) -> None:
        if not self.recipe.splittable:
            raise TrainingError(
                f"out of memory with a batch of {n}, which cannot be computed in parts: its loss compares the examples "
                "with one another (splittable=False). Take a smaller batch (fewer negatives: another task), "
                "a smaller model or picture, or precision='bf16'"
            )
        if self.world > 1:
            raise TrainingError(f"out of memory with {tried} examples at once: pass accumulate={2 * -(-n // tried)}")
        if tried == 1:
            raise TrainingError("out of memory even with one example at once: take a smaller model, picture or text")
        self.largest = math.ceil(tried / 2)
        say(
            f"Out of memory with {tried} examples at once: each batch of {n} is now computed in parts of "
            f"{self.largest} and the gradients are added. The result stays the same, a step takes a little longer."
        )

    def _release(self) -> None:
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def clip(self, length: float | None) -> Tensor:
        """Cut the gradient to ``length`` (not at all for None) and return its norm before."""
        return self.accelerator.clip_grad_norm_(self.parameters, math.inf if length is None else length)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.accelerator.reduce(values, "sum") if self.world > 1 else values

    def memory_mb(self) -> float:
        """The most memory used so far, in MB: the accelerator's, or the process's on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        import psutil

        process = psutil.Process().memory_info()
        if hasattr(process, "peak_wset"):  # Windows
            return process.peak_wset / 1e6
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


class Log:
    """Losses wait on the device and are read together: reading one makes the CPU wait for the GPU.

    On a CPU each is read at once, so that a loss that is not a number stops before the weights are touched.
    """

    def __init__(self, run: Run, work: Work, feed: Feed):
        self.run, self.work, self.feed = run, work, feed
        self.every = 1 if work.device.type == "cpu" else READ_EVERY
        self.waiting: list[tuple] = []

    def add(self, step: int, loss: Tensor, norm: Tensor, extra: dict, batch) -> None:
        """Note the loss, gradient norm and further numbers of a step."""
        self.run.samples += size(batch)
        self.waiting.append((step, loss, norm.detach(), extra))
        if len(self.waiting) >= self.every:
            self.read(batch)

    def read(self, batch=None) -> None:
        """Bring the waiting numbers into the run. Raises :class:`TrainingError` at the first not-a-number."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        losses = self.work.total(torch.stack([w[1] for w in waiting]).float()).tolist()
        norms = torch.stack([w[2] for w in waiting]).float().tolist()
        for (step, _, _, extra), loss, norm in zip(waiting, losses, norms, strict=True):
            fine = math.isfinite(loss) and (math.isfinite(norm) or self.work.recipe.precision == "fp16")
            if not fine:
                seen = batch if step == waiting[-1][0] else None
                raise explain(step, loss, self.run, self.work, self.feed, seen)
            self.run.curve.append((step, loss))
            self.run.grad_norms.append(norm)
            for name, value in extra.items():
                self.run.extra.setdefault(name, []).append((step, self.work.total(value).item()))

    def close(self) -> None:
        """Read what is waiting; a step that was interrupted before its update does not count."""
        self.read()
        done = self.run.steps
        self.run.curve, self.run.grad_norms = self.run.curve[:done], self.run.grad_norms[:done]
        self.run.extra = {name: [p for p in points if p[0] < done] for name, points in self.run.extra.items()}


def validated(validate: Callable, model: nn.Module) -> dict[str, float]:
    """``validate(model)`` in evaluation mode and without gradients; random numbers and modes are as before."""
    modes = {module: module.training for module in model.modules()}
    state = random_state()
    model.eval()
    try:
        with torch.no_grad():
            numbers = validate(model)
    finally:
        for module, training in modes.items():
            module.training = training
        restore_random_state(state)
    if not isinstance(numbers, dict):
        raise TrainingError(f"validate(model) gave {type(numbers).__name__}: return a dict such as {{'accuracy': 0.5}}")
    return {name: float(value) for name, value in numbers.items()}


def conclude(run: Run, recipe: Recipe, work: Work) -> Run:
    """Evaluation mode, the run card, and an event for ``mmlearn run``."""
    run.model.eval()
    run.peak_memory_mb = max(run.peak_memory_mb, work.memory_mb())
    if work.rank == 0:
        run.card = cards.write(recipe.card, run, recipe, device_name(work.device)) if recipe.card else None
        loss = cards.plain(run.loss)
        log_event("fit", card=recipe.card, steps=run.steps, loss=loss, seconds=round(run.seconds, 2))
    return run


def device_name(device: torch.device) -> str:
    """What a reader calls the device: the GPU's name, or the CPU's with the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _accelerator(recipe: Recipe):
    """A fresh Accelerator: its state is global, and a notebook trains more than once with other settings."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState, PartialState

    alone = PartialState._shared_state.get("num_processes", 1) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    GradientState._reset_state()
    return Accelerator(
        cpu=recipe.device.type == "cpu",
        mixed_precision={"fp32": "no"}.get(recipe.precision, recipe.precision),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
