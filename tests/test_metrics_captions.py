"""Scores of captions: equal to the field's own tools (tests/golden), by hand, and against the truth of drawn scenes."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmlearn import scenes
from mmlearn.errors import DataError
from mmlearn.metrics import captions
from mmlearn.metrics.captions import WHOLE, FactScores, common_length, fact_scores, words
from mmlearn.scenes import ObjectFact, compose

GOLDEN = json.loads((Path(__file__).parent / "golden" / "captions.json").read_text(encoding="utf-8"))
CORPORA = pytest.mark.parametrize("corpus", GOLDEN["corpora"], ids=lambda corpus: corpus["name"])
SCORES = ("bleu", "rouge_l", "cider_d")
sentences = st.lists(st.sampled_from("abcdef"), min_size=4, max_size=9).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=2, max_size=6)


# ----------------------------------------------------------------------------------------------------- golden files
@CORPORA
def test_captions_are_cut_as_coco_cuts_them(corpus):
    assert [" ".join(words(text)) for text in corpus["candidates"]] == corpus["cut"]
    assert [[" ".join(words(text)) for text in group] for group in corpus["references"]] == corpus["cut_references"]


@CORPORA
def test_bleu_is_that_of_pycocoevalcap(corpus):
    bleus = [captions.bleu(corpus["candidates"], corpus["references"], order) for order in (1, 2, 3, 4)]
    assert bleus == pytest.approx(corpus["bleu"], abs=1e-9)  # theirs adds 1e-15 to every count


@CORPORA
def test_rouge_l_is_that_of_pycocoevalcap_and_of_rouge_score(corpus):
    candidates, references = corpus["candidates"], corpus["references"]
    pairs = list(zip(candidates, references, strict=True))
    assert captions.rouge_l(candidates, references) == pytest.approx(corpus["rouge_l"], abs=1e-12)
    assert [captions.rouge_l([c], [r]) for c, r in pairs] == pytest.approx(corpus["each_rouge_l"], abs=1e-12)
    first = [captions.rouge_l([c], [r[:1]], beta=1) for c, r in pairs]
    assert first == pytest.approx(corpus["first_reference_f1"], abs=1e-12)


@CORPORA
def test_cider_d_is_that_of_pycocoevalcap(corpus):
    assert captions.cider_d(corpus["candidates"], corpus["references"]) == pytest.approx(corpus["cider_d"], abs=1e-12)


@CORPORA
def test_one_dictionary_holds_them_all(corpus):
    pair = corpus["candidates"], corpus["references"]
    scores = captions.caption_scores(*pair)
    assert list(scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d", "distinct"]
    assert scores["bleu_2"] == captions.bleu(*pair, order=2)
    assert [scores["rouge_l"], scores["cider_d"]] == [captions.rouge_l(*pair), captions.cider_d(*pair)]
    assert scores["distinct"] == len(set(corpus["cut"]))


# ---------------------------------------------------------------------------------------------- properties and hands
@pytest.mark.parametrize(
    ("caption", "cut"),
    [
        ("A dog’s T-shirt!", "a dog 's t-shirt"),
        ("the dog 's ball ; I can't , they've", "the dog 's ball i ca n't they 've"),
        ("naïve — “quoted” <unk>", "naïve quoted unk"),
        (" ... ", ""),
    ],
)
def test_words(caption, cut):
    assert words(caption) == cut.split()


@pytest.mark.parametrize("name", SCORES)
def test_the_best_and_the_worst(name):
    score = getattr(captions, name)
    said = ["a red star at the top", "two dogs run on green grass", "five men play football here"]
    assert score(said, [[text.upper() + "!"] for text in said]) == pytest.approx(10 if name == "cider_d" else 1)
    assert score(said, [["nothing of that stands written"]] * 3) == 0
    assert score(["", "", ""], [[text] for text in said]) == 0


@given(corpora, st.randoms(use_true_random=False))
def test_order_of_pictures_and_of_references_does_not_matter_and_ranges_hold(corpus, chance):
    again = [(candidate, chance.sample(references, len(references))) for candidate, references in corpus]
    chance.shuffle(again)
    for name in SCORES:
        one, other = (getattr(captions, name)(*map(list, zip(*c, strict=True))) for c in (corpus, again))
        assert one == pytest.approx(other, abs=1e-12)
        most = 10 if name == "cider_d" else 1
        assert 0 <= one <= most
        said = [candidate for candidate, _ in corpus]
        assert getattr(captions, name)(said, [[text] for text in said]) <= most  # exactly: no rounding above


@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcde"), max_size=9))
def test_common_length_against_the_table(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert common_length(a, b) == table[-1][-1]


def test_bleu_by_hand():
    said, true = ["the the the the"], [["the cat sat", "the cat and the dog"]]
    assert captions.bleu(said, true, order=1) == pytest.approx(0.5)  # "the" counts twice, and 3 is as near to 4 as 5
    short = captions.bleu(["a b c d"], [["a b c d e f g h"]], order=2)
    assert short == pytest.approx(2.718281828459045 ** (1 - 8 / 4))
    assert captions.bleu(["red star"], [["red star"]], order=2) == 1
    assert captions.bleu(["red star"], [["red star"]]) == 0  # it has no 4-gram
    assert captions.bleu(["a b c d e"], [["a b c x e"]]) == 0  # none of its 4-grams is right: no smoothing


def test_bleu_counts_the_corpus_not_the_mean_of_captions():
    said, true = ["a b c d", "x"], [["a b c d"], ["y"]]
    assert captions.bleu(said, true, order=1) == pytest.approx(4 / 5)


def test_bleu_takes_different_numbers_of_references():
    said, true = ["a b c d", "e f g h"], [["a b c d"], ["x", "y", "e f g h"]]
    assert captions.bleu(said, true) == 1


def test_rounding_does_not_lift_cider_above_10():
    said = ["e b j h", "g a j j h a a"]
    assert captions.cider_d(said, [[text] for text in said]) == 10


def test_cider_depends_on_the_other_pictures():
    said, true = ["a red star", "a blue moon"], [["a red star"], ["a blue moon"]]
    assert captions.cider_d(said, true) == pytest.approx(7.5)  # of three words there is no 4-gram
    assert captions.cider_d(said[:1], true[:1]) == 0


def test_cider_likes_rare_words_more():
    true = [["a b c d"], ["a b e f"], ["a b g h"]]
    rare, common = (captions.cider_d([text, "", ""], true) for text in ("c d x y", "a b x y"))
    assert rare > common == 0


def test_distinct_sees_through_capitals_and_full_stops():
    assert captions.distinct(["A dog.", "a dog", "A cat"]) == 2


def test_one_sentence_for_all_pictures_is_found_out():
    """Trap: a model that does not look keeps much of the BLEU of the truth; `distinct` and the facts tell."""
    world = scenes.World("medium")
    batch = world.scenes("test", range(200))
    true = world.captions(batch)
    others = [[*group[:2], *group[3:]] for group in true]
    blind = ["a small purple star in the top left and a big blue cross in the bottom left"] * 200
    seeing = [group[2] for group in true]
    b, s = (captions.caption_scores(said, others) for said in (blind, seeing))
    assert b["bleu_1"] > 0.5 * s["bleu_1"]
    assert b["bleu_4"] > 0.2 * s["bleu_4"]
    assert b["cider_d"] < 0.2 * s["cider_d"]
    assert (b["distinct"], s["distinct"]) == (1, 200)
    assert fact_scores(blind, batch).f1 < 0.02
    assert fact_scores(seeing, batch).f1 == 1


@pytest.mark.parametrize("name", [*SCORES, "caption_scores"])
@pytest.mark.parametrize(
    ("said", "true", "message"),
    [
        ([], [], "there is no caption to score"),
        (["a"], [["a"], ["b"]], "1 captions and 2 lists of references"),
        (["a", "b"], [["a"], []], "caption 1 has no reference"),
        (["a"], ["a"], "the references of caption 0 are one string, 'a'"),
        (["a"], [["a", "!?"]], "a reference of caption 0 has no word"),
        ("a dog", [["a dog"]], "captions are one string, 'a dog'"),
        ([torch.tensor([3, 4])], [["a"]], "caption 0 is Tensor, expected a string: decode the tokens first"),
    ],
)
def test_what_cannot_be_scored_is_told(name, said, true, message):
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        getattr(captions, name)(said, true)


def test_parameters_out_of_range_are_told():
    with pytest.raises(DataError, match="order is 5, expected 1, 2, 3 or 4"):
        captions.bleu(["a"], [["a"]], order=5)
    with pytest.raises(DataError, match="beta is 0"):
        captions.rouge_l(["a"], [["a"]], beta=0)
    with pytest.raises(DataError, match="sigma is -1"):
        captions.cider_d(["a"], [["a"]], sigma=-1)


# ------------------------------------------------------------------------------------------------ against the truth
STAR = ObjectFact("star", "red", "big", "solid", "top left")
MOON = ObjectFact("moon", "blue", "small", "solid", "bottom")
ONE, TWO = compose(STAR), compose(STAR, MOON)
RIGHT = "a big red star in the top left and a small blue moon at the bottom"


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_true_captions_say_nothing_false(level):
    world = scenes.World(level)
    batch = world.scenes("test", range(60))
    for template in range(5):
        said = [five[template] for five in world.captions(batch)]
        scores = fact_scores(said, batch)
        assert (scores.fact_precision, scores.parsed) == (1, 1)
        assert fact_scores(said, batch, ("shape",)).precision == 1


@pytest.mark.parametrize(
    ("caption", "scene", "precision", "recall", "fact_precision", "fact_recall"),
    [
        (RIGHT, TWO, 1, 1, 1, 1),
        ("in the top left is a big red star", ONE, 1, 1, 1, 1),
        (RIGHT.replace("blue", "green"), TWO, 1 / 2, 1 / 2, 7 / 8, 7 / 8),  # one object wrong in its colour
        (RIGHT.replace("at the bottom", "in the centre"), TWO, 1 / 2, 1 / 2, 7 / 8, 7 / 8),
        (RIGHT.replace("big red star", "big blue star").replace("blue moon", "red moon"), TWO, 0, 0, 6 / 8, 6 / 8),
        ("in the top left is a big red star", TWO, 1, 1 / 2, 1, 4 / 8),  # the other one is not said
        (RIGHT, ONE, 1 / 2, 1, 4 / 8, 1),  # the other one is not there
        ("a red star and a blue moon", TWO, 0, 0, 1, 4 / 8),  # size and place left out
        ("a picture of a red star", ONE, 0, 0, 1, 2 / 4),
        (
            "a red star left of a blue moon",
            TWO,
            0,
            0,
            1,
            4 / 8,
        ),  # a relation is a fact, but there is no need to tell it
        ("a red star right of a blue moon", TWO, 0, 0, 4 / 5, 4 / 8),
        ("there is one shape, a big red star in the top left", ONE, 1, 1, 1, 1),
        ("there are three shapes, one of them a big red star in the top left", TWO, 1, 1 / 2, 4 / 5, 4 / 8),
        ("a big red star in the top left and a big red star in the top left", ONE, 1 / 2, 1, 4 / 8, 1),  # said twice
        ("a big red star in the top left and a big red star in the top left", TWO, 1 / 2, 1 / 2, 4 / 8, 4 / 8),
        ("a big striped red star in the top left and a small solid blue moon at the bottom", TWO, 1, 1, 9 / 10, 1),
        ("a big red star in the top", TWO, 0, 0, 0, 0),  # no sentence: place of another preposition
        ("two red stars", TWO, 0, 0, 0, 0),  # no sentence: plural
        ("", TWO, 0, 0, 0, 0),
    ],
)
def test_by_hand(caption, scene, precision, recall, fact_precision, fact_recall):
    scores = fact_scores([caption], scene)
    mine = (scores.precision, scores.recall, scores.fact_precision, scores.fact_recall)
    assert mine == pytest.approx((precision, recall, fact_precision, fact_recall))


def test_captions_are_counted_together_and_babble_wins_nothing():
    both = scenes.Scenes(*(torch.cat([column, vars(ONE)[name]]) for name, column in vars(TWO).items()))
    scores = fact_scores([RIGHT, "red red red"], both)
    assert scores == FactScores(2 / 3, 2 / 3, pytest.approx(2 / 3), 8 / 12, 8 / 12, pytest.approx(8 / 12), 1 / 2)


def test_f1_is_the_harmonic_mean_and_0_where_nothing_is_right():
    scores = fact_scores([RIGHT], ONE)
    assert scores.f1 == pytest.approx(2 / 3)
    assert fact_scores([""], ONE) == FactScores(0, 0, 0, 0, 0, 0, 0)


def test_whole_may_ask_for_other_attributes():
    said = ["a red star and a blue moon"]
    assert fact_scores(said, TWO, ("colour", "shape")).f1 == 1
    assert fact_scores(said, TWO, ("colour",)).f1 == 1
    assert fact_scores(["a striped red star and a blue moon"], TWO, ("fill", "shape")).f1 == 0
    two_stars = compose(STAR, ObjectFact("star", "blue", "small", "solid", "right"))
    assert fact_scores(["a red star and a pink star"], two_stars, ("shape",)).f1 == 1
    assert fact_scores(["a red star and a pink star"], ONE, ("shape",)).precision == 1 / 2


def test_shuffled_scenes_lower_the_score():
    world = scenes.World("medium")
    batch = world.scenes("test", range(300))
    said = [five[2] for five in world.captions(batch)]
    assert fact_scores(said, batch) == FactScores(1, 1, 1, 1, 1, 1, 1)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert fact_scores([said[i] for i in order], batch[order]) == FactScores(1, 1, 1, 1, 1, 1, 1)
    blind = fact_scores(said, batch[order])
    assert blind.f1 < 0.05
    assert 0.2 < blind.fact_f1 < 0.6  # single facts are often right by chance


def test_facts_that_cannot_be_scored_are_told():
    with pytest.raises(DataError, match="2 captions and 1 scenes: pass one caption for each scene"):
        fact_scores(["a", "b"], ONE)
    with pytest.raises(DataError, match="there is no caption"):
        fact_scores([], ONE[:0])
    for whole in ((), ("weight",)):
        with pytest.raises(DataError, match="expected some of size, colour, shape, place, fill"):
            fact_scores([RIGHT], TWO, whole)
    assert WHOLE == ("size", "colour", "shape", "place")
