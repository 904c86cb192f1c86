"""Exercises of chapter 11: independent right answers pass, typical wrong ones are told why."""

import math

import torch

from mmlearn.nn import Transformer, TransformerConfig
from tests.exercise_cases import assert_chapter, assert_right, assert_wrong


# 11.1 -------------------------------------------------------------------------------------------------
def right_maps(mask, n_patches):
    rows = []
    for row in mask.tolist():
        T = len(row)
        one = torch.zeros(T + n_patches, T + n_patches, dtype=torch.bool)
        for reader in range(T + n_patches):
            for read in range(T + n_patches):
                is_patch = read >= T
                one[reader, read] = is_patch or (reader < T and row[read])
        rows.append(one)
    return torch.stack(rows)


def wrong_merged(mask, n_patches):
    keys = torch.cat([mask, torch.ones(len(mask), n_patches, dtype=torch.bool)], dim=1)
    return keys[:, None].repeat(1, keys.shape[1], 1)


def wrong_padding_read(mask, n_patches):
    return right_maps(torch.ones_like(mask), n_patches)


def wrong_transposed(mask, n_patches):
    return right_maps(mask, n_patches).mT.contiguous()


def wrong_padded_readers(mask, n_patches):
    answer = right_maps(mask, n_patches)
    for b, row in enumerate(mask):
        answer[b, : len(row)][~row] = False
    return answer


def wrong_two_islands(mask, n_patches):
    answer, T = right_maps(mask, n_patches), mask.shape[1]
    answer[:, :T, T:] = False
    return answer


def wrong_patches_ask(mask, n_patches):
    answer, T = wrong_two_islands(mask, n_patches), mask.shape[1]
    answer[:, T:, :T] = mask[:, None]
    return answer


def wrong_order(mask, n_patches):
    answer, T = right_maps(mask, n_patches), mask.shape[1]
    order = torch.tensor([*range(T, T + n_patches), *range(T)])
    return answer[:, order][:, :, order]


def wrong_row(mask, n_patches):
    return torch.cat([mask, torch.ones(len(mask), n_patches, dtype=torch.bool)], dim=1)


# 11.2 -------------------------------------------------------------------------------------------------
def _log_loss(logit, is_true):
    return math.log(1 + math.exp(-logit if is_true else logit))


def _word_losses(logits, labels, together):
    losses = []
    for row, answers, real in zip(logits, labels, together, strict=True):
        for scores, answer in zip(row, answers.tolist(), strict=True):
            if real and answer != -100:
                losses.append((scores.logsumexp(0) - scores[answer]).item())
    return losses


def right_loss(match, together, logits, labels):
    matching = [_log_loss(m, t) for m, t in zip(match.tolist(), together.tolist(), strict=True)]
    words = _word_losses(logits, labels, together)
    return torch.tensor(sum(matching) / len(matching) + (sum(words) / len(words) if words else 0.0))


def wrong_all_words(match, together, logits, labels):
    words = _word_losses(logits, labels, torch.ones_like(together))
    return right_loss(match, together, logits, torch.full_like(labels, -100)) + (
        sum(words) / len(words) if words else 0.0
    )


def wrong_nan(match, together, logits, labels):
    left = labels.where(together[:, None], torch.tensor(-100))
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), left.flatten()
    ) + torch.nn.functional.binary_cross_entropy_with_logits(match, together.float())


def wrong_divided(match, together, logits, labels):
    words = _word_losses(logits, labels, together)
    n = max(int((labels != -100).sum()), 1)
    return right_loss(match, together, logits, torch.full_like(labels, -100)) + sum(words) / n


def wrong_mean_of_sentences(match, together, logits, labels):
    means = []
    for row, answers, real in zip(logits, labels, together, strict=True):
        words = _word_losses(row[None], answers[None], [real])
        if words:
            means.append(sum(words) / len(words))
    matching = right_loss(match, together, logits, torch.full_like(labels, -100))
    return matching + (sum(means) / len(means) if means else 0.0)


def wrong_positions(match, together, logits, labels):
    words = _word_losses(logits, labels, together)
    return right_loss(match, together, logits, torch.full_like(labels, -100)) + sum(words) / labels.numel()


def wrong_words_only(match, together, logits, labels):
    words = _word_losses(logits, labels, together)
    return torch.tensor(sum(words) / max(len(words), 1))


def wrong_matching_only(match, together, logits, labels):
    return torch.nn.functional.binary_cross_entropy_with_logits(match, together.float())


# 11.3 -------------------------------------------------------------------------------------------------
def right_choice(true, false):
    points = 0.0
    for t, f in zip(true.tolist(), false.tolist(), strict=True):
        points += 1.0 if t > f else 0.5 if t == f else 0.0
    return points / len(true)


def wrong_generous(true, false):
    return sum(t >= f for t, f in zip(true.tolist(), false.tolist(), strict=True)) / len(true)


def wrong_strict(true, false):
    return sum(t > f for t, f in zip(true.tolist(), false.tolist(), strict=True)) / len(true)


def wrong_without_ties(true, false):
    decided = [(t > f) for t, f in zip(true.tolist(), false.tolist(), strict=True) if t != f]
    return sum(decided) / max(len(decided), 1)


def wrong_every_pair(true, false):
    return sum(right_choice(true, false.roll(k)) for k in range(len(true))) / len(true)


def wrong_threshold(true, false):
    said = torch.cat([true > 0, false <= 0])
    return said.float().mean().item()


def wrong_exchanged(true, false):
    return right_choice(false, true)


