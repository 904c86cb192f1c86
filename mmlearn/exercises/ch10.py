"""Exercises of chapter 10: the fewest pieces, what to answer at a visible word, each side's share, BERT as a judge."""

import math
from dataclasses import dataclass

import torch

from mmlearn.exercises import Exercise, Misconception


# ------------------------------------------------------------------ 10.1 the fewest pieces
def _words_to_cut(generator):
    cases = [
        ("abcde", ["a", "ab", "abc", "##d", "##cde", "##e", "##b", "##c"]),  # greedy takes three, two are enough
        ("dogs", ["dog", "##s", "d", "##o", "##g", "dogs"]),
        ("dogs", ["dog", "s", "d", "##o", "##g"]),  # the last letter has no continuing piece
        ("aabb", ["##aabb", "a", "##a", "##b", "##bb", "##abb"]),  # whole, but only as a continuation
        ("x", ["##x", "y"]),
        ("abcd", ["abc", "ab", "##cd"]),  # greedy finds no end at all
        ("abcd", ["a", "abcd", "##b", "##c", "##d", "##bcd"]),
    ]
    for _ in range(4):
        word = "".join("ab"[i] for i in torch.randint(2, (int(torch.randint(4, 10, (1,), generator=generator)),),
                                                     generator=generator))  # fmt: skip
        cuts = torch.randint(len(word), (8, 2), generator=generator).sort(dim=1).values.tolist()
        pieces = {("" if i == 0 else "##") + word[i : j + 1] for i, j in cuts} | {word[0]}
        cases.append((word, sorted(pieces | {"##a", "##b"})))
    return cases


def _fewest(starts=lambda i: "" if i == 0 else "##", impossible=0):
    def answer(word, vocab):
        least = [0] + [math.inf] * len(word)
        for end in range(1, len(word) + 1):
            for i in range(end):
                if starts(i) + word[i:end] in vocab:
                    least[end] = min(least[end], least[i] + 1)
        return impossible if least[-1] == math.inf else least[-1]

    return answer


def _greedy(length=max, unknown=0):
    def answer(word, vocab):
        at, n = 0, 0
        while at < len(word):
            fits = [j for j in range(at + 1, len(word) + 1) if ("" if at == 0 else "##") + word[at:j] in vocab]
            if not fits:
                return unknown
            at, n = length(fits), n + 1
        return n

    return answer


FEWEST = Exercise(
    id="10.1",
    title="The fewest pieces",
    inputs=_words_to_cut,
    solution=_fewest(),
    misconceptions=[
        Misconception(
            "that is the number that the longest match takes: a shorter first piece may leave a better rest", _greedy()
        ),
        Misconception("that is the number that the *shortest* match takes", _greedy(min)),
        Misconception(
            "pieces after the first are written with ##: without it they can only begin a word",
            _fewest(starts=lambda i: ""),
        ),
        Misconception(
            "the first piece has no ##: a piece with it can only continue a word", _fewest(starts=lambda i: "##")
        ),
        Misconception("a word that cannot be cut at all has the answer 0", _fewest(impossible=math.inf)),
        Misconception("a word that cannot be cut at all has the answer 0", _fewest(impossible=1)),
        Misconception("a word that cannot be cut at all has the answer 0", _fewest(impossible=-1)),
        Misconception("you counted letters: a piece may hold several", lambda word, vocab: len(word)),
        Misconception(
            "one word is not one piece: a word that is no piece itself may be cut",
            lambda word, vocab: int(word in vocab),
        ),
    ],
    hints=[
        "Say you knew the fewest pieces of every *beginning* of the word. How would you get those of the whole word?",
        "The last piece starts at some place i. Before it stand the fewest pieces of word[:i]. Try all i.",
        "least[end] = min over i of least[i] + 1, where word[i:end] (with ## if i > 0) is a piece; least[0] = 0.",
    ],
)


# -------------------------------------------------------- 10.2 what to answer at a visible word
def _contexts(generator):
    shares = [(0.8, 0.1, 0.1), (0.8, 0.1, 0.1), (0.5, 0.3, 0.2), (0.8, 0.2, 0.0), (0.8, 0.0, 0.2), (0.2, 0.1, 0.7)]
    cases = []
    for n, share in zip((4, 10, 6, 5, 5, 3), shares, strict=True):
        q = torch.rand(n, generator=generator) + 0.05
        cases.append((q / q.sum(), int(torch.randint(n, (1,), generator=generator)), share))
    return [*cases, (torch.tensor([0.0, 0.5, 0.5, 0.0]), 0, (0.8, 0.1, 0.1))]  # the word that is seen cannot be right


