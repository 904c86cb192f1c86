"""What was asked of a training run: read from the arguments of ``fit``, checked once, kept in checkpoints and cards."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmlearn.errors import TrainingError
from mmlearn.train.cards import plain

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
KEPT = ("steps", "lr", "weight_decay", "schedule", "warmup", "optimizer", "clip_grad", "accumulate", "checkpoint_every")


@dataclass(frozen=True)
class Recipe:
    """The arguments of one call of ``fit``, with defaults resolved."""

    steps: int
    settings: dict
    config: dict
    seed: int
    profile: str
    device: torch.device
    precision: str
    accumulate: int
    splittable: bool
    card: str | None
    live: bool

    @classmethod
    def of(cls, arguments: dict) -> "Recipe":
        """From all arguments of ``fit`` by name. Raises :class:`TrainingError` for one that makes no sense."""
        for name in ("steps", "accumulate", "checkpoint_every"):
            _whole_number(name, arguments[name])
        if arguments["accumulate"] > 1 and not arguments["splittable"]:
            raise TrainingError(
                "accumulate computes a batch in parts, but splittable=False says that this loss cannot be"
            )
        config = as_dict(arguments["config"])
        device = _device(config)
        precision = _precision(arguments["precision"], device)
        given = arguments["seed"] if arguments["seed"] is not None else config.get("seed")
        return cls(
            steps=arguments["steps"],
            settings={name: plain(arguments[name]) for name in KEPT} | {"precision": precision},
            config={key: plain(value) for key, value in config.items()},
            seed=int(given if given is not None else os.environ.get("MMLEARN_SEED", 0)),
            profile=config.get("name")
            or os.environ.get("MMLEARN_PROFILE")
            or ("cpu" if device.type == "cpu" else "gpu"),
            device=device,
            precision=precision,
            accumulate=arguments["accumulate"],
            splittable=arguments["splittable"],
            card=arguments["card"],
            live=arguments["live"],
        )

    def identity(self) -> dict:
        """What must be the same for a checkpoint to be gone on with (where it runs and how often it saves need not)."""
        own = {k: v for k, v in self.settings.items() if k not in ("steps", "checkpoint_every", "precision")}
        config = {k: v for k, v in self.config.items() if k not in ("device", "steps")}
        return {**own, "seed": self.seed, **{f"config.{key}": value for key, value in config.items()}}


def as_dict(config) -> dict:
    """A profile, mapping, dataclass or None as a dictionary."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    return dict(config.asdict()) if hasattr(config, "asdict") else dict(vars(config))


def _whole_number(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TrainingError(f"{name} is {value!r}: give a whole number from 1 up")


def _device(config: dict) -> torch.device:
    if "device" in config:
        return torch.device(config["device"])
    from mmlearn.profiles import device

    return device()


def _precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; ``auto`` is bf16 on a GPU that computes with it."""
    if name not in PRECISIONS:
        raise TrainingError(f"there is no precision {name!r}: use one of {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise TrainingError("fp16 needs a GPU: use precision='bf16' or 'fp32' on a CPU")
    if name != "auto":
        return name
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"
