"""The optimiser: AdamW, with weight decay only where it makes sense."""

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_embeddings: bool = True) -> list[dict]:
    """The trainable parameters in two groups: matrices and kernels with weight decay, all others without.

    Biases, the gains of normalisation layers and scalars such as a temperature have one dimension or none:
    pulling them to zero does not make a function simpler. ``decay_embeddings=False`` spares embedding tables too.
    """
    spared = set()
    if not decay_embeddings:
        spared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.dim() >= 2 and id(p) not in spared]
    chosen = {id(p) for p in decayed}
    rest = [p for p in trainable if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) in its fused form, on the groups of :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, fused=True)
