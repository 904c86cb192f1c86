"""The milestones, one file each."""

from mmlearn.models.encoders import ImageEncoder, image_encoder
from mmlearn.models.fusion import FusionConfig, MultimodalModel, masked_word_loss, matching_loss
from mmlearn.models.two_tower import TwoTower, TwoTowerConfig, contrastive_loss

__all__ = [
    "FusionConfig",
    "ImageEncoder",
    "MultimodalModel",
    "TwoTower",
    "TwoTowerConfig",
    "contrastive_loss",
    "image_encoder",
    "masked_word_loss",
    "matching_loss",
]
