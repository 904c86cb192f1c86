"""The training loop. Read ``fit`` from top to bottom; what keeps it safe has a file of its own.

``batches.py`` gives and cuts the batches, ``optim.py`` and ``schedules.py`` choose the update, ``work.py`` computes
the gradients on the device, ``checkpoints.py`` saves, ``live.py`` shows, ``trouble.py`` explains what went wrong.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

from torch import nn

from mmlearn.profiles import seed_everything
from mmlearn.train.batches import Feed
from mmlearn.train.checkpoints import Saver
from mmlearn.train.live import Progress, say
from mmlearn.train.optim import adamw
from mmlearn.train.recipe import Recipe
from mmlearn.train.run import Run
from mmlearn.train.schedules import schedule as make_schedule
from mmlearn.train.trouble import CtrlC
from mmlearn.train.work import Log, Work, conclude, validated


def fit(
    model: nn.Module,
    batches: Callable | Iterable,
    *,
    loss: Callable,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    schedule: str | Callable[[int], float] = "cosine",
    warmup: int = 50,
    optimizer: Callable | None = None,
    clip_grad: float | None = 1.0,
    accumulate: int = 1,
    splittable: bool = True,
    precision: str = "auto",
    validate: Callable | None = None,
    validate_every: int | None = None,
    stop_when: Callable | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = True,
    card: str | None = None,
    config=None,
    seed: int | None = None,
    live: bool = True,
) -> Run:
    """Train ``model`` for ``steps`` updates and return the :class:`Run`.

    ``batches`` is a function step -> batch (resuming is exact and free) or a list or DataLoader that is walked in
    epochs. A batch is a tensor or a tuple or dict of tensors; with several processes it is the global batch and each
    process takes its share. ``loss(model, batch)`` gives the mean loss over the batch, or (loss, dict of numbers).

    - *Update*: AdamW with ``lr`` and ``weight_decay`` (none on biases and norms), or ``optimizer(parameters)`` with
      its own rates; ``schedule`` with ``warmup`` steps multiplies them; the gradient is cut to length ``clip_grad``.
    - *Memory*: ``accumulate=4`` computes each batch in 4 parts and adds the gradients; out of memory does so by
      itself. Say ``splittable=False`` where the loss compares the examples of a batch with one another.
    - *Precision*: ``auto`` is bfloat16 on a GPU that has it, else ``fp32``; ``fp32``, ``bf16`` and ``fp16`` by hand.
    - *Validation*: ``validate(model)`` gives a dict of numbers every ``validate_every`` steps and at the end;
      ``stop_when(steps_done, loss, last_validation)`` ends the run early.
    - *Safety*: ``checkpoint`` is a folder; started again with the same arguments, the run goes on where it was.
    - *Chance*: ``seed`` (default: the config's, else 0) seeds all random numbers at the start.
    - *Records*: ``card="00_start/two_tower"`` writes a run card, with ``config`` (a profile or dict) in it.

    Raises :class:`TrainingError` for not-a-number, out of memory and nothing to train, and :class:`CheckpointError`
    for a checkpoint of something else. Ctrl-C returns the run with ``interrupted`` set.
    """
    recipe = Recipe.of(locals())  # all arguments, for the checkpoint and the card
    seed_everything(recipe.seed)
    work = Work(model, loss, recipe)
    optimizer = work.prepare(optimizer(work.parameters) if optimizer else adamw(model, lr, weight_decay))
    rates = [group["lr"] for group in optimizer.param_groups]
    factor = make_schedule(schedule, steps, warmup)
    feed = Feed(batches, recipe.seed)
    run = Run(model)
    saver = Saver(checkpoint, recipe, run, work, optimizer, feed)
    if resume:
        saver.load_latest()
    if run.finished:
        say(f"Nothing to do, already trained: {run.summary()}")
        return conclude(run, recipe, work)

    log = Log(run, work, feed)
    clock = perf_counter() - run.seconds
    with Progress(run, recipe, work) as progress:
        with CtrlC(active=work.world == 1) as ctrl_c:
            for step in range(run.steps, steps):
                started = perf_counter()
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor(step)

                batch = feed(step)
                value, extra = work.add_gradients(batch)
                norm = work.clip(clip_grad)
                log.add(step, value, norm, extra, batch)  # raises where the loss is not a number
                optimizer.step()
                optimizer.zero_grad()

                run.steps = step + 1
                run.training_seconds += perf_counter() - started
                run.seconds = perf_counter() - clock
                if validate and validate_every and run.steps % validate_every == 0:
                    log.read()
                    run.validation.append((run.steps, validated(validate, model)))
                if stop_when:
                    log.read()
                    run.stopped_early = bool(stop_when(run.steps, run.curve[-1][1], run.last_validation))
                if run.stopped_early or ctrl_c.pressed:
                    break
                if run.steps % checkpoint_every == 0 and run.steps < steps:
                    log.read()
                    saver.save()
                progress.update()

        optimizer.zero_grad()
        log.close()
        run.finished = run.stopped_early or run.steps == steps
        run.interrupted = not run.finished
        if validate and run.finished and run.steps not in dict(run.validation):
            run.validation.append((run.steps, validated(validate, model)))
        saver.save()
        run.seconds = perf_counter() - clock
        conclude(run, recipe, work)
        progress.finish()
    return run
