"""The milestones, one file each."""

from mmlearn.models.clip import CLIP, CLIPConfig, SigLIP, TowerConfig, sigmoid_loss
from mmlearn.models.encoders import ImageEncoder, image_encoder
from mmlearn.models.fusion import FusionConfig, MultimodalModel, masked_word_loss, matching_loss
from mmlearn.models.two_tower import TwoTower, TwoTowerConfig, contrastive_loss

__all__ = [
    "CLIP",
    "CLIPConfig",
    "FusionConfig",
    "ImageEncoder",
    "MultimodalModel",
    "SigLIP",
    "TowerConfig",
    "TwoTower",
    "TwoTowerConfig",
    "contrastive_loss",
    "image_encoder",
    "masked_word_loss",
    "matching_loss",
    "sigmoid_loss",
]
