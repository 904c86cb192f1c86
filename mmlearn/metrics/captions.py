"""Scores of captions: against what people wrote (BLEU, ROUGE-L, CIDEr-D), and against what is true (facts).

All of them read a caption as its lower-cased words without punctuation (`words`), cut as the COCO evaluation cuts them.
Captions generated under teacher forcing (each word predicted after the *true* words before it) must not be scored: the
reference has leaked into them.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmlearn import scenes as drawn
from mmlearn.errors import DataError

_CLITIC = r"(?:n't|'(?:s|re|ve|ll|d|m))\b"
_WORD = re.compile(rf"{_CLITIC}|[^\W_]+(?:(?:['-]|(?<=\d)[.,](?=\d))[^\W_]+)*")


def words(caption: str) -> list[str]:
    """The lower-cased words of a caption, without punctuation: "A dog's T-shirt!" → a, dog, 's, t-shirt.

    The COCO evaluation uses Stanford's tokenizer, in Java, and drops punctuation. Of the 40,000 captions of Flickr8k
    this one cuts all but 43 in the same way; those have abbreviations (Mr., d.c.), signs (#, &) or brackets.
    """
    return _WORD.findall(re.sub(f"({_CLITIC})", r" \1", caption.lower().replace("’", "'")))


# --------------------------------------------------------------------------------------------------- against people
def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = 4) -> float:
    """BLEU of a whole corpus by sacrebleu, 0…1: how many of the candidates' n-grams stand in a reference.

    The geometric mean of the shares of right n-grams, n = 1…order (each counted at most as often as in one reference),
    times exp(1 - r / c) where all candidates together have fewer words (c) than their nearest references (r). No
    smoothing and no effective order: without a single right n-gram of some length the score is 0, as in the COCO
    evaluation. Above all it is one score of the corpus, not the mean over captions. A model that says one frequent
    sentence of every picture gets a score that looks fair: print `distinct` beside it.

    Args:
        candidates: N captions, one a picture.
        references: N lists of one or more captions each; their numbers may differ.
        order: 1 to 4, the longest n-gram counted; 4 is the usual one.

    Raises:
        DataError: nothing to score, unequal lengths, a picture without a reference, an order other than 1 to 4.

    Source: Papineni, Roukos, Ward and Zhu, "BLEU", ACL 2002, section 2; Post, "A Call for Clarity in Reporting BLEU
    Scores", WMT 2018 (sacrebleu).
    """
    if order not in (1, 2, 3, 4):
        raise DataError(f"order is {order!r}, expected 1, 2, 3 or 4: the longest n-gram counted")
    return _bleus(*_read(candidates, references))[order - 1]


def _bleus(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """BLEU-1 to BLEU-4 from one count."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize="none", force=True)  # the words are lower-cased and cut already
    groups = [[" ".join(reference) for reference in group] for group in references]
    streams = list(itertools.zip_longest(*groups))  # sacrebleu wants the first references of all, the second, …
    counted = metric.corpus_score([" ".join(candidate) for candidate in candidates], streams)
    rule = {"smooth_method": "none", "effective_order": False}
    scores = [
        metric.compute_bleu(
            counted.counts[:n], counted.totals[:n], counted.sys_len, counted.ref_len, max_ngram_order=n, **rule
        ).score
        for n in (1, 2, 3, 4)
    ]
    return [min(1.0, score / 100) for score in scores]


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2) -> float:
    """ROUGE-L, 0…1: how long a sequence of words candidate and reference have in common, gaps allowed.

    With the length L of the longest common subsequence, precision is L / candidate's words, recall L / reference's
    words; the best of each over the references make (1 + β²) P R / (R + β² P), and the mean over captions is taken.
    β = 1.2 (recall counts a little more) is the COCO evaluation's; with one reference and β = 1 it is the package
    rouge-score's F. A candidate without words scores 0.

    Args and errors: as `bleu`; beta, how much more recall counts than precision.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop 2004, section 3.
    """
    if not beta > 0:
        raise DataError(f"beta is {beta!r}, expected a positive number: 1.2 is the usual one")
    return _mean_rouge_l(*_read(candidates, references), beta)


def _mean_rouge_l(candidates: list[list[str]], references: list[list[list[str]]], beta: float = 1.2) -> float:
    scores = [_rouge_l(candidate, group, beta) for candidate, group in zip(candidates, references, strict=True)]
    return sum(scores) / len(scores)


