"""The plot of a comparison: accuracy against the time of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .differences import LEVEL, Difference
from .plan import BASELINE, Task
from .tables import AVERAGE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 10
"""Colours of matplotlib's default cycle."""


class Point(NamedTuple):
    """A method in the plot."""

    time: float
    """Duration of training, which is steps times the duration of a step, relative to the baseline's."""
    gain: Difference
    """Accuracy minus the baseline's."""
    method: str
    label: str
    """The method's name, with its origin where that is known."""


def plot(table_rows: Sequence[Row], split: str, path: Path) -> bool:
    """Plots accuracy minus the baseline's against training time, for the first task of the rows, as a PNG file.

    The time is relative to the baseline's: that of a step, as it was measured in turn, times the number of steps.
    Returns False, and writes nothing, where no method but the baseline has been both trained and timed.
    """
    from matplotlib.figure import Figure

    from ..report import figures, lettering

    first, shown = table_rows[0], points(table_rows)
    if len(shown) < 2:
        return False
    bounds = [bound for _, gain, _, _ in shown for bound in (gain.low, gain.mean, gain.high) if not math.isnan(bound)]
    gap = (max(bounds) - min(bounds)) / 18 or 1.0
    heights = _apart([gain.mean for _, gain, _, _ in shown], gap)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)
    for number, (point, height) in enumerate(zip(shown, heights, strict=True)):
        _draw_point(axes, point, number, height)
    times = [point.time for point in shown]
    margin = 0.06 * max(max(times) - min(times), 0.1)
    axes.set(
        xlim=(min(times) - margin, max(times) + margin),
        ylim=(min(bounds + heights) - gap, max(bounds + heights) + gap),
        xlabel=f"time of training (steps times the time of a step), in multiples of {BASELINE}'s",
        ylabel=f"{split} accuracy minus {BASELINE}'s, points, with {100 * LEVEL:.0f} % interval",
    )
    title = "average over targets" if first.target == AVERAGE else str(Task(first.target, first.shots))
    title += ", some settings chosen after test runs" if any(row.post_hoc for row in table_rows) else ""
    axes.set_title(lettering.drawable(title), **lettering.text_style())
    axes.grid(alpha=0.25)
    figures.save(figure, path)
    return True


def points(table_rows: Sequence[Row]) -> list[Point]:
    """The methods of the first task that have been trained and timed, by rising gain."""
    first = [row for row in table_rows if (row.target, row.shots) == (table_rows[0].target, table_rows[0].shots)]
    steps = {row.method: row.steps for row in first}
    found = [
        Point(
            row.relative_seconds * row.steps / steps[BASELINE],
            row.difference if row.method != BASELINE else Difference(0.0, 0.0, 0.0, 0),
            row.method,
            f"{row.method} ({row.origin})" if row.origin else row.method,
        )
        for row in first
        if not math.isnan(row.relative_seconds) and (row.method == BASELINE or row.difference.pairs)
    ]
    return sorted(found, key=lambda point: point.gain.mean)


def _draw_point(axes: Axes, point: Point, number: int, height: float) -> None:
    """Draws a method's mark and interval, and its name in a column at the right, at the given height.

    Names stand in a column since many methods take nearly the same time.
    """
    from ..report import figures, lettering

    time, gain, method, label = point
    colour = "black" if method == BASELINE else f"C{number % COLOURS}"
    if gain.pairs > 1:
        axes.vlines(time, gain.low, gain.high, color=colour, alpha=0.45, linewidth=2)
    marker = "s" if method == BASELINE else "o^"[number // COLOURS % 2]
    axes.plot(time, gain.mean, marker, color=colour)
    line = {"arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.8, "shrinkB": 4, "relpos": (0, 0.5)}
    axes.annotate(
        figures.shorten(lettering.drawable(label)),
        xy=(time, gain.mean),
        xytext=(1.03, height),
        textcoords=axes.get_yaxis_transform(),
        color=colour,
        va="center",
        arrowprops=line,
        **lettering.text_style(),
    )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Rising values, spread so that neighbours are at least ``gap`` apart, and centred about where they were."""
    up, down = list(values), list(values)
    for i in range(1, len(values)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-i - 1] = min(down[-i - 1], down[-i] - gap)
    return [(a + b) / 2 for a, b in zip(up, down, strict=True)]
