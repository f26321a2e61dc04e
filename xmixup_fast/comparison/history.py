"""What the file of results tells of the order of things: which settings were tried, and which runs chose what.

A comparison is a test only where settings were chosen before the test images were seen. The file is only ever added to,
so it shows this: validation runs that chose a setting have to come before the method's test runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ..settings.identity import short_hash
from .plan import Comparison, Task
from .results import Results, changed_settings, now
from .tuning import accuracies, best_point

NOT_CHOSEN = ("seed", "test", "target")
"""Settings in which runs of one variant of a method differ."""
Line = Mapping[str, Any]
"""A line of the file of results."""


def in_order(lines: Iterable[Line]) -> list[Line]:
    """The lines by the time at which they were added.

    Files of several machines may have been joined, so the place in the file decides only where a line has no time: it
    then comes with the line before it, as in files of before times were recorded.
    """
    timed, latest = [], ""
    for place, line in enumerate(lines):
        latest = line.get("finished") or latest
        timed.append((latest, place, line))
    return [line for _, _, line in sorted(timed, key=lambda item: item[:2])]


def has_choice(line: Line) -> bool:
    """Whether a line records a choice of settings, and no run."""
    return "chosen" in line


def chosen_late(comparison: Comparison, lines: Iterable[Line], *, to_run: bool) -> set[tuple[str, Task]]:
    """Where settings were chosen after test runs: methods of the comparison, and the tasks of these test runs.

    So it is where a validation run that decided on the method's point of the grid came after one of the method's test
    runs on the task; and where the method was tested there with settings outside of the grid (or, without a grid, with
    others than the plan's) before it was tested with these. A test run is the method's by its name or by its settings,
    as methods may be renamed. Without ``to_run``, tasks on which the method has not been tested with these settings are
    left out: nothing is shown of them.
    """
    ordered = in_order(lines)
    tests = [
        (place, Task(line["target"], line["shots"]), line["method"], _variant(line["settings"]))
        for place, line in enumerate(ordered)
        if line.get("test_accuracy") is not None
    ]
    late = set()
    decisions = {method: _last_decision(comparison, method, ordered) for method in comparison.methods}
    for method, task in product(comparison.methods, comparison.tasks):
        planned = _planned_variants(comparison, method, task)
        shown = [place for place, where, _, variant in tests if where == task and variant in planned]
        others = [
            place for place, where, name, variant in tests if (where, name) == (task, method) and variant not in planned
        ]
        was_tuned_late = any(place < decisions[method] for place in (*shown, *others))
        was_changed_late = min(others, default=math.inf) < min(shown, default=math.inf)
        if (shown or to_run) and (was_tuned_late or was_changed_late):
            late.add((method, task))
    return late


def _planned_variants(comparison: Comparison, method: str, task: Task) -> set[str]:
    """The variants of a method that the plan has: one for each point of its grid."""
    seed = comparison.seeds[method][0]
    runs = [comparison.run(method, task, seed, point) for point in comparison.grid.get(method, [{}])]
    return {_variant(changed_settings(run.settings)) for run in runs}


def _last_decision(comparison: Comparison, method: str, ordered: Sequence[Line]) -> int:
    """The place of the last line that had a say in the choice of the method's point; -1 without a grid.

    What was tried again after a failure counts once, as the first line with an accuracy.
    """
    keys = {run.key for runs in comparison.tuning(method) for run in runs} if method in comparison.grid else set()
    places: dict[str, int] = {}
    failures: dict[str, int] = {}
    for place, line in enumerate(ordered):
        if line["key"] in keys:
            found = failures if line.get("val_accuracy") is None else places
            found.setdefault(line["key"], place)
    return max((failures | places).values(), default=-1)


def _variant(settings: Line) -> str:
    """What a line's settings say of the method, without what differs between runs of one variant."""
    return json.dumps({name: value for name, value in settings.items() if name not in NOT_CHOSEN}, sort_keys=True)


def variants(lines: Iterable[Line], figure: str = "val_accuracy") -> dict[str, int]:
    """How many variants of each method have runs with the figure, on the task with the most of them."""
    found: dict[str, dict[Task, set[str]]] = {}
    for line in lines:
        if line.get(figure) is not None:
            task = Task(line["target"], line["shots"])
            found.setdefault(line["method"], {}).setdefault(task, set()).add(_variant(line["settings"]))
    return {method: max(map(len, tasks.values())) for method, tasks in found.items()}


def record_choices(comparison: Comparison, results: Results) -> None:
    """Adds a line for each choice that tuning has made and that is not in the file yet.

    It has the validation runs of all points, and how many variants of the method have been tried.
    """
    lines = results.lines()
    tried = variants(lines)
    for method in comparison.grid:
        point = best_point(comparison, lines, method)
        if point is None:
            continue
        means = accuracies(comparison, lines, method)
        tuning = [
            {
                "settings": settings,
                "val_accuracy": None if mean == -math.inf else round(mean, 4),
                "runs": [run.key for run in runs],
            }
            for settings, mean, runs in zip(comparison.grid[method], means, comparison.tuning(method), strict=True)
        ]
        key = short_hash(json.dumps([method, point, tuning], sort_keys=True))
        with results.claim(key) as mine:
            if mine and all(line["key"] != key for line in results.lines()):
                own = {"method": method, "key": key, "finished": now(), "chosen": point}
                results.append({**own, "variants_tried": tried.get(method, 0), "tuning": tuning})
