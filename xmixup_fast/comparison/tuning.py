"""Choosing settings out of a grid by validation accuracy, with the same effort for each method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .plan import Comparison
from .tables import table

Lines = Sequence[dict[str, Any]]


def choose(comparison: Comparison, lines: Lines) -> dict[str, dict[str, Any]]:
    """The point of each method's grid with the highest mean validation accuracy; empty without a grid.

    Raises ValueError where tuning has not been done.
    """
    chosen = {}
    for method, points in comparison.grid.items():
        means = accuracies(comparison, lines, method)
        if any(mean is None for mean in means):
            raise ValueError(f"grid: tuning of {method} is not complete; do it first, with --tune")
        best = max(range(len(points)), key=lambda place: (means[place], -place))
        if means[best] == -math.inf:
            raise ValueError(f"grid: every point of {method} has failed; see the results and their logs")
        chosen[method] = points[best]
    return chosen


def accuracies(comparison: Comparison, lines: Lines, method: str) -> list[Any]:
    """Mean validation accuracy of each point over tasks and tuning seeds; None where it is not known yet.

    A point of which a run fails, such as by a learning rate that is too high, is worth minus infinity.
    """
    known = {line["key"]: line["val_accuracy"] for line in lines if line.get("val_accuracy") is not None}
    failed = {line["key"] for line in lines if "error" in line} - set(known)
    means: list[Any] = []
    for runs in comparison.tuning(method):
        keys = [run.key for run in runs]
        if failed & set(keys):
            means.append(-math.inf)
        else:
            complete = all(key in known for key in keys)
            means.append(statistics.fmean(known[key] for key in keys) if complete else None)
    return means


def tuned(comparison: Comparison, lines: Lines) -> str:
    """A table of all points of all grids, the chosen ones marked."""
    cells = []
    for method, points in comparison.grid.items():
        means = accuracies(comparison, lines, method)
        complete = None not in means
        best = means.index(max(means)) if complete else None
        for place, (point, mean) in enumerate(zip(points, means, strict=True)):
            shown = "not complete" if mean is None else "failed" if mean == -math.inf else f"{mean:.2f}"
            setting = ", ".join(f"{name} {value}" for name, value in point.items())
            cells.append((method, comparison.origins[method], setting, shown, "chosen" if place == best else ""))
    over = f"{'; '.join(map(str, comparison.tune_tasks))}; seeds {', '.join(map(str, comparison.tune_seeds))}"
    head = ("method", "origin", "settings", "mean validation accuracy, %", "")
    return f"**Settings tried, by validation accuracy** ({over})\n\n{table(head, cells)}"
