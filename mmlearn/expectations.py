"""Expectations: a training run ends in a stated outcome, and a test fails when it is not reached."""

import json
import math
import os
import time
from pathlib import Path

from mmlearn.errors import ExpectationError, MMLearnError


def expect(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    hint: str | None = None,
    digits: int = 3,
) -> None:
    """Print ✓ or ✗ for a stated outcome.

    ``name`` says what was measured, ``at_least`` and ``at_most`` are inclusive bounds, ``hint`` is shown
    with a ✗. The outcome joins the latest run card. Under ``MMLEARN_STRICT=1`` a ✗ raises
    :class:`ExpectationError`; in the ``smoke`` profile nothing is expected. A NaN is never accepted.
    """
    if at_least is None and at_most is None:
        raise MMLearnError(f"expect({name!r}) needs at_least=… or at_most=…, or it could never fail")
    value = float(value)
    if os.environ.get("MMLEARN_PROFILE") == "smoke":
        print(f"· {name}: nothing is expected after a few steps (smoke profile)")
        return
    low, high = (-math.inf if at_least is None else at_least), (math.inf if at_most is None else at_most)
    ok = low <= value <= high
    bounds = " and ".join(
        f"{word} {bound:.{digits}g}"
        for word, bound in (("at least", at_least), ("at most", at_most))
        if bound is not None
    )
    message = f"{'✓' if ok else '✗'} {name}: {value:.{digits}f} (expected {bounds})"
    if not ok and hint:
        message += f"\n  hint: {hint}"
    print(message)
    _record(name, value, {"at_least": at_least, "at_most": at_most}, ok)
    if not ok and os.environ.get("MMLEARN_STRICT") == "1":
        raise ExpectationError(message)


def _record(name: str, value: float, bounds: dict, ok: bool) -> None:
    from mmlearn.train.cards import record_expectation

    record_expectation(name, value, bounds, ok)
    log_event("expect", name=name, value=value, ok=ok, **bounds)


def log_event(event: str, **fields) -> None:
    """Append one JSON line to the file named by ``MMLEARN_EVENTS``, read by ``mmlearn run``; else nothing."""
    path = os.environ.get("MMLEARN_EVENTS")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
