"""Scores of classification: equal to scikit-learn's, netcal's and torchmetrics' (tests/golden), and by hand."""

import json
from pathlib import Path

import beartype
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from mmlearn.errors import DataError, ShapeError
from mmlearn.metrics import classification
from mmlearn.metrics.classification import calibration, hierarchical_precision, top_k, tree_distances

GOLDEN = json.loads((Path(__file__).parent / "golden" / "classes.json").read_text(encoding="utf-8"))
PROBABILITIES = torch.tensor(GOLDEN["probabilities"], dtype=torch.float64)
LABELS = torch.tensor(GOLDEN["labels"])
NAMES = ["cat", "dog", "frog", "car", "ship"]
PARENTS = {
    "cat": "mammal", "dog": "mammal", "mammal": "animal", "frog": "animal", "animal": "thing",
    "car": "vehicle", "ship": "vehicle", "vehicle": "thing",
}  # fmt: skip
TREE = tree_distances(NAMES, PARENTS)
NAN = float("nan")


# ------------------------------------------------------------------------------------------------------------- top k
@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_that_of_scikit_learn(k):
    assert top_k(PROBABILITIES, LABELS, k) == pytest.approx(GOLDEN["top_k"][str(k)], abs=1e-12)


def test_top_k_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert [top_k(scores, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_and_nan_count_against_the_model():
    assert [top_k(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), k) for k in (1, 2, 3)] == [0, 0, 1]
    scores, labels = torch.tensor([[NAN, 0.1, 0.2], [0.3, NAN, 0.2]]), torch.tensor([0, 0])
    assert top_k(scores, labels, 1) == 0.5
    assert top_k(torch.full((1, 3), NAN), torch.tensor([1]), 2) == 0


def test_the_best_and_the_worst_and_any_order():
    right = torch.eye(6)[LABELS]
    assert top_k(right, LABELS) == 1
    assert top_k(-right, LABELS, 5) == 0
    order = torch.randperm(len(LABELS))
    assert top_k(PROBABILITIES[order], LABELS[order], 2) == pytest.approx(top_k(PROBABILITIES, LABELS, 2))


# --------------------------------------------------------------------------------------------------------- hierarchy
def test_distances_in_a_tree():
    assert TREE.tolist() == [
        [0, 2, 3, 5, 5],
        [2, 0, 3, 5, 5],
        [3, 3, 0, 4, 4],
        [5, 5, 4, 0, 2],
        [5, 5, 4, 2, 0],
    ]
    nested = tree_distances(["animal", "cat"], {"cat": "animal", "animal": "thing"})  # a class may be an inner node
    assert nested.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("order", "label", "expected"),
    [
        # near "cat" are: k = 1 cat; 2 cat, dog; 3 cat, dog, frog; 4 and 5 all (car and ship are equally far)
        (["cat", "dog", "frog", "car", "ship"], "cat", [1, 1, 1, 1, 1]),
        (["dog", "cat", "car", "frog", "ship"], "cat", [0, 1, 2 / 3, 1, 1]),
        (["ship", "car", "frog", "dog", "cat"], "cat", [0, 0, 1 / 3, 1, 1]),
        # near "frog" are: k = 1 frog; 2 frog, cat, dog (both at 3), so that any two of the three are right; 3 the same
        (["cat", "dog", "car", "ship", "frog"], "frog", [0, 1, 2 / 3, 1, 1]),
    ],
)
def test_hierarchical_precision_by_hand(order, label, expected):
    scores = torch.zeros(1, 5)
    scores[0, [NAMES.index(name) for name in order]] = torch.tensor([5.0, 4, 3, 2, 1])
    label = torch.tensor([NAMES.index(label)])
    assert [hierarchical_precision(scores, label, TREE, k) for k in range(1, 6)] == pytest.approx(expected)


