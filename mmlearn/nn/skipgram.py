"""Skip-gram with negative sampling: word vectors learned by telling a word's neighbours from words drawn at random.

Source: Mikolov, Sutskever, Chen, Corrado and Dean, "Distributed Representations of Words and Phrases and their
Compositionality", NIPS 2013; equation numbers are those of the paper. Chapter 06 builds everything by hand.
Dimensions: V words, D numbers a vector, B sentences of T tokens, P pairs, K negatives a pair.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import DataError


class SkipGram(nn.Module):
    """Two vectors a word: one as the centre of a window, one as a neighbour. The first are kept as word vectors.

    They start as in word2vec: centres uniform within ±1/(2D), neighbours at zero, so every score starts at zero.
    """

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.centre, self.context = nn.Embedding(vocab_size, d_model), nn.Embedding(vocab_size, d_model)
        nn.init.uniform_(self.centre.weight, -0.5 / d_model, 0.5 / d_model)
        nn.init.zeros_(self.context.weight)

    def forward(
        self, centre: Int[Tensor, " P"], context: Int[Tensor, " P"], negatives: Int[Tensor, "P K"]
    ) -> tuple[Float[Tensor, " P"], Float[Tensor, "P K"]]:
        """Scores (dot products) of each word with its neighbour, and with its K negatives."""
        others = torch.cat([context[:, None], negatives], dim=1)  # (P, 1 + K)
        scores = (self.context(others) @ self.centre(centre)[:, :, None])[:, :, 0]
        return scores[:, 0], scores[:, 1:]


def negative_sampling_loss(positive: Float[Tensor, " P"], negative: Float[Tensor, "P K"]) -> Float[Tensor, ""]:
    """-log σ(positive) - Σ log σ(-negative), the mean over pairs (equation 4); (1 + K)·ln 2 where all scores are 0."""
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(dim=1)).mean()


def keep_probability(counts: Int[Tensor, " V"], threshold: float = 1e-3) -> Float[Tensor, " V"]:
    """The chance √(threshold / frequency), at most 1, with which each word is kept in a sentence (equation 5).

    The paper's threshold is 1e-5, for billions of words; the smaller the vocabulary, the larger it should be.
    """
    frequency = counts / counts.sum()
    return (threshold / frequency).sqrt().clamp(max=1.0)  # 1 for a word that never comes: √∞


def noise_distribution(counts: Int[Tensor, " V"], power: float = 0.75) -> Float[Tensor, " V"]:
    """The probability of each word to be drawn as a negative: proportional to its count to the power (section 2.2)."""
    weights = counts.double() ** power
    return (weights / weights.sum()).float()


def subsample(
    tokens: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    keep: Float[Tensor, " V"],
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Drop words at random, word w with probability 1 - keep[w]; what is left moves together to the left.

    Words drop out *before* windows are laid, as in word2vec, so that a window reaches further.
    """
    mask = mask & (torch.rand(tokens.shape, generator=generator) < keep[tokens])
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)


def word_pairs(
    tokens: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    window: int,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """Every word with every neighbour up to r places away: centres and neighbours.

    r is drawn from 1 … window for each word, as in word2vec, so that near words count more; pass `generator` to make
    it repeatable. Where mask is False there is no word.
    """
    reach = torch.randint(1, window + 1, tokens.shape, generator=generator)
    centres, contexts = [], []
    for distance in range(1, min(window, tokens.shape[1] - 1) + 1):
        both = mask[:, :-distance] & mask[:, distance:]
        left, right = tokens[:, :-distance], tokens[:, distance:]
        forward = both & (reach[:, :-distance] >= distance)
        backward = both & (reach[:, distance:] >= distance)
        centres += [left[forward], right[backward]]
        contexts += [right[forward], left[backward]]
    if not centres:
        return tokens.new_empty(0), tokens.new_empty(0)
    return torch.cat(centres), torch.cat(contexts)


class SkipGramBatches:
    """step → (centre (P,), context (P,), negatives (P, K)) from sentences drawn at random; a function of step only.

    Args:
        tokens, mask: N sentences (N, T); mask is True at words, so False at `<start>`, `<end>` and padding.
        vocab_size: V.
        sentences: how many a batch takes; P varies with their length.
        window, n_negatives, threshold, power: as in the functions above; threshold None keeps every word.

    Raises DataError where the sentences hold no two words beside each other, or where subsampling left none.
    """

    def __init__(
        self,
        tokens: Int[Tensor, "N T"],
        mask: Bool[Tensor, "N T"],
        vocab_size: int,
        *,
        sentences: int = 256,
        window: int = 5,
        n_negatives: int = 5,
        threshold: float | None = 1e-3,
        power: float = 0.75,
        seed: int = 0,
    ):
        if not (mask.sum(dim=1) > 1).any():
            raise DataError("no sentence has two words: skip-gram learns from neighbours")
        self.tokens, self.mask, self.seed = tokens, mask, seed
        self.sentences, self.window, self.n_negatives = sentences, window, n_negatives
        self.counts = tokens[mask].bincount(minlength=vocab_size)
        self.keep = None if threshold is None else keep_probability(self.counts, threshold)
        self._noise = noise_distribution(self.counts, power).double().cumsum(dim=0)

    def __call__(self, step: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, "P K"]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(step)) % 2**63)
        rows = torch.randint(len(self.tokens), (self.sentences,), generator=generator)
        tokens, mask = self.tokens[rows], self.mask[rows]
        if self.keep is not None:
            tokens, mask = subsample(tokens, mask, self.keep, generator)
        centre, context = word_pairs(tokens, mask, self.window, generator)
        if not len(centre):
            raise DataError(f"step {step}: no pair is left; take more sentences a batch or a larger threshold")
        return centre, context, self.negatives(len(centre), generator)

    def negatives(self, n_pairs: int, generator: torch.Generator | None = None) -> Int[Tensor, "P K"]:
        """Words drawn from the noise distribution; one may be a true neighbour by chance, as in equation 4."""
        u = torch.rand(n_pairs, self.n_negatives, dtype=torch.double, generator=generator) * self._noise[-1]
        return torch.searchsorted(self._noise, u, right=True).clamp(max=len(self._noise) - 1)
