"""Exercises of chapter 07, captioning."""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception


# ------------------------------------------------------------------------------------------- 07.1 what a mean knows
def _rows(generator):
    def draw(n, k):
        return [("red", "green", "blue", "yellow", "pink")[i] for i in torch.randint(k, (n,), generator=generator)]

    fixed = [["red", "blue"], ["red", "red", "red"], ["red", "blue", "green", "yellow"], ["red", "blue", "red"]]
    fixed += [["pink", "pink", "red", "pink", "red"]]
    return [(row,) for row in [*fixed, ["green"], draw(6, 3), draw(7, 5), draw(5, 2)]]


def _arrangements(row: list[str]) -> int:
    return math.factorial(len(row)) // math.prod(math.factorial(n) for n in Counter(row).values())


LEAST_LOSS = Exercise(
    id="07.1",
    title="What counting leaves open",
    inputs=_rows,
    solution=lambda row: math.log(_arrangements(row)),
    misconceptions=[
        Misconception(
            "you counted all n! orders, but exchanging two tiles of one colour changes nothing: you "
            "counted the same row several times",
            lambda row: math.log(math.factorial(len(row))),
        ),
        Misconception(
            "that is the loss of one who knows which colours there are, not how many of each: the counts are known",
            lambda row: len(row) * math.log(len(set(row))),
        ),
        Misconception(
            "that is n times the entropy of the colours' shares, as if each tile were drawn anew. But a colour that "
            "was named is used up: the last tile is known for certain",
            lambda row: -sum(n * math.log(n / len(row)) for n in Counter(row).values()),
        ),
        Misconception(
            "that is in bits; losses here are in nats, with the natural logarithm",
            lambda row: math.log2(_arrangements(row)),
        ),
        Misconception(
            "that is how many arrangements there are; which loss, in nats, has one who must guess among so many?",
            _arrangements,
        ),
        Misconception(
            "you divided by 2, 3, … for the number of *different* colours; what counts is how many tiles each one has",
            lambda row: math.log(math.factorial(len(row)) / math.factorial(len(set(row)))),
        ),
        Misconception(
            "that is the entropy of the colour of one tile; wanted is the loss of the whole row, where a colour that "
            "was named is used up",
            lambda row: -sum(n / len(row) * math.log(n / len(row)) for n in Counter(row).values()),
        ),
        Misconception(
            "that is the loss of a tile; wanted is the sum over the row",
            lambda row: math.log(_arrangements(row)) / len(row),
        ),
        Misconception(
            "you divided once for every *tile*; equal tiles can be exchanged once for each colour",
            lambda row: math.log(math.factorial(len(row)) / math.prod(math.factorial(row.count(c)) for c in row)),
        ),
        Misconception(
            "that is the loss of one who knows nothing and guesses among four colours; here the counts are known",
            lambda row: len(row) * math.log(4),
        ),
        Misconception(
            "the sign is wrong: a loss is −ln(probability), and never negative",
            lambda row: -math.log(_arrangements(row)),
        ),
    ],
    hints=[
        "All orders that fit the counts are equally likely. If there are m of them, what is −ln of the chance of one?",
        "n different tiles can be put into n! orders. Exchanging the r red ones among themselves gives the same row: "
        "each row was counted r! times.",
        "ln(n! / (r! g! b! …)), with math.factorial and collections.Counter(row).values().",
    ],
)


# ------------------------------------------------------------------------------------------- 07.2 the model's own words
def _captions(generator):
    cases = []
    for batch, length in ((2, 5), (3, 7), (1, 4), (4, 6)):
        lengths = torch.randint(3, length + 1, (batch, 1), generator=generator)
        places = torch.arange(length)
        tokens = torch.randint(5, 40, (batch, length), generator=generator)
        tokens = tokens.masked_fill(places == lengths - 1, 3).masked_fill(places >= lengths, 0)
        tokens[:, 0] = 2
        own = torch.randint(40, 80, (batch, length), generator=generator)
        coin = torch.rand(batch, length, generator=generator) < 0.6
        coin[:, 0], coin[:, -1] = True, True
        cases.append((tokens, own, coin))
    cases[-1][0][0] = torch.tensor([2, 5, 3, 0, 0, 0])
    return cases


