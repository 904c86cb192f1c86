"""Retrieval numbers on tables small enough to work out by hand."""

import beartype
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from mmlearn.errors import ShapeError
from mmlearn.metrics import Retrieval, ranks, retrieval


def test_by_hand_with_two_captions_a_picture():
    similarity = torch.tensor([[0.9, 0.1, 0.8, 0.0], [0.2, 0.3, 0.7, 0.6]])  # captions 0, 1 of picture 0; 2, 3 of 1
    text_to_image, image_to_text = retrieval(similarity, torch.tensor([0, 0, 1, 1]))
    assert text_to_image.ranks.tolist() == [1, 2, 2, 1]
    assert image_to_text.ranks.tolist() == [1, 1]
    assert text_to_image.recall(1) == 0.5
    assert text_to_image.recall(2) == 1.0
    assert text_to_image.median_rank == 1.5
    assert text_to_image.mean_rank == 1.5
    assert (text_to_image.candidates, image_to_text.candidates) == (2, 4)


def test_a_model_that_scores_everything_alike_is_last():
    text_to_image, _ = retrieval(torch.zeros(10, 10))
    assert text_to_image.recall(1) == 0
    assert text_to_image.median_rank == 10


def test_nan_is_no_way_to_win():
    similarity = torch.eye(3)
    similarity[1, 1] = float("nan")
    assert retrieval(similarity)[0].ranks.tolist() == [1, 3, 1]


def test_chance_is_k_of_n():
    generator = torch.Generator().manual_seed(0)
    text_to_image, image_to_text = retrieval(torch.rand(1000, 1000, generator=generator))
    assert abs(text_to_image.recall(100) - 0.1) < 0.03
    assert abs(image_to_text.median_rank - 500) < 60


def test_chance_is_exact():
    for owners in ([0, 0, 1, 1, 1, 2], [0, 1, 2, 0, 1, 2]):
        similarity = torch.rand(3, 6)
        for direction in retrieval(similarity, torch.tensor(owners)):
            assert direction.chance(1) == pytest.approx((direction.n_right / direction.candidates).mean().item())
            assert direction.chance(direction.candidates) == direction.chance(100) == 1
    five_each = retrieval(torch.rand(10, 50), torch.arange(50) // 5)[1]
    assert five_each.chance(2) == pytest.approx(1 - 45 / 50 * 44 / 49)
    assert Retrieval(torch.tensor([1, 3]), candidates=4).chance(3) == pytest.approx(3 / 4)


@given(st.integers(1, 5), st.integers(0, 10_000))
def test_ranks_against_sorting_and_in_any_order(pictures, seed):
    """With distinct scores the rank is the place in the sorted list, in whatever order the others stand."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(pictures), torch.randint(pictures, (4,), generator=generator)])
    similarity = torch.randperm(pictures * len(owner), generator=generator).view(pictures, -1).double()
    text_to_image, image_to_text = retrieval(similarity, owner)
    for n, rank in enumerate(text_to_image.ranks.tolist()):
        assert similarity[:, n].argsort(descending=True).tolist()[rank - 1] == owner[n]
    for i, rank in enumerate(image_to_text.ranks.tolist()):
        in_order = owner[similarity[i].argsort(descending=True)].tolist()
        assert in_order.index(i) == rank - 1
    captions, rows = (torch.randperm(n, generator=generator) for n in (len(owner), pictures))
    new_row = rows.argsort()
    again = retrieval(similarity[rows][:, captions], new_row[owner[captions]])
    assert again[0].ranks.tolist() == text_to_image.ranks[captions].tolist()
    assert again[1].ranks.tolist() == image_to_text.ranks[rows].tolist()


def test_other_captions_of_a_picture_are_no_competitors():
    similarity = torch.tensor([[5.0, 5.0, 5.0, 1.0], [0.0, 0.0, 0.0, 2.0]])
    assert retrieval(similarity, torch.tensor([0, 0, 0, 1]))[1].ranks.tolist() == [1, 1]


def test_recall_grows_with_k():
    """Trap: recall@5 is never below recall@1, and of a model that guesses it is five times as large."""
    text_to_image, _ = retrieval(torch.rand(500, 500, generator=torch.Generator().manual_seed(1)))
    recalls = [text_to_image.recall(k) for k in (1, 5, 10, 500)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1
    assert text_to_image.chance(5) == pytest.approx(5 * text_to_image.chance(1))


def test_shapes_are_what_the_signatures_say():
    checked = jaxtyped(typechecker=beartype.beartype)
    text_to_image, _ = checked(retrieval)(torch.rand(2, 4), torch.tensor([0, 1, 1, 1]))
    checked(Retrieval)(text_to_image.ranks, text_to_image.candidates, text_to_image.n_right)
    checked(ranks)(torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool))


def test_what_cannot_be_judged_is_named():
    with pytest.raises(ShapeError, match="3 pictures and 6 captions: pass image_of_caption"):
        retrieval(torch.rand(3, 6))
    with pytest.raises(ShapeError, match="query 1 has no right candidate"):
        ranks(torch.rand(2, 2), torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize(
    ("shape", "owner", "message"),
    [
        ((3, 6), [0, 0, 1], r"image_of_caption has shape \(3,\), expected \(6,\)"),
        ((3, 3), [0, 1, 3], "names picture 3, there are 0 to 2"),
        ((3, 3), [0, -1, 2], "names picture -1"),
        ((3, 3), [0, 2, 2], "picture 1 has no caption: leave it out"),
        ((0, 0), [], r"similarity has shape \(0, 0\), expected \(pictures, captions\)"),
        ((4,), [0], r"similarity has shape \(4,\)"),
    ],
)
def test_wrong_tables_are_told(shape, owner, message):
    with pytest.raises(ShapeError, match=message):
        retrieval(torch.rand(shape), torch.tensor(owner))


def test_k_below_1_is_told():
    direction = retrieval(torch.eye(3))[0]
    for ask in (direction.recall, direction.chance):
        with pytest.raises(ShapeError, match="k is 0, expected 1 or more"):
            ask(0)
