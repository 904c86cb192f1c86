"""The milestones, one file each."""

from mmlearn.models.two_tower import TwoTower, TwoTowerConfig, contrastive_loss

__all__ = ["TwoTower", "TwoTowerConfig", "contrastive_loss"]
