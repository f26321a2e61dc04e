"""What a file of results tells: choices made after test runs, variants tried, missing runs, targets left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import write_plan

from xmixup_fast.comparison.history import chosen_late, has_choice, in_order, record_choices, variants
from xmixup_fast.comparison.left_out import can_leave_out, left_out_missing, left_out_runs, left_out_table
from xmixup_fast.comparison.missing import grouped, hours, missing, outlook
from xmixup_fast.comparison.plan import Comparison, Run, Task, read
from xmixup_fast.comparison.results import Results, changed_settings
from xmixup_fast.comparison.tuning import choose, with_complete_tuning

BIRDS, BOATS = Task("birds", 5), Task("boats", None)


@pytest.fixture
def comparison(tmp_path: Path, plan: dict[str, Any]) -> Comparison:
    """Three methods, two targets that are both tuned on, and a grid of two learning rates."""
    plan |= {"grid": {method: {"lr": [0.1, 0.2]} for method in plan["methods"]}, "tune_seeds": [9]}
    return read(write_plan(tmp_path, plan), settings={})


@pytest.fixture
def untuned(tmp_path: Path, plan: dict[str, Any]) -> Comparison:
    return read(write_plan(tmp_path, plan), settings={})


def line(run: Run, *, val: float | None = 50.0, test: float | None = None, **more: Any) -> dict[str, Any]:
    """The line of a run in a file of results."""
    names = {"method": run.method, "target": run.task.target, "shots": run.task.shots, "seed": run.settings.seed}
    figures = {"val_accuracy": val, "test_accuracy": test, "images_seen": 40, "peak_memory_mib": 3}
    return {**names, "key": run.key, **figures, "settings": changed_settings(run.settings), **more}


def tuning_lines(comparison: Comparison, method: str = "finetune", **more: Any) -> list[dict[str, Any]]:
    return [line(run, val=60 + 10 * run.settings.lr, **more) for runs in comparison.tuning(method) for run in runs]


def line_of_a_test(comparison: Comparison, task: Task = BIRDS, *, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """A line of a test run of finetune."""
    return line(comparison.run("finetune", task, seed, settings), test=55.0)


def error(run: Run) -> dict[str, Any]:
    return {name: value for name, value in line(run).items() if "accuracy" not in name} | {"error": "too high"}


def late(comparison: Comparison, *lines: dict[str, Any], to_run: bool = False) -> list[Task]:
    found = chosen_late(comparison, lines, to_run=to_run)
    assert {method for method, _ in found} <= {"finetune"}
    return sorted((task for _, task in found), key=str)


def test_tuning_comes_before_tests(comparison: Comparison) -> None:
    *first, last = tuning_lines(comparison)
    tests = [line_of_a_test(comparison, BIRDS, lr=0.2), line_of_a_test(comparison, BIRDS, lr=0.2, seed=1)]
    assert late(comparison, *first, last, *tests, to_run=True) == []
    # One run that had a say came later, on whatever target: what was tested before is post hoc, other targets are not.
    assert late(comparison, *first, tests[0], last, tests[1]) == [BIRDS]
    assert late(comparison, *first, tests[0], last, line_of_a_test(comparison, BOATS, lr=0.2)) == [BIRDS]
    assert late(comparison, *first, *tests, line_of_a_test(comparison, BOATS, lr=0.2), last) == [BIRDS, BOATS]
    # Another point of the grid was tested before tuning was complete, and this one after.
    assert late(comparison, *first, line_of_a_test(comparison, lr=0.1), last, *tests) == [BIRDS]
    # Another point was tested too, but after tuning, as leaving targets out does: the choice was made.
    assert late(comparison, *first, last, line_of_a_test(comparison, lr=0.1), *tests) == []
    # The method was called something else when it was tested.
    assert late(comparison, *first, tests[0] | {"method": "former"}, last) == [BIRDS]
    # Tuning and tests of other methods are their own affair.
    others = tuning_lines(comparison, "mixup")
    assert late(comparison, *first, last, *tests, *others) == []


def test_what_failed_and_is_tried_again_decided_once(comparison: Comparison) -> None:
    *first, last = (run for runs in comparison.tuning("finetune") for run in runs)
    lines, test = [line(run) for run in first], line_of_a_test(comparison, lr=0.1)
    assert late(comparison, *lines, error(last), test, error(last)) == []
    assert late(comparison, *lines, error(last), test, line(last)) == [BIRDS]


def test_settings_outside_of_the_plan_that_were_tested_before(untuned: Comparison, comparison: Comparison) -> None:
    other, now = line_of_a_test(untuned, alpha=0.5), line_of_a_test(untuned)
    assert late(untuned, now, to_run=True) == late(untuned, now, other) == []
    assert late(untuned, other, now) == [BIRDS]
    assert late(untuned, now, other, line_of_a_test(untuned, seed=1)) == []  # settled with the first seed
    # Nothing is shown of the other settings, but runs would be made in view of them.
    assert late(untuned, other) == [] and late(untuned, other, to_run=True) == [BIRDS]
    # Other seeds, other numbers of shots and validation runs are no other settings.
    assert late(untuned, line_of_a_test(untuned, seed=7), now) == []
    assert late(untuned, line_of_a_test(untuned, alpha=0.5) | {"shots": 3}, now) == []
    assert late(untuned, line(untuned.run("finetune", BIRDS, 0, {"alpha": 0.5})), now) == []
    # With a grid: what is no point of it.
    tuned = tuning_lines(comparison)
    assert late(comparison, *tuned, line_of_a_test(comparison, lr=0.3), line_of_a_test(comparison, lr=0.2)) == [BIRDS]


def test_times_count_before_the_order_of_lines(comparison: Comparison) -> None:
    early, after = {"finished": "2026-01-01T10:00:00.000+00:00"}, {"finished": "2026-01-02T09:00:00.000+00:00"}
    test = line_of_a_test(comparison, lr=0.2)
    # Two machines' files, joined in either order.
    assert late(comparison, test | after, *tuning_lines(comparison, **early)) == []
    assert late(comparison, *tuning_lines(comparison, **after), test | early) == [BIRDS]
    # Lines of before times were recorded keep their place, before lines with a time and between them.
    assert late(comparison, test, *tuning_lines(comparison, **early)) == [BIRDS]
    assert late(comparison, *tuning_lines(comparison), test | early) == []
    names = [{"n": 1}, {"n": 2} | after, {"n": 3}, {"n": 4} | early]
    assert [one["n"] for one in in_order(names)] == [1, 4, 2, 3]


def test_variants_are_counted_over_seeds_and_targets_once(untuned: Comparison) -> None:
    lines = [
        line_of_a_test(untuned, task, seed=seed, alpha=alpha)
        for task in (BIRDS, BOATS)
        for seed in (0, 1)
        for alpha in (0.1, 0.3)
    ]
    lines += [line(untuned.run("finetune", BOATS, 0, {"alpha": 0.6})), line(untuned.run("mixup", BIRDS, 9, {}))]
    assert variants(lines) == {"finetune": 3, "mixup": 1} and variants(lines, "test_accuracy") == {"finetune": 2}
    assert variants([error(untuned.run("mixup", BIRDS, 9, {}))]) == {}


def test_choices_are_recorded_once_with_their_runs(comparison: Comparison) -> None:
    results = Results(comparison.results)
    lines = [*tuning_lines(comparison), *tuning_lines(comparison, "mixup")[:-1]]
    lines.append(line(comparison.run("finetune", BIRDS, 9, {"lr": 0.7})))  # dropped from the grid
    for one in lines:
        results.append(one)
    record_choices(comparison, results)
    record_choices(comparison, results)
    (choice,) = results.lines()[len(lines) :]  # mixup's tuning is not complete
    assert (choice["method"], choice["chosen"], choice["variants_tried"]) == ("finetune", {"lr": 0.2}, 3)
    assert has_choice(choice) and not has_choice(lines[0]) and choice["finished"].endswith("+00:00")
    of_runs = [[run.key for run in runs] for runs in comparison.tuning("finetune")]
    assert [point["runs"] for point in choice["tuning"]] == of_runs and len(of_runs[0]) == 2
    assert [point["val_accuracy"] for point in choice["tuning"]] == [61.0, 62.0]
    # A choice that changes, by one more run, is another line.
    results.append(line(comparison.tuning("finetune")[0][0], val=99.0))
    record_choices(comparison, results)
    assert [one["chosen"] for one in results.lines() if has_choice(one)] == [{"lr": 0.2}, {"lr": 0.1}]
    assert chosen_late(comparison, results.lines(), to_run=True) == set()


def test_methods_whose_tuning_is_not_complete_are_left_out(comparison: Comparison) -> None:
    lines = [*tuning_lines(comparison), *tuning_lines(comparison, "mixup")[:-1]]
    rest = with_complete_tuning(comparison, lines)
    assert list(rest.methods) == list(rest.grid) == list(rest.origins) == ["finetune"]
    assert choose(rest, lines) == {"finetune": {"lr": 0.2}}
    with pytest.raises(ValueError, match="tuning of finetune is not complete"):
        choose(with_complete_tuning(comparison, []), [])


def left_out_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """Tuning of all methods in which birds do best with 0.1, boats with 0.2, and both together with 0.2."""
    best = {("birds", 0.1): 61.0, ("birds", 0.2): 60.0, ("boats", 0.1): 50.0, ("boats", 0.2): 55.0}
    return [
        line(run, val=best[run.task.target, run.settings.lr])
        for method in comparison.methods
        for runs in comparison.tuning(method)
        for run in runs
    ]


def test_each_target_takes_what_the_others_chose(comparison: Comparison) -> None:
    lines = left_out_lines(comparison)
    assert choose(comparison, lines)["mixup"] == {"lr": 0.2}
    runs = left_out_runs(comparison, lines)
    assert {(run.task, run.settings.lr) for run in runs} == {(BIRDS, 0.2), (BOATS, 0.1)} and len(runs) == 3 * 2 * 2
    # Its runs on birds are those of the choice by all targets.
    lines += [line(run, test=55.0 + run.settings.seed) for run in comparison.runs(choose(comparison, lines))]
    text = left_out_table(comparison, lines, "test", set())
    assert text.startswith(
        "**Average over 2 targets, each at the settings that the other targets chose**\n\n| method |"
    )
    assert text.endswith("\n\n6 of its 12 runs are missing; `--leave-one-out` makes them.")
    assert "\n- finetune on boats, lr 0.1: seeds 0, 1\n- " in left_out_missing(comparison, lines, "test")
    assert "| finetune |" not in text  # no seed is there on all targets
    lines += [line(run, test=65.0 + run.settings.seed) for run in missing(runs, lines, "test")]
    text = left_out_table(comparison, lines, "test", {("mixup", BOATS)})
    assert left_out_missing(comparison, lines, "test") == ""
    assert text.endswith("All 12 runs of this table are done.") and "| finetune | 2 | 60.5 |" in text
    assert "chosen after test runs on |" in text and text.count("boats |") == 1


@pytest.mark.parametrize(("tune_targets", "can"), [(None, True), (["birds", "boats"], True), (["boats"], False)])
def test_leaving_a_target_out_needs_another_one(
    tmp_path: Path, plan: dict[str, Any], tune_targets: list[str] | None, can: bool
) -> None:
    assert not can_leave_out(read(write_plan(tmp_path, plan), settings={}))
    plan |= {"grid": {method: {"lr": [0.1]} for method in plan["methods"]}, "tune_seeds": [9]}
    assert can_leave_out(read(write_plan(tmp_path, plan), settings={}, tune_targets=tune_targets)) == can


def test_the_time_of_missing_runs_is_told_by_those_that_are_done(untuned: Comparison) -> None:
    def took(method: str, task: Task, seconds: float) -> dict[str, Any]:
        return line(untuned.run(method, task, 9, {}), train_seconds=seconds - 100, selection_seconds=100.0)

    def expected(method: str, task: Task, *lines: dict[str, Any]) -> float | None:
        return hours([untuned.run(method, task, 0, {})] * 2, lines)

    assert expected("finetune", BIRDS) is None
    lines = [took("finetune", BIRDS, seconds) for seconds in (900.0, 1800.0, 9000.0)]
    assert expected("finetune", BIRDS, *lines) == 1.0  # the median, twice
    assert expected("finetune", BOATS, *lines) == expected("mixup", BIRDS, *lines) == 1.0
    lines += [took("finetune", BOATS, 3600.0), took("mixup", BOATS, 7200.0)]
    assert expected("finetune", BOATS, *lines) == 2.0
    assert expected("mixup", BIRDS, *lines) == 4.0 and expected("xmixup-random", BIRDS, *lines) == 1.0
    assert hours([], lines) == 0.0


def test_missing_runs_are_listed_by_their_settings(comparison: Comparison) -> None:
    runs = [
        comparison.run("mixup", task, seed, {"lr": lr})
        for task in (BIRDS, BOATS)
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    done = [line(runs[0], test=5.0), line(runs[1], test=None)]
    absent = missing([*runs, *runs], done, "test")
    assert absent == runs[1:] and missing(runs, done, "val") == runs[2:]
    assert grouped(absent, ["lr"])[:2] == [
        "mixup on birds, 5 shots, lr 0.1: seeds 1",
        "mixup on birds, 5 shots, lr 0.2: seeds 0, 1",
    ]
    assert outlook(absent, 8, done, ["lr"]).splitlines()[0] == "7 of 8 runs are missing"
    timed = [line(runs[0], train_seconds=3000.0, selection_seconds=600.0)]
    assert outlook(absent, 8, timed, []).startswith("7 of 8 runs are missing; about 7.0 hours one after the other")
    assert outlook([], 8, timed, []) == "0 of 8 runs are missing"