def _mix(tokens: Tensor, own: Tensor, coin: Tensor) -> Tensor:
    before = torch.cat([tokens[:, :1], own[:, :-1]], dim=1)
    return torch.where(coin & (tokens != 0), before, tokens)


def _mix_without(tokens: Tensor, own: Tensor, coin: Tensor, start: bool = True, padding: bool = True) -> Tensor:
    """The mixture with <start> or the padding not protected."""
    before = torch.cat([tokens[:, :1] if start else own[:, -1:], own[:, :-1]], dim=1)
    return torch.where(coin & (tokens != 0) if padding else coin, before, tokens)


def _keep(changed: Tensor, tokens: Tensor) -> Tensor:
    changed = torch.where(tokens == 0, tokens, changed)
    changed[:, 0] = tokens[:, 0]
    return changed


MIX = Exercise(
    id="07.2",
    title="The model's own words as input",
    inputs=_captions,
    solution=_mix,
    misconceptions=[
        Misconception(
            "own[:, t] is what the model says *after* reading position t: it stands for the word at t + 1. You put it "
            "in the place of the word that it came after",
            lambda tokens, own, coin: _keep(torch.where(coin, own, tokens), tokens),
        ),
        Misconception(
            "own[:, t] is what the model says *after* reading position t: it stands for the word at t + 1. You put it "
            "in the place of the word that it came after (and replace <start> and the padding, too)",
            lambda tokens, own, coin: torch.where(coin, own, tokens),
        ),
        Misconception(
            "own[:, t] is what the model says *after* reading position t: it stands for the word at t + 1. You put it "
            "in the place of the word that it came after (and replace the padding, too)",
            lambda tokens, own, coin: torch.where(coin & (tokens != 2), own, tokens),
        ),
        Misconception(
            "own[:, t] is what the model says *after* reading position t: it stands for the word at t + 1. You put it "
            "in the place of the word that it came after (and replace <start>, too)",
            lambda tokens, own, coin: torch.where(coin & (tokens != 0), own, tokens),
        ),
        Misconception(
            "<end> never gives way in your answer. Only <start> and the padding are protected; where the true caption "
            "ends, the model may have wanted to go on",
            lambda tokens, own, coin: _mix(tokens, own, coin & (tokens != 3)),
        ),
        Misconception(
            "you asked whether the word *before* is padding: at the first padded place a word goes in",
            lambda tokens, own, coin: _mix_without(tokens, own, coin & (tokens.roll(1, 1) != 0), padding=False),
        ),
        Misconception(
            "you moved the model's words the wrong way: own[:, t] belongs to position t + 1, not t − 1",
            lambda tokens, own, coin: _keep(torch.where(coin, own.roll(-1, dims=1), tokens), tokens),
        ),
        Misconception(
            "<start> is replaced in your answer; with roll the *last* word comes round to the front. Every caption "
            "begins with its own <start>",
            lambda tokens, own, coin: _mix_without(tokens, own, coin, start=False),
        ),
        Misconception(
            "<start> and the padding are replaced in your answer; both stay as they are",
            lambda tokens, own, coin: _mix_without(tokens, own, coin, start=False, padding=False),
        ),
        Misconception(
            "the padding is replaced in your answer: after <end> nothing is said",
            lambda tokens, own, coin: _mix_without(tokens, own, coin, padding=False),
        ),
        Misconception(
            "the coin is turned round: True means that the model's own word goes in",
            lambda tokens, own, coin: _mix(tokens, own, ~coin),
        ),
        Misconception(
            "you moved the coin together with the words: coin[:, t] belongs to the *input* at position t",
            lambda tokens, own, coin: _mix(tokens, own, coin.roll(1, dims=1)),
        ),
    ],
    hints=[
        "Write the positions of a short caption under each other: tokens, and what the model says after each of them.",
        "Make a tensor that holds at position t what the model said at t − 1; at position 0 it holds <start>.",
        "torch.where(coin & (tokens != 0), torch.cat([tokens[:, :1], own[:, :-1]], dim=1), tokens)",
    ],
)