# 11.4 -------------------------------------------------------------------------------------------------
def right_learning(names, n_layers, last):
    kept = []
    for name in names:
        words = name.split(".")
        number = int(words[words.index("layers") + 1]) if "layers" in words else -1
        if words[0] not in ("vision", "language") or number in range(n_layers - last, n_layers):
            kept.append(name)
    return kept


def wrong_text_search(names, n_layers, last):
    frozen = ["embedding", "positions", "stem", "transformer.norm", *[f"layers.{i}" for i in range(n_layers - last)]]
    return [n for n in names if n.split(".")[0] not in ("vision", "language") or not any(m in n for m in frozen)]


def wrong_slice(names, n_layers, last):
    marks = [f".layers.{i}." for i in range(n_layers)][-last:]
    return [n for n in names if n.split(".")[0] not in ("vision", "language") or any(m in n for m in marks)]


def wrong_first_layers(names, n_layers, last):
    marks = [f".layers.{i}." for i in range(last)]
    return [n for n in names if n.split(".")[0] not in ("vision", "language") or any(m in n for m in marks)]


def wrong_only_encoders(names, n_layers, last):
    return [n for n in right_learning(names, n_layers, last) if n.startswith(("vision", "language"))]


def wrong_fusion_too(names, n_layers, last):
    marks = [f".layers.{i}." for i in range(n_layers - last, n_layers)]
    towers = ("vision", "language")
    return [n for n in names if any(m in n for m in marks) or (not n.startswith(towers) and ".layers." not in n)]


def wrong_entrances(names, n_layers, last):
    frozen = [f".layers.{i}." for i in range(n_layers - last)]
    return [n for n in names if not (n.startswith(("vision", "language")) and any(m in n for m in frozen))]


def wrong_off_by_one(names, n_layers, last):
    return right_learning(names, n_layers, max(last - 1, 0))


def wrong_vision_only(names, n_layers, last):
    return [n for n in names if n.startswith("language") or n in right_learning(names, n_layers, last)]


WRONG = {
    "11.1": [
        (wrong_merged, "that is merged attention"),
        (wrong_padding_read, "padding is read"),
        (wrong_transposed, "exchanged: row i"),
        (wrong_padded_readers, "a softmax of nothing"),
        (wrong_two_islands, "the two never meet"),
        (wrong_patches_ask, "the patches read the words, and not"),
        (wrong_order, "words stand in front"),
        (wrong_row, "a square for each row"),
    ],
    "11.2": [
        (wrong_all_words, "a wrong picture cannot tell"),
        (wrong_nan, "not a number"),
        (wrong_divided, "words that you left out"),
        (wrong_mean_of_sentences, "the mean of each sentence first"),
        (wrong_positions, "all positions"),
        (wrong_words_only, "matching is missing"),
        (wrong_matching_only, "the masked words are missing"),
    ],
    "11.3": [
        (wrong_generous, "a tie counts as right"),
        (wrong_strict, "a tie counts as wrong"),
        (wrong_without_ties, "ties are left out"),
        (wrong_every_pair, "every true caption with every false one"),
        (wrong_threshold, "asks each caption alone"),
        (wrong_exchanged, "exchanged"),
    ],
    "11.4": [
        (wrong_text_search, "compare numbers, not letters"),
        (wrong_slice, "with last = 0 everything learns"),
        (wrong_first_layers, "the *first* layers"),
        (wrong_only_encoders, "they learn whatever becomes"),
        (wrong_fusion_too, "own layers have numbers too"),
        (wrong_entrances, "outside its layers"),
        (wrong_off_by_one, "one layer too many or too few"),
        (wrong_vision_only, "the text encoder is an encoder too"),
    ],
}
RIGHT = {"11.1": right_maps, "11.2": right_loss, "11.3": right_choice, "11.4": right_learning}


def test_chapter():
    assert_chapter("11", WRONG, RIGHT)


def test_merged_attention_with_this_mask_leaves_the_patches_to_themselves():
    torch.manual_seed(0)
    stack = Transformer(TransformerConfig(16, 2, 2, positions="none")).eval()
    words, patches, mask = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.arange(5) < torch.tensor([[5], [2]])
    x = torch.cat([words, patches], dim=1)
    both = right_maps(mask, 3)[:, None]
    for layer in stack.layers:
        x = layer(x, mask=both)
    alone = patches
    for layer in stack.layers:
        alone = layer(alone)
    torch.testing.assert_close(x[:, 5:], alone, atol=1e-6, rtol=1e-5)
    changed = torch.cat([words.masked_fill(~mask[..., None], 9.0), patches], dim=1)
    for layer in stack.layers:
        changed = layer(changed, mask=both)
    torch.testing.assert_close(changed[:, :5][mask], x[:, :5][mask], atol=1e-6, rtol=1e-5)


def test_ways_of_writing_that_are_right_too():
    def loss_by_selection(match, together, logits, labels):
        asked = (labels != -100) & together[:, None]
        words = torch.nn.functional.cross_entropy(logits[asked], labels[asked]) if asked.any() else 0.0
        return words + torch.nn.functional.binary_cross_entropy_with_logits(match, together.float())

    assert_right("11.2", loss_by_selection)
    assert_right("11.3", lambda true, false: ((true - false).sign().mean() + 1) / 2)
    assert_right("11.4", lambda names, n, last: tuple(right_learning(names, n, last)))


def test_a_matching_loss_with_no_answer_is_told():
    assert_wrong("11.2", lambda *inputs: None, "is there a return statement")
    assert_wrong("11.1", lambda mask, n_patches: right_maps(mask, n_patches).float(), "")
