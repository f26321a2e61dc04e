"""Tables of a comparison: Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
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
    origin: str
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
    lines: BySeed,
    seconds: Mapping[tuple[str, Task], float],
    methods: Mapping[str, str],
    tasks: Sequence[Task],
    split: str,
) -> list[Row]:
    """A row for each task and method; before them, where there are several tasks, averages over tasks.

    ``methods`` gives the origin of each method: see :attr:`~xmixup_fast.comparison.plan.Comparison.origins`.
    A pair is a seed that both a method and the baseline have on a task. An average takes the seeds that have all tasks.
    """
    column = f"{split}_accuracy"
    made = []
    for wanted in ([list(tasks)] if len(tasks) > 1 else []) + [[task] for task in tasks]:
        for method, origin in methods.items():
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
                    origin=origin,
                    seeds=len(seeds),
                    accuracy=_mean(accuracies),
                    difference=Difference.of(*gains),
                    relative_seconds=_mean(times),
                    images_seen=_mean([run["images_seen"] for run in runs]),
                    peak_memory_mib=_mean([run["peak_memory_mib"] for run in runs]),
                )
            )
    return made


def paired_table(lines: BySeed, method: str, others: Mapping[str, str], tasks: Sequence[Task], split: str) -> str:
    """A table of a method's accuracy minus each other one's, averaged over tasks; Markdown, paired as in ``rows``.

    ``others`` gives the origin of each method.
    """
    column, cells = f"{split}_accuracy", []
    for other, origin in others.items():
        own, base = ([lines.get((name, task), {}) for task in tasks] for name in (method, other))
        gains = _gains(own, base, column)
        pairs = [gain for task in gains for gain in task]
        if other != method and pairs:
            positive = f"{sum(gain > 0 for gain in pairs)} of {len(pairs)}"
            cells.append((other, origin, str(len(gains[0])), str(Difference.of(*gains)), positive))
    title = f"{method} minus each other method, {split} accuracy, average over {len(tasks)} targets"
    head = ("method", "origin", "seeds", f"{method} minus it ({100 * LEVEL:.0f} % interval)", "pairs above zero")
    return f"**{title}**\n\n{table(head, cells)}"


def _gains(own: Sequence[_Runs], base: Sequence[_Runs], column: str) -> list[list[float]]:
    """Each task's differences, for the seeds that both sides have on all tasks."""
    seeds = sorted(set.intersection(*map(set, [*own, *base])))
    return [[a[seed][column] - b[seed][column] for seed in seeds] for a, b in zip(own, base, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def markdown(made: Sequence[Row], split: str) -> list[str]:
    """A Markdown table for each task, the average first; of the methods that have been run."""
    head = (
        *("method", "origin", "seeds", f"{split} accuracy, %", f"minus {BASELINE}'s ({100 * LEVEL:.0f} % interval)"),
        *(f"step time / {BASELINE}'s", "images seen (steps x batch)", "peak memory, MiB"),
    )
    parts = []
    for name, shots in dict.fromkeys((row.target, row.shots) for row in made):
        own = [row for row in made if (row.target, row.shots) == (name, shots)]
        tasks = len({(row.target, row.shots) for row in made}) - 1
        title = f"Average over {tasks} targets" if name == AVERAGE else str(Task(name, shots))
        cells = [
            (
                *(row.method, row.origin, str(row.seeds), _number(row.accuracy, ".1f"), str(row.difference)),
                *(_number(row.relative_seconds, ".2f"), _number(row.images_seen, ".0f")),
                _number(row.peak_memory_mib, ".0f"),
            )
            for row in own
            if row.seeds
        ]
        parts.append(f"**{title}**\n\n{table(head, cells)}")
    return parts


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a column that is empty in every row is left out."""
    body = list(cells)
    kept = [place for place in range(len(head)) if not body or any(line[place] for line in body)]
    lines = [[line[place] for place in kept] for line in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