def _posterior(likelihood):
    def answer(q, seen, shares):
        copy = torch.zeros_like(q)
        copy[seen] = 1.0
        joint = q * likelihood(copy, len(q), *shares)
        return joint / joint.sum()

    return answer


VISIBLE = Exercise(
    id="10.2",
    title="What to answer at a visible word",
    inputs=_contexts,
    solution=_posterior(lambda copy, n, hidden, other, kept: other / n + kept * copy),
    misconceptions=[
        Misconception(
            "the random words share their part: one given word comes with 1 / n of it",
            _posterior(lambda copy, n, hidden, other, kept: other + kept * copy),
        ),
        Misconception(
            "you trust the visible word completely: it may be one that was put there at random",
            lambda q, seen, shares: torch.eye(len(q))[seen],
        ),
        Misconception(
            "you do not look at the visible word: where some words are kept, it is a hint", lambda q, seen, shares: q
        ),
        Misconception(
            "a visible word was not hidden: the share of the masked words does not belong here",
            _posterior(lambda copy, n, hidden, other, kept: other / n + (kept + hidden) * copy),
        ),
        Misconception(
            "a visible word was not hidden: the share of the masked words does not belong here",
            _posterior(lambda copy, n, hidden, other, kept: hidden + other / n + kept * copy),
        ),
        Misconception(
            "the random word is drawn from all words: it may by chance be the right one",
            _posterior(lambda copy, n, hidden, other, kept: other / n * (1 - copy) + kept * copy),
        ),
        Misconception(
            "that mixes the copy and the context by their shares: how likely is it to *see* this word, for each truth?",
            lambda q, seen, shares: (shares[1] * q + shares[2] * torch.eye(len(q))[seen]) / (shares[1] + shares[2]),
        ),
        Misconception(
            "these do not add up to 1: divide by the probability of what is seen",
            lambda q, seen, shares: q * (shares[1] / len(q) + shares[2] * torch.eye(len(q))[seen]),
        ),
        Misconception(
            "the context is missing: words are not equally likely before one looks at the place itself",
            lambda q, seen, shares: _posterior(lambda copy, n, hidden, other, kept: other / n + kept * copy)(
                torch.ones_like(q), seen, shares
            ),
        ),
    ],
    hints=[
        "Bayes: the probability of a truth t is proportional to q[t] · (the probability of seeing this word if t is "
        "true). The word is visible and asked for, so it was either kept or drawn at random.",
        "Drawn at random, this word comes with `random` / n, whatever t is. Kept, it comes with `kept`, "
        "but only if t is this very word.",
        "q · (random / n + kept · [t = seen]), divided by its sum.",
    ],
)


# -------------------------------------------------------------------- 10.3 what each side knows
def _triples(generator):
    cases = []
    for n in (3, 4, 2, 6):
        cases.append((torch.randint(0, 9, (n, n, n), generator=generator).float(),))
    sure = torch.zeros(3, 3, 3)
    sure[0, 1, 2], sure[1, 2, 0], sure[2, 1, 1], sure[0, 0, 1] = 5, 3, 1, 2  # many contexts never come
    wide = torch.randint(0, 9, (2, 5, 3), generator=generator).float()
    wide[0] *= 20  # one left neighbour is far more frequent
    return [*cases, (sure,), (wide,)]


def _sides(best=lambda table: table.amax(dim=1).sum() / table.sum(), order=(0, 1, 2, 3), axis=1):
    def answer(counts):
        counts = counts.movedim(axis, 1)
        left, right = counts.sum(dim=2), counts.sum(dim=0).T
        both = counts.transpose(1, 2).flatten(0, 1)
        four = [counts.sum(dim=(0, 2))[None], left, right, both]
        return torch.stack([best(four[i]) for i in order])

    return answer


def _mean_of_contexts(table):
    table = table[table.sum(dim=1) > 0]
    return (table.amax(dim=1) / table.sum(dim=1)).mean()


def _mean_of_all_contexts(table):
    return (table / table.sum(dim=1, keepdim=True).clamp(min=1)).amax(dim=1).mean()


def _sampled(table):
    return (table**2 / table.sum(dim=1, keepdim=True).clamp(min=1)).sum() / table.sum()


