"""The milestones, one file each."""

from mmlearn.models.captioner import (
    Captioner,
    CaptionerConfig,
    ShowAndTell,
    ShowAttendTell,
    attention_penalty,
)
from mmlearn.models.clip import CLIP, CLIPConfig, SigLIP, TowerConfig, sigmoid_loss
from mmlearn.models.devise import DeViSE, SoftmaxClassifier, hinge_rank_loss, nearest_labels
from mmlearn.models.encoders import ImageEncoder, image_encoder
from mmlearn.models.fusion import FusionConfig, MultimodalModel, masked_word_loss, matching_loss
from mmlearn.models.two_tower import TwoTower, TwoTowerConfig, contrastive_loss

__all__ = [
    "CLIP",
    "CLIPConfig",
    "FusionConfig",
    "DeViSE",
    "Captioner",
    "CaptionerConfig",
    "ImageEncoder",
    "ShowAndTell",
    "ShowAttendTell",
    "SoftmaxClassifier",
    "MultimodalModel",
    "SigLIP",
    "TowerConfig",
    "TwoTower",
    "TwoTowerConfig",
    "attention_penalty",
    "contrastive_loss",
    "hinge_rank_loss",
    "image_encoder",
    "nearest_labels",
    "masked_word_loss",
    "matching_loss",
    "sigmoid_loss",
]
