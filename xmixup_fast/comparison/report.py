"""What is made of results: paired differences with their intervals, as Markdown, CSV and a plot."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from .plan import BASELINE, Task

AVERAGE = "average"
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, and its 95 % interval; NaN where one pair gives none."""

    mean: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, *tasks: Sequence[float]) -> Difference:
        """Of each task's differences, one for each seed; of several tasks, the mean of their means.

        Seeds on different tasks are taken to be independent: the mean's variance is the sum of the tasks' own, and
        Student's t distribution has Welch and Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946).
        """
        from scipy import stats

        pairs = min(map(len, tasks))
        mean, half = statistics.fmean(map(statistics.fmean, tasks)) if pairs else math.nan, math.nan
        if pairs > 1:
            variances = [statistics.variance(values) / len(values) for values in tasks]
            parts = [variance**2 / (len(values) - 1) for variance, values in zip(variances, tasks, strict=True)]
            freedom = sum(variances) ** 2 / sum(parts) if any(parts) else pairs - 1
            half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(sum(variances)) / len(tasks)
        return cls(mean, mean - half, mean + half, pairs)

    def __str__(self) -> str:
        if not self.pairs:
            return ""
        if math.isnan(self.low):
            return f"{self.mean:+.1f}, one pair, no interval"
        verdict = "above zero" if self.low > 0 else "below zero" if self.high < 0 else "includes zero"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}), {verdict}"


@dataclass(frozen=True)
class Row:
    """A method's figures on one task, or averaged over all; NaN and 0 where there are none."""

    target: str
    shots: int | None
    method: str
    seeds: int
    accuracy: float
    difference: Difference
    relative_seconds: float
    images_seen: float
    peak_memory_mib: float


_Runs = Mapping[int, Mapping[str, Any]]
BySeed = Mapping[tuple[str, Task], _Runs]
"""Lines of results by method and task, then seed."""


def rows(
    lines: BySeed, seconds: Mapping[tuple[str, Task], float], methods: Iterable[str], tasks: Sequence[Task], split: str
) -> list[Row]:
    """A row for each task and method; before them, where there are several tasks, averages over tasks.

    A pair is a seed that both a method and the baseline have on a task. An average takes the seeds that have all tasks.
    """
    column = f"{split}_accuracy"
    made = []
    for wanted in ([list(tasks)] if len(tasks) > 1 else []) + [[task] for task in tasks]:
        for method in methods:
            own = [lines.get((method, task), {}) for task in wanted]
            base = [lines.get((BASELINE, task), {}) for task in wanted]
            seeds = sorted(set.intersection(*map(set, own)))
            accuracies = [statistics.fmean(by[seed][column] for by in own) for seed in seeds]
            gains = _gains(own, base, column) if method != BASELINE else [[]]
            runs = [by[seed] for by in own for seed in seeds]
            times = [1.0 if method == BASELINE else seconds.get((method, task), math.nan) for task in wanted]
            made.append(
                Row(
                    target=AVERAGE if len(wanted) > 1 else wanted[0].target,
                    shots=None if len(wanted) > 1 else wanted[0].shots,
                    method=method,
                    seeds=len(seeds),
                    accuracy=_mean(accuracies),
                    difference=Difference.of(*gains),
                    relative_seconds=_mean(times),
                    images_seen=_mean([run["images_seen"] for run in runs]),
                    peak_memory_mib=_mean([run["peak_memory_mib"] for run in runs]),
                )
            )
    return made


def ahead(lines: BySeed, method: str, others: Iterable[str], tasks: Sequence[Task], split: str) -> str:
    """A table of a method's accuracy minus each other one's, averaged over tasks; Markdown, paired as in ``rows``."""
    column, cells = f"{split}_accuracy", []
    for other in others:
        own, base = ([lines.get((name, task), {}) for task in tasks] for name in (method, other))
        gains = _gains(own, base, column)
        pairs = [gain for task in gains for gain in task]
        if other != method and pairs:
            positive = f"{sum(gain > 0 for gain in pairs)} of {len(pairs)}"
            cells.append((other, str(len(gains[0])), str(Difference.of(*gains)), positive))
    title = f"{method} minus each other method, {split} accuracy, average over {len(tasks)} targets"
    head = ("method", "seeds", f"{method} minus it ({100 * LEVEL:.0f} % interval)", "pairs above zero")
    return f"**{title}**\n\n{table(head, cells)}"


def _gains(own: Sequence[_Runs], base: Sequence[_Runs], column: str) -> list[list[float]]:
    """Each task's differences, for the seeds that both sides have on all tasks."""
    seeds = sorted(set.intersection(*map(set, [*own, *base])))
    return [[a[seed][column] - b[seed][column] for seed in seeds] for a, b in zip(own, base, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def markdown(made: Sequence[Row], split: str) -> str:
    """A table for each task, the average first; of the methods that have been run."""
    head = (
        *("method", "seeds", f"{split} accuracy, %", f"minus {BASELINE}'s ({100 * LEVEL:.0f} % interval)"),
        *(f"step time / {BASELINE}'s", "images seen (steps x batch)", "peak memory, MiB"),
    )
    parts = []
    for name, shots in dict.fromkeys((row.target, row.shots) for row in made):
        own = [row for row in made if (row.target, row.shots) == (name, shots)]
        tasks = len({(row.target, row.shots) for row in made}) - 1
        title = f"Average over {tasks} targets" if name == AVERAGE else str(Task(name, shots))
        cells = [
            (
                *(row.method, str(row.seeds), _number(row.accuracy, ".1f"), str(row.difference)),
                *(_number(row.relative_seconds, ".2f"), _number(row.images_seen, ".0f")),
                _number(row.peak_memory_mib, ".0f"),
            )
            for row in own
            if row.seeds
        ]
        parts.append(f"**{title}**\n\n{table(head, cells)}")
    return "\n\n".join(parts)


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells])


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def comma_separated(made: Sequence[Row]) -> str:
    """The rows as CSV, in full precision; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(Row) if item.name != "difference"]
    writer.writerow([*names, "difference", "low", "high", "pairs"])
    for row in made:
        values = [*(getattr(row, name) for name in names), *astuple(row.difference)]
        writer.writerow(["" if value is None or value != value else value for value in values])
    return text.getvalue()


def plot(made: Sequence[Row], split: str, path: Path) -> bool:
    """Accuracy beyond the baseline's against relative step time, as a PNG, of the first table.

    Returns False, and writes nothing, where no method has been both trained and timed.
    """
    from matplotlib.figure import Figure

    from .. import figures

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
