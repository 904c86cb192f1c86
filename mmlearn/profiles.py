"""Profiles: the one idiom by which a notebook scales from two CPU cores to a GPU, and the choice of the device."""

import os
import random
import warnings
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F

from mmlearn.errors import MMLearnError

NAMES = ("cpu", "gpu", "long", "smoke")
SMOKE_STEPS = 3


class Profile:
    """Settings of a chapter as attributes, with ``name``, ``device`` and ``seed``; read-only.

    Made by :func:`profile`; shown as a small table at the end of a cell.
    """

    def __init__(self, name: str, device: torch.device, seed: int, settings: dict):
        fixed = MappingProxyType({"name": name, "device": device, "seed": seed, **settings})
        object.__setattr__(self, "_settings", fixed)

    def __getattr__(self, key: str):
        settings = object.__getattribute__(self, "__dict__").get("_settings", {})
        if key in settings:
            return settings[key]
        raise AttributeError(f"this profile has no setting {key!r}; it has {', '.join(settings)}")

    def __setattr__(self, key: str, value):
        raise AttributeError(f"a profile is read-only: pass {key}=… to mm.profile(cpu=dict(…)) instead")

    @property
    def smoke(self) -> bool:
        """True when only a few steps are run and nothing is expected of the result."""
        return self.name == "smoke"

    def asdict(self) -> dict:
        """The settings as a plain dictionary that JSON can hold."""
        return {k: str(v) if isinstance(v, torch.device) else v for k, v in self._settings.items()}

    def __repr__(self) -> str:
        rows = [f"profile {self.name} · device {self.device.type} · seed {self.seed}"]
        skip = ("name", "device", "seed")
        rows += [f"  {key:<16} {value}" for key, value in self._settings.items() if key not in skip]
        return "\n".join(rows)


def profile(cpu: dict, gpu: dict | None = None, long: dict | None = None) -> Profile:
    """Settings for this machine: ``cpu`` on a laptop, ``cpu`` overridden by ``gpu`` on an accelerator.

    ``MMLEARN_PROFILE=cpu|gpu|long|smoke`` chooses by hand; ``long`` is ``cpu`` overridden by ``long``, which makes
    the weights that come with the course; ``smoke`` is ``cpu`` with every ``steps`` and ``…_steps`` cut to three.
    Seeds Python, NumPy and torch with ``MMLEARN_SEED`` (default 0).
    """
    others = {"gpu": gpu or {}, "long": long or {}}
    for other, settings in others.items():
        if unknown := set(settings) - set(cpu):
            raise MMLearnError(f"{other} has settings that cpu lacks: {', '.join(sorted(unknown))}; give both a value")
    where = device()
    name = os.environ.get("MMLEARN_PROFILE") or ("cpu" if where.type == "cpu" else "gpu")
    if name not in NAMES:
        raise MMLearnError(f"MMLEARN_PROFILE is {name!r}; use one of {', '.join(NAMES)}")
    settings = cpu | others.get(name, {})
    if name == "smoke":
        steps = {k for k in settings if k == "steps" or k.endswith("_steps")}
        settings |= {k: min(SMOKE_STEPS, settings[k]) for k in steps}
    seed = _seed_from_environment()
    seed_everything(seed)
    return Profile(name, where, seed, settings)


def _seed_from_environment() -> int:
    text = os.environ.get("MMLEARN_SEED", "0")
    if not text.isdecimal():
        raise MMLearnError(f"MMLEARN_SEED is {text!r}; give a whole number from 0 up")
    return int(text)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries that use the global generator)
    torch.manual_seed(seed)


@cache
def device() -> torch.device:
    """The device to compute on: CUDA, Apple's MPS or the CPU, whichever is present and computes rightly.

    An accelerator whose results differ from the CPU's is avoided with one warning. ``MMLEARN_DEVICE``
    (``cpu``, ``cuda``, ``mps``) chooses by hand.
    """
    wanted = os.environ.get("MMLEARN_DEVICE")
    chosen = torch.device(wanted or _best_present())
    problem = self_test(chosen)
    if problem and wanted:
        raise MMLearnError(f"MMLEARN_DEVICE is {wanted!r}, but {problem}")
    if problem:
        warnings.warn(f"{problem}; using the CPU instead", stacklevel=2)
        return torch.device("cpu")
    return chosen


def _best_present() -> str:
    if os.environ.get("MMLEARN_PROFILE") in ("cpu", "smoke"):
        return "cpu"  # the cpu profile means the same everywhere
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def self_test(where: torch.device | str) -> str | None:
    """Compare ``where`` with the CPU on the operations that the course uses; None, or what is wrong.

    Matrix product, convolution, layer normalisation, attention, LSTM and embedding, each with gradients;
    about a second.
    """
    where = torch.device(where)
    if where.type == "cpu":
        return None
    try:
        found = {name: _on(where, op) for name, op in _OPERATIONS.items()}
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return f"the device {where} does not work ({str(error).splitlines()[0]})"
    for name, op in _OPERATIONS.items():
        for mine, right in zip(found[name], _on(torch.device("cpu"), op), strict=True):
            if not torch.allclose(mine, right, rtol=2e-2, atol=2e-2):
                worst = (mine - right).abs().max().item()
                return f"the device {where} computes {name} wrongly (off by {worst:.3g} from the CPU)"
    return None


def _attention(x):
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)


def _lstm(x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.LSTM(16, 16, batch_first=True).to(x.device)(x)[0]


_OPERATIONS = {
    "a matrix product": lambda x: x @ x.transpose(1, 2),
    "a convolution": lambda x: F.conv2d(x[:, None], torch.ones(2, 1, 3, 3, device=x.device) / 9, padding=1),
    "layer normalisation": lambda x: F.layer_norm(x, x.shape[-1:]),
    "a softmax": lambda x: x.softmax(-1),
    "attention": _attention,
    "an LSTM": _lstm,
    "an embedding": lambda x: F.embedding(torch.arange(3, device=x.device), x[0]),
}


def _on(where: torch.device, op) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and input gradient of one operation, computed on ``where`` and brought to the CPU."""
    x = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 16, 16).sin().to(where).requires_grad_()
    y = op(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach().float().cpu(), gradient.float().cpu()
