"""Tables of a comparison, as Markdown and CSV.

Methods are compared in pairs: runs of two methods with one seed on one task see the same splits, order and crops, so
the difference of their accuracies varies less than either accuracy. ``differences`` has the intervals.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..settings.fields import Settings
from .differences import LEVEL, Difference, holm
from .plan import BASELINE, Run, Task

AVERAGE = "average"
"""Takes the place of a target's name in rows that are averages over all tasks."""


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
    """Accuracy minus the baseline's, on these targets."""
    over_targets: Difference
    """The same, with targets that count as drawn at random; no pairs in rows of one task."""
    relative_seconds: float
    """Duration of a step divided by the baseline's."""
    images_seen: float
    steps: float
    peak_memory_mib: float
    source_accuracy: float = math.nan
    """The mean accuracy on source images after training, in percent; NaN where it was not measured."""
    source_accuracy_before: float = math.nan
    """The same before training, which tells how much was forgotten."""
    p_holm: float = math.nan
    """The p-value of ``difference``, corrected for all methods of the group."""
    over_targets_p_holm: float = math.nan
    """The p-value of ``over_targets``, corrected likewise."""
    post_hoc: str = ""
    """The targets on which the method's settings were chosen after its test runs."""


_Runs = Mapping[int, Mapping[str, Any]]
"""Lines of the file of results by seed."""
BySeed = Mapping[tuple[str, Task], _Runs]
"""Lines of the file of results by method and task, then by seed."""


def by_seed(runs: Iterable[Run], lines: Iterable[Mapping[str, Any]], split: str) -> BySeed:
    """The lines of those runs that have an accuracy on the split."""
    done = {line["key"]: line for line in lines if line.get(f"{split}_accuracy") is not None}
    found: dict[tuple[str, Task], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        if run.key in done:
            found.setdefault((run.method, run.task), {})[run.settings.seed] = done[run.key]
    return found


def rows(
    lines: BySeed,
    seconds: Mapping[tuple[str, Task], float],
    methods: Mapping[str, str],
    tasks: Sequence[Task],
    split: str,
    *,
    post_hoc: Container[tuple[str, Task]] = (),
) -> list[Row]:
    """A row for each task and method, after rows of averages over all tasks where there are several.

    ``methods`` gives the origin of each method: see :attr:`~xmixup_fast.comparison.plan.Comparison.origins`.
    ``seconds`` holds the relative durations of steps that have been timed. A pair is a seed that both the method and
    the baseline have on a task. An average takes the seeds that are done on all tasks. ``post_hoc`` holds what
    :func:`~xmixup_fast.comparison.post_hoc.chosen_late` found. P-values are corrected within each group of rows.
    """
    groups = ([list(tasks)] if len(tasks) > 1 else []) + [[task] for task in tasks]
    made = []
    for group in groups:
        own = [_row(lines, seconds, method, group, f"{split}_accuracy") for method in methods]
        p_values = holm([row.difference.p for row in own])
        over_targets = holm([row.over_targets.p for row in own])
        for row, p, over in zip(own, p_values, over_targets, strict=True):
            late = ", ".join(dict.fromkeys(task.target for task in group if (row.method, task) in post_hoc))
            made.append(
                replace(row, origin=methods[row.method], p_holm=p, over_targets_p_holm=over, post_hoc=late),
            )
    return made


def _row(
    lines: BySeed, seconds: Mapping[tuple[str, Task], float], method: str, tasks: Sequence[Task], column: str
) -> Row:
    """The row of a method on one task, or of its average over several; ``column`` names the accuracy in ``lines``."""
    own = [lines.get((method, task), {}) for task in tasks]
    base = [lines.get((BASELINE, task), {}) for task in tasks]
    seeds = sorted(set.intersection(*map(set, own)))
    accuracies = [statistics.fmean(by_seed[seed][column] for by_seed in own) for seed in seeds]
    differences = paired_differences(own, base, column) if method != BASELINE else [[]]
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
        over_targets=Difference.over_targets(*(differences if len(tasks) > 1 else [[]])),
        relative_seconds=_mean(times),
        images_seen=_mean([run["images_seen"] for run in runs]),
        steps=_mean([run["images_seen"] / run["settings"].get("batch_size", Settings.batch_size) for run in runs]),
        peak_memory_mib=_mean([run["peak_memory_mib"] for run in runs]),
        source_accuracy=_mean([run.get("source_accuracy", math.nan) for run in runs]),
        source_accuracy_before=_mean([run.get("source_accuracy_before", math.nan) for run in runs]),
    )


