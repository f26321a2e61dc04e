"""The tables and the plot of a comparison."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from xmixup_fast.comparison.plan import Task
from xmixup_fast.comparison.plot import plot
from xmixup_fast.comparison.tables import Difference, comma_separated, markdown, paired_table, rows


def test_intervals_are_students() -> None:
    # Student's t with two degrees of freedom has its 97.5 % quantile at 4.302653.
    difference = Difference.of([1.0, 2.0, 6.0])
    half = 4.302653 * np.std([1, 2, 6], ddof=1) / math.sqrt(3)
    assert (difference.mean, difference.pairs) == (3.0, 3)
    assert (difference.low, difference.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert str(difference) == "+3.0 (-3.6 to +9.6), includes zero"
    assert str(Difference.of([2.0, 2.1, 2.2])) == "+2.1 (+1.9 to +2.3), above zero"
    assert str(Difference.of([-2.0, -2.1, -2.2])) == "-2.1 (-2.3 to -1.9), below zero"
    assert str(Difference.of([1.5])) == "+1.5, one pair, no interval" and str(Difference.of([])) == ""


def test_intervals_of_averages_are_welchs() -> None:
    a, b = [1.0, 2.0, 6.0], [0.0, 1.0, 2.5]
    welch = stats.ttest_ind(
        a, [-value for value in b], equal_var=False
    ).confidence_interval()  # for the sum of both means
    difference = Difference.of(a, b)
    assert (difference.mean, difference.pairs) == (np.mean([*a, *b]), 3)
    assert (2 * difference.low, 2 * difference.high) == pytest.approx(tuple(welch))
    assert (
        Difference.of(a, a, a, a).high - 3 < (Difference.of(a).high - 3) / 2
    )  # half as wide, or less: more degrees of freedom
    assert str(Difference.of([1.0, 1.0], [2.0, 2.0])) == "+1.5 (+1.5 to +1.5), above zero"


@pytest.fixture
def figures() -> dict[tuple[str, Task], dict[int, dict[str, Any]]]:
    """Results of two methods on two tasks. Some seeds are done for one method or task alone."""

    def run(accuracy: float) -> dict[str, Any]:
        return {"test_accuracy": accuracy, "val_accuracy": 0.0, "images_seen": 100, "peak_memory_mib": 200}

    a, b = Task("a", 5), Task("b", None)
    return {
        ("finetune", a): {0: run(50.0), 1: run(54.0), 2: run(52.0)},
        ("finetune", b): {0: run(70.0), 1: run(71.0), 2: run(72.0)},
        ("other", a): {0: run(53.0), 1: run(55.0), 2: run(51.0), 3: run(99.0)},
        ("other", b): {0: run(71.0), 1: run(74.0)},
    }


def test_differences_are_paired_and_averages_take_seeds_done_on_all_tasks(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    table_rows = rows(figures, {("other", tasks[0]): 1.5}, ["finetune", "other"], tasks, "test")
    by_target_and_method = {(row.target, row.method): row for row in table_rows}
    assert [row.target for row in table_rows] == ["average", "average", "a", "a", "b", "b"]
    average = by_target_and_method["average", "other"]
    assert average.seeds == 2 and average.accuracy == np.mean([(53 + 71) / 2, (55 + 74) / 2])
    assert average.difference == Difference.of([3, 1], [1, 3]) and average.difference.mean == 2
    assert by_target_and_method["a", "other"].difference == Difference.of([3.0, 1.0, -1.0])
    assert by_target_and_method["a", "other"].seeds == 4 and by_target_and_method[
        "b", "other"
    ].difference == Difference.of([1.0, 3.0])
    assert by_target_and_method["a", "other"].relative_seconds == 1.5 and math.isnan(average.relative_seconds)
    assert by_target_and_method["average", "finetune"].accuracy == np.mean([60, 62.5, 62])
    text = markdown(table_rows, "test")
    assert "**Average over 2 targets**" in text and "**a, 5 shots**" in text and "**b**" in text
    assert "| other | 2 | 72.5 | +2.0 (-10.7 to +14.7), includes zero |  | 100 | 200 |" in text
    lines = list(csv.DictReader(io.StringIO(comma_separated(table_rows))))
    assert [row["accuracy"] for row in lines][:2] == [str(184.5 / 3), "63.25"]
    assert lines[1]["relative_seconds"] == "" and float(lines[3]["difference"]) == 1.0


def test_a_method_is_compared_with_each_other_method(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    figures["third", tasks[0]] = {0: figures["other", tasks[0]][0]}  # on one of two tasks: it has no average
    text = paired_table(figures, "other", ["finetune", "other", "third"], tasks, "test")
    title, _, head, _, *lines = text.splitlines()
    assert title == "**other minus each other method, test accuracy, average over 2 targets**"
    assert head == "| method | seeds | other minus it (95 % interval) | pairs above zero |"
    assert lines == [f"| finetune | 2 | {Difference.of([3, 1], [1, 3])} | 4 of 4 |"]
    assert "| other | 2 |" in paired_table(figures, "finetune", ["other"], tasks, "test")
    assert "| 0 of 4 |" in paired_table(figures, "finetune", ["other"], tasks, "test")


def test_a_plot_needs_timed_methods(tmp_path: Path, figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    untimed = rows(figures, {}, ["finetune", "other"], tasks, "test")
    assert not plot(untimed, "test", tmp_path / "p.png") and not (tmp_path / "p.png").exists()
    seconds = {("other", task): 1.5 for task in tasks}
    assert plot(rows(figures, seconds, ["finetune", "other"], tasks, "test"), "test", tmp_path / "p.png")
