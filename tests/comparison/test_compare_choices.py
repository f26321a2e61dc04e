"""The command compare: tuning, choices that were made late, targets that are left out, and where tables go."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comparisons import compare, lines


def test_tuning_chooses_by_validation_accuracy_alone(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"lr": [0.1, 0.7, 0.4, 2.0]}  # 2 fails
    plan |= {"grid": dict.fromkeys(plan["methods"], rates), "tune_seeds": [8, 9]}
    assert compare(tmp_path, plan) == 2
    assert "error: grid: tuning of finetune is not complete; do it first, with --tune" in capsys.readouterr().err
    assert compare(tmp_path, plan, "--tune") == 1
    assert len(started()) == 3 * 4 * 2 * 2 and {settings["test"] for (settings,) in started()} == {"hold"}
    output = capsys.readouterr().out
    assert "| finetune | lr 0.7 | 65.50 | chosen |" in output and "| mixup | lr 2.0 | failed |  |" in output
    assert compare(tmp_path, plan) == 0
    assert {settings["lr"] for (settings,) in started()[48:]} == {0.7} and len(started()) == 60
    assert compare(tmp_path, plan, "--targets", "boats", "--seeds", "0") == 0
    assert len(started()) == 60  # tuning chooses the same settings, whose runs are done
    assert compare(tmp_path, plan, "--table") == 0
    table = (tmp_path / "results.md").read_text()
    assert "| xmixup-random | lr 0.7 | 66.50 | chosen |" in table and "0 other lines of the file" in table
    assert "minus each other" not in table and compare(tmp_path, plan, "--table", "--versus", "mixup") == 0
    table = (tmp_path / "results.md").read_text()
    assert "**mixup minus each other method, test accuracy, average over 2 targets**" in table
    assert compare(tmp_path, plan, "--table", "--versus", "mixin") == 2
    assert "error: versus: expected one of finetune, " in capsys.readouterr().err


def test_tuning_after_tests_is_marked_and_choices_are_kept(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan |= {
        "grid": {method: {"lr": [0.1, 0.7]} for method in plan["methods"]},
        "tune_seeds": [8],
        "tune_targets": ["boats"],
    }
    assert compare(tmp_path, plan, "--dry-run", "--tune") == 0 and compare(tmp_path, plan, "--dry-run") == 0
    output = capsys.readouterr().out
    assert "6 of 6 runs are missing\nfinetune on boats, lr 0.1: seeds 8\n" in output
    assert (
        "12 of 12 runs are missing" in output
        and "at least: tuning of finetune, xmixup-random, mixup has chosen nothing" in output
    )
    assert started() == [] and compare(tmp_path, plan, "--tune") == 0 and compare(tmp_path, plan) == 0
    assert compare(tmp_path, plan, "--dry-run", "--time") == 0
    assert capsys.readouterr().out.endswith("4 of 4 timings are missing\n")
    choices = [line for line in lines(plan) if "chosen" in line]
    assert [(line["method"], line["chosen"]) for line in choices] == [(name, {"lr": 0.7}) for name in plan["methods"]]
    assert all(line["finished"] for line in lines(plan)) and len(lines(plan)) == 6 + 3 + 12
    table = (tmp_path / "results.md").read_text()
    assert "Post hoc" not in table and "each a method with its settings: 6 were validated, 3 tested." in table
    assert "lines were added is not known" not in table
    # Birds get a say after they were tested.
    flags = ["--tune-targets", "birds", "boats"]
    assert compare(tmp_path, plan, *flags, "--tune") == 0 and compare(tmp_path, plan, *flags) == 2
    assert "got settings that were chosen after them: finetune on birds, 5 shots; " in capsys.readouterr().err
    assert compare(tmp_path, plan, *flags, "--split", "val") == 0  # no test image has a say in this table
    assert compare(tmp_path, plan, *flags, "--table", "--post-hoc") == 0 and len(started()) == 24
    table = (tmp_path / "results.md").read_text()
    assert "**Post hoc**" in table and "each at the settings that the other targets chose**" in table
    # Without the file's times, the order of its lines tells the same, and that is said.
    text = re.sub(r'"finished": "[^"]+", ', "", Path(plan["results"]).read_text())
    Path(plan["results"]).write_text(text)
    assert compare(tmp_path, plan, *flags, "--table") == 2 and compare(tmp_path, plan, "--table") == 0
    assert re.search(r"When 30 of the 30 lines were added is not known", (tmp_path / "results.md").read_text())


def test_runs_at_what_other_targets_chose(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan |= {"grid": {method: {"lr": [0.1, 0.7]} for method in plan["methods"]}, "tune_seeds": [8]}
    assert compare(tmp_path, plan, "--tune") == 0
    # Boats are made to do best with the lower rate, by less than birds do with the higher one.
    text = Path(plan["results"]).read_text()
    by_hand = [json.loads(line) for line in text.splitlines()]
    for line in by_hand:
        if line.get("target") == "boats":
            line["val_accuracy"] = 63.0 if line["settings"]["lr"] == 0.1 else 62.0
    Path(plan["results"]).write_text("".join(json.dumps(line) + "\n" for line in by_hand))
    assert compare(tmp_path, plan, "--dry-run", "--leave-one-out") == 0
    assert "18 of 18 runs are missing\n" in capsys.readouterr().out
    assert compare(tmp_path, plan) == 0 and len(started()) == 12 + 12
    assert "6 of its 12 runs are missing" in capsys.readouterr().out
    assert compare(tmp_path, plan, "--leave-one-out") == 0 and len(started()) == 12 + 18
    assert "All 12 runs of this table are done.\n\n12 of 12 runs are done" in capsys.readouterr().out
    assert "0 other lines of the file" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--leave-one-out"], "leave_one_out: expected a grid, and for each target another one to tune on; got none"),
        (["--leave-one-out", "--table"], "leave_one_out: expected neither --tune, --time nor --table beside it"),
        (["--table", "--dry-run"], "expected one of --table and --dry-run, which both run nothing, got both"),
        (["--tune-targets", "birds"], "tune_targets: expected none in a plan without a grid, got ['birds']"),
        (["--tune"], "grid: expected the settings to try, got none"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    tmp_path: Path, plan: dict[str, Any], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert compare(tmp_path, plan, *flags) == 2 and message in capsys.readouterr().err
    assert not Path(plan["results"]).exists()


def test_the_first_table_goes_between_markers(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    begin, end = (f"<!-- {edge}: written by xmixup compare -->" for edge in ("begin", "end"))
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert compare(tmp_path, plan, "--markdown", str(page), "--versus", "mixup") == 0
    parts = (tmp_path / "results.md").read_text().strip().split("\n\n")
    titles = [part for part in parts if part.startswith("**")]
    assert titles[:3] == ["**Average over 2 targets**", "**birds, 5 shots**", "**boats**"] and len(parts) == 9
    text = "\n\n".join(parts[:2] + parts[6:])  # the average, the paired table, and what has been run
    assert page.read_text() == f"before\n{begin}\n{text}\n{end}\nafter\n"
    page.write_text("no markers")
    before = len(started())
    again = {**plan, "results": str(tmp_path / "again.jsonl")}
    assert compare(tmp_path, again, "--markdown", str(page)) == 2 and page.read_text() == "no markers"
    assert len(started()) == before == 12  # a page without markers is refused before any run
    assert "expected the lines '<!-- begin: " in capsys.readouterr().err