# --------------------------------------------------------------------------------------------------- 07.3 a beam's step
def _beams(generator):
    sizes = [(2, 5), (3, 3), (1, 4), (4, 7), (5, 2)]
    cases = []
    for beams, vocab in sizes:
        scores = -3 * torch.rand(beams, generator=generator)
        log_probs = (2 * torch.randn(beams, vocab, generator=generator)).log_softmax(dim=-1)
        cases.append((scores, log_probs))
    return cases


def _best(total: Tensor, beams: int, divisor: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    best, index = total.flatten().topk(beams)
    divisor = divisor or total.shape[1]
    return index // divisor, index % divisor, best


def _worst(total: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    worst, index = total.flatten().topk(beams, largest=False)
    return index // total.shape[1], index % total.shape[1], worst


def _best_child_of_each(scores, log_probs):
    best, token = log_probs.max(dim=1)
    order = (scores + best).argsort(descending=True)
    return order, token[order], (scores + best)[order]


def _in_order_of(order: Callable, scores, log_probs):
    """The right children, in another order."""
    parents, tokens, best = _best(scores[:, None] + log_probs, len(scores))
    index = order(parents)
    return parents[index], tokens[index], best[index]


def _of_the_best_parent(scores, log_probs):
    parent = int(scores.argmax())
    best, token = log_probs[parent].topk(min(len(scores), log_probs.shape[1]))
    return torch.full_like(token, parent), token, scores[parent] + best


def _with_scores(change: Callable, scores, log_probs):
    """The right children, with a score that is something else."""
    parents, tokens, best = _best(scores[:, None] + log_probs, len(scores))
    return parents, tokens, change(parents, tokens, best, log_probs)


BEAM = Exercise(
    id="07.3",
    title="One step of beam search",
    inputs=_beams,
    solution=lambda scores, log_probs: _best(scores[:, None] + log_probs, len(scores)),
    misconceptions=[
        Misconception(
            "each beginning got exactly one child in your answer. They compete: a strong one may have several children "
            "and a weak one none",
            _best_child_of_each,
        ),
        Misconception(
            "each beginning got exactly one child in your answer. They compete: a strong one may have several children "
            "and a weak one none. (And the best child should come first.)",
            lambda scores, log_probs: (
                torch.arange(len(scores)),
                log_probs.argmax(dim=1),
                scores + log_probs.amax(dim=1),
            ),
        ),
        Misconception(
            "all your children have one parent: the best beginning so far. The others compete, too",
            _of_the_best_parent,
        ),
        Misconception(
            "the children are right, the order is not: the best comes first",
            lambda scores, log_probs: _in_order_of(
                lambda parents: torch.arange(len(parents)).flip(0), scores, log_probs
            ),
        ),
        Misconception(
            "the children are right, but they stand in the order of their parents: the best comes first",
            lambda scores, log_probs: _in_order_of(lambda parents: parents.argsort(stable=True), scores, log_probs),
        ),
        Misconception(
            "those are probabilities; the new scores are log probabilities, as the old ones are",
            lambda scores, log_probs: _with_scores(lambda p, t, best, _: best.exp(), scores, log_probs),
        ),
        Misconception(
            "parents and words are right, but the score is the new word's alone; the next step needs that of the whole "
            "beginning",
            lambda scores, log_probs: _with_scores(lambda p, t, _, table: table[p, t], scores, log_probs),
        ),
        Misconception(
            "those are the least probable children: a log probability is negative, and the best is nearest to 0",
            lambda scores, log_probs: _worst(scores[:, None] + log_probs, len(scores)),
        ),
        Misconception(
            "you compared the new words only: a child's score is its parent's score *plus* the word's log probability",
            lambda scores, log_probs: _best(log_probs, len(scores)),
        ),
        Misconception(
            "the flat index was cut by the number of beginnings K; a row of the table has V entries",
            lambda scores, log_probs: _best(scores[:, None] + log_probs, len(scores), len(scores)),
        ),
        Misconception(
            "you multiplied scores and log probabilities: probabilities multiply, their logarithms add up",
            lambda scores, log_probs: _best(scores[:, None] * log_probs, len(scores)),
        ),
        Misconception(
            "you added a probability to a log probability: take log_probs as they are",
            lambda scores, log_probs: _best(scores[:, None] + log_probs.exp(), len(scores)),
        ),
        Misconception(
            "words and parents are exchanged: return (parents, words, scores)",
            lambda scores, log_probs: tuple(_best(scores[:, None] + log_probs, len(scores))[i] for i in (1, 0, 2)),
        ),
    ],
    hints=[
        "Make one table (K, V) of the scores of all children. How do you get a parent's score into its whole row?",
        "total = scores[:, None] + log_probs. Now the K largest entries of the *whole* table: flatten it, topk.",
        "An index i of the flat table stands in row i // V and column i % V, with V = log_probs.shape[1].",
    ],
)


# ------------------------------------------------------------------------------------------------- 07.4 least penalty
LEAST_PENALTY = Exercise(
    id="07.4",
    title="How even can looking be?",
    inputs=lambda generator: [(12, 16), (10, 196), (16, 16), (20, 16), (1, 1), (1, 64), (30, 9)],
    solution=lambda n_words, n_places: (n_places - n_words) ** 2 / n_places,
    misconceptions=[
        Misconception(
            "zero is out of reach: all weights together add up to the number of words, and zero would need the number "
            "of places",
            lambda n_words, n_places: 0.0,
        ),
        Misconception(
            "that is one place, looked at wholly, for each word, and the others never: possible, but not the "
            "cheapest: a word may spread its weights",
            lambda n_words, n_places: float(abs(n_places - n_words)),
        ),
        Misconception(
            "that is the penalty of one place; it is added up over all places",
            lambda n_words, n_places: (1 - n_words / n_places) ** 2,
        ),
        Misconception(
            "you squared the sum; the penalty is a sum of squares, and each place has its share of the gap only",
            lambda n_words, n_places: float((n_places - n_words) ** 2),
        ),
        Misconception(
            "zero for more words than places? A place that is looked at too *much* costs as well",
            lambda n_words, n_places: max(0, n_places - n_words) ** 2 / n_places,
        ),
        Misconception(
            "that is one place, looked at wholly, for each word, as far as the places last: a word may spread its "
            "weights, and a place that is looked at too much costs as well",
            lambda n_words, n_places: float(max(0, n_places - n_words)),
        ),
        Misconception(
            "that is the sum of the gaps, not of their squares: it can even be negative",
            lambda n_words, n_places: float(n_places - n_words),
        ),
        Misconception(
            "that has each word look at one place wholly, as evenly as whole looks allow: a word may "
            "spread its weights",
            lambda n_words, n_places: float(
                (n_places - n_words % n_places) * (1 - n_words // n_places) ** 2
                + n_words % n_places * (n_words // n_places) ** 2
            ),
        ),
        Misconception(
            "the value need not be a whole number: divide without rounding",
            lambda n_words, n_places: (n_places - n_words) ** 2 // n_places,
        ),
        Misconception(
            "you exchanged words and places: the weights add up to 1 over the places, for each word",
            lambda n_words, n_places: (n_places - n_words) ** 2 / n_words,
        ),
    ],
    hints=[
        "Each word's weights add up to 1. What do all weights of a caption of T words add up to?",
        "So the S sums Σ_t a_ts have the mean T / S. A sum of squares with a given total is smallest when all are "
        "equal.",
        "S places, each with (1 − T / S)².",
    ],
)


# ------------------------------------------------------------------------------------------------------ 07.5 consensus
def _likenesses(generator):
    return [(torch.rand(n, n, generator=generator) + torch.eye(n) * 2,) for n in (2, 3, 4, 5, 6, 8)] + [
        (torch.tensor([[5.0, 1.0, 1.2], [1.0, 1.0, 1.8], [1.3, 1.9, 0.5]]),),
        (torch.tensor([[1.0, 9.0, 0.0, 0.0], [4.0, 1.0, 4.0, 4.0], [3.0, 3.0, 7.0, 3.0], [9.0, 0.0, 0.0, 9.0]]),),
        (torch.tensor([[0.9, 0.6, 0.5], [0.2, 0.1, 0.8], [0.3, 0.9, 0.9]]),),  # rows, columns and both differ
        (torch.tensor([[1.0, -0.9, -0.8], [-0.2, 1.0, 0.1], [-0.3, -0.4, 1.0]]),),  # opposite sentences
    ]


def _others(likeness: Tensor) -> Tensor:
    return likeness - torch.diag(likeness.diagonal())


def _off_diagonal(likeness: Tensor) -> Tensor:
    """Each row without its diagonal entry (S, S - 1)."""
    n = len(likeness)
    return likeness[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)


CONSENSUS = Exercise(
    id="07.5",
    title="The sentence that the others agree with",
    inputs=_likenesses,
    solution=lambda likeness: int(_others(likeness).sum(dim=1).argmax()),
    misconceptions=[
        Misconception(
            "every sentence votes for itself in your answer: leave the diagonal out",
            lambda likeness: int(likeness.sum(dim=1).argmax()),
        ),
        Misconception(
            "you added up the columns: likeness[i, j] scores sentence i, with j as its reference, so sentence i's "
            "score is the mean of its *row*",
            lambda likeness: int(_others(likeness).sum(dim=0).argmax()),
        ),
        Misconception(
            "you added up the columns, and let every sentence vote for itself",
            lambda likeness: int(likeness.sum(dim=0).argmax()),
        ),
        Misconception(
            "one sentence that agrees strongly is not a consensus: take the mean over all others, not the largest",
            lambda likeness: int(_others(likeness).amax(dim=1).argmax()),
        ),
        Misconception(
            "you compared each sentence's *smallest* number, as if one voice could forbid: take the "
            "mean over all others",
            lambda likeness: int(_off_diagonal(likeness).amin(dim=1).argmax()),
        ),
        Misconception(
            "that is the middle one of the others' voices (the median); take the mean",
            lambda likeness: int(_off_diagonal(likeness).median(dim=1).values.argmax()),
        ),
        Misconception(
            "rows and columns are both in your sum: likeness[i, j] and likeness[j, i] are not the same, and only the "
            "first scores sentence i",
            lambda likeness: int((_others(likeness) + _others(likeness).T).sum(dim=1).argmax()),
        ),
        Misconception(
            "you looked at the diagonal, a sentence judged by itself: it is the one thing that does not count",
            lambda likeness: int(likeness.diagonal().argmax()),
        ),
        Misconception(
            "that is the mean likeness; wanted is the *number* of the sentence that has it",
            lambda likeness: float(_off_diagonal(likeness).mean(dim=1).max()),
        ),
        Misconception(
            "that is the sentence with which the others agree least",
            lambda likeness: int(_others(likeness).sum(dim=1).argmin()),
        ),
    ],
    hints=[
        "The wanted sentence has the highest mean likeness to the others. Which numbers belong to sentence i?",
        "Row i, without likeness[i, i].",
        "Take the diagonal away, likeness - torch.diag(likeness.diagonal()), add up the rows, argmax.",
    ],
)

EXERCISES = [LEAST_LOSS, MIX, BEAM, LEAST_PENALTY, CONSENSUS]
