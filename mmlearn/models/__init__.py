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
from mmlearn.models.vilbert import ViLBERT, ViLBERTConfig, masked_region_loss, place_of_boxes
from mmlearn.models.vqa import (
    AnswerPrior,
    AnswerVocabulary,
    PhraseModel,
    PictureOnly,
    ProductVQA,
    QuestionOnly,
    StackedAttention,
    VQAConfig,
    answer_loss,
)

__all__ = [
    "AnswerPrior",
    "AnswerVocabulary",
    "CLIP",
    "CLIPConfig",
    "Captioner",
    "CaptionerConfig",
    "DeViSE",
    "FusionConfig",
    "ImageEncoder",
    "MultimodalModel",
    "PhraseModel",
    "PictureOnly",
    "ProductVQA",
    "QuestionOnly",
    "ShowAndTell",
    "ShowAttendTell",
    "SigLIP",
    "SoftmaxClassifier",
    "StackedAttention",
    "TowerConfig",
    "TwoTower",
    "TwoTowerConfig",
    "VQAConfig",
    "ViLBERT",
    "ViLBERTConfig",
    "answer_loss",
    "attention_penalty",
    "contrastive_loss",
    "hinge_rank_loss",
    "image_encoder",
    "masked_region_loss",
    "masked_word_loss",
    "matching_loss",
    "nearest_labels",
    "place_of_boxes",
    "sigmoid_loss",
]
