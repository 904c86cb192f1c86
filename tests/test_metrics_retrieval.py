"""Retrieval numbers on tables small enough to work out by hand."""

import pytest
import torch

from mmlearn.errors import ShapeError
from mmlearn.metrics import ranks, retrieval


def test_by_hand_with_two_captions_a_picture():
    similarity = torch.tensor([[0.9, 0.1, 0.8, 0.0], [0.2, 0.3, 0.7, 0.6]])  # captions 0, 1 of picture 0; 2, 3 of 1
    text_to_image, image_to_text = retrieval(similarity, torch.tensor([0, 0, 1, 1]))
    assert text_to_image.ranks.tolist() == [1, 2, 2, 1]
    assert image_to_text.ranks.tolist() == [1, 1]
    assert text_to_image.recall(1) == 0.5
    assert text_to_image.recall(2) == 1.0
    assert text_to_image.median_rank == 1.5
    assert text_to_image.mean_rank == 1.5
    assert (text_to_image.candidates, image_to_text.candidates) == (2, 4)


def test_a_model_that_scores_everything_alike_is_last():
    text_to_image, _ = retrieval(torch.zeros(10, 10))
    assert text_to_image.recall(1) == 0
    assert text_to_image.median_rank == 10


def test_nan_is_no_way_to_win():
    similarity = torch.eye(3)
    similarity[1, 1] = float("nan")
    assert retrieval(similarity)[0].ranks.tolist() == [1, 3, 1]


def test_chance_is_k_of_n():
    generator = torch.Generator().manual_seed(0)
    text_to_image, image_to_text = retrieval(torch.rand(1000, 1000, generator=generator))
    assert abs(text_to_image.recall(100) - 0.1) < 0.03
    assert abs(image_to_text.median_rank - 500) < 60


def test_what_cannot_be_judged_is_named():
    with pytest.raises(ShapeError, match="3 pictures and 6 captions: pass image_of_caption"):
        retrieval(torch.rand(3, 6))
    with pytest.raises(ShapeError, match="query 1 has no right candidate"):
        ranks(torch.rand(2, 2), torch.tensor([[True, False], [False, False]]))
