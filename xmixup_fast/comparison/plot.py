"""The plot of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .plan import BASELINE, Task
from .tables import AVERAGE, LEVEL, Difference, Row


def plot(made: Sequence[Row], split: str, path: Path) -> bool:
    """Accuracy beyond the baseline's against relative step time, as a PNG, of the first table.

    Returns False, and writes nothing, where no method has been both trained and timed.
    """
    from matplotlib.figure import Figure

    from ..report import figures

    first = [row for row in made if (row.target, row.shots) == (made[0].target, made[0].shots)]
    points = [
        (row.relative_seconds, row.difference if row.method != BASELINE else Difference(0.0, 0.0, 0.0, 0), row.method)
        for row in first
        if not math.isnan(row.relative_seconds) and (row.method == BASELINE or row.difference.pairs)
    ]
    if len(points) < 2:
        return False
    points.sort(key=lambda point: point[1].mean)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)
    bounds = [bound for _, gain, _ in points for bound in (gain.low, gain.mean, gain.high) if not math.isnan(bound)]
    gap = (max(bounds) - min(bounds)) / 18 or 1.0
    heights = _apart([gain.mean for _, gain, _ in points], gap)
    for number, ((time, gain, method), height) in enumerate(zip(points, heights, strict=True)):
        colour = "black" if method == BASELINE else f"C{number % 10}"
        if gain.pairs > 1:
            axes.vlines(time, gain.low, gain.high, color=colour, alpha=0.45, linewidth=2)
        marker = "s" if method == BASELINE else "o^"[number // 10 % 2]  # there are ten colours
        axes.plot(time, gain.mean, marker, color=colour)
        # Many methods take nearly the same time, so names stand in a column at the right.
        line = {"arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.8, "shrinkB": 4, "relpos": (0, 0.5)}
        axes.annotate(
            method,
            xy=(time, gain.mean),
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            va="center",
            arrowprops=line,
        )
    times = [time for time, _, _ in points]
    margin = 0.06 * max(max(times) - min(times), 0.1)
    axes.set(
        xlim=(min(times) - margin, max(times) + margin),
        ylim=(min(bounds + heights) - gap, max(bounds + heights) + gap),
        xlabel=f"time of a step, in multiples of {BASELINE}'s",
        ylabel=f"{split} accuracy minus {BASELINE}'s, points, with {100 * LEVEL:.0f} % interval",
        title="average over targets" if made[0].target == AVERAGE else str(Task(made[0].target, made[0].shots)),
    )
    axes.grid(alpha=0.25)
    figures.save(figure, path)
    return True


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Rising values, moved as little up as down until they are ``gap`` apart."""
    up, down = list(values), list(values)
    for place in range(1, len(values)):
        up[place] = max(up[place], up[place - 1] + gap)
        down[-place - 1] = min(down[-place - 1], down[-place] - gap)
    return [(a + b) / 2 for a, b in zip(up, down, strict=True)]