def paired_table(lines: BySeed, method: str, others: Mapping[str, str], tasks: Sequence[Task], split: str) -> str:
    """A Markdown table of a method's accuracy minus that of each other method, averaged over tasks.

    Pairs are as in :func:`rows`. ``others`` gives the origin of each method.
    """
    column, found = f"{split}_accuracy", {}
    for other in others:
        own, base = ([lines.get((name, task), {}) for task in tasks] for name in (method, other))
        differences = paired_differences(own, base, column)
        if other != method and any(differences):
            found[other] = differences
    of_seeds = {other: Difference.of(*differences) for other, differences in found.items()}
    of_targets = {other: Difference.over_targets(*(each if len(tasks) > 1 else [[]])) for other, each in found.items()}
    p_values = holm([difference.p for difference in of_seeds.values()])
    over_targets = holm([difference.p for difference in of_targets.values()])
    cells = []
    for (other, differences), p, over in zip(found.items(), p_values, over_targets, strict=True):
        pairs = [difference for task in differences for difference in task]
        positive = f"{sum(difference > 0 for difference in pairs)} of {len(pairs)}"
        intervals = (str(of_seeds[other]), _p_value(p), str(of_targets[other]), _p_value(over))
        cells.append((other, others[other], str(len(differences[0])), *intervals, positive))
    title = f"{method} minus each other method, {split} accuracy, average over {len(tasks)} targets"
    head = ("method", "origin", "seeds", *_heads(f"{method} minus it"), "pairs above zero")
    return f"**{title}**\n\n{table(head, cells)}"


def _heads(difference: str) -> tuple[str, str, str, str]:
    """The columns of a difference: with its interval and p-value, and as if the targets were drawn at random."""
    level = f"{100 * LEVEL:.0f} % interval"
    return f"{difference} ({level})", "p (Holm)", f"targets at random ({level})", "p (Holm)"


def paired_differences(own: Sequence[_Runs], base: Sequence[_Runs], column: str) -> list[list[float]]:
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
        *_heads(f"minus {BASELINE}'s"),
        f"step time / {BASELINE}'s",
        "images seen (steps x batch)",
        "peak memory, MiB",
        "source accuracy, % (before)",
        "chosen after test runs on",
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
        _p_value(row.p_holm),
        str(row.over_targets),
        _p_value(row.over_targets_p_holm),
        _number(row.relative_seconds, ".2f"),
        _number(row.images_seen, ".0f"),
        _number(row.peak_memory_mib, ".0f"),
        _source_accuracy(row),
        row.post_hoc,
    )


def _source_accuracy(row: Row) -> str:
    if math.isnan(row.source_accuracy):
        return ""
    return f"{row.source_accuracy:.1f} ({row.source_accuracy_before:.1f})"


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table with these columns and lines; a column that is empty in every line is left out."""
    body = list(cells)
    kept = [column for column in range(len(head)) if not body or any(line[column] for line in body)]
    lines = [[line[column] for column in kept] for line in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else _number(value, ".3f")


def _number(value: float, format_spec: str) -> str:
    return "" if math.isnan(value) else format(value, format_spec)


def comma_separated(table_rows: Sequence[Row]) -> str:
    """The rows as CSV, in full precision; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(Row) if item.name not in ("difference", "over_targets")]
    differences = ["difference", "low", "high", "pairs", "p", "targets_low", "targets_high", "targets_p"]
    writer.writerow([*names, *differences])
    for row in table_rows:
        own, over = row.difference, row.over_targets
        values = [*(getattr(row, name) for name in names), own.mean, own.low, own.high, own.pairs, own.p]
        values += [over.low, over.high, over.p]
        writer.writerow(["" if value is None or value != value else value for value in values])
    return text.getvalue()
