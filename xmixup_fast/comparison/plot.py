"""The plots of a comparison: accuracy against the time of training, and against a setting of the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .differences import LEVEL, Difference
from .plan import BASELINE, Comparison, Task
from .tables import AVERAGE, BySeed, Row, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 10
"""Colours of matplotlib's default cycle."""
POST_HOC = ", some settings chosen after test runs"
"""What a title says where it is so."""
MARKERS = "o^Dvs"
"""Marks of methods, for each round of the colours another one."""
WIDE = 4.0
"""Largest ratio of a setting's values up to which their axis is linear."""
LEGEND_COLUMNS = 3
"""Names of methods beside one another below a plot against a setting."""


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
    title += POST_HOC if any(row.post_hoc for row in table_rows) else ""
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
            _label(row.method, row.origin),
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
    marker = "s" if method == BASELINE else MARKERS[number // COLOURS % len(MARKERS)]
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


Panels = dict[str, dict[float, list[Task]]]
"""Tasks by the panel in which they are drawn, and there by the value of the setting."""


def panels(comparison: Comparison, setting: str) -> Panels:
    """The tasks for a plot against a setting, such as shots or steps, whose values rise in each panel.

    A panel has one value of each other setting in which tasks on the same images differ; its name says which ones.
    Raises ValueError unless every target has the same numbers of the setting in all panels, and several.
    """
    values = {task: {**comparison.settings[task], "shots": task.shots} for task in comparison.tasks}
    names = dict.fromkeys(name for given in values.values() for name in given if name not in ("target", setting))
    of_target: dict[str, list[Task]] = {}
    for task, given in values.items():
        of_target.setdefault(str(given["target"]), []).append(task)
    differ = [
        name
        for name in names
        if any(len({str(values[task].get(name)) for task in tasks}) > 1 for tasks in of_target.values())
    ]
    found: Panels = {}
    numbers: dict[tuple[str, str], list[Any]] = {}
    for task, given in values.items():
        panel = ", ".join(f"{name} {given.get(name)}" for name in differ)
        number: Any = given.get(setting)
        found.setdefault(panel, {}).setdefault(number, []).append(task)
        numbers.setdefault((str(given["target"]), panel), []).append(number)
    first = next(iter(numbers.values()))
    are_numbers = all(type(number) in (int, float) for number in first)
    if len(set(first)) < 2 or not are_numbers or any(set(own) != set(first) for own in numbers.values()):
        each = "; ".join(dict.fromkeys(f"{target}: {', '.join(map(str, own))}" for (target, _), own in numbers.items()))
        raise ValueError(f"curve: expected several numbers of {setting}, the same for all targets, got {each}")
    return {panel: dict(sorted(tasks.items())) for panel, tasks in found.items()}


def plot_curve(
    comparison: Comparison, lines: BySeed, setting: str, split: str, path: Path, *, post_hoc: bool = False
) -> bool:
    """Plots the methods' gains over the baseline against a setting of the tasks, averaged over targets, as a PNG file.

    There is a panel for each of :func:`panels`. Below each of the setting's values stands the baseline's accuracy.
    Returns False, and writes nothing, where no method has a run beside one of the baseline's.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from ..report import figures, lettering

    origins = comparison.origins
    shown = {
        panel: {
            value: {row.method: row for row in rows(lines, {}, origins, tasks, split)[: len(origins)]}
            for value, tasks in by_value.items()
        }
        for panel, by_value in panels(comparison, setting).items()
    }
    others = [method for method in origins if method != BASELINE]
    found = [by_method[method] for by_value in shown.values() for by_method in by_value.values() for method in others]
    if not any(row.difference.pairs for row in found):
        return False
    figure = Figure(figsize=(4.2 + 3.6 * len(shown), 5.4), layout="constrained")
    columns = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (panel, by_value) in zip(columns, shown.items(), strict=True):
        is_wide = min(by_value) > 0 and max(by_value) / min(by_value) > WIDE
        gap = 0.012 * (math.log(max(by_value) / min(by_value)) if is_wide else max(by_value) - min(by_value))
        axes.axhline(0, color="0.7", linewidth=1, zorder=0)
        for number, method in enumerate(others):
            shift = gap * (number - (len(others) - 1) / 2)
            points = {value: row[method].difference for value, row in by_value.items() if row[method].difference.pairs}
            places = [value * math.exp(shift) if is_wide else value + shift for value in points]
            _draw_curve(axes, places, list(points.values()), number, _label(method, origins[method]))
        if is_wide:
            axes.set_xscale("log")
        own = {value: by_method[BASELINE].accuracy for value, by_method in by_value.items()}
        ticks = [
            f"{value:g}" + ("" if math.isnan(accuracy) else f"\n{accuracy:.1f}") for value, accuracy in own.items()
        ]
        axes.set_xticks(list(by_value), ticks)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{setting}; below, {BASELINE}'s accuracy, %")
        axes.set_title(lettering.drawable(panel), **lettering.text_style())
        axes.grid(alpha=0.25)
    columns[0].set_ylabel(f"{split} accuracy minus {BASELINE}'s, points, with {100 * LEVEL:.0f} % interval")
    targets = dict.fromkeys(Path(str(comparison.settings[task]["target"])).name for task in comparison.tasks)
    title = f"average over {', '.join(targets)}" if len(targets) > 1 else next(iter(targets))
    title = lettering.drawable(title + (POST_HOC if post_hoc else ""))
    figure.suptitle(title, **lettering.text_style())
    legend = figure.legend(*columns[0].get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    for text in legend.get_texts():
        text.set(**lettering.text_style())
    figures.save(figure, path)
    return True


def _label(method: str, origin: str) -> str:
    """A method's name, with its origin where that is known."""
    return f"{method} ({origin})" if origin else method


def _draw_curve(axes: Axes, places: Sequence[float], gains: Sequence[Difference], number: int, label: str) -> None:
    """Draws a method's gains at places of the x axis, with their intervals where they have one."""
    from ..report import figures, lettering

    colour, marker = f"C{number % COLOURS}", MARKERS[number // COLOURS % len(MARKERS)]
    means = [point.mean for point in gains]
    axes.plot(
        places,
        means,
        marker,
        linestyle="-",
        color=colour,
        markersize=4,
        label=figures.shorten(lettering.drawable(label)),
    )
    for place, point in zip(places, gains, strict=True):
        if point.pairs > 1:
            axes.vlines(place, point.low, point.high, color=colour, alpha=0.45, linewidth=2)
