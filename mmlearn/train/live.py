"""What is seen while a model trains: one line of progress, and in a notebook its loss over the reference band."""

import base64
import io
import os
import sys
from time import perf_counter

from mmlearn.train import cards

LINE_EVERY, PLOT_EVERY, HEARTBEAT = 0.5, 2.0, 30.0  # seconds


def say(sentence: str) -> None:
    """Print a sentence (once, where several processes train), on a line of its own."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(("\r\033[K" if sys.stdout.isatty() else "") + sentence, flush=True)


def in_notebook() -> bool:
    """True in a Jupyter kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class Progress:
    """Shows a run while it goes on: in a notebook, in a terminal, or (``MMLEARN_QUIET=1``) only its end."""

    def __init__(self, run, recipe, work):
        self.run, self.recipe, self.work = run, recipe, work
        self.main = work.rank == 0
        quiet = not self.main or not recipe.live or os.environ.get("MMLEARN_QUIET") == "1"
        self.place = "quiet" if quiet else "notebook" if in_notebook() else "terminal"
        self.band = cards.band(recipe.card, recipe.profile) if recipe.card else None
        self.started = self.shown = perf_counter()
        self.first, self.plotted = run.steps, 0.0
        self.pause, self.picture, self.handle = PLOT_EVERY, "", None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self.place == "terminal" and sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)

    def update(self) -> None:
        """Show the line, and now and then the plot."""
        now = perf_counter()
        tty = sys.stdout.isatty()
        every = LINE_EVERY if self.place == "notebook" or tty else HEARTBEAT
        if self.place == "quiet" or now - self.shown < every or not self.run.curve:
            return
        self.shown = now
        if self.place == "notebook":
            self._display(self.line())
        else:
            print("\r\033[K" + self.line() if tty else self.line(), end="" if tty else "\n", flush=True)

    def line(self) -> str:
        """Bar, step, loss, time left, rate, memory."""
        run, steps = self.run, self.recipe.steps
        left = (perf_counter() - self.started) / max(1, run.steps - self.first) * (steps - run.steps)
        filled = round(20 * run.steps / steps)
        return " · ".join(
            [
                f"{'█' * filled}{'░' * (20 - filled)} {run.steps:,}/{steps:,}",
                f"loss {run.loss:.3f}",
                f"{int(left) // 60}:{int(left) % 60:02d} left",
                f"{run.samples_per_second:,.0f} samples/s",
                f"{self.work.memory_mb():,.0f} MB",
            ]
        )

    def _display(self, line: str) -> None:
        """Line and plot in one place of the notebook; drawing takes at most a twentieth of the time."""

        started = perf_counter()
        if started - self.plotted > self.pause:
            png = io.BytesIO()
            figure(self.run, self.recipe, self.band).savefig(png, format="png", dpi=80)
            self.picture = base64.b64encode(png.getvalue()).decode()
            self.plotted = perf_counter()
            self.pause = max(PLOT_EVERY, 20 * (self.plotted - started))
        image = f'<img alt="The loss so far, falling or not, by step" src="data:image/png;base64,{self.picture}">'
        self._put({"text/plain": line, "text/html": f"<pre>{line}</pre>{image}"})

    def _put(self, data: dict) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)

    def finish(self) -> None:
        """Say how it ended and, in a notebook, show the curve once more, to stay."""
        if not self.main:
            return
        summary = self.run.summary()
        if self.place != "quiet":
            minutes, seconds = divmod(round(self.run.seconds), 60)
            summary += f" in {minutes}:{seconds:02d} ({self.run.samples_per_second:,.0f} samples/s)"
        verdict = self.verdict()
        if self.handle is not None:
            self._put({"text/plain": summary, "text/html": f"<pre>{summary}</pre>"})
        else:
            say(summary)
        if self.run.interrupted:
            say("Interrupted: the model keeps what it has learned; run this again with a checkpoint folder to go on.")
        if verdict and self.place != "quiet":
            say(verdict)
        if in_notebook() and self.recipe.live and self.run.curve:
            from mmlearn.plot import show

            show(figure(self.run, self.recipe, self.band, verdict), alt=self._alt(verdict))

    def verdict(self) -> str:
        """Inside or outside the references' band, in a sentence; empty where there is none or the run is not whole."""
        if self.band is None or not self.run.finished or not self.run.curve:
            return ""
        return self.band.verdict(self.run.curve)

    def _alt(self, verdict: str) -> str:
        first, last = cards.short(self.run.curve[0][1]), cards.short(self.run.loss)
        over = " over the grey band of the reference runs" if self.band else ""
        return f"Training loss by step{over}: from {first} to {last} in {self.run.steps} steps. {verdict}".strip()


def figure(run, recipe, band, verdict: str = ""):
    """The loss of a run (faint: each step; strong: smoothed) over the band of the reference runs."""
    from matplotlib.figure import Figure

    from mmlearn.plot import PALETTE

    drawing = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = drawing.add_subplot()
    if band:
        axis.fill_between(band.steps, band.low, band.high, color="#bbbbbb", alpha=0.7, linewidth=0, label=band.label)
        axis.plot(band.steps, band.low, color="#888888", linewidth=0.8)
        axis.plot(band.steps, band.high, color="#888888", linewidth=0.8)
    steps, losses = zip(*run.curve, strict=True)
    axis.plot(steps, losses, color=PALETTE[0], alpha=0.25, linewidth=0.8)
    axis.plot(*zip(*cards.smooth(cards.thin(run.curve)), strict=True), color=PALETTE[0], label="your loss")
    axis.set(xlabel="step", ylabel="loss", xlim=(0, recipe.steps))
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axis.set_yscale("log")
    if verdict:
        axis.set_title(verdict, loc="left", fontsize=9)
    if band:
        axis.legend()
    return drawing
