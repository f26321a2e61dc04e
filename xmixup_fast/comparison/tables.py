"""Tables of a comparison, as Markdown and CSV.

Methods are compared in pairs: runs of two methods with one seed on one task see the same splits, order and crops, so
the difference of their accuracies varies less than either accuracy.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from .plan import BASELINE, Task

AVERAGE = "average"
"""Takes the place of a target's name in rows that are averages over all tasks."""
LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences of accuracy, in points, with its confidence interval."""

    mean: float
    """NaN without pairs."""
    low: float
    """NaN with fewer than two pairs, as ``high``."""
    high: float
    pairs: int
    """The number of pairs; of several tasks, that of the task with the fewest."""

    @classmethod
    def of(cls, *tasks: Sequence[float]) -> Difference:
        """The mean over tasks of the mean difference on each task; ``tasks`` hold one difference per seed.

        Differences on different tasks count as independent, so the variances of the tasks' means add up, and the
        interval is that of Student's t distribution with Welch and Satterthwaite's degrees of freedom (Satterthwaite
        1946, Biometrics Bulletin 2).
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
    """The results of a method on one task, or their average over all tasks; means are NaN where no run is done."""

    target: str
    shots: int | None
    method: str
    origin: str
    """Where the method comes from: see :attr:`~xmixup_fast.comparison.plan.Comparison.origins`."""
    seeds: int
    """The number of seeds whose runs are done; for an average, on all tasks."""
    accuracy: float
    """The mean, in percent."""
    difference: Difference
    """Accuracy minus the baseline's."""
    relative_seconds: float
    """Duration of a step divided by the baseline's."""
    images_seen: float
    peak_memory_mib: float


_Runs = Mapping[int, Mapping[str, Any]]
"""Lines of the file of results by seed."""
BySeed = Mapping[tuple[str, Task], _Runs]
"""Lines of the file of results by method and task, then by seed."""


def rows(
    lines: BySeed,
    seconds: Mapping[tuple[str, Task], float],
    methods: Mapping[str, str],
    tasks: Sequence[Task],
    split: str,
) -> list[Row]:
    """A row for each task and method, after rows of averages over all tasks where there are several.

    ``methods`` gives the origin of each method: see :attr:`~xmixup_fast.comparison.plan.Comparison.origins`.
    ``seconds`` holds the relative durations of steps that have been timed. A pair is a seed that both the method and
    the baseline have on a task. An average takes the seeds that are done on all tasks.
    """
    groups = ([list(tasks)] if len(tasks) > 1 else []) + [[task] for task in tasks]
    return [
        replace(_row(lines, seconds, method, group, f"{split}_accuracy"), origin=origin)
        for group in groups
        for method, origin in methods.items()
    ]


def _row(
    lines: BySeed, seconds: Mapping[tuple[str, Task], float], method: str, tasks: Sequence[Task], column: str
) -> Row:
    """The row of a method on one task, or of its average over several; ``column`` names the accuracy in ``lines``."""
    own = [lines.get((method, task), {}) for task in tasks]
    base = [lines.get((BASELINE, task), {}) for task in tasks]
    seeds = sorted(set.intersection(*map(set, own)))
    accuracies = [statistics.fmean(by_seed[seed][column] for by_seed in own) for seed in seeds]
    differences = _paired_differences(own, base, column) if method != BASELINE else [[]]
    runs = [by_seed[seed] for by_seed in own for seed in seeds]
    times = [1.0 if method == BASELINE else seconds.get((method, task), math.nan) for task in tasks]
    return Row(
        target=AVERAGE if len(tasks) > 1 else tasks[0].target,
        shots=None if len(tasks) > 1 else tasks[0].shots,
        method=method,
        origin="",
        seeds=len(seeds),
        accuracy=_mean(accuracies),
        difference=Difference.of(*differences),
        relative_seconds=_mean(times),
        images_seen=_mean([run["images_seen"] for run in runs]),
        peak_memory_mib=_mean([run["peak_memory_mib"] for run in runs]),
    )


def paired_table(lines: BySeed, method: str, others: Mapping[str, str], tasks: Sequence[Task], split: str) -> str:
    """A Markdown table of a method's accuracy minus that of each other method, averaged over tasks.

    Pairs are as in :func:`rows`. ``others`` gives the origin of each method.
    """
    column, cells = f"{split}_accuracy", []
    for other, origin in others.items():
        own, base = ([lines.get((name, task), {}) for task in tasks] for name in (method, other))
        differences = _paired_differences(own, base, column)
        pairs = [difference for task in differences for difference in task]
        if other != method and pairs:
            positive = f"{sum(difference > 0 for difference in pairs)} of {len(pairs)}"
            cells.append((other, origin, str(len(differences[0])), str(Difference.of(*differences)), positive))
    title = f"{method} minus each other method, {split} accuracy, average over {len(tasks)} targets"
    head = ("method", "origin", "seeds", f"{method} minus it ({100 * LEVEL:.0f} % interval)", "pairs above zero")
    return f"**{title}**\n\n{table(head, cells)}"


def _paired_differences(own: Sequence[_Runs], base: Sequence[_Runs], column: str) -> list[list[float]]:
    """For each task the differences own - base, one for each seed that both have on all tasks."""
    seeds = sorted(set.intersection(*map(set, [*own, *base])))
    return [[a[seed][column] - b[seed][column] for seed in seeds] for a, b in zip(own, base, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def markdown(table_rows: Sequence[Row], split: str) -> list[str]:
    """A Markdown table for each task, the average first; methods without a finished run are left out."""
    head = (
        "method",
        "origin",
        "seeds",
        f"{split} accuracy, %",
        f"minus {BASELINE}'s ({100 * LEVEL:.0f} % interval)",
        f"step time / {BASELINE}'s",
        "images seen (steps x batch)",
        "peak memory, MiB",
    )
    parts = []
    tasks = dict.fromkeys((row.target, row.shots) for row in table_rows)
    for name, shots in tasks:
        title = f"Average over {len(tasks) - 1} targets" if name == AVERAGE else str(Task(name, shots))
        cells = [_cells(row) for row in table_rows if (row.target, row.shots) == (name, shots) and row.seeds]
        parts.append(f"**{title}**\n\n{table(head, cells)}")
    return parts


def _cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of the columns of :func:`markdown`."""
    return (
        row.method,
        row.origin,
        str(row.seeds),
        _number(row.accuracy, ".1f"),
        str(row.difference),
        _number(row.relative_seconds, ".2f"),
        _number(row.images_seen, ".0f"),
        _number(row.peak_memory_mib, ".0f"),
    )


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table with these columns and lines; a column that is empty in every line is left out."""
    body = list(cells)
    kept = [column for column in range(len(head)) if not body or any(line[column] for line in body)]
    lines = [[line[column] for column in kept] for line in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float, format_spec: str) -> str:
    return "" if math.isnan(value) else format(value, format_spec)


def comma_separated(table_rows: Sequence[Row]) -> str:
    """The rows as CSV, in full precision; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(Row) if item.name != "difference"]
    writer.writerow([*names, "difference", "low", "high", "pairs"])
    for row in table_rows:
        values = [*(getattr(row, name) for name in names), *astuple(row.difference)]
        writer.writerow(["" if value is None or value != value else value for value in values])
    return text.getvalue()
