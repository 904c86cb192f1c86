"""Scores of answers: equal to the official evaluation and scikit-learn (tests/golden), and by hand."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmlearn.errors import DataError
from mmlearn.metrics import vqa

GOLDEN = json.loads((Path(__file__).parent / "golden" / "answers.json").read_text(encoding="utf-8"))
answers = st.sampled_from(["chair", "lamp", "chair, lamp", "lamp, chair, table", "2"])
asked = st.lists(st.tuples(answers, answers), min_size=1, max_size=12)
SINGLE = ("accuracy", "macro_f1", "micro_f1", "wups")


def score(name: str, predicted, true) -> float:
    return getattr(vqa, name)(predicted, true, **({"wordnet": TinyWordNet()} if name == "wups" else {}))


# ----------------------------------------------------------------------------------------------------- golden files
def test_answers_are_cleaned_as_the_official_code_cleans_them():
    assert len(GOLDEN["normalised"]) > 150
    for answer, cleaned in GOLDEN["normalised"]:
        assert vqa.normalise_answer(answer) == cleaned, answer


def test_soft_scores_are_the_official_ones():
    cases = GOLDEN["soft"]
    scores = vqa.soft_scores([case["said"] for case in cases], [case["ten"] for case in cases])
    assert scores.tolist() == pytest.approx([case["score"] for case in cases], abs=1e-12)
    assert {round(s, 1) for s in scores.tolist()} == {0.0, 0.3, 0.6, 0.9, 1.0}


def test_f1_is_that_of_scikit_learn():
    f1 = GOLDEN["f1"]
    assert vqa.macro_f1(f1["said"], f1["true"]) == pytest.approx(f1["macro"], abs=1e-12)
    assert vqa.micro_f1(f1["said"], f1["true"]) == pytest.approx(f1["micro"], abs=1e-12)
    assert vqa.accuracy(f1["said"], f1["true"]) == pytest.approx(f1["accuracy"], abs=1e-12)


# ------------------------------------------------------------------------------------------------------- one answer
@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("lamp, chair", "chair,lamp", True),
        (" Chair ", "chair", True),
        ("chair, chair", "chair", True),
        ("chair,", "chair", True),
        ("chair", "chair, lamp", False),
        ("chair, lamp, table", "chair, lamp", False),
        ("", "chair", False),
        ("night stand", "night_stand", False),
    ],
)
def test_an_answer_of_several_things_must_be_the_exact_set(said, true, right):
    assert vqa.correct([said], [true]).tolist() == [right]
    assert vqa.accuracy([said], [true]) == right


@given(asked, st.randoms(use_true_random=False))
def test_properties_of_all_scores_of_one_answer(pairs, chance):
    again = chance.sample(pairs, len(pairs))
    for name in SINGLE:
        one = score(name, *zip(*pairs, strict=True))
        assert one == pytest.approx(score(name, *zip(*again, strict=True)))
        assert 0 <= one <= 1
        true = [t for _, t in pairs]
        assert score(name, true, true) == 1
        assert score(name, ["zebra"] * len(true), true) == 0


@given(asked)
def test_micro_f1_is_accuracy(pairs):
    """Counted class by class, as its name says."""
    hits = misses = alarms = 0
    for c in {vqa._name(a) for pair in pairs for a in pair}:
        named = [(vqa._name(p) == c, vqa._name(a) == c) for p, a in pairs]
        hits += named.count((True, True))
        alarms += named.count((True, False))
        misses += named.count((False, True))
    assert vqa.micro_f1(*zip(*pairs, strict=True)) == pytest.approx(2 * hits / (2 * hits + misses + alarms))


def test_macro_f1_punishes_the_commonest_answer():
    true = ["yes"] * 90 + ["no"] * 10
    assert vqa.accuracy(["yes"] * 100, true) == 0.9
    assert vqa.macro_f1(["yes"] * 100, true) == pytest.approx((180 / 190 + 0) / 2)


def test_macro_f1_counts_classes_that_are_predicted_only():
    assert vqa.macro_f1(["a", "c"], ["a", "b"]) == pytest.approx(1 / 3)


def test_a_set_of_things_is_one_class_in_any_order():
    assert vqa.macro_f1(["lamp, chair", "chair"], ["chair, lamp", "chair"]) == 1


def test_by_type():
    scores = torch.tensor([True, False, True])
    assert vqa.by_type(scores, ["where", "colour", "colour"]) == {"colour": 0.5, "where": 1.0}
    assert list(vqa.by_type([0.3, 1], ["b", "a"]).items()) == [("a", 1.0), ("b", 0.3)]


# ------------------------------------------------------------------------------------------------------ ten answers
@pytest.mark.parametrize(("people", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_how_many_people_must_agree(people, expected):
    ten = ["red"] * people + ["blue"] * (10 - people)
    assert vqa.soft_accuracy(["red"], [ten]) == pytest.approx(expected)


def test_people_who_all_agree_are_taken_by_the_letter():
    """The official code cleans the ten answers only where they differ, and only their punctuation."""
    assert vqa.soft_accuracy(["t-shirt"], [["t-shirt"] * 10]) == 0
    assert vqa.soft_accuracy(["t-shirt"], [["t-shirt"] * 9 + ["red"]]) == 1
    assert vqa.soft_accuracy(["a dog"], [["a dog"] * 9 + ["cat"]]) == 0


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        ("Two, the dogs!", "2 dogs"),
        ("none", "0"),
        ("1,000", "1000"),
        ("7:30 p.m.", "7:30 pm"),
        ("3.5", "3.5"),
        ("dont", "don't"),
        ("wouldntve", "wouldntve"),  # two apostrophes missing: not in the table
        ("it's", "it's"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("an apple", "apple"),
        ("", ""),
    ],
)
def test_cleaning_by_hand(answer, cleaned):
    assert vqa.normalise_answer(answer) == cleaned


# ------------------------------------------------------------------------------------------------------------- WUPS
PARENTS = {
    "furniture.n": "thing.n", "chair.n": "furniture.n", "stool.n": "chair.n", "table.n": "furniture.n",
    "person.n": "thing.n", "chair_leader.n": "person.n", "number.n": "thing.n", "2.n": "number.n",
    "lamp.n": "furniture.n", "cup.n": "thing.n", "mug.n": "cup.n", "beaker.n": "mug.n", "goblet.n": "mug.n",
    "alien.n": "nothing.n",
}  # fmt: skip
SENSES = {"chair": ["chair.n", "chair_leader.n"], "leader": ["chair_leader.n"]}


class Sense:
    """A node of a small tree, with the Wu-Palmer similarity 2 depth(common ancestor) / (depth + depth); root: 1."""

    def __init__(self, name: str):
        self.path = [name]
        while self.path[0] in PARENTS:
            self.path.insert(0, PARENTS[self.path[0]])

    def wup_similarity(self, other: "Sense") -> float | None:
        common = sum(a == b for a, b in zip(self.path, other.path, strict=False))
        return 2 * common / (len(self.path) + len(other.path)) if common else None


class TinyWordNet:
    """What `wups` needs of NLTK's WordNet."""

    def __init__(self):
        self.asked = []

    def synsets(self, word: str, pos: str) -> list[Sense]:
        assert pos == "n"
        self.asked.append(word)
        names = SENSES.get(word, [f"{word}.n"] if f"{word}.n" in PARENTS else [])
        return [Sense(name) for name in names]


