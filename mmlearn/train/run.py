"""What a training run has reached so far: its curve, validation, speed and metrics."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from mmlearn.train import cards


@dataclass(eq=False)
class Run:
    """The outcome of :func:`mmlearn.fit`.

    ``curve`` holds (step, loss), the loss of the batch before the step's update, so that ``curve[0]`` is the loss of
    the untrained model; ``grad_norms`` the length of the gradient at the same steps, before clipping; ``extra`` the
    further numbers of the loss function by name; ``validation`` (steps done, numbers). ``seconds`` is the whole wall
    time, ``samples_per_second`` counts training steps only, ``peak_memory_mb`` is the accelerator's memory or, on a
    CPU, the process's. ``model`` is the trained model, in evaluation mode.
    """

    model: nn.Module = field(repr=False)
    steps: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list, repr=False)
    grad_norms: list[float] = field(default_factory=list, repr=False)
    extra: dict[str, list[tuple[int, float]]] = field(default_factory=dict, repr=False)
    validation: list[tuple[int, dict[str, float]]] = field(default_factory=list, repr=False)
    metrics: dict[str, dict] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    training_seconds: float = 0.0
    samples: int = 0
    peak_memory_mb: float = 0.0
    interrupted: bool = False
    stopped_early: bool = False
    finished: bool = False
    card: Path | None = None

    @property
    def samples_per_second(self) -> float:
        """Examples a second while training."""
        return self.samples / self.training_seconds if self.training_seconds else 0.0

    @property
    def loss(self) -> float:
        """The mean loss of the last steps (2 % of the run, at least one)."""
        last = self.curve[-max(1, len(self.curve) // 50) :]
        return sum(loss for _, loss in last) / len(last) if last else float("nan")

    @property
    def last_validation(self) -> dict[str, float] | None:
        """The numbers of the last validation, or None before the first."""
        return self.validation[-1][1] if self.validation else None

    def summary(self) -> str:
        """One line without times, the same wherever it runs."""
        ending = " (interrupted)" if self.interrupted else " (stopped early)" if self.stopped_early else ""
        if not self.curve:
            return f"{self.steps} steps{ending}"
        return f"{self.steps:,} steps: loss {cards.short(self.curve[0][1])} → {cards.short(self.loss)}{ending}"

    def metric(
        self,
        name: str,
        value: float,
        *,
        definition: str,
        chance: float | None = None,
        blind: float | None = None,
        paper: float | str | None = None,
    ) -> float:
        """Add a metric to the run and its card, and return its value.

        ``definition`` says in a sentence what is counted (split, n, scale); ``chance`` is the level of guessing,
        ``blind`` that of a model which sees one side only, ``paper`` what the milestone reports (on other data).
        """
        entry = {"value": value, "definition": definition, "chance": chance, "blind": blind, "paper": paper}
        self.metrics[name] = {key: cards.plain(item) for key, item in entry.items()}
        if self.card:
            cards.add_metric(self.card, name, self.metrics[name])
        return float(value)