def test_a_near_mistake_costs_less_than_a_far_one():
    label = torch.tensor([0])
    near, far = torch.tensor([[0.3, 0.5, 0.2, 0.0, 0.0]]), torch.tensor([[0.3, 0.0, 0.0, 0.5, 0.2]])
    assert top_k(near, label) == top_k(far, label) == 0
    assert hierarchical_precision(near, label, TREE, 3) > hierarchical_precision(far, label, TREE, 3)


def test_without_opinion_the_hierarchy_helps_nobody():
    for scores in (torch.zeros(5, 5), torch.full((5, 5), NAN)):
        mine = [hierarchical_precision(scores, torch.arange(5), TREE, k) for k in (1, 2, 3, 4, 5)]
        near = [(TREE.sort(1).values[:, k - 1 : k] >= TREE).sum(1) for k in (1, 2, 3, 4, 5)]
        expected = [((k - (5 - n)).clamp(min=0) / k).mean().item() for k, n in enumerate(near, start=1)]
        assert mine == pytest.approx(expected)  # those outside stand first, only then those inside


def test_nan_is_no_way_to_come_near():
    scores = torch.tensor([[NAN, 0.1, 0.0, 0.5, 0.2]])
    assert hierarchical_precision(scores, torch.tensor([0]), TREE, 1) == 0
    assert hierarchical_precision(scores, torch.tensor([0]), TREE, 3) == pytest.approx(1 / 3)


@given(st.integers(0, 10_000))
def test_properties_of_hierarchical_precision(seed):
    generator = torch.Generator().manual_seed(seed)
    scores, labels = torch.rand(20, 5, generator=generator), torch.randint(5, (20,), generator=generator)
    values = [hierarchical_precision(scores, labels, TREE, k) for k in (1, 2, 3, 4, 5)]
    assert values[0] == pytest.approx(top_k(scores, labels))
    assert values[-1] == 1
    assert all(0 <= value <= 1 for value in values)
    assert hierarchical_precision(-TREE[labels].double(), labels, TREE, 3) == 1  # who scores by distance is perfect
    order = torch.randperm(20, generator=generator)
    assert hierarchical_precision(scores[order], labels[order], TREE, 3) == pytest.approx(values[2])


# ------------------------------------------------------------------------------------------------------- calibration
@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_calibration_error_is_that_of_netcal_and_torchmetrics(bins):
    assert calibration(PROBABILITIES, LABELS, bins).error == pytest.approx(GOLDEN["ece"][str(bins)], abs=1e-12)


def test_calibration_by_hand():
    sure = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    result = calibration(sure, torch.tensor([0, 1, 0, 1]), bins=2)
    assert result.count.tolist() == [0, 4]
    assert result.confidence[1].item() == pytest.approx(0.725)
    assert result.accuracy[1].item() == 0.75
    assert result.confidence[0].isnan()
    assert result.error == pytest.approx(0.025)
    finer = calibration(sure, torch.tensor([0, 1, 0, 1]), bins=10)  # 0.9 in (0.8, 0.9], 0.8 in (0.7, 0.8]
    assert finer.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 1, 0]
    assert finer.error == pytest.approx((2 * 0.4 + 0.8 + 0.1) / 4)
    assert finer.edges.tolist() == pytest.approx([b / 10 for b in range(11)])


def test_the_frequencies_are_calibrated_and_certainty_is_not():
    labels = torch.tensor([0] * 70 + [1] * 30)
    assert calibration(torch.tensor([[0.7, 0.3]] * 100), labels).error == pytest.approx(0, abs=1e-6)
    assert calibration(torch.tensor([[1.0, 0.0]] * 100), labels).error == pytest.approx(0.3)
    assert calibration(torch.eye(2)[labels], labels).error == 0
    assert calibration(1 - torch.eye(2)[labels], labels).error == 1


def test_a_little_above_1_is_in_the_last_bin():
    result = calibration(torch.tensor([[1.001, 0.0]]), torch.tensor([0]), bins=4)
    assert result.count.tolist() == [0, 0, 0, 1]
    assert result.error == 0


