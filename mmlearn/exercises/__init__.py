"""Exercises: ``check("02.1", fn)`` tells a learner what is wrong without telling the answer.

Each chapter's exercises are a list ``EXERCISES`` in ``mmlearn/exercises/chNN.py``. A misconception is itself a
(wrong) function: it is recognised when the attempt gives its outputs on every input. Nothing leaves the machine.
"""

import ast
import importlib
import inspect
import math
import os
import signal
import textwrap
import threading
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmlearn.errors import ExpectationError, MMLearnError

SECONDS = 5.0


@dataclass(frozen=True)
class Misconception:
    """A mistake that students make: ``says`` explains it, ``does`` makes it."""

    says: str
    does: Callable


@dataclass(frozen=True)
class Exercise:
    """One exercise: how inputs are drawn, what is right, what is known to go wrong, and hints in steps.

    ``inputs(generator)`` returns a list of argument tuples. ``verify(fn, generator)`` may replace or follow the
    comparison with ``solution`` where many answers are right: it returns None, or what is wrong.
    """

    id: str
    title: str
    inputs: Callable[[torch.Generator], list[tuple]] | None = None
    solution: Callable | None = None
    misconceptions: list[Misconception] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    verify: Callable[[Callable, torch.Generator], str | None] | None = None
    atol: float = 1e-5


class _Timeout(Exception):
    pass


class Check:
    """``mm.check(id, fn)`` judges an attempt; ``mm.check.hint(id)`` gives the next hint."""

    def __init__(self):
        self._given: dict[str, int] = {}

    def __call__(self, id: str, fn: Callable) -> None:
        """Print whether ``fn`` solves exercise ``id``, and if not, what to look at.

        An untouched attempt is "not attempted yet". Under ``MMLEARN_STRICT=1`` a wrong answer raises.
        """
        exercise = find(id)
        if is_blank(fn):
            print(f"○ {id} {exercise.title}: not attempted yet (mm.check.hint({id!r}) gives a hint)")
            return
        problem = judge(exercise, fn)
        if problem is None:
            print(f"✓ {id} {exercise.title}")
            return
        message = f"✗ {id} {exercise.title}\n{textwrap.indent(problem, '  ')}"
        print(message)
        if os.environ.get("MMLEARN_STRICT") == "1":
            raise ExpectationError(message)

    def hint(self, id: str) -> None:
        """Print the next hint of exercise ``id``; after the last, all of them again from the first."""
        exercise = find(id)
        n = self._given.get(id, 0)
        print(f"hint {n % len(exercise.hints) + 1} of {len(exercise.hints)}: {exercise.hints[n % len(exercise.hints)]}")
        self._given[id] = n + 1


check = Check()


def find(id: str) -> Exercise:
    """The exercise with this id, such as "02.3"; an unknown id gets an error that lists the chapter's."""
    chapter = id.split(".")[0]
    try:
        exercises = importlib.import_module(f"mmlearn.exercises.ch{chapter}").EXERCISES
    except ModuleNotFoundError as error:
        raise MMLearnError(f"there are no exercises for chapter {chapter!r}; write ids like '02.3'") from error
    for exercise in exercises:
        if exercise.id == id:
            return exercise
    raise MMLearnError(f"there is no exercise {id!r}; chapter {chapter} has {', '.join(e.id for e in exercises)}")


def is_blank(fn: Callable) -> bool:
    """True for a function whose body is still ``...`` (a docstring aside), or for ``...`` itself."""
    if fn is ... or fn is None:
        return True
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, TypeError, SyntaxError):
        return False
    body = getattr(tree.body[0], "body", [])
    rest = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return isinstance(body, list) and bool(body) and not rest


def judge(exercise: Exercise, fn: Callable) -> str | None:
    """None where ``fn`` is right, else what to tell the learner."""
    try:
        with _time_limit(SECONDS):
            problem = _compare_with_solution(exercise, fn) if exercise.solution else None
            if problem is None and exercise.verify:
                problem = exercise.verify(fn, _generator())
            return problem
    except _Timeout:
        return f"it did not finish within {SECONDS:.0f} seconds: look for a loop that never ends"
    except Exception as error:  # an attempt may raise anything; the learner sees what, not our stack
        return _describe_error(error)


def _compare_with_solution(exercise: Exercise, fn: Callable) -> str | None:
    cases = exercise.inputs(_generator())
    for case in cases:
        right = exercise.solution(*deepcopy(case))
        given, mine = deepcopy(case), None
        try:
            mine = fn(*given)
        except (_Timeout, KeyboardInterrupt):
            raise
        except Exception as error:
            return _recognise(exercise, fn, cases) or f"{_describe_error(error)}\n{_show_inputs(case)}"
        if not all(_same(a, b, 0.0) for a, b in zip(given, case, strict=True)):
            return f"your function changed its input in place; leave the input as it is\n{_show_inputs(case)}"
        if not _same(mine, right, exercise.atol):
            says = _recognise(exercise, fn, cases) or _difference(mine, right)
            return f"{says}\n{_show_inputs(case)}\n{_show('your answer', mine)}"
    return None


