"""mmlearn: build the milestones of vision-and-language pretraining by hand, and prove each step right.

Names are loaded when first used, so that ``import mmlearn`` costs little more than ``import torch``.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mmlearn-course")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_NAMES = {
    "profile": "mmlearn.profiles",
    "device": "mmlearn.profiles",
    "expect": "mmlearn.expectations",
    "matches": "mmlearn.compare",
    "check_shape": "mmlearn.compare",
    "check": "mmlearn.exercises",
    "show": "mmlearn.plot",
    "fit": "mmlearn.train",
    "results": "mmlearn.train",
}
_MODULES = {"data", "doctor", "errors", "exercises", "metrics", "models", "nn", "plot", "scenes", "train", "weights"}

__all__ = sorted([*_NAMES, *_MODULES])  # noqa: PLE0605


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"mmlearn.{name}")
    else:
        raise AttributeError(f"module 'mmlearn' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__():
    return __all__
