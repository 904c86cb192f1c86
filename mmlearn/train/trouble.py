"""What can go wrong in training, explained: not-a-number, out of memory, Ctrl-C."""

import math
import signal
import threading

import torch
from torch import nn

from mmlearn.errors import TrainingError
from mmlearn.train.batches import tensors, to_device


def out_of_memory(error: BaseException) -> bool:
    """True for what CUDA, MPS and the CPU raise when memory runs out."""
    text = str(error).lower()
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in words)


class CtrlC:
    """While active, the first Ctrl-C (or the notebook's stop button) only sets ``pressed``; a second one interrupts.

    The step at hand is finished, so that weights and optimiser stay together. ``active=False`` changes nothing:
    several processes are stopped by what started them.
    """

    def __init__(self, active: bool = True):
        self.active, self.pressed, self._before = active, False, None

    def __enter__(self) -> "CtrlC":
        if self.active and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, *_) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, kind, error, trace) -> bool:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        first = self.active and kind is KeyboardInterrupt and not self.pressed
        self.pressed = self.pressed or first
        return first


def explain(step: int, loss: float, run, work, feed, batch=None) -> TrainingError:
    """The error for a loss or gradient that is not a number: the step, the batch, the place, the likely cause."""
    if batch is None and callable(feed.batches):
        batch = feed.batches(step)
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4g} but its gradient is not finite"
    )
    seen = [describe(name, tensor) for name, tensor in tensors(batch)]
    lines = [
        f"Training stopped at step {step}: {what}.",
        f"Likely cause: {_cause(loss, run, work, batch)}.",
        *(["The batch: " + "; ".join(seen) + "."] if seen else []),
        *_places(work, batch),
    ]
    return TrainingError("\n".join(lines))


def describe(name: str, tensor: torch.Tensor) -> str:
    """Shape and range of a tensor, and how many of its entries are not finite."""
    text = f"{name} {tuple(tensor.shape)}"
    if tensor.numel() == 0:
        return f"{text} is empty"
    bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
    finite = tensor[tensor.isfinite()] if bad else tensor
    ends = f", range {finite.min().item():.4g} … {finite.max().item():.4g}" if finite.numel() else ""
    return f"{text}{ends}, {bad} of {tensor.numel()} not finite" if bad else text + ends


def _cause(loss: float, run, work, batch) -> str:
    broken = [name for name, x in tensors(batch) if x.is_floating_point() and not x.isfinite().all()]
    if broken:
        return f"bad input: {broken[0]} holds values that are not finite; look at the data before the model"
    if _first_bad(work.model, lambda p: p):
        return "the learning rate is too high and an update has spoiled the weights; try a tenth of it, or more warmup"
    before = [value for _, value in run.curve]
    if before and before[-1] > 2 * min(before) and before[-1] > before[0]:
        return "the learning rate is too high: the loss had been rising; try a tenth of it, or more warmup"
    if work.recipe.precision == "fp16":
        return "fp16 overflows above 65,504; use precision='bf16' or 'fp32'"
    if math.isfinite(loss):
        return "the derivative of a square root, norm or logarithm at 0; add a small number inside it"
    return "log(0), a division by 0 or an overflowing exponential in the model or loss; add a small number inside it"


def _places(work, batch) -> list[str]:
    """Where it shows first: weight, gradient, layer."""
    places = {
        "weight": _first_bad(work.model, lambda p: p),
        "gradient": _first_bad(work.model, lambda p: p.grad),
        "layer whose output is": _first_bad_layer(work, batch),
    }
    found = [f"the first {word} not finite: {name}" for word, name in places.items() if name]
    return ["Look at " + "; ".join(found) + "."] if found else []


def _first_bad(model: nn.Module, pick) -> str | None:
    for name, parameter in model.named_parameters():
        value = pick(parameter)
        if value is not None and not value.isfinite().all():
            return name
    return None


def _first_bad_layer(work, batch) -> str | None:
    """Compute the loss once more and watch the outputs of all layers."""
    if batch is None or work.world > 1:
        return None
    found, hooks = [], []
    for name, module in work.model.named_modules():
        if name and not any(module.children()):

            def watch(module, inputs, output, name=name):
                if any(x.is_floating_point() and not x.isfinite().all() for _, x in tensors(output)):
                    found.append(name)

            hooks.append(module.register_forward_hook(watch))
    try:
        with torch.no_grad(), work.accelerator.autocast():
            work.loss(work.model, to_device(batch, work.device))
    except RuntimeError:  # the explanation must not hide what it explains
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
