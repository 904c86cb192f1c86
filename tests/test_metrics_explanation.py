"""Scores of explanations: small maps counted by hand, chance for maps without opinion, clear errors."""

import pytest
import torch

from mmlearn.errors import ShapeError
from mmlearn.metrics import energy_inside, pointing_game


def corner(value: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A map whose only positive point is at [0, 1], and a mask of the upper left 2 × 2 of 4 × 4."""
    maps, masks = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    maps[0, 0, 1], masks[0, :2, :2] = value, True
    return maps, masks


def test_a_hit_a_miss_and_a_tie():
    maps, masks = corner()
    assert pointing_game(maps, masks).tolist() == [1.0]
    assert pointing_game(maps, ~masks).tolist() == [0.0]
    maps[0, 3, 3] = 1.0
    assert pointing_game(maps, masks).tolist() == [0.5]


def test_a_map_without_opinion_scores_the_area():
    masks = corner()[1]
    for score in (pointing_game, energy_inside):
        assert score(torch.full((1, 4, 4), 0.3), masks).item() == pytest.approx(4 / 16)
    assert energy_inside(torch.zeros(1, 4, 4), masks).item() == pytest.approx(4 / 16)
    assert energy_inside(torch.full((1, 4, 4), -2.0), masks).item() == pytest.approx(4 / 16)


def test_energy_is_the_share_and_negative_values_count_as_nothing():
    maps, masks = corner(3.0)
    maps[0, 3, 3], maps[0, 3, 0] = 1.0, -5.0
    assert energy_inside(maps, masks).item() == pytest.approx(0.75)


def test_each_picture_has_its_own_score():
    maps, masks = corner()
    maps, masks = maps.repeat(3, 1, 1), masks.repeat(3, 1, 1)
    masks[1] = ~masks[1]
    assert pointing_game(maps, masks).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("score", [pointing_game, energy_inside])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.zeros(1, 4, 4), torch.ones(1, 8, 8, dtype=torch.bool), "resize the maps"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), "mask 0 has no pixel"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4), "pass masks.bool()"),
        (torch.full((1, 4, 4), float("nan")), torch.ones(1, 4, 4, dtype=torch.bool), "not-a-number"),
    ],
)
def test_wrong_input_is_told(score, maps, masks, message):
    with pytest.raises(ShapeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        score(maps, masks)
