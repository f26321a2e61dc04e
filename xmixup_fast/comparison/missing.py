"""Runs that are still to be made: which ones, and how long they will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .plan import Run


def missing(runs: Iterable[Run], lines: Iterable[Mapping[str, Any]], split: str) -> list[Run]:
    """Those of the runs, each once, that have no accuracy on the split yet."""
    done = {line["key"] for line in lines if line.get(f"{split}_accuracy") is not None}
    return list({run.key: run for run in runs if run.key not in done}.values())


def grouped(runs: Iterable[Run], given: Iterable[str]) -> list[str]:
    """A text for each method, task and settings, with the seeds. ``given`` names the settings of the grids."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    names = sorted(set(given))
    for run in runs:
        point = [f"{name} {getattr(run.settings, name)}" for name in names]
        seeds.setdefault((f"{run.method} on {run.task}", *point), []).append(run.settings.seed)
    return [f"{', '.join(place)}: seeds {', '.join(map(str, own))}" for place, own in seeds.items()]


def hours(runs: Sequence[Run], lines: Iterable[Mapping[str, Any]]) -> float | None:
    """How long the runs will take one after the other, by the runs in the file; None where no run has a time.

    A run takes the median time of its method on its task; where the task is new, of its method on any task; where the
    method is new, of any method on the task, or of all runs.
    """
    times: dict[tuple[str | None, tuple[str, int | None] | None], list[float]] = {}
    for line in lines:
        if line.get("train_seconds") is not None:
            seconds = line["train_seconds"] + line["selection_seconds"]
            task = (line["target"], line["shots"])
            for place in ((line["method"], task), (line["method"], None), (None, task), (None, None)):
                times.setdefault(place, []).append(seconds)
    if not times:
        return None
    total = 0.0
    for run in runs:
        task = (run.task.target, run.task.shots)
        places = ((run.method, task), (run.method, None), (None, task), (None, None))
        total += statistics.median(next(times[place] for place in places if place in times))
    return total / 3600


def outlook(runs: Sequence[Run], of: int, lines: Iterable[Mapping[str, Any]], given: Iterable[str]) -> str:
    """What is missing of so many runs, as lines of text."""
    time = hours(runs, lines)
    takes = f"; about {time:.1f} hours one after the other, if each takes as long as those in the file" if time else ""
    return "\n".join([f"{len(runs)} of {of} runs are missing{takes}", *grouped(runs, given)])
