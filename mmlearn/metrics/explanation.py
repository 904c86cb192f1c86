"""Scoring explanations: does a map over a picture point at the thing that it should explain?

A map is (B, H, W), larger = more important; a mask (B, H, W) is True where the thing is.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmlearn.errors import ShapeError


def pointing_game(maps: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Whether each map's highest point lies on the thing: 1 or 0, and the share of hits where several are highest.

    So a map without any opinion (all equal) scores the area of the thing, the level of chance. The mean over
    pictures is the accuracy of Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016,
    section 4.1 (theirs allows 15 pixels of tolerance, here there is none). Raises ShapeError, also for a mask
    without a single pixel and a map that holds a NaN.
    """
    _check(maps, masks)
    highest = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (highest & masks).sum(dim=(1, 2)) / highest.sum(dim=(1, 2))


def energy_inside(maps: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """The share of each map that lies on the thing, 0 to 1; negative values count as 0.

    The energy-based pointing game of Wang et al., "Score-CAM", CVPR Workshops 2020, section 4.3. An even map
    scores the area of the thing, and so does a map without anything positive. Raises ShapeError as `pointing_game`.
    """
    _check(maps, masks)
    positive = maps.clamp(min=0)
    empty = positive.sum(dim=(1, 2), keepdim=True) == 0
    positive = torch.where(empty, torch.ones_like(positive), positive)
    return (positive * masks).sum(dim=(1, 2)) / positive.sum(dim=(1, 2))


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ShapeError(
            f"maps have shape {tuple(maps.shape)} and masks {tuple(masks.shape)}: "
            "both are (batch, height, width), resize the maps to the masks"
        )
    if masks.dtype != torch.bool:
        raise ShapeError(f"masks are {masks.dtype}, expected torch.bool with True = the thing: pass masks.bool()")
    if maps.isnan().any():
        raise ShapeError("a map holds not-a-number: look at how it was divided")
    empty = (~masks.flatten(1).any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise ShapeError(f"mask {empty[0]} has no pixel: leave out the pictures in which the thing is not to be seen")