SIDES = Exercise(
    id="10.3",
    title="What each side knows",
    inputs=_triples,
    solution=_sides(),
    misconceptions=[
        Misconception(
            "you gave every context the same weight: a context that comes often counts often", _sides(_mean_of_contexts)
        ),
        Misconception(
            "you gave every context the same weight: a context that comes often counts often",
            _sides(_mean_of_all_contexts),
        ),
        Misconception(
            "that guesser *draws* a word with its probability: the best one always says the most frequent",
            _sides(_sampled),
        ),
        Misconception("left and right are exchanged: the first index is the word before", _sides(order=(0, 2, 1, 3))),
        Misconception("the word that is guessed is the *middle* index: one guess for each context", _sides(axis=0)),
        Misconception("the word that is guessed is the *middle* index: one guess for each context", _sides(axis=2)),
        Misconception(
            "these are numbers of right guesses: an accuracy divides them by all guesses",
            _sides(lambda table: table.amax(dim=1).sum()),
        ),
        Misconception(
            "one guess is made in each context: take the largest count of every context, not of the whole table",
            _sides(lambda table: table.max() / table.sum()),
        ),
    ],  # fmt: skip
    hints=[
        "For one context, the best guess is the word that came most often in it. How many of its guesses are right?",
        "Right guesses: the sum, over contexts, of the largest count. To forget a side, add up over its index first.",
        "Both sides: counts.amax(dim=1).sum() / counts.sum(). Left only: counts.sum(dim=2).amax(dim=1).sum() / …",
    ],
)


# ----------------------------------------------------------------------- 10.4 BERT as a judge
@dataclass(frozen=True)
class Reader:
    """A small made-up model: logits (B, T, V) that depend on all the tokens of the row."""

    seed: int
    vocab_size: int = 9

    def __call__(self, tokens):
        tables = torch.randn(3, self.vocab_size, self.vocab_size, generator=torch.Generator().manual_seed(self.seed))
        seen = tables[0][tokens]  # what the token itself says, if it is not hidden
        around = tables[1][tokens].roll(1, dims=1) + tables[2][tokens].roll(-1, dims=1)
        return seen + around + 0.3 * tables[0][tokens].sum(dim=1, keepdim=True)


MASK, SPECIALS = 4, (0, 1, 2, 3, 4)


def _sentences(generator):
    cases = []
    for seed, n in enumerate((3, 1, 5, 2, 6)):
        words = torch.randint(5, 9, (n,), generator=generator)
        padding = torch.zeros((0, 2, 3, 0, 1)[seed], dtype=torch.long)
        cases.append((Reader(seed), torch.cat([torch.tensor([2]), words, torch.tensor([3]), padding])))
    return [*cases, (Reader(9), torch.tensor([2, 7, 7, 7, 3, 0]))]  # one word three times: hide one at a time


def _judge(hide=lambda place, tokens: [place], which=lambda tokens: tokens > 4, mean=False, log=True, all_words=False):
    def answer(model, tokens):
        total, places = 0.0, which(tokens).nonzero()[:, 0].tolist()
        for place in places:
            read = tokens.clone()
            read[places if all_words else hide(place, tokens)] = MASK
            p = model(read[None])[0, place].log_softmax(dim=-1)[tokens[place]]
            total += p.item() if log else p.exp().item()
        return total / len(places) if mean else total

    return answer


JUDGE = Exercise(
    id="10.4",
    title="BERT as a judge",
    inputs=_sentences,
    solution=_judge(),
    misconceptions=[
        Misconception(
            "nothing was hidden: the model reads the very word that it is asked for", _judge(hide=lambda p, t: [])
        ),
        Misconception("all words were hidden at once: each word is judged by all the *others*", _judge(all_words=True)),
        Misconception(
            "you hid everything to the right too, as a left-to-right model would: BERT may read both sides",
            _judge(hide=lambda p, t: [i for i in range(p, len(t)) if t[i] > 4]),
        ),
        Misconception(
            "you judged <start> or <end> as well: they are in every sentence, and the model was never asked for them",
            _judge(which=lambda tokens: tokens > 0),
        ),
        Misconception(
            "you judged the padding and the special tokens as well: they say nothing about the sentence",
            _judge(which=lambda tokens: tokens >= 0),
        ),
        Misconception("that is the mean: the score adds the words up", _judge(mean=True)),
        Misconception("those are probabilities: the score adds their logarithms", _judge(log=False)),
        Misconception("the sign: a log probability is at most 0", lambda model, tokens: -_judge()(model, tokens)),
        Misconception(
            "you hid every copy of the word: where it comes several times, hide one *place* at a time",
            _judge(hide=lambda p, t: [i for i in range(len(t)) if t[i] == t[p]]),
        ),
    ],  # fmt: skip
    hints=[
        "One reading of the model for each word of the sentence: in each, exactly one place is MASK.",
        "Copy the row, put MASK (4) at one place whose token is above 4, read, and take the log_softmax at that place.",
        "Sum over those places of model(copy[None])[0, place].log_softmax(-1)[tokens[place]].item().",
    ],
    atol=1e-4,
)

EXERCISES = [FEWEST, VISIBLE, SIDES, JUDGE]
