"""Comparisons: what the tables say."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmixup_fast.comparison.differences import Difference, holm
from xmixup_fast.comparison.plan import Task
from xmixup_fast.comparison.plot import plot, points
from xmixup_fast.comparison.tables import comma_separated, markdown, paired_table, rows, table

METHODS = {"finetune": "", "other": ""}
"""Methods, without a word on where they come from."""


@pytest.fixture
def figures() -> dict[tuple[str, Task], dict[int, dict[str, Any]]]:
    """Accuracies of two methods on two tasks, with seeds that do not all have a pair."""

    def run(accuracy: float) -> dict[str, Any]:
        return {"test_accuracy": accuracy, "val_accuracy": 0.0, "images_seen": 100, "peak_memory_mib": 200} | {
            "settings": {}
        }

    a, b = Task("a", 5), Task("b", None)
    return {
        ("finetune", a): {0: run(50.0), 1: run(54.0), 2: run(52.0)},
        ("finetune", b): {0: run(70.0), 1: run(71.0), 2: run(72.0)},
        ("other", a): {0: run(53.0), 1: run(55.0), 2: run(51.0), 3: run(99.0)},
        ("other", b): {0: run(71.0), 1: run(74.0)},
    }


def test_differences_are_paired_and_averages_are_of_whole_seeds(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    made = rows(figures, {("other", tasks[0]): 1.5}, METHODS, tasks, "test")
    by_place = {(row.target, row.method): row for row in made}
    assert [row.target for row in made] == ["average", "average", "a", "a", "b", "b"]
    average = by_place["average", "other"]
    assert average.seeds == 2 and average.accuracy == np.mean([(53 + 71) / 2, (55 + 74) / 2])
    assert average.difference == Difference.of([3, 1], [1, 3]) and average.difference.mean == 2
    assert by_place["a", "other"].difference == Difference.of([3.0, 1.0, -1.0])
    assert by_place["a", "other"].seeds == 4 and by_place["b", "other"].difference == Difference.of([1.0, 3.0])
    assert by_place["a", "other"].relative_seconds == 1.5 and math.isnan(average.relative_seconds)
    assert by_place["average", "finetune"].accuracy == np.mean([60, 62.5, 62])
    first, *others = markdown(made, "test")
    assert first.startswith("**Average over 2 targets**\n\n| method | seeds | test accuracy, % |")
    assert [text.partition("\n")[0] for text in others] == ["**a, 5 shots**", "**b**"]
    p = by_place["b", "other"].difference.p
    assert f"| other | 2 | 72.5 | +2.0 (-10.7 to +14.7), includes zero | {p:.3f} |  | 100 | 200 |" in others[1]
    lines = list(csv.DictReader(io.StringIO(comma_separated(made))))
    assert [row["accuracy"] for row in lines][:2] == [str(184.5 / 3), "63.25"]
    assert lines[1]["relative_seconds"] == "" and float(lines[3]["difference"]) == 1.0
    assert [line["targets_p"] != "" for line in lines] == [False, True, False, False, False, False]


def test_rows_have_both_intervals_and_corrected_p_values(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    for task in tasks:  # a third method, so that there are two comparisons
        figures["third", task] = {
            seed: run | {"test_accuracy": run["test_accuracy"] - seed - 3}
            for seed, run in figures["finetune", task].items()
        }
    late = {("third", tasks[1])}
    made = rows(figures, {}, {**METHODS, "third": ""}, tasks, "test", post_hoc=late)
    average = {row.method: row for row in made if row.target == "average"}
    # On a seeds 0 and 1 differ by 3 and 1, on b by 1 and 3; the third method loses 3, 4 and 5 on both.
    assert average["other"].over_targets == Difference.over_targets([3.0, 1.0], [1.0, 3.0])
    assert average["third"].over_targets == Difference.over_targets([-3, -4, -5], [-3, -4, -5])
    for group in ("average", "a", "b"):
        own = [row for row in made if row.target == group]
        assert [row.method for row in own] == ["finetune", "other", "third"]
        assert [row.p_holm for row in own[1:]] == holm([row.difference.p for row in own[1:]])
        assert math.isnan(own[0].p_holm) and own[2].p_holm == 2 * own[2].difference.p < own[1].p_holm
        assert bool(own[1].over_targets.pairs) == (group == "average")
    assert [row.post_hoc for row in made if row.method == "third"] == ["b", "", "b"]
    first, on_a, on_b = markdown(made, "test")
    assert "| minus finetune's (95 % interval) | p (Holm) | targets at random (95 % interval) | p (Holm) |" in first
    assert "at random" not in on_a and "chosen after test runs on" not in on_a
    assert on_b.splitlines()[-1].endswith("| 200 | b |")


def test_a_method_is_set_against_each_other_one(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    figures["third", tasks[0]] = {0: figures["other", tasks[0]][0]}  # on one of two tasks: no average, no line
    text = paired_table(figures, "other", {**METHODS, "third": ""}, tasks, "test")
    title, _, head, _, *lines = text.splitlines()
    assert title == "**other minus each other method, test accuracy, average over 2 targets**"
    columns = "other minus it (95 % interval) | p (Holm) | targets at random (95 % interval) | p (Holm)"
    assert head == f"| method | seeds | {columns} | pairs above zero |"
    of_seeds, of_targets = Difference.of([3, 1], [1, 3]), Difference.over_targets([3, 1], [1, 3])
    assert lines == [f"| finetune | 2 | {of_seeds} | {of_seeds.p:.3f} | {of_targets} | {of_targets.p:.3f} | 4 of 4 |"]
    assert "| other | 2 |" in paired_table(figures, "finetune", {"other": ""}, tasks, "test")
    assert "| 0 of 4 |" in paired_table(figures, "finetune", {"other": ""}, tasks, "test")


def test_tables_say_where_methods_come_from(figures: Any) -> None:
    methods, tasks = {"finetune": "baseline", "other": "ours"}, [Task("a", 5), Task("b", None)]
    made = rows(figures, {}, methods, tasks, "test")
    for text in markdown(made, "test"):
        assert "| method | origin | seeds |" in text
        assert "\n| finetune | baseline | 3 |" in text and "\n| other | ours | " in text
    assert "\n| finetune | baseline | 2 |" in paired_table(figures, "other", methods, tasks, "test")
    assert {row["method"]: row["origin"] for row in csv.DictReader(io.StringIO(comma_separated(made)))} == methods


def test_tables_have_the_source_accuracy_where_it_was_measured(figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    for task in tasks:
        for seed, run in figures["other", task].items():
            run |= {"source_accuracy_before": 60.0, "source_accuracy": 40.0 + seed}
    for text, seeds in zip(markdown(rows(figures, {}, METHODS, tasks, "test"), "test"), (2, 4, 2), strict=True):
        head, _, base, other = text.splitlines()[2:]
        assert head.endswith("| peak memory, MiB | source accuracy, % (before) |") and base.endswith("| 200 |  |")
        assert other.endswith(f"| 200 | {40 + (seeds - 1) / 2:.1f} (60.0) |")


def test_a_column_without_an_entry_is_left_out() -> None:
    assert table(["a", "b", "c"], [["1", "", ""], ["2", "", "x"]]) == "| a | c |\n| --- | --- |\n| 1 |  |\n| 2 | x |"
    assert table(["a", "b"], []) == "| a | b |\n| --- | --- |"


def test_a_plot_needs_methods_that_are_timed(tmp_path: Path, figures: Any) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    untimed = rows(figures, {}, METHODS, tasks, "test")
    assert not plot(untimed, "test", tmp_path / "p.png") and not (tmp_path / "p.png").exists()
    seconds = {("other", task): 1.5 for task in tasks}
    made = rows(figures, seconds, METHODS, tasks, "test")
    assert plot(made, "test", tmp_path / "p.png")
    # The names in the plot say where the methods come from.
    said = rows(figures, seconds, {"finetune": "baseline", "other": "ours"}, tasks, "test")
    assert plot(said, "test", tmp_path / "q.png")
    assert (tmp_path / "p.png").read_bytes() != (tmp_path / "q.png").read_bytes()


@pytest.mark.parametrize(("seen", "batch", "time"), [(100, 32, 1.5), (150, 32, 2.25), (100, 64, 0.75)])
def test_the_plots_time_is_that_of_all_steps(figures: Any, seen: int, batch: int, time: float) -> None:
    tasks = [Task("a", 5), Task("b", None)]
    for task in tasks:
        for run in figures["other", task].values():
            run |= {"images_seen": seen, "settings": {"batch_size": batch}}
        for run in figures["finetune", task].values():
            run |= {"settings": {"batch_size": 32}}
    made = rows(figures, {("other", task): 1.5 for task in tasks}, METHODS, tasks, "test")
    assert {point.method: point.time for point in points(made)} == {"finetune": 1.0, "other": time}