def _rouge_l(candidate: list[str], references: list[list[str]], beta: float) -> float:
    common = [common_length(reference, candidate) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(candidate)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence of two lists of words.

    One row of the usual table is one whole number, bit i for word i of `a`, so that a word of `b` costs four
    operations. A bit is 0 where the row rises by one; the zeros at the end are the length.

    Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004, figure 1.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(a) - row.bit_count()


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0) -> float:
    """CIDEr-D, 0…10: how like the references' n-grams, those that stand with few pictures counting most.

    Each sentence is a vector for each n = 1…4: how often each n-gram occurs, times ln(pictures / pictures in whose
    references it stands). The score is ten times the mean over n and references of the cosine of candidate and
    reference, in which no n-gram counts more often than in the reference, times exp(-(difference in words)² / 2σ²).
    The mean over pictures is returned; papers also print it times 100. It depends on the other pictures: with a single
    one every logarithm is 0, and so is the score. Compare only scores on the same pictures.

    Args and errors: as `bleu`; sigma, how many words of difference are forgiven.

    Source: Vedantam, Zitnick and Parikh, "CIDEr", CVPR 2015, sections 4 and 7 (CIDEr-D).
    """
    if not sigma > 0:
        raise DataError(f"sigma is {sigma!r}, expected a positive number: 6 is the usual one")
    return _cider_d(*_read(candidates, references), sigma)


def _cider_d(said: list[list[str]], groups: list[list[list[str]]], sigma: float = 6.0) -> float:
    counted = [[_ngrams(reference) for reference in group] for group in groups]
    pictures_with = Counter(gram for group in counted for gram in set().union(*group))
    rarity = {gram: math.log(len(groups) / n) for gram, n in pictures_with.items()}
    unseen = math.log(len(groups))
    total = 0.0
    for candidate, group in zip(said, counted, strict=True):
        mine = _Weighted(_ngrams(candidate), rarity, unseen)
        total += sum(mine.likeness(_Weighted(reference, rarity, unseen), sigma) for reference in group) / len(group)
    return min(10.0, 10 * total / len(said))


