"""Errors a reader can act on: each message says what was wrong, what was expected and what to do."""


class MMLearnError(Exception):
    """Base of every error raised on purpose; the command line prints it as one sentence."""


class DataError(MMLearnError, ValueError):
    """A data set, picture, caption or split is not what was expected."""


class CheckpointError(MMLearnError, RuntimeError):
    """A saved model or training state is missing, incomplete or was changed."""


class ShapeError(MMLearnError, ValueError):
    """A tensor has another shape than the one claimed."""


class ExpectationError(MMLearnError, AssertionError):
    """A stated outcome was not reached (raised only under MMLEARN_STRICT=1)."""


class MismatchError(MMLearnError, AssertionError):
    """A hand-built block differs from its reference."""


class TrainingError(MMLearnError, RuntimeError):
    """Training cannot go on: not-a-number, out of memory, nothing to train."""
