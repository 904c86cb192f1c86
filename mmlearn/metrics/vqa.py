"""Scores of answers to questions about pictures, with and without ten answers a question.

An answer is a string; several things are separated by commas, in any order ("chair, lamp", as in DAQUAR). Case and
spaces at the ends do not matter. Only `soft_accuracy` cleans answers further, by the official rule of VQA.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmlearn.errors import DataError


# ------------------------------------------------------------------------------------------------------- one answer
def correct(predicted: Sequence[str], answers: Sequence[str]) -> Bool[Tensor, " N"]:
    """Whether each answer is right: the same set of things, "lamp, chair" as "chair,lamp". Errors as `accuracy`."""
    return torch.tensor([set(_things(p)) == set(_things(a)) for p, a in _pairs(predicted, answers)])


def accuracy(predicted: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers that are right, 0…1; an answer of several things must be the exact set.

    Its blind baselines are the commonest answer, and a model that reads the question only: print them beside it.

    Raises DataError where there is nothing to score, the numbers differ or a true answer is empty.
    Source: Malinowski and Fritz, "A Multi-World Approach to Question Answering about Real-World Scenes", NeurIPS 2014,
    section 4.2 (accuracy, as WUPS at -1); for the drawn world and others it is plain accuracy.
    """
    return correct(predicted, answers).double().mean().item()


def macro_f1(predicted: Sequence[str], answers: Sequence[str]) -> float:
    """The mean over answers (classes) of F1, 0…1: a rare answer counts as much as a common one.

    A class is a whole answer ("chair, lamp" is one). Classes are all that are true or predicted at least once, as in
    scikit-learn's f1_score(average="macro"); one never predicted, or never true, has F1 = 0. So it lies far below
    accuracy where there are many rare answers, and depends on how many classes the test set happens to hold.
    Errors as `accuracy`. Source: Opitz and Burst, "Macro F1 and Macro F1", arXiv 1911.03347, the mean of F1s.
    """
    tally = defaultdict(lambda: [0, 0])  # class → [times right, times predicted + times true]
    for p, a in ((_name(p), _name(a)) for p, a in _pairs(predicted, answers)):
        tally[a][0] += p == a
        tally[p][1] += 1
        tally[a][1] += 1
    return sum(2 * right / number for right, number in tally.values()) / len(tally)


def micro_f1(predicted: Sequence[str], answers: Sequence[str]) -> float:
    """F1 of all classes' hits and misses added up, 0…1. With one answer a question it *is* `accuracy`.

    Every wrong answer is one miss of the true class and one false alarm of another: precision = recall = accuracy.
    It is here because papers print it; do not read it as a second opinion. Errors as `accuracy`.
    """
    return accuracy(predicted, answers)


def by_type(scores: Sequence[float] | Tensor, types: Sequence[str]) -> dict[str, float]:
    """The mean score of each type of question, types in alphabetical order.

    Args: scores (N,), such as `correct(…)` or `soft_scores(…)`; types, the N types.
    Raises DataError where there is nothing to score or the numbers differ.
    """
    scores = [float(score) for score in scores]
    _same_number(scores, types, "scores", "types")
    groups = defaultdict(list)
    for score, type in zip(scores, types, strict=True):
        groups[type].append(score)
    return {type: sum(groups[type]) / len(groups[type]) for type in sorted(groups)}


def _things(answer: str) -> list[str]:
    """The things of an answer, each once, in the order said."""
    return list(dict.fromkeys(thing for part in answer.lower().split(",") if (thing := part.strip())))


def _name(answer: str) -> str:
    return ", ".join(sorted(_things(answer)))


def _pairs(predicted: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    _same_number(predicted, answers, "predicted answers", "true answers")
    for i, (p, a) in enumerate(zip(predicted, answers, strict=True)):
        if not isinstance(p, str) or not isinstance(a, str):
            raise DataError(f"answer {i} is {type(p).__name__}, its truth {type(a).__name__}: both must be strings")
        if not _things(a):
            raise DataError(f"true answer {i} is empty: leave out the questions without an answer")
    return list(zip(predicted, answers, strict=True))


def _same_number(a: Sequence, b: Sequence, names: str, others: str) -> None:
    if isinstance(a, str) or isinstance(b, str):
        raise DataError(f"{names} and {others} must be lists, one of them is a string")
    if len(a) != len(b):
        raise DataError(f"{len(a)} {names} and {len(b)} {others}: pass one of each for every question")
    if not len(a):
        raise DataError("there is no question to score")


# ------------------------------------------------------------------------------------------------------ ten answers
def soft_accuracy(predicted: Sequence[str], ten_answers: Sequence[Sequence[str]]) -> float:
    """The accuracy of VQA v1 and v2, 0…1: the mean of `soft_scores`, whose arguments and errors it has."""
    return soft_scores(predicted, ten_answers).mean().item()


def soft_scores(predicted: Sequence[str], ten_answers: Sequence[Sequence[str]]) -> Float[Tensor, " N"]:
    """How far ten people agree with each answer: right if three of them gave it, 0…1.

    For each of the ten left out in turn, min(1, how many of the other nine gave this answer / 3); their mean. So an
    answer of one, two, three, four people scores 0.3, 0.6, 0.9, 1. The prediction is cleaned by `normalise_answer`;
    the ten answers are taken as published, only their punctuation is treated, and only where the ten differ: this is
    what the official code does.

    Args: predicted, N answers; ten_answers, N lists of ten answers.
    Raises DataError where there is nothing to score, the numbers differ or a question has not ten answers.
    Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015, section 3; the evaluation code of visualqa.org.
    """
    _same_number(predicted, ten_answers, "predicted answers", "lists of ten answers")
    for i, (said, given) in enumerate(zip(predicted, ten_answers, strict=True)):
        if isinstance(given, str) or len(given) != 10:
            raise DataError(
                f"question {i} has {given!r}, expected a list of ten answers (accuracy judges a single one)"
            )
        if not all(isinstance(answer, str) for answer in (said, *given)):
            raise DataError(f"question {i}: {said!r} or one of {given!r} is not a string")
    pairs = zip(predicted, ten_answers, strict=True)
    return torch.tensor([_agreement(normalise_answer(p), given) for p, given in pairs], dtype=torch.float64)


def _agreement(answer: str, given: Sequence[str]) -> float:
    given = [_punctuation(g) for g in given] if len(set(given)) > 1 else given
    same = [g == answer for g in given]
    return sum(min(1.0, (sum(same) - s) / 3) for s in same) / len(same)


MARKS = ';/[]"{}()=+\\_-><@`,?!'  # no full stop, apostrophe or colon: they have rules of their own, or stay
ARTICLES = ("a", "an", "the")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(n) for n, word in enumerate(DIGITS)} | {"none": "0"}
CONTRACTED = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {  # each with one apostrophe missing
    word[:i] + word[i + 1 :]: word for word in CONTRACTED.split() for i, letter in enumerate(word) if letter == "'"
}
CONTRACTIONS |= {"somebody'd": "somebodyd"}  # the official table has this entry turned round


