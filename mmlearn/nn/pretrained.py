"""Published weights in, published weights out: folders in the format of transformers, checked before they are believed.

A folder holds `config.json` and `model.safetensors` (or several files and their index). Nothing is unpickled, and no
tensor is read before its name and shape are known to fit.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmlearn.errors import CheckpointError

WEIGHTS = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FETCHED = ["*.json", "*.safetensors", "*.txt"]
PUBLISHED_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
LARGEST = 1_000_000  # no size in a configuration is larger: a broken file must not fill the memory

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


class Pretrained(nn.Module):
    """A model with `from_pretrained` and `save_pretrained`; subclasses say how their names and sizes are written.

    model_type: the word in `config.json`. prefix: what transformers puts before the body's names in a model with a
    head. to_own, to_published: regular expressions and what takes their place, in order. ignored: names (ours) that
    a file may hold in vain.
    """

    model_type: ClassVar[str]
    prefix: ClassVar[str] = ""
    heads: ClassVar[tuple[str, ...]] = ()
    to_own: ClassVar[Rules] = ()
    to_published: ClassVar[Rules] = ()
    ignored: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "Pretrained":
        """The model of a folder, or of a repository of the Hugging Face Hub, in evaluation mode.

        Raises CheckpointError, naming the file or the tensor, where something is missing, broken, pickled, of
        another model, or of another size than the configuration says.
        """
        folder = locate(name_or_folder)
        described = read_config(folder, cls.model_type)
        held = {cls.own_name(name): (name, *entry) for name, entry in read_headers(folder).items()}
        try:
            config = cls._read_config(described, {name: shape for name, (_, _, shape) in held.items()})
            with torch.device("meta"):
                wanted = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}/config.json cannot be used: {_said(error)}") from error
        wanted = {name: shape for name, shape in wanted.items() if not cls._ignores(name)}
        _compare(wanted, {name: entry for name, entry in held.items() if not cls._ignores(name)}, folder)
        model = cls(config)
        model.load_state_dict(read_tensors({name: held[name][:2] for name in wanted}, folder), strict=False)
        return model.eval()

    @classmethod
    def own_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of transformers' model under our names (also a map for `mm.matches`)."""
        renamed = {cls.own_name(name): value for name, value in state.items()}
        return {name: value for name, value in renamed.items() if not cls._ignores(name)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` so that transformers' `from_pretrained` gives equal outputs.

        Raises CheckpointError where transformers has no such model.
        """
        described = {"model_type": self.model_type, **self._published_config()}
        state = {name: value for name, value in self.state_dict().items() if not self._ignores(name)}
        prefix = self.prefix if any(name.startswith(self.heads) for name in state) else ""
        renamed = {}
        for name, value in state.items():
            published = substitute(name, self.to_published)
            renamed[published if name.startswith(self.heads) else prefix + published] = value
        write_pretrained(folder, described, renamed)

    @classmethod
    def own_name(cls, name: str) -> str:
        """Our name of a tensor of transformers."""
        return substitute(name.removeprefix(cls.prefix), cls.to_own)

    @classmethod
    def _ignores(cls, name: str) -> bool:
        return any(re.search(rule, name) for rule in cls.ignored)

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]):
        raise NotImplementedError

    def _published_config(self) -> dict:
        raise NotImplementedError


def substitute(name: str, rules: Rules) -> str:
    """A name after all replacements, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def locate(name_or_folder: str | Path) -> Path:
    """A folder on this machine, or the Hub's repository of that name (kept by huggingface_hub once it is here)."""
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name_or_folder)):
        raise CheckpointError(f"there is no folder {name_or_folder}: pass one that save_pretrained wrote")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name_or_folder), allow_patterns=FETCHED))
    except Exception as error:  # many kinds, from several libraries
        raise CheckpointError(
            f"there is no folder {name_or_folder} here, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}): check the name and the network, or pass a folder"
        ) from None


def read_config(folder: Path, model_type: str) -> dict:
    """`config.json` of a folder. Raises CheckpointError where it is missing, broken or of another model."""
    described = read_any_config(folder)
    found = described.get("model_type")
    if found != model_type:
        raise CheckpointError(f"{folder} holds a model of type {found!r}, expected {model_type!r}")
    return described


def read_any_config(folder: Path) -> dict:
    """`config.json` of a folder, of whatever model. Raises CheckpointError where it is missing or broken."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} holds no readable config.json: pass a folder that save_pretrained wrote"
        ) from error
    return described if isinstance(described, dict) else {}


def write_pretrained(folder: str | Path, described: dict, state: Mapping[str, Tensor]) -> None:
    """Write `config.json` and `model.safetensors`, the weights whole or not at all."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{WEIGHTS}.part"
    own = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(own, part, metadata={"format": "pt"})
    os.replace(part, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read_stack(described: dict) -> dict:
    """The sizes of a stack of layers, under our names, from a configuration of transformers. Raises ValueError."""
    return {
        "d_model": number(described, "hidden_size"),
        "n_heads": number(described, "num_attention_heads"),
        "n_layers": number(described, "num_hidden_layers", most=1000),
        "d_ff": number(described, "intermediate_size"),
        "activation": activation(described),
    }


def published_stack(config) -> dict:
    """The way back: the sizes of a configuration that has a `transformer`, under the names of transformers."""
    return {
        "hidden_size": config.d_model,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "intermediate_size": config.transformer.width_ff,
        "hidden_act": PUBLISHED_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
    }


def number(described: dict, key: str, default: int | None = None, *, most: int = LARGEST) -> int:
    """A whole number of a configuration. Raises ValueError where it is none, or absurd."""
    value = described.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{key} is {value!r}, expected a whole number from 1 to {most:,}")
    return value


def activation(described: dict) -> str:
    """Our name of the activation function of a configuration. Raises ValueError for one that we do not have."""
    name = described.get("hidden_act", "gelu")
    if name not in PUBLISHED_ACTIVATIONS.values():
        raise ValueError(f"hidden_act is {name!r}, expected one of {', '.join(PUBLISHED_ACTIVATIONS.values())}")
    return next(ours for ours, theirs in PUBLISHED_ACTIVATIONS.items() if theirs == name)


def read_headers(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """The file and the shape of every tensor of a folder, without reading one."""
    entries = {}
    for file in _files(folder):
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118  (not a dict)
                entries[_modern(name)] = (file, tuple(opened.get_slice(name).get_shape()))
    return entries


def read_tensors(places: Mapping[str, tuple[str, Path]], folder: Path) -> dict[str, Tensor]:
    """Tensors by our names, from {our name: (their name, file)}. Raises CheckpointError for one that is not finite."""
    state = {}
    for file in {file for _, file in places.values()}:
        with _open(file) as opened:
            original = {_modern(name): name for name in opened.keys()}  # noqa: SIM118
            for own, (theirs, place) in places.items():
                if place == file:
                    state[own] = opened.get_tensor(original[theirs])
                    if not state[own].isfinite().all():
                        raise CheckpointError(f"{theirs} in {file} holds NaN or infinity: fetch the file again")
    return state


def _files(folder: Path) -> list[Path]:
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not index.is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder} holds its weights only as {pickles[0]}, a pickle, which can run code when it is read: "
                "load it with transformers where you trust it, and write it with save_pretrained"
            )
        raise CheckpointError(f"{folder} holds no {WEIGHTS}: pass a folder that save_pretrained wrote")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a readable index of weights: fetch it again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index} names {name!r}, which is no file of the folder: fetch it again")
    return [folder / name for name in names]


def _open(file: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no whole safetensors file ({_said(error)}): get it again") from error


def _modern(name: str) -> str:
    """Norms of the first BERT checkpoints were called gamma and beta, as in TensorFlow."""
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _compare(wanted: dict, held: dict, folder: Path) -> None:
    missing = [name for name in wanted if name not in held]
    unknown = [held[own][0] for own in held if own not in wanted]
    if missing or unknown:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"holds the unknown {_some(unknown)}"] * bool(unknown)
        raise CheckpointError(f"{folder} {' and '.join(parts)}: it is another model, or only a part of one")
    for name, shape in wanted.items():
        theirs, file, found = held[name]
        if found != shape:
            raise CheckpointError(f"{theirs} in {file} has the shape {found}, but config.json asks for {shape}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _said(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error).splitlines()[0]
