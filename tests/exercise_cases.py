"""What every exercise must prove: the blank fails, the solution passes, wrong answers get their message."""

from collections.abc import Callable

from mmlearn.exercises import find, is_blank, judge


def assert_right(id: str, fn: Callable) -> None:
    problem = judge(find(id), fn)
    assert problem is None, f"{id} refused a right answer: {problem}"


def assert_wrong(id: str, fn: Callable, fragment: str) -> None:
    """``fn`` is refused with a message that contains ``fragment``."""
    problem = judge(find(id), fn)
    assert problem is not None, f"{id} let a wrong answer through"
    assert fragment in problem, f"{id} said {problem!r}, expected {fragment!r}"


def assert_chapter(chapter: str, wrong: dict[str, list[tuple[Callable, str]]], right: dict[str, Callable]) -> None:
    """All exercises of a chapter: independent right answers pass, at least three wrong ones are told why."""
    import importlib

    exercises = importlib.import_module(f"mmlearn.exercises.ch{chapter}").EXERCISES
    ids = {e.id for e in exercises}
    assert len(ids) == len(exercises) >= 4
    assert ids == wrong.keys() == right.keys()
    for exercise in exercises:
        assert len(exercise.hints) >= 2, exercise.id
        assert len(exercise.misconceptions) >= 3 or exercise.verify, exercise.id
        assert len(wrong[exercise.id]) >= 3, exercise.id
        assert is_blank(_blank)
        assert_right(exercise.id, right[exercise.id])
        for fn, fragment in wrong[exercise.id]:
            assert_wrong(exercise.id, fn, fragment)


def _blank(*args):
    """An untouched attempt."""
    ...