@pytest.mark.parametrize(
    ("said", "true", "at_0", "at_0_9"),
    [
        ("chair", "chair", 1, 1),
        ("stool", "chair", 6 / 7, 0.6 / 7),  # depths 4 and 3, common ancestor 3
        ("goblet", "beaker", 6 / 8, 0.6 / 8),
        ("leader", "chair", 1, 1),  # the best of all senses
        ("table", "lamp", 4 / 6, 0.4 / 6),  # anything is something
        ("unknown word", "chair", 0, 0),
        ("unknown word", "unknown word", 1, 1),
        ("chair, stool", "chair", 6 / 7, 0.6 / 7),  # one thing too many: the product over what was said
        ("chair", "chair, stool", 6 / 7, 0.6 / 7),  # one too few: the product over the truth
        ("stool, table", "table, chair", 6 / 7, 0.6 / 7),  # order does not matter
        ("stool, goblet", "beaker, chair", 6 / 7 * 6 / 8, 0.6 / 7 * 0.6 / 8),  # a product, not the least
        ("stool, goblet", "chair", 6 / 7 * 2 / 7, 0.6 / 7 * 0.2 / 7),
        ("alien", "chair", 0, 0),  # nothing in common: NLTK says None
        ("", "chair", 0, 0),
    ],
)
def test_wups_by_hand(said, true, at_0, at_0_9):
    assert vqa.wups([said], [true], 0.0, wordnet=TinyWordNet()) == pytest.approx(at_0)
    assert vqa.wups([said], [true], 0.9, wordnet=TinyWordNet()) == pytest.approx(at_0_9)


def test_wups_at_the_threshold_counts_in_full_and_is_a_mean():
    wordnet = TinyWordNet()
    assert vqa.wups(["stool", "chair"], ["chair", "chair"], 6 / 7, wordnet=wordnet) == pytest.approx(13 / 14)


def test_each_pair_of_words_is_looked_up_once():
    wordnet = TinyWordNet()
    vqa.wups(["stool"] * 1000, ["chair"] * 1000, wordnet=wordnet)
    assert wordnet.asked == ["stool", "chair"]


def test_without_nltk_or_its_wordnet_wups_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(DataError, match=r'pip install "mmlearn-course\[wups\]"'):
        vqa.wups(["a"], ["a"])

    def fail():
        raise LookupError("a page of text")

    absent = types.SimpleNamespace(wordnet=types.SimpleNamespace(ensure_loaded=fail))
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", absent)
    with pytest.raises(DataError, match="python -m nltk.downloader wordnet"):
        vqa.wups(["a"], ["a"])


# ----------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    ("said", "true", "message"),
    [
        ([], [], "there is no question to score"),
        (["a"], ["a", "b"], "1 predicted answers and 2 true answers"),
        (["a", "b"], ["a", " , "], "true answer 1 is empty"),
        ([3], ["3"], "answer 0 is int, its truth str: both must be strings"),
        ("ab", ["a", "b"], "must be lists, one of them is a string"),
    ],
)
def test_what_cannot_be_scored_is_told(name, said, true, message):
    with pytest.raises(DataError, match=message):
        score(name, said, true)


def test_more_that_cannot_be_scored():
    with pytest.raises(DataError, match="question 1 has .*, expected a list of ten answers"):
        vqa.soft_scores(["a", "b"], [["a"] * 10, ["b"]])
    with pytest.raises(DataError, match="question 0 has 'ten letters'"):
        vqa.soft_scores(["a"], ["ten letters"])
    with pytest.raises(DataError, match="1 predicted answers and 2 lists of ten answers"):
        vqa.soft_accuracy(["a"], [["a"] * 10] * 2)
    with pytest.raises(DataError, match="question 0: 3 or one of .* is not a string"):
        vqa.soft_accuracy([3], [["3"] * 10])
    with pytest.raises(DataError, match="2 scores and 1 types"):
        vqa.by_type([1, 0], ["where"])
    with pytest.raises(DataError, match="threshold is 9, expected 0 to 1"):
        vqa.wups(["a"], ["a"], threshold=9)
