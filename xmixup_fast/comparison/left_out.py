"""Each target at the settings that the other targets chose: leave one target out.

Few users have validation images by the hundred. What a setting is worth to them shows on targets that had no say in its
choice. The same tuning runs tell what each target's others would have chosen.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from .missing import grouped, missing
from .plan import Comparison, Run, Task
from .tables import by_seed, markdown, rows
from .tuning import choose


def can_leave_out(comparison: Comparison) -> bool:
    """Whether for each target another one has been tuned on."""
    tuned_on = {task.target for task in comparison.tune_tasks}
    return bool(comparison.grid) and all(tuned_on - {task.target} for task in comparison.tasks)


def left_out_runs(comparison: Comparison, lines: Sequence[dict[str, Any]]) -> list[Run]:
    """The runs of each task at the settings that the other targets chose. Raises ValueError as ``choose`` does."""
    chosen = {task: choose(comparison, lines, without=task.target) for task in comparison.tasks}
    return [run for task in comparison.tasks for run in comparison.runs(chosen[task]) if run.task == task]


def left_out_table(
    comparison: Comparison, lines: Sequence[dict[str, Any]], split: str, post_hoc: Container[tuple[str, Task]]
) -> str:
    """A Markdown table of the averages over targets (of the only one), and how many of its runs are missing."""
    runs = left_out_runs(comparison, lines)
    made = rows(by_seed(runs, lines, split), {}, comparison.origins, comparison.tasks, split, post_hoc=post_hoc)
    first = markdown(made, split)[0].replace("**\n", ", each at the settings that the other targets chose**\n", 1)
    absent = len(missing(runs, lines, split))
    text = f"{absent} of its {len(runs)} runs are missing; `--leave-one-out` makes them."
    if not absent:
        text = f"All {len(runs)} runs of this table are done."
    return f"{first}\n\n{text}"


def left_out_missing(comparison: Comparison, lines: Sequence[dict[str, Any]], split: str) -> str:
    """Which runs of :func:`left_out_table` are missing, as a list; empty where none is."""
    absent = missing(left_out_runs(comparison, lines), lines, split)
    if not absent:
        return ""
    given = {name for points in comparison.grid.values() for name in points[0]}
    places = "\n".join(f"- {place}" for place in grouped(absent, given))
    return f"**Missing for targets at the others' settings**\n\n{places}"
