"""Chapter 00's exercises: wrong answers as students give them, each with the message it must get."""

import torch
import torch.nn.functional as F

from tests.exercise_cases import assert_chapter

RIGHT = {
    "00.1": lambda images, text: F.normalize(images, dim=-1) @ F.normalize(text, dim=-1).T,
    "00.2": lambda x: (F.cross_entropy(x, torch.arange(len(x))) + F.cross_entropy(x.T, torch.arange(len(x)))) / 2,
    "00.3": lambda s, k: (
        sum(
            sorted([-x for x in s[:, j].tolist()]).index(-s[j, j].item()) + int((s[:, j] == s[j, j]).sum()) <= k
            for j in range(len(s))
        )
        / len(s)
    ),
    "00.4": lambda fits: sum(1 / int(row.sum()) for row in fits) / len(fits),
}


def forgot_one_norm(images, text):
    return torch.einsum("bd,nd->bn", images, F.normalize(text, dim=1))


def loop_over_rows(x):
    return torch.stack([-x[i].softmax(0)[i].log() for i in range(len(x))]).mean()


def sorted_ascending(s, k):
    return ((s <= s.diagonal()).sum(0) <= k).float().mean().item()


def recall_by_topk(s, k):
    return (s.topk(k, dim=0).indices == torch.arange(len(s))).any(0).float().mean().item()


def rows_instead_of_columns(s, k):
    hits = [int((s[i] >= s[i, i]).sum()) <= k for i in range(len(s))]
    return sum(hits) / len(hits)


WRONG = {
    "00.1": [
        (lambda images, text: torch.einsum("bd,nd->bn", images, text), "plain dot product"),
        (forgot_one_norm, "only one side"),
        (lambda images, text: F.normalize(images, dim=0) @ F.normalize(text, dim=0).T, "measure along dim=1"),
        (lambda images, text: images @ text.T / images.norm() / text.norm(), "length of the whole table"),
        (lambda images, text: F.normalize(text, dim=1) @ F.normalize(images, dim=1).T, "exchanged"),
    ],
    "00.2": [
        (loop_over_rows, "only the pictures"),
        (lambda x: F.cross_entropy(x.T, torch.arange(len(x))), "only the sentences"),
        (lambda x: x.log_softmax(1).diagonal().mean() / 2 + x.log_softmax(0).diagonal().mean() / 2, "sign is wrong"),
        (lambda x: F.cross_entropy(x, torch.arange(len(x))) + F.cross_entropy(x.T, torch.arange(len(x))), "added"),
        (lambda x: (x.softmax(1).diagonal() + x.softmax(0).diagonal()).mean() / 2, "negative logarithm"),
        (lambda x: F.cross_entropy(x, torch.arange(len(x))).item(), "expected a tensor"),
        (
            lambda x: -(x.softmax(1).diagonal().log().mean() + x.softmax(0).diagonal().log().mean()) / 2,
            "has no logarithm",
        ),
        (lambda x: RIGHT["00.2"](x.detach()), "no gradient"),
    ],
    "00.3": [
        (rows_instead_of_columns, "image→text"),
        (lambda s, k: ((s >= s.diagonal()).sum(0) <= k + 1).float().mean().item(), "k + 1 places"),
        (lambda s, k: ((s > s.diagonal()).sum(0) < k).float().mean().item(), "would look perfect"),
        (lambda s, k: recall_by_topk(s, min(k, 2)), "not right"),
        (lambda s, k: recall_by_topk(s, k), "by accident"),
        (sorted_ascending, "lowest scores first"),
        (lambda s, k: int(((s >= s.diagonal()).sum(0) <= k).sum()), "number of sentences"),
        (lambda s, k: ((s >= s.diagonal()).sum(0) <= k).float().mean().item() / k, "precision"),
    ],
    "00.4": [
        (lambda fits: len(fits) / int(fits.sum()), "mean of 1/n"),
        (lambda fits: sum(int(row.sum()) == 1 for row in fits) / len(fits), "single picture"),
        (lambda fits: int(fits.sum()) / fits.numel(), "share of fitting pairs"),
        (lambda fits: 1.0, "not right"),
    ],
}


def test_exercises():
    assert_chapter("00", WRONG, RIGHT)
