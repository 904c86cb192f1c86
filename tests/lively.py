"""Weights that hide no mistake: the zeros and ones of a fresh model do."""

import torch
from torch import nn


def lively(model: nn.Module, *, leave: str = "-") -> nn.Module:
    """The model in evaluation mode, every weight drawn anew and large; names that contain `leave` keep theirs."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if leave not in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()