def _ngrams(sentence: list[str]) -> Counter:
    """How often each sequence of one to four words occurs."""
    return Counter(tuple(sentence[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(sentence) - n + 1))


class _Weighted:
    """A sentence's n-grams, weighted by rarity, with the length of the vector of each n."""

    def __init__(self, counts: Counter, rarity: dict[tuple, float], unseen: float):
        self.n_words = sum(count for gram, count in counts.items() if len(gram) == 1)
        self.weights = {gram: count * rarity.get(gram, unseen) for gram, count in counts.items()}
        squares = [0.0] * 5
        for gram, weight in self.weights.items():
            squares[len(gram)] += weight * weight
        self.norms = [math.sqrt(square) for square in squares]

    def likeness(self, reference: "_Weighted", sigma: float) -> float:
        """The clipped cosine, mean over n, times the penalty for a difference in length: 0…1."""
        products = [0.0] * 5
        for gram, weight in self.weights.items():
            theirs = reference.weights.get(gram, 0.0)
            products[len(gram)] += min(weight, theirs) * theirs
        lengths = [a * b for a, b in zip(self.norms, reference.norms, strict=True)]
        cosines = sum(product / length for product, length in zip(products, lengths, strict=True) if length)
        return cosines / 4 * math.exp(-((self.n_words - reference.n_words) ** 2) / (2 * sigma**2))


def distinct(candidates: Sequence[str]) -> int:
    """How many different captions there are among the candidates (1…N), case and punctuation aside.

    Few different captions on many pictures: the model does not look. Raises DataError where there is no caption.
    """
    return _distinct(_said(candidates))


def _distinct(said: list[list[str]]) -> int:
    return len({tuple(sentence) for sentence in said})


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """bleu_1 … bleu_4, rouge_l, cider_d and distinct in one dictionary; arguments and errors as `bleu`."""
    said, groups = _read(candidates, references)
    scores = {f"bleu_{n}": score for n, score in enumerate(_bleus(said, groups), start=1)}
    return scores | {
        "rouge_l": _mean_rouge_l(said, groups),
        "cider_d": _cider_d(said, groups),
        "distinct": _distinct(said),
    }


def _said(candidates: Sequence[str]) -> list[list[str]]:
    if isinstance(candidates, str):
        raise DataError(f"captions are one string, {candidates!r}: expected a list of captions")
    if not len(candidates):
        raise DataError("there is no caption to score: pass one for each picture")
    for i, candidate in enumerate(candidates):
        if not isinstance(candidate, str):
            raise DataError(f"caption {i} is {type(candidate).__name__}, expected a string: decode the tokens first")
    return [words(candidate) for candidate in candidates]


def _read(candidates, references) -> tuple[list[list[str]], list[list[list[str]]]]:
    """The words of candidates and references, after a check that they belong together."""
    said = _said(candidates)
    if len(said) != len(references):
        raise DataError(f"{len(said)} captions and {len(references)} lists of references: pass one list for each")
    for i, group in enumerate(references):
        if isinstance(group, str):
            raise DataError(f"the references of caption {i} are one string, {group!r}: expected a list of strings")
        if not len(group):
            raise DataError(f"caption {i} has no reference: leave out the pictures without one")
    groups = [[words(reference) for reference in group] for group in references]
    for i, group in enumerate(groups):
        if not all(group):
            raise DataError(f"a reference of caption {i} has no word: {list(references[i])}")
    return said, groups


# --------------------------------------------------------------------------------------------------- against the truth
WHOLE = ("size", "colour", "shape", "place")


@dataclass(frozen=True)
class FactScores:
    """What captions of drawn scenes say truly; every number is a share, 0…1, over all captions together.

    precision, recall, f1: of whole objects. fact_precision, fact_recall, fact_f1: of single facts.
    parsed: the captions that are sentences of the drawn world.
    """

    precision: float
    recall: float
    f1: float
    fact_precision: float
    fact_recall: float
    fact_f1: float
    parsed: float


def fact_scores(captions: Sequence[str], scenes: drawn.Scenes, whole: Sequence[str] = WHOLE) -> FactScores:
    """Compares captions with the scenes that they describe, through the parser of the drawn world.

    *Whole objects*: an object of the caption is right if all attributes of `whole` are said and are those of one
    object of the scene; an object said twice is right once. Precision is right / said, recall right / objects in the
    scenes. An attribute left out is not right: for captions that never name a place, pass the attributes they name.
    *Single facts*: precision is the share of the stated attributes (fill too), relations and counts that are true (each
    mention taken in its best reading, `scenes.score`); recall the share of the scenes' sizes, colours, shapes, places
    and fills other than solid that are truly stated. "There are three shapes" is one fact and no object.

    A caption that cannot be parsed counts as if each object of its scene were said wrongly in these four facts, so that
    silence and babble win nothing; `parsed` tells how often that is. F1 is 2 P R / (P + R), 0 where both are 0.

    Args:
        captions: N captions, one for each scene; `scenes`: N scenes (to score several captions of one scene, pass
            scenes[rows]).
        whole: the attributes that a whole object needs, among size, colour, shape, place, fill.

    Raises:
        DataError: nothing to score, unequal lengths, an unknown attribute.
    """
    _said(captions)
    if len(captions) != len(scenes):
        raise DataError(f"{len(captions)} captions and {len(scenes)} scenes: pass one caption for each scene")
    if not whole or not set(whole) <= {*WHOLE, "fill"}:
        raise DataError(f"whole is {whole!r}, expected some of size, colour, shape, place, fill")
    total, parsed = Counter(), 0
    for caption, truth in zip(captions, drawn.facts_of_each(scenes), strict=True):
        try:
            said = drawn.parse(caption)
        except drawn.ParseError:
            total.update(_unread(truth))
        else:
            total.update(_compared(said, truth, whole))
            parsed += 1
    objects = _shares(total["right"], total["said"], total["right"], total["objects"])
    facts = _shares(total["true"], total["stated"], total["told"], total["to_tell"])
    return FactScores(*objects, *facts, parsed / len(captions))


def _unread(truth: drawn.Facts) -> dict[str, int]:
    """The counts of a caption that is no sentence: everything said, everything wrong."""
    n = len(truth.objects)
    return {"said": n, "objects": n, "stated": 4 * n, "to_tell": _to_tell(truth)}


def _compared(said: drawn.Facts, truth: drawn.Facts, whole: Sequence[str]) -> dict[str, int]:
    mine, theirs = (Counter(tuple(getattr(o, a) for a in whole) for o in f.objects) for f in (said, truth))
    score = drawn.score(said, truth)
    return {
        "right": (mine & theirs).total(),
        "said": len(said.objects),
        "objects": len(truth.objects),
        "true": score.true,
        "stated": score.true + score.false,
        "told": _to_tell(truth) - score.missing,
        "to_tell": _to_tell(truth),
    }


def _to_tell(truth: drawn.Facts) -> int:
    return sum(4 + (o.fill != "solid") for o in truth.objects)


def _shares(right: int, said: int, found: int, there: int) -> tuple[float, float, float]:
    precision, recall = right / said, found / there
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0
