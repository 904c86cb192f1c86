"""Skip-gram with negative sampling: pairs, noise, loss and gradients against loops and formulas; its known optimum."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from mmlearn.errors import DataError
from mmlearn.nn import (
    SkipGram,
    SkipGramBatches,
    keep_probability,
    negative_sampling_loss,
    noise_distribution,
    word_pairs,
)
from mmlearn.nn.skipgram import subsample


def sentences(n=6, length=9, vocab=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocab, (n, length), generator=generator)
    mask = torch.arange(length) < torch.randint(2, length + 1, (n, 1), generator=generator)
    mask[0, 2] = False  # a hole, such as an unknown word
    return tokens * mask, mask


def pairs_by_hand(tokens, mask, reach):
    found = Counter()
    for row, keep, far in zip(tokens.tolist(), mask.tolist(), reach.tolist(), strict=True):
        for i in range(len(row)):
            for j in range(max(0, i - far[i]), min(len(row), i + far[i] + 1)):
                if i != j and keep[i] and keep[j]:
                    found[row[i], row[j]] += 1
    return found


@pytest.mark.parametrize("window", [1, 2, 5, 30])
def test_pairs_are_those_of_four_loops(window):
    tokens, mask = sentences()
    reach = torch.randint(1, window + 1, tokens.shape, generator=torch.Generator().manual_seed(3))
    centre, context = word_pairs(tokens, mask, window, torch.Generator().manual_seed(3))
    assert Counter(zip(centre.tolist(), context.tolist(), strict=True)) == pairs_by_hand(tokens, mask, reach)


def test_no_pair_leaves_its_sentence_and_one_word_has_none():
    tokens, mask = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, dtype=torch.bool)
    centre, context = word_pairs(tokens, mask, window=5)
    assert sorted(zip(centre.tolist(), context.tolist(), strict=True)) == [(1, 2), (2, 1), (3, 4), (4, 3)]
    assert len(word_pairs(tokens[:, :1], mask[:, :1], 5)[0]) == 0


def test_near_words_count_more():
    tokens, mask = torch.arange(1, 9).expand(4000, 8), torch.ones(4000, 8, dtype=torch.bool)
    centre, context = word_pairs(tokens, mask, window=4, generator=torch.Generator().manual_seed(0))
    from_first = context[centre == 1].bincount(minlength=9)
    shares = from_first[2:6] / 4000  # the neighbour at distance d is taken where r >= d: (window - d + 1) / window
    assert torch.allclose(shares, torch.tensor([1.0, 0.75, 0.5, 0.25]), atol=0.03)
    assert from_first[6:].sum() == 0


def test_subsampling_keeps_order_and_the_right_share():
    tokens = torch.arange(1, 11).expand(5000, 10)
    mask = torch.ones(5000, 10, dtype=torch.bool)
    mask[:, 9] = False
    keep = torch.ones(11)
    keep[3], keep[5] = 0.25, 0.0
    kept, left = subsample(tokens, mask, keep, torch.Generator().manual_seed(0))
    share = kept[left].bincount(minlength=11) / 5000
    assert share[3] == pytest.approx(0.25, abs=0.02)
    assert share[5] == share[10] == 0
    assert (share[[1, 2, 4, 6, 7, 8, 9]] == 1).all()
    inside = left[:, 1:] & left[:, :-1]
    assert (kept[:, 1:] > kept[:, :-1])[inside].all()
    assert (left.long().diff(dim=1) <= 0).all()  # moved to the left, no holes


def test_keep_probability_and_noise_are_the_formulas():
    counts = torch.tensor([0, 1, 100, 899])
    keep = keep_probability(counts, threshold=0.01)
    assert keep.tolist() == pytest.approx([1.0, 1.0, math.sqrt(0.01 / 0.1), math.sqrt(0.01 / 0.899)])
    noise = noise_distribution(counts)
    weights = [0, 1, 100**0.75, 899**0.75]
    assert noise.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_negatives_follow_the_noise():
    tokens, mask = sentences(200)
    batches = SkipGramBatches(tokens, mask, vocab_size=20, threshold=None)
    drawn = batches.negatives(20_000, torch.Generator().manual_seed(0))
    share = drawn.flatten().bincount(minlength=20) / drawn.numel()
    assert torch.allclose(share, noise_distribution(batches.counts), atol=5e-3)
    assert share[0] == 0, "padding is no word"


def test_loss_and_gradients_equal_loops():
    torch.manual_seed(0)
    model = SkipGram(7, 5)
    nn.init.normal_(model.context.weight)
    centre, context = torch.tensor([1, 2, 2]), torch.tensor([3, 4, 1])
    negatives = torch.tensor([[5, 6], [4, 0], [2, 5]])
    negative_sampling_loss(*model(centre, context, negatives)).backward()

    w, c = (table.weight.detach().clone().requires_grad_() for table in (model.centre, model.context))
    total = 0.0
    for i, j, others in zip(centre.tolist(), context.tolist(), negatives.tolist(), strict=True):
        total = total - torch.log(1 / (1 + torch.exp(-(w[i] @ c[j]))))
        for other in others:
            total = total - torch.log(1 / (1 + torch.exp(w[i] @ c[other])))
    (total / 3).backward()
    assert torch.allclose(model.centre.weight.grad, w.grad, atol=1e-6)
    assert torch.allclose(model.context.weight.grad, c.grad, atol=1e-6)


def test_first_loss_is_known():
    model = SkipGram(10, 4)
    words = torch.arange(6)
    loss = negative_sampling_loss(*model(words, words, torch.zeros(6, 5, dtype=torch.long)))
    assert loss.item() == pytest.approx(6 * math.log(2))


def test_batches_depend_on_the_step_only_and_hold_words_only():
    tokens, mask = sentences(50)
    batches = SkipGramBatches(tokens, mask, vocab_size=20, sentences=16, window=3, n_negatives=4)
    centre, context, negatives = batches(7)
    assert negatives.shape == (len(centre), 4)
    assert all(torch.equal(a, b) for a, b in zip(batches(7), (centre, context, negatives), strict=True))
    assert not torch.equal(batches(8)[2][:5], negatives[:5])
    assert 0 not in centre
    assert 0 not in context
    assert 0 not in negatives


def test_optimum_is_shifted_pmi():
    """Levy and Goldberg, NIPS 2014, equation 7: w·c = log(#(w,c)·N / (#(w)·#(c))) - log k."""
    torch.manual_seed(0)
    counts = torch.randint(1, 30, (6, 6)).double()
    counts = counts + counts.T
    n, k = counts.sum(), 2
    noise = counts.sum(dim=0) / n
    model = SkipGram(6, 6).double()
    nn.init.normal_(model.context.weight, std=0.5)
    rows, columns = torch.cartesian_prod(torch.arange(6), torch.arange(6)).unbind(1)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=2000, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        scores, _ = model(rows, columns, rows[:, None])
        scores = scores.view(6, 6)
        expected_negatives = k * counts.sum(dim=1, keepdim=True) * noise
        loss = (
            counts * nn.functional.softplus(-scores) + expected_negatives * nn.functional.softplus(scores)
        ).sum() / n
        loss.backward()
        return loss

    optimiser.step(closure)
    pmi = (counts * n / (counts.sum(dim=1, keepdim=True) * counts.sum(dim=0))).log()
    assert torch.allclose(model.centre.weight @ model.context.weight.T, pmi - math.log(k), atol=1e-3)


def test_errors():
    one = torch.ones(3, 1, dtype=torch.long)
    with pytest.raises(DataError, match="no sentence has two words"):
        SkipGramBatches(one, one.bool(), vocab_size=2)
    tokens, mask = sentences(3)
    with pytest.raises(DataError, match="no pair is left"):
        SkipGramBatches(tokens, mask, vocab_size=20, threshold=1e-12)(0)
