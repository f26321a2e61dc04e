"""Tuning: choosing settings from a grid by validation accuracy, with as many points for each method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .plan import BASELINE, Comparison
from .tables import table

Lines = Sequence[dict[str, Any]]
"""Lines of the file of results."""


def choose(comparison: Comparison, lines: Lines, without: str | None = None) -> dict[str, dict[str, Any]]:
    """The point of each method's grid with the highest mean validation accuracy; empty without a grid.

    ``without`` names a target whose validation images have no say in the choice.

    Of points with equal accuracy, the first is chosen. Raises ValueError where a method's tuning is not complete, or
    every one of its points has failed.
    """
    chosen = {}
    for method in comparison.grid:
        point = best_point(comparison, lines, method, without)
        if point is None and None in accuracies(comparison, lines, method, without):
            raise ValueError(f"grid: tuning of {method} is not complete; do it first, with --tune")
        if point is None:
            raise ValueError(f"grid: every point of {method} has failed; see the results and their logs")
        chosen[method] = point
    return chosen


def best_point(comparison: Comparison, lines: Lines, method: str, without: str | None = None) -> dict[str, Any] | None:
    """The point of a method's grid that :func:`choose` takes; None where tuning is not complete or all has failed."""
    means = accuracies(comparison, lines, method, without)
    if None in means or max(means) == -math.inf:
        return None
    return comparison.grid[method][means.index(max(means))]


def with_complete_tuning(comparison: Comparison, lines: Lines) -> Comparison:
    """The comparison without the methods whose tuning is not complete; the baseline always stays."""
    kept = {
        method: settings
        for method, settings in comparison.methods.items()
        if method == BASELINE or None not in accuracies(comparison, lines, method)
    }
    grid = {method: points for method, points in comparison.grid.items() if method in kept}
    origins = {method: origin for method, origin in comparison.origins.items() if method in kept}
    return replace(comparison, methods=kept, origins=origins, grid=grid)


def accuracies(comparison: Comparison, lines: Lines, method: str, without: str | None = None) -> list[Any]:
    """For each point of a method's grid, the mean validation accuracy over tasks and seeds of tuning, in percent.

    ``without`` names a target that is left out. The list is empty for a method without a grid.

    It is None where a run is missing, and minus infinity where a run has failed, as with too high a learning rate.
    """
    done = {line["key"]: line["val_accuracy"] for line in lines if line.get("val_accuracy") is not None}
    failed = {line["key"] for line in lines if "error" in line} - set(done)
    means: list[Any] = []
    for runs in comparison.tuning(method) if method in comparison.grid else []:
        keys = [run.key for run in runs if run.task.target != without]
        if failed & set(keys):
            means.append(-math.inf)
        else:
            complete = all(key in done for key in keys)
            means.append(statistics.fmean(done[key] for key in keys) if complete else None)
    return means


def tuned(comparison: Comparison, lines: Lines) -> str:
    """A Markdown table of the points of all methods' grids, in which the chosen points are marked."""
    cells = []
    for method, points in comparison.grid.items():
        means = accuracies(comparison, lines, method)
        complete = None not in means
        best = means.index(max(means)) if complete else None
        for position, (point, mean) in enumerate(zip(points, means, strict=True)):
            accuracy = "not complete" if mean is None else "failed" if mean == -math.inf else f"{mean:.2f}"
            settings = ", ".join(f"{name} {value}" for name, value in point.items())
            cells.append((method, comparison.origins[method], settings, accuracy, "chosen" if position == best else ""))
    runs = f"{'; '.join(map(str, comparison.tune_tasks))}; seeds {', '.join(map(str, comparison.tune_seeds))}"
    head = ("method", "origin", "settings", "mean validation accuracy, %", "")
    return f"**Settings tried, by validation accuracy** ({runs})\n\n{table(head, cells)}"