def normalise_answer(answer: str) -> str:
    """An answer as the official VQA evaluation compares it, such as "Two, the dogs!" → "2 dogs".

    Lower case; a punctuation mark becomes a space, or nothing where one stands next to a space or the answer has a
    number like 1,000; a full stop goes unless a digit follows; none, zero … ten become digits; a, an, the go; a
    contraction without its apostrophe gets it back (dont → don't).

    Source: the evaluation page and code of visualqa.org, which this follows letter by letter.
    """
    said = _punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    said = [word for word in (NUMBERS.get(word, word) for word in said) if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in said)


def _punctuation(answer: str) -> str:
    out = answer
    thousands = re.search(r"\d,\d", answer)
    for mark in MARKS:
        at_a_space = mark + " " in answer or " " + mark in answer
        out = out.replace(mark, "" if thousands or at_a_space else " ")
    return re.sub(r"\.(?!\d)", "", out)


# ------------------------------------------------------------------------------------------------------------- WUPS
def wups(predicted: Sequence[str], answers: Sequence[str], threshold: float = 0.9, wordnet=None) -> float:
    """WUPS, 0…1: accuracy that forgives an answer near the right one in WordNet ("cup" for "mug").

    Two words score 1 if equal, else their highest Wu-Palmer similarity over all noun senses of both, times 0.1 if that
    is below `threshold`; a word that WordNet lacks scores 0. An answer A against the truth T (sets of things) scores
    min(∏ over a in A of the best t in T, ∏ over t in T of the best a in A); the mean over questions is WUPS. Usual
    thresholds are 0.9 (only near synonyms count) and 0.0 (everything counts in full: even "table" for "lamp" scores
    much, for all things are entities; do not read it as accuracy).

    Args:
        predicted, answers: N strings each, things separated by commas.
        threshold: 0…1.
        wordnet: anything with `synsets(word, pos="n")` whose items have `wup_similarity(other)`; by default NLTK's
            WordNet, an extra: pip install "mmlearn-course[wups]", then python -m nltk.downloader wordnet.

    Raises DataError as `accuracy`, for a threshold outside 0…1, and where NLTK or its WordNet is missing.
    Source: Malinowski and Fritz, NeurIPS 2014, section 4.2, and their script; Wu and Palmer, "Verb Semantics and
    Lexical Selection", ACL 1994.
    """
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold is {threshold!r}, expected 0 to 1: 0.9 and 0.0 are the usual ones")
    pairs = [(_things(p), _things(a)) for p, a in _pairs(predicted, answers)]
    likeness = _Likeness(_nltk_wordnet() if wordnet is None else wordnet, threshold)
    return sum(likeness.of_sets(p, a) for p, a in pairs) / len(pairs)


class _Likeness:
    """The weighted similarity of words and of sets of words; each pair of words is looked up once."""

    def __init__(self, wordnet, threshold: float):
        self.wordnet, self.threshold, self.known = wordnet, threshold, {}

    def of_sets(self, a: list[str], b: list[str]) -> float:
        if not a or not b:
            return 0.0
        table = [[self.of_words(x, y) for y in b] for x in a]
        return min(prod(map(max, table)), prod(map(max, zip(*table, strict=True))))

    def of_words(self, a: str, b: str) -> float:
        if (a, b) not in self.known:
            self.known[a, b] = 1.0 if a == b else self._looked_up(a, b)
        return self.known[a, b]

    def _looked_up(self, a: str, b: str) -> float:
        senses, others = self.wordnet.synsets(a, pos="n"), self.wordnet.synsets(b, pos="n")
        best = max((x.wup_similarity(y) or 0.0 for x in senses for y in others), default=0.0)
        return best if best >= self.threshold else 0.1 * best


def _nltk_wordnet():
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except ImportError:
        raise DataError('WUPS needs NLTK: pip install "mmlearn-course[wups]"') from None
    except (LookupError, OSError):
        raise DataError("WUPS needs WordNet's files: python -m nltk.downloader wordnet") from None
    return wordnet
