"""Runs that are made longer: resumed with more epochs, or more steps, than they were begun with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from ..batches.sampler import run_steps
from ..settings.fields import Settings
from ..settings.identity import check_same
from .optimizer import rate
from .progress import RunState
from .trainer import Trainer

BY_LENGTH = ("rifle", "seqtrain")
"""Methods that divide a run into parts, by its whole length."""


def shorter_settings(before: Settings, now: Settings, folder: os.PathLike[str]) -> Settings | None:
    """The settings of the run in a folder, where it is now made longer; None where it is resumed as it is.

    Raises ValueError where other settings that affect the result have changed, where the run would be shorter, and for
    a method that divides a run into parts by its length.
    """
    name = "epochs" if before.steps is None else "steps"
    old, new = getattr(before, name), getattr(now, name)
    if (before.steps is None) != (now.steps is None) or new <= old:
        check_same(before, now, folder)
        return None
    check_same(replace(before, **{name: new}), now, folder)
    if now.method in BY_LENGTH:
        raise ValueError(
            f"resume: the run in {os.fspath(folder)} has {name} {old} (now {new}), and {now.method} divides a run by "
            "its length, so that it cannot become longer; train anew, to another output"
        )
    return before


def check_not_stopped(state: RunState, settings: Settings) -> None:
    """Raises ValueError where ``patience`` has stopped the run, so that it would not go on."""
    if state.stops_early(settings):
        raise ValueError(
            f"resume: {state.waited} validations in a row were no better than the best, and patience "
            f"{settings.patience} has ended the run: more steps change nothing; train anew, to another output"
        )


def say_what_changes(before: Settings, trainer: Trainer, log: Callable[[str], object]) -> None:
    """Says how long the run becomes, and how the learning rate goes on, which follows from step and length alone."""
    settings, step = trainer.settings, trainer.steps_done
    name = "epochs" if before.steps is None else "steps"
    steps = run_steps(before, trainer.sampler.epoch_length)
    last = settings.lr * rate(settings.schedule, trainer.warmup, min(step, steps) - 1, steps)
    log(
        f"longer: {name} {getattr(before, name)} became {getattr(settings, name)}, {steps} steps {trainer.steps}; the "
        f"schedule, {settings.schedule}, now spans all of them: the learning rate was {last:.2g} in step {step} and is "
        f"{trainer.lr:.2g} in the next one"
    )