def test_two_classes_equally_sure_are_wrong():
    assert calibration(torch.full((3, 2), 0.5), torch.tensor([0, 1, 0])).error == pytest.approx(0.5)


def test_calibration_in_any_order_and_in_half_precision():
    order = torch.randperm(len(LABELS))
    mine = calibration(PROBABILITIES, LABELS).error
    assert calibration(PROBABILITIES[order], LABELS[order]).error == pytest.approx(mine)
    assert calibration(PROBABILITIES.bfloat16(), LABELS).error == pytest.approx(mine, abs=0.02)


# ------------------------------------------------------------------------------------------------- shapes and errors
def test_shapes_are_what_the_signatures_say():
    checked = jaxtyped(typechecker=beartype.beartype)
    scores, labels = torch.rand(3, 5).softmax(1), torch.tensor([0, 1, 4])
    checked(top_k)(scores, labels, 2)
    checked(hierarchical_precision)(scores, labels, TREE, 2)
    checked(hierarchical_precision)(scores, labels, TREE.float(), 2)
    checked(tree_distances)(NAMES, PARENTS)
    checked(classification.Calibration)(**vars(checked(calibration)(scores, labels)))


SCORERS = {
    "top_k": lambda scores, labels, k=1: top_k(scores, labels, k),
    "hierarchical_precision": lambda scores, labels, k=1: hierarchical_precision(scores, labels, TREE, k),
    "calibration": lambda scores, labels, k=1: calibration(scores, labels),
}


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.rand(3, 5), torch.zeros(2).long(), r"scores \(3, 5\) and labels \(2,\): expected \(N, C\) and \(N,\)"),
        (torch.rand(5), torch.zeros(5).long(), r"scores \(5,\)"),
        (torch.rand(0, 5), torch.zeros(0).long(), "there is nothing to score"),
        (torch.rand(2, 5), torch.tensor([0, 5]), "a label is outside 0 … 4: 0 to 5"),
        (torch.rand(2, 5), torch.tensor([-1, 0]), "a label is outside 0 … 4: -1 to 0"),
    ],
)
def test_wrong_shapes_are_told(name, scores, labels, message):
    with pytest.raises(ShapeError, match=message):
        SCORERS[name](scores, labels)


@pytest.mark.parametrize("name", ["top_k", "hierarchical_precision"])
@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_is_told(name, k):
    with pytest.raises(ShapeError, match=f"k is {k}, expected 1 to 5, the number of classes"):
        SCORERS[name](torch.rand(2, 5), torch.tensor([0, 1]), k)


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [NAN, 0.5], [2.0, 3.0]])
def test_what_is_no_probability_is_told(row):
    with pytest.raises(DataError, match=r"row 1 is no probability .*: pass softmax\(logits\)"):
        calibration(torch.tensor([[0.5, 0.5], row]), torch.tensor([0, 1]))


def test_other_wrong_arguments_are_told():
    scores, labels = torch.rand(2, 5), torch.tensor([0, 1])
    with pytest.raises(DataError, match="bins is 0, expected 1 or more"):
        calibration(scores.softmax(1), labels, bins=0)
    with pytest.raises(ShapeError, match=r"distances have shape \(4, 5\), expected \(5, 5\)"):
        hierarchical_precision(scores, labels, TREE[:4], 2)
    with pytest.raises(ShapeError, match="must be 0 between a class and itself, and nowhere else"):
        hierarchical_precision(scores, labels, TREE.clamp(max=0), 2)
    with pytest.raises(DataError, match="class 'cow' has no parent"):
        tree_distances(["cow"], PARENTS)
    with pytest.raises(DataError, match="several roots"):
        tree_distances(["cat", "idea"], PARENTS | {"idea": "thought"})
    with pytest.raises(DataError, match="circle: a → b → a"):
        tree_distances(["a"], {"a": "b", "b": "a"})