def _recognise(exercise: Exercise, fn: Callable, cases: list[tuple]) -> str | None:
    """The misconception whose function gives the attempt's outcome on every case, if any."""
    mine = [_outcome(fn, case) for case in cases]
    for wrong in exercise.misconceptions:
        theirs = [_outcome(wrong.does, case) for case in cases]
        if all(_same(a, b, exercise.atol) for a, b in zip(mine, theirs, strict=True)):
            return wrong.says
    return None


def _outcome(fn: Callable, case: tuple):
    """What a function returns, or the kind of error it raises."""
    try:
        return fn(*deepcopy(case))
    except (_Timeout, KeyboardInterrupt):
        raise
    except Exception as error:
        return type(error)


def _same(a: Any, b: Any, atol: float) -> bool:
    a = _number(a) if isinstance(b, int | float) else a
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        kinds = a.is_floating_point() == b.is_floating_point() and (a.dtype == torch.bool) == (b.dtype == torch.bool)
        if a.shape != b.shape or not kinds:
            return False
        return torch.allclose(a.double(), b.double(), rtol=atol, atol=atol, equal_nan=True)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=atol, abs_tol=atol) or (a != a and b != b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same(x, y, atol) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k], atol) for k in a)
    return type(a) is type(b) and (a is b or bool(a == b))


def _number(x: Any) -> Any:
    """A tensor or NumPy array of one number is a number; anything else stays what it is."""
    return x.item() if hasattr(x, "item") and getattr(x, "ndim", 1) == 0 else x


def _difference(mine: Any, right: Any) -> str:
    """What kind of difference it is, without telling the right values."""
    if mine is None:
        return "your function returned None: is there a return statement?"
    mine = _number(mine) if isinstance(right, int | float) else mine
    if isinstance(right, Tensor) and not isinstance(mine, Tensor):
        return f"expected a tensor, got {type(mine).__name__}"
    if isinstance(right, Tensor) and mine.shape != right.shape:
        return f"expected the shape {tuple(right.shape)}, got {tuple(mine.shape)}"
    if isinstance(right, Tensor) and mine.dtype != right.dtype and not _same(mine.to(right.dtype), mine, 0):
        return f"expected the type {right.dtype}, got {mine.dtype}"
    if isinstance(right, Tensor) and mine.is_floating_point() and mine.isnan().any():
        return f"{int(mine.isnan().sum())} of {mine.numel()} entries are not a number (nan)"
    if isinstance(right, Tensor):
        off = (mine.double() - right.double()).abs() > 1e-5
        return f"the shape is right, but {int(off.sum())} of {off.numel()} entries are not"
    if isinstance(right, tuple | list) and isinstance(mine, tuple | list) and len(mine) != len(right):
        return f"expected {len(right)} values, got {len(mine)}"
    if type(mine) is not type(right) and not isinstance(mine, int | float):
        return f"expected {type(right).__name__}, got {type(mine).__name__}"
    return "the value is not right"


def _show_inputs(case: tuple) -> str:
    return "\n".join(_show(f"input {i + 1}" if len(case) > 1 else "input", x) for i, x in enumerate(case))


def _show(name: str, x: Any) -> str:
    """One value in a few lines: small tensors whole, large ones by shape and a corner."""
    if isinstance(x, Tensor) and x.numel() > 24:
        corner = x.flatten()[:4].tolist()
        return f"{name}: shape {tuple(x.shape)}, {x.dtype}, begins {[round(v, 3) for v in corner]}"
    text = getattr(x, "__name__", None) or repr(_rounded(x))
    return f"{name}: {text if len(text) <= 300 else text[:300] + ' …'}"


def _rounded(x: Any) -> Any:
    """Numbers with three digits behind the point, however deep they lie."""
    if isinstance(x, Tensor):
        return _rounded(x.tolist())
    if isinstance(x, tuple | list):
        return type(x)(_rounded(y) for y in x)
    return float(f"{x:.3f}") if isinstance(x, float) and abs(x) >= 0.001 else x


def _describe_error(error: Exception) -> str:
    """The error's kind, its first line and the learner's line that raised it."""
    where, tb = "", error.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_filename.startswith("<") or "ipykernel" in tb.tb_frame.f_code.co_filename:
            where = f" (line {tb.tb_lineno - tb.tb_frame.f_code.co_firstlineno + 1} of {tb.tb_frame.f_code.co_name})"
        tb = tb.tb_next
    first = (str(error).splitlines() or [""])[0]
    return f"your function raised {type(error).__name__}: {first}{where}"


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@contextmanager
def _time_limit(seconds: float):
    """Stop an endless loop, where the system can (POSIX, main thread)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum, frame):
        raise _Timeout

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
