"""A process for the runs of a comparison, each in a fork of its own: a crash ends that run alone, and its peak memory
is its own, but what all import is imported once.

Reads a JSON line from stdin for each job: the settings of a run, or of two whose steps are to be timed in turn, and
what to do. The fork writes result.json; then a line with its exit status goes to the descriptor that the job names.
Both end when stdin does, which is when the process that started them has died.

The process itself computes nothing, as neither OpenMP nor CUDA survives a fork once it has run. Where forks are not
safe for other reasons, as on macOS, it does a single job, and its own exit status is the job's.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..batches.sampler import run_steps
from ..data.bad_files import without
from ..evaluation import evaluate_network
from ..models.network import Network
from ..runtime.console import accept_any_text
from ..runtime.device import current_device, default_threads, reproducible, usable_device
from ..runtime.files import write_text
from ..settings.fields import Settings
from ..training.head_fit import fit_head, fits
from ..training.images import SplitImages
from ..training.prepare import prepare
from ..training.resolve import resolved
from ..training.run import fit
from ..training.target import target_data
from ..training.trainer import Trainer

WARM_UP, ROUNDS = 2, 20
"""Steps of each side that are timed in turn: not counted, and counted."""
DIGITS = 6
"""Decimal places of the probabilities that are kept."""
KEPT = (
    "data",
    "images_seen",
    "seconds_per_step",
    "train_seconds",
    "selection_seconds",
    "val_accuracy",
    "test_accuracy",
)
"""What is kept of a run's summary."""
SOURCE_ACCURACY = ("source_accuracy_before", "source_accuracy")
"""What is kept besides, where the settings have it measured."""


def train(settings: Settings) -> dict[str, Any]:
    """Makes a run; returns what the comparison keeps of it."""
    return _kept(settings, fit(settings, report=False).summary)


def _kept(settings: Settings, summary: Mapping[str, Any]) -> dict[str, Any]:
    kept = [*KEPT, *(name for name in SOURCE_ACCURACY if name in summary)]
    return {name: summary[name] for name in kept} | {
        "peak_memory_mib": _peak_memory() >> 20,
        **_machine(settings),
        "versions": summary["versions"],
    }


def predict(settings: Settings) -> dict[str, Any]:
    """Makes a run of a cross-validation; returns what :func:`train` does, and what it predicts for its fold's images.

    ``predictions`` has the probability of each class for each image, by the hash of the image's content.
    """
    result = fit(settings, report=False)
    return {**_kept(settings, result.summary), "predictions": _predictions(result.network, settings)}


def _predictions(network: Network, settings: Settings) -> dict[str, list[float]]:
    device = usable_device(settings.device)
    with (
        current_device(device),
        reproducible(settings.seed, settings.threads, deterministic=settings.deterministic, tf32=settings.tf32),
    ):
        settings = resolved(settings)
        data = target_data(settings, print)
        images = SplitImages(settings, data.dataset, print, data.contents)
        form = network.image_format(settings.crop_size)
        found = evaluate_network(network, images.val, form, settings.batch_size, keep_logits=True)
    assert found.logits is not None
    names = (sample.image.name for sample in without(data.dataset.val, images.bad))
    rows = found.logits.double().softmax(1).tolist()
    return {
        data.contents[name].digest: [round(value, DIGITS) for value in row]
        for name, row in zip(names, rows, strict=True)
    }


def few_steps(settings: Settings, steps: int) -> dict[str, Any]:
    """Makes a run of a few steps; returns what it took, and ``full_steps``, the steps of the run itself.

    ``full_steps`` is zero for a method that takes no steps.
    """
    short = replace(settings, steps=steps, warmup_epochs=0.0, rifle_periods=1)
    result = fit(short, report=False)
    summary = result.summary
    full = run_steps(settings, summary["num_train"]) * summary["steps"] / steps
    names = ("train_seconds", "seconds_per_step")
    return {name: summary[name] for name in names} | {"full_steps": round(full), **_machine(settings)}


def _time_in_turn(baseline: Settings, other: Settings) -> dict[str, Any]:
    """Median seconds of a step of each, taken in turn, so that a slow spell of the machine hits both alike.

    Fits of the head are timed after them, and spread over the steps of fine-tuning; of a method without steps they are
    all that counts.
    """
    device = usable_device(baseline.device)
    with (
        current_device(device),
        reproducible(baseline.seed, baseline.threads, deterministic=baseline.deterministic, tf32=baseline.tf32),
    ):
        sides = [_trainer(resolved(settings)) for settings in (baseline, other)]
        rounds = min([WARM_UP + ROUNDS, *(side.sampler.steps for side in sides)])
        seconds: list[list[float]] = [[], []]
        for turn in range(rounds):
            for side, trainer in enumerate(sides):
                if trainer.steps == 0:
                    continue
                started = time.perf_counter()
                float(trainer.step())  # waits for the device
                if turn >= min(WARM_UP, rounds - 1):
                    seconds[side].append(time.perf_counter() - started)
        fitting = [_fitting_seconds(trainer) / trainer.sampler.steps for trainer in sides]
    medians = [(statistics.median(own) if own else 0.0) + more for own, more in zip(seconds, fitting, strict=True)]
    return {
        "relative_seconds": round(medians[1] / medians[0], 4),
        "seconds_per_step": round(medians[1], 6),
        "baseline_seconds_per_step": round(medians[0], 6),
        "rounds": len(seconds[0]),
        **_machine(baseline),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def _fitting_seconds(trainer: Trainer) -> float:
    """Seconds of all the fits of the head in a run."""
    count = fits(trainer.settings, trainer.method.takes_steps)
    return count * fit_head(trainer, print).seconds if count else 0.0


def _trainer(settings: Settings) -> Trainer:
    run = prepare(settings, print)
    return Trainer(run.parts, settings)


def _peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine(settings: Settings) -> dict[str, Any]:
    return {"device": usable_device(settings.device), "threads": settings.threads or default_threads()}


def _end_with_parent() -> None:
    os.read(0, 1)  # the next job is written after the end of this one
    os._exit(1)


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Does what is asked for; returns what the comparison keeps of it, with the seconds since it was asked."""
    folder = Path(asked["folder"])
    runs = [Settings(**values, output=str(folder / f"run{number}")) for number, values in enumerate(asked["settings"])]
    work: Mapping[str, Callable[..., dict[str, Any]]] = {
        "train": train,
        "time": _time_in_turn,
        "predict": predict,
        "few_steps": partial(few_steps, steps=asked.get("steps", 1)),
    }
    return work[asked["work"]](*runs) | {"run_seconds": round(time.time() - asked["started"], 3)}


def main() -> int:
    """Does what stdin asks for; returns the exit status, 1 where a job failed that had no fork."""
    accept_any_text()
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if sys.platform != "linux":
            return _work(asked)
        os.write(asked["status"], b"%d\n" % _in_fork(asked))
    return 0


def _in_fork(asked: dict[str, Any]) -> int:
    """Does a job in a fork, which writes to the job's log; returns its exit status, minus the signal that killed it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        try:
            status = _work(asked)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # the rest is the parent's


def _work(asked: dict[str, Any]) -> int:
    """Does a job; returns the exit status, 1 where a run failed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(asked["folder"])
    try:
        done = answer(asked)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        done = {"error": lines[0] if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {lines[0]}"}
    write_text(folder / "result.json", json.dumps(done))
    return "error" in done


if __name__ == "__main__":
    sys.exit(main())
