"""The milestones, one file each."""

from mmlearn.models.encoders import ImageEncoder, image_encoder
from mmlearn.models.two_tower import TwoTower, TwoTowerConfig, contrastive_loss

__all__ = [
    "ImageEncoder",
    "TwoTower",
    "TwoTowerConfig",
    "contrastive_loss",
    "image_encoder",
]
