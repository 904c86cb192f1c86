"""Chapter 00: scoring pairs, judging a search, and knowing the best that can be reached."""

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception


def vectors(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    sizes = [(2, 3, 2), (4, 4, 5), (1, 6, 8)]
    cases = [(torch.randn(b, d, generator=generator), torch.randn(n, d, generator=generator)) for b, n, d in sizes]
    return [(3 * images, text / 2) for images, text in cases]


def cosines(images: Tensor, text: Tensor) -> Tensor:
    return (images / images.norm(dim=1, keepdim=True)) @ (text / text.norm(dim=1, keepdim=True)).T


def cosines_transposed(images: Tensor, text: Tensor) -> Tensor:
    return cosines(images, text).T


def cosines_one_side(images: Tensor, text: Tensor) -> Tensor:
    return images @ (text / text.norm(dim=1, keepdim=True)).T


def cosines_columns(images: Tensor, text: Tensor) -> Tensor:
    return (images / images.norm(dim=0, keepdim=True)) @ (text / text.norm(dim=0, keepdim=True)).T


def cosines_whole(images: Tensor, text: Tensor) -> Tensor:
    return images @ text.T / (images.norm() * text.norm())


def cosines_squared(images: Tensor, text: Tensor) -> Tensor:
    return images @ text.T / (images.square().sum(1, keepdim=True) * text.square().sum(1))


def tables(generator: torch.Generator) -> list[tuple[Tensor]]:
    small = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    return [(small,), (torch.randn(5, 5, generator=generator) * 3,), (torch.zeros(4, 4),)]


def contrastive(logits: Tensor) -> Tensor:
    rows = logits.log_softmax(1).diagonal().mean()
    columns = logits.log_softmax(0).diagonal().mean()
    return -(rows + columns) / 2


def contrastive_trains(fn, generator: torch.Generator) -> str | None:
    """The loss must survive large scores and be able to train something."""
    certain = torch.full((3, 3), -150.0).fill_diagonal_(150.0).roll(1, 0)
    if not torch.allclose(fn(certain), contrastive(certain)):
        return "right for small scores, but not where they reach 150: a probability that rounds to 0 has no logarithm"
    mine, right = (torch.zeros(3, 3, requires_grad=True) for _ in range(2))
    loss = fn(mine)
    if not loss.requires_grad:
        return "the value is right, but no gradient flows back to the scores: nothing could be trained with it"
    loss.backward()
    contrastive(right).backward()
    return None if torch.allclose(mine.grad, right.grad, atol=1e-5) else "the value is right, but its gradient is not"


def searches(generator: torch.Generator) -> list[tuple[Tensor, int]]:
    by_hand = torch.tensor([[0.9, 0.2, 0.4], [0.1, 0.8, 0.6], [0.3, 0.9, 0.5]])
    large = torch.randn(40, 40, generator=generator) + 1.5 * torch.eye(40)
    alike = torch.zeros(4, 4)
    return [(by_hand, 1), (by_hand, 2), *((large, k) for k in (1, 2, 5, 10)), (alike, 1), (alike, 4)]


def recall(similarity: Tensor, k: int) -> float:
    return ((similarity >= similarity.diagonal()).sum(0) <= k).float().mean().item()


def recall_hopeful(similarity: Tensor, k: int) -> float:
    return ((similarity > similarity.diagonal()).sum(0) < k).float().mean().item()


def recall_topk(similarity: Tensor, k: int) -> float:
    top = similarity.topk(k, dim=0).indices
    return (top == torch.arange(len(similarity))).any(0).float().mean().item()


def recall_of_pictures(similarity: Tensor, k: int) -> float:
    return recall(similarity.T, k)


def recall_strict(similarity: Tensor, k: int) -> float:
    ranks = (similarity >= similarity.diagonal()).sum(0)
    return (ranks < k).float().mean().item()


def recall_lax(similarity: Tensor, k: int) -> float:
    ranks = (similarity >= similarity.diagonal()).sum(0)
    return (ranks <= k + 1).float().mean().item()


def recall_worst_first(similarity: Tensor, k: int) -> float:
    return recall(-similarity, k)


def recall_count(similarity: Tensor, k: int) -> float:
    return recall(similarity, k) * len(similarity)


def recall_divided_by_k(similarity: Tensor, k: int) -> float:
    return recall(similarity, k) / k


def fitting(generator: torch.Generator) -> list[tuple[Tensor]]:
    by_hand = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    random = torch.rand(30, 12, generator=generator) < 0.2
    random[torch.arange(30), torch.arange(30) % 12] = True
    return [(by_hand,), (random,), (torch.ones(3, 5, dtype=torch.bool),)]


def ceiling(fits: Tensor) -> float:
    return (1 / fits.sum(1)).mean().item()


EXERCISES = [
    Exercise(
        id="00.1",
        title="A table of cosines",
        inputs=vectors,
        solution=cosines,
        misconceptions=[
            Misconception(
                "this is the plain dot product: a long vector would win every search. Divide by both lengths",
                lambda images, text: images @ text.T,
            ),
            Misconception(
                "only one side has length 1: divide the pictures' vectors by their lengths as well", cosines_one_side
            ),
            Misconception(
                "only one side has length 1: divide the sentences' vectors by their lengths as well",
                lambda images, text: (images / images.norm(dim=1, keepdim=True)) @ text.T,
            ),
            Misconception(
                "you divided each column by its length: every *row* is one vector, so measure along dim=1",
                cosines_columns,
            ),
            Misconception(
                "you divided by the length of the whole table: each picture and each sentence has a length of its own",
                cosines_whole,
            ),
            Misconception("you divided by the squared lengths: is there a square root missing?", cosines_squared),
            Misconception(
                "rows and columns are exchanged: pictures are the rows, sentences the columns", cosines_transposed
            ),
        ],
        hints=[
            "The cosine of two vectors is their dot product divided by both of their lengths.",
            "x.norm(dim=1, keepdim=True) gives the length of every row, in a shape that can divide x.",
            "Make the rows of both tables length 1 first; then one matrix product gives all the cosines.",
        ],
    ),
    Exercise(
        id="00.2",
        title="The contrastive loss by hand",
        inputs=tables,
        solution=contrastive,
        verify=contrastive_trains,
        misconceptions=[
            Misconception(
                "you ask only the pictures to find their sentences (rows); ask the sentences for their pictures too",
                lambda logits: -logits.log_softmax(1).diagonal().mean(),
            ),
            Misconception(
                "you ask only the sentences to find their pictures (columns); ask the pictures as well",
                lambda logits: -logits.log_softmax(0).diagonal().mean(),
            ),
            Misconception(
                "the sign is wrong: a loss falls as the right answers grow likelier", lambda x: -contrastive(x)
            ),
            Misconception(
                "you added the two directions: take their mean, so that guessing costs ln B",
                lambda x: 2 * contrastive(x),
            ),
            Misconception(
                "you summed over the pairs: take the mean, or a bigger batch would always cost more",
                lambda x: contrastive(x) * len(x),
            ),
            Misconception(
                "you averaged probabilities and took the logarithm last: take the logarithm of each one first",
                lambda x: -(x.softmax(1).diagonal().mean().log() + x.softmax(0).diagonal().mean().log()) / 2,
            ),
            Misconception(
                "these are probabilities: the loss is their negative logarithm",
                lambda x: (x.softmax(1).diagonal().mean() + x.softmax(0).diagonal().mean()) / 2,
            ),
        ],
        hints=[
            "softmax along a row turns scores into the probability that the picture gives to each sentence.",
            "The right answers stand on the diagonal: x.diagonal().",
            "Negative mean of log_softmax(dim=1) on the diagonal, the same with dim=0, and the mean of the two.",
        ],
    ),
    Exercise(
        id="00.3",
        title="Recall at k",
        inputs=searches,
        solution=recall,
        misconceptions=[
            Misconception(
                "this is image→text: you searched among the sentences for each picture. Each *sentence* (column) "
                "searches among the pictures (rows)",
                recall_of_pictures,
            ),
            Misconception("the right picture at place k counts as found: you stopped one place early", recall_strict),
            Misconception(
                "you looked at k + 1 places: with k wrong pictures before it, the right one is too late", recall_lax
            ),
            Misconception(
                "look at equal scores: a model that scores everything alike would look perfect. Among equals the wrong "
                "pictures stand first",
                recall_hopeful,
            ),
            Misconception(
                "look at equal scores: topk chooses by accident. Among equals the wrong pictures stand first",
                recall_topk,
            ),
            Misconception("you took the lowest scores first: a high similarity is a good match", recall_worst_first),
            Misconception(
                "this is the number of sentences that found their picture: recall is their share", recall_count
            ),
            Misconception(
                "you divided by k: that is precision. Recall asks only whether the one right picture is there",
                recall_divided_by_k,
            ),
        ],
        hints=[
            "Caption j is the query; column j holds its score with every picture; picture j is the right one.",
            "The rank of the right picture: how many pictures score at least as high in its column, itself included?",
            "Compare every column with its entry on the diagonal, count along dim=0: which counts are at most k?",
        ],
    ),
    Exercise(
        id="00.4",
        title="The best that any model can do",
        inputs=fitting,
        solution=ceiling,
        misconceptions=[
            Misconception(
                "you took one over the mean number of fitting pictures: the mean of 1/n is not 1/mean(n). Work out "
                "each sentence's chance first",
                lambda fits: (1 / fits.float().sum(1).mean()).item(),
            ),
            Misconception(
                "you counted only the sentences that fit a single picture: with two fitting pictures a guess is right "
                "half of the time",
                lambda fits: (fits.sum(1) == 1).float().mean().item(),
            ),
            Misconception(
                "this is the share of fitting pairs: it grows where sentences are vaguer, but those are harder to find",
                lambda fits: fits.float().mean().item(),
            ),
            Misconception(
                "you counted how many sentences fit each picture: count for each sentence (row) how many pictures fit",
                lambda fits: (1 / fits.sum(0)).mean().item(),
            ),
        ],
        hints=[
            "If a sentence fits three pictures equally well, how often does the best guess find the intended one?",
            "fits.sum(dim=1) says for each sentence how many pictures it fits.",
            "The mean over sentences of one over that number.",
        ],
    ),
]
