"""The two-tower model: unit vectors, padding changes nothing, pictures do not see each other in evaluation."""

import math

import torch

from mmlearn.models import TwoTower, TwoTowerConfig, contrastive_loss


def model() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(TwoTowerConfig(vocab_size=50, max_len=12)).eval()


def test_embeddings_are_unit_vectors():
    m = model()
    tokens = torch.randint(0, 50, (4, 9))
    torch.testing.assert_close(m.embed_images(torch.randn(4, 3, 32, 32)).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(m.embed_text(tokens, tokens >= 0).norm(dim=1), torch.ones(4))


def test_padding_changes_nothing():
    m, tokens = model(), torch.randint(5, 50, (4, 9))
    mask = torch.arange(9) < torch.tensor([[9], [7], [5], [1]])
    before = m.embed_text(tokens, mask)
    padded = torch.cat([torch.where(mask, tokens, 0), torch.full((4, 3), 7)], 1)
    after = m.embed_text(padded, torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], 1))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)


def test_word_order_matters():
    m, tokens = model(), torch.arange(5, 14)[None]
    with torch.no_grad():
        m.text_tower.positions.mul_(50)
    swapped = tokens.flip(1)
    assert (m.embed_text(tokens, tokens > 0) - m.embed_text(swapped, swapped > 0)).norm() > 1e-3


def test_a_text_of_nothing_but_padding_is_defined():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    mask = torch.zeros(1, 4, dtype=torch.bool)
    assert model().text_tower(tokens, mask).shape == (1, 128)


def test_loss_is_ln_batch_for_equal_scores_and_zero_for_perfect_ones():
    assert abs(contrastive_loss(torch.zeros(8, 8)).item() - math.log(8)) < 1e-6
    assert contrastive_loss(1000 * torch.eye(8)).item() < 1e-6
    torch.manual_seed(0)
    logits = torch.randn(5, 5)
    torch.testing.assert_close(contrastive_loss(logits), contrastive_loss(logits.T))


def test_the_scale_is_clipped():
    m = model()
    with torch.no_grad():
        m.log_scale.fill_(20.0)
    tokens = torch.randint(5, 50, (2, 3))
    assert m(torch.randn(2, 3, 32, 32), tokens, tokens > 0).abs().max() <= 100.001
