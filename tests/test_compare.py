"""`matches` finds every kind of difference, and says where."""

import pytest
import torch
from torch import nn

import mmlearn as mm
from mmlearn.errors import MismatchError, ShapeError


def test_copies_weights_and_compares_gradients(capsys):
    mm.matches(nn.Linear(3, 4), nn.Linear(3, 4), torch.randn(5, 3))
    assert capsys.readouterr().out.strip() == "✓ equal within 1e-05: outputs, gradients of 1 input and of 2 weights"


def test_says_where_outputs_first_differ():
    x = torch.zeros(2, 3)
    with pytest.raises(MismatchError, match=r"output differs first at \[1, 2\]: mine 1, the reference 0; 1 of 6"):
        mm.matches(lambda x: x + torch.tensor([[0, 0, 0], [0, 0, 1.0]]), lambda x: x, x)


def test_finds_equal_outputs_with_unequal_gradients():
    with pytest.raises(MismatchError, match="gradient of input"):
        mm.matches(lambda x: x.relu(), lambda x: x.relu().detach() + 0 * x, torch.randn(4, 4))


def test_finds_unequal_weight_gradients():
    class Frozen(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T + self.bias.detach()

    with pytest.raises(MismatchError, match="gradient of bias"):
        mm.matches(Frozen(3, 4), nn.Linear(3, 4), torch.randn(5, 3))


def test_float64_is_held_to_a_tighter_bound():
    x = torch.randn(3, dtype=torch.float64)
    mm.matches(lambda x: x + 1e-11, lambda x: x, x)
    with pytest.raises(MismatchError, match="allowed 1e-10|allowed"):
        mm.matches(lambda x: x + 1e-8, lambda x: x, x)


def test_nan_is_not_equal_to_a_number():
    with pytest.raises(MismatchError, match="differs first"):
        mm.matches(lambda x: x * float("nan"), lambda x: x, torch.ones(2), gradients=False)


@pytest.mark.parametrize(
    ("mine", "reference", "says"),
    [
        (nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), "mine has 2 tensors, the reference 4"),
        (nn.Linear(3, 4), nn.Linear(4, 3), "weights do not line up: mine weight"),
    ],
)
def test_weights_that_do_not_line_up(mine, reference, says):
    with pytest.raises(MismatchError, match=says):
        mm.matches(mine, reference, torch.randn(2, 3))


def test_a_map_names_the_weights():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.a = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4, 3))

        def forward(self, x):
            return x @ self.a.T + self.b

    mm.matches(Mine(), nn.Linear(3, 4), torch.randn(2, 3), map={"a": "weight", "b": "bias"})
    with pytest.raises(MismatchError, match="'wight'"):
        mm.matches(Mine(), nn.Linear(3, 4), torch.randn(2, 3), map={"a": "wight", "b": "bias"})


def test_dropout_is_off_and_training_mode_is_restored():
    mine, reference = nn.Dropout(0.5), nn.Dropout(0.5)
    mm.matches(mine, reference, torch.ones(100))
    assert mine.training
    assert reference.training


def test_other_shapes_and_no_tensors():
    with pytest.raises(MismatchError, match=r"mine has the shape \(2, 1\), the reference \(2,\)"):
        mm.matches(lambda x: x[:, None], lambda x: x, torch.ones(2), gradients=False)
    with pytest.raises(MismatchError, match="returned NoneType, not tensors"):
        mm.matches(lambda x: None, lambda x: x, torch.ones(2))


def test_check_shape():
    assert mm.check_shape(torch.zeros(2, 3, 4), "B T 4") == {"B": 2, "T": 3}
    assert mm.check_shape(torch.zeros(2, 3, 4), "… D") == {"D": 4}
    with pytest.raises(ShapeError, match=r"expected the shape \(B B 4\) with B = 2, got \(2, 3, 4\)"):
        mm.check_shape(torch.zeros(2, 3, 4), "B B 4")
    with pytest.raises(ShapeError, match="2 dimensions, not 3"):
        mm.check_shape(torch.zeros(2, 3, 4), "B T")
    with pytest.raises(ShapeError):
        mm.check_shape(torch.zeros(2, 3), "B T", T=4)
