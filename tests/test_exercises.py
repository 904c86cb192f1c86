"""The machinery of exercises: what a check says, and that it never says the answer."""

import functools
import math

import pytest
import torch

import mmlearn as mm
from mmlearn import exercises
from mmlearn.errors import ExpectationError, MMLearnError
from mmlearn.exercises import Exercise, Misconception, is_blank, judge

DOUBLE = Exercise(
    id="99.1",
    title="Double it",
    inputs=lambda g: [(torch.tensor([1.0, 2.0]),), (torch.randn(3, 4, generator=g),)],
    solution=lambda x: 2 * x,
    misconceptions=[
        Misconception("you squared it", lambda x: x**2),
        Misconception("you summed it", lambda x: x.sum()),
        Misconception("you indexed too far", lambda x: x[99]),
    ],
    hints=["think", "think of adding it to itself"],
)


@pytest.fixture
def chapter_99(monkeypatch):
    import sys
    import types

    module = types.ModuleType("mmlearn.exercises.ch99")
    module.EXERCISES = [DOUBLE]
    monkeypatch.setitem(sys.modules, "mmlearn.exercises.ch99", module)


def test_right_wrong_and_recognised():
    assert judge(DOUBLE, lambda x: x + x) is None
    assert "you squared it" in judge(DOUBLE, lambda x: x * x)
    assert "you indexed too far" in judge(DOUBLE, lambda x: x[50])
    assert "expected the shape (2,), got ()" in judge(DOUBLE, lambda x: x.mean())
    assert "None" in judge(DOUBLE, lambda x: None)
    assert "expected a tensor, got list" in judge(DOUBLE, lambda x: x.tolist())


def test_a_misconception_must_explain_every_case():
    says = judge(DOUBLE, lambda x: x**2 if x.dim() == 1 else 3 * x)
    assert "squared" not in says


def test_a_message_shows_the_input_and_never_the_answer():
    says = judge(DOUBLE, lambda x: x + 1)
    assert "input: [1.0, 2.0]" in says
    assert "your answer: [2.0, 3.0]" in says
    assert "4.0" not in says


def test_a_number_may_come_as_a_tensor_or_numpy_number():
    mean = Exercise("99.2", "Mean", lambda g: [(torch.tensor([1.0, 2.0]),)], lambda x: x.mean().item())
    assert judge(mean, lambda x: x.mean()) is None
    assert judge(mean, lambda x: x.numpy().mean()) is None
    assert judge(mean, lambda x: x[:1]) is not None
    assert "your answer: 1.05" in judge(mean, lambda x: 1.0500001)


def test_functions_among_the_inputs_are_named():
    apply = Exercise("99.3", "Apply", lambda g: [(abs, -1.5)], lambda f, x: f(x))
    assert "input 1: abs\ninput 2: -1.5" in judge(apply, lambda f, x: x)


def test_an_error_names_its_line_and_kind():
    namespace = {}
    exec(compile("def fn(x):\n    y = x\n    return y.nothing", "<cell>", "exec"), namespace)
    says = judge(DOUBLE, namespace["fn"])
    assert "AttributeError" in says
    assert "(line 3 of fn)" in says


def test_an_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr(exercises, "SECONDS", 0.2)

    def endless(x):
        while True:
            pass

    assert "did not finish" in judge(DOUBLE, endless)


def test_changing_the_input_in_place_is_refused():
    assert "in place" in judge(DOUBLE, lambda x: x.mul_(2))


def test_blank_is_recognised():
    def blank(x):
        """Statement."""
        ...

    def half(x):
        """Statement."""
        return x

    assert is_blank(blank)
    assert is_blank(...)
    assert not is_blank(half)
    assert not is_blank(lambda x: x)


@pytest.mark.usefixtures("chapter_99")
def test_check_prints_and_is_strict_under_test(capsys, monkeypatch):
    def blank(x): ...

    mm.check("99.1", blank)
    mm.check("99.1", lambda x: 2 * x)
    mm.check("99.1", lambda x: x**2)
    mm.check.hint("99.1")
    mm.check.hint("99.1")
    out = capsys.readouterr().out
    for part in ("○ 99.1", "✓ 99.1", "✗ 99.1", "you squared it", "hint 1 of 2: think", "hint 2 of 2"):
        assert part in out
    monkeypatch.setenv("MMLEARN_STRICT", "1")
    with pytest.raises(ExpectationError, match="you squared it"):
        mm.check("99.1", lambda x: x**2)


@pytest.mark.usefixtures("chapter_99")
def test_an_unknown_exercise_is_named():
    with pytest.raises(MMLearnError, match="chapter 99 has 99.1"):
        mm.check("99.7", lambda x: x)
    with pytest.raises(MMLearnError, match="no exercises for chapter '98'"):
        mm.check("98.1", lambda x: x)


def test_infinity_is_equal_to_infinity_only():
    same = functools.partial(exercises._same, atol=1e-5)
    assert same(math.inf, math.inf)
    assert same(math.nan, math.nan)
    assert not any(same(number, math.inf) for number in (-math.inf, 0, 1e300, math.nan))
    assert not any(same(math.inf, number) for number in (-math.inf, 0, 1e300, math.nan))
