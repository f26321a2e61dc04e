"""xmixup compare photos/: what is refused before anything is trained, and what is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import TARGET, write_folder
from made_up_runs import MadeUp

from xmixup_fast.commands.compare import main
from xmixup_fast.comparison.folds import DEFAULT_METHODS, FoldPlan, default_methods, duration, parse_budget
from xmixup_fast.methods import METHODS


def write_text(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["absent"], "absent: no such folder"),
        (["absent.yaml"], "config: absent.yaml: no such file"),
        (["photos", "--folds", "1"], "folds: expected 2 or more, got 1"),
        (
            ["photos", "--folds", "21"],
            "expected at most 20 parts, as no class has more different images, got 21; use 20",
        ),
        (["photos", "--repeats", "0"], "repeats: expected 1 or more, got 0"),
        (["photos", "--budget", "soon"], "budget: expected a time such as 30m, 1h30m or 90s, got 'soon'"),
        (["photos", "--rates", "0.1", "-1"], "rates: expected positive numbers, got 0.1, -1"),
        (["photos", "--rates", "nan"], "rates: expected positive numbers, got nan"),
        (["photos", "--methods", "xmixxup"], "xmixxup on {data}: method: expected one of finetune, "),
        (["photos", "--methods", "finetune"], "methods: expected one besides finetune, "),
        (["photos", "--keep", "best"], "keep: expected last in a comparison on one's own photos"),
        (["photos", "--patience", "3"], "patience: expected None in a comparison on one's own photos"),
        (["photos", "--val-fraction", "0.3"], "val_fraction: expected 0.2 in a comparison on one's own photos"),
        (["photos", "--seeds", "1"], "seeds: expected a plan (FILE.yaml) or --targets, got photos, whose photos are"),
        (["photos", "--shots", "5"], "shots: expected a plan (FILE.yaml) or --targets, got photos"),
        (["photos", "--versus", "xmixup"], "versus: expected a plan (FILE.yaml) or --targets, got photos"),
        (["--folds", "3"], "folds: expected a folder of photos to compare on, got none"),
        (["plan.yaml", "--rates", "0.1"], "rates: expected a folder of photos to compare on, got plan.yaml"),
        (["photos", "--seed", "1"], "--seed is no flag of xmixup compare"),
        (["photos", "--lr", "-1"], "lr: expected a positive number, got -1.0"),
        (["one"], "one: expected at least two classes, got one, red"),
        (
            ["few"],
            "class green (1): expected at least 2 different training images each, to cut validation from; add images",
        ),
        (["copies"], "class green (1): expected at least 2 different training images each"),
        (
            ["three"],
            "expected at most 3 parts, as no class has more different images, got 5; use 3 parts (in a compari",
        ),
        (["split"], "val_fold: expected a target without validation images of its own"),
        (["empty"], "empty"),
        (["photos", "--source", "sauce"], "sauce: no such folder"),
        (["photos", "--methods", "xmixup", "--source", "None"], "source: tiny-imagenet would be downloaded; --yes"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    write_folder(place / "one", {"red": TARGET["red"]}, 6)
    write_folder(place / "few", {"red": TARGET["red"]}, 6)
    write_folder(place / "few", {"green": TARGET["green"]}, 1)
    write_folder(place / "copies", TARGET, 6)
    for copy in (place / "copies" / "green").iterdir():
        copy.write_bytes((place / "few" / "green" / "000.png").read_bytes())
    write_folder(place / "three", TARGET, 3)
    for split in ("train", "val"):
        write_folder(place / "split" / split, TARGET, 6, seed=len(split))
    (place / "empty").mkdir()
    write_text(place / "plan.yaml", "results: r.jsonl")
    common = ["--model", "test_resnet", *([] if "--source" in flags else ["--source", "source"])]
    assert main([*flags, *common]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error, error
    assert not made_up.done and not (place / "runs").exists()


def test_without_a_source_the_default_methods_are_those_that_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [name for name in DEFAULT_METHODS if name in METHODS or name == "xcutmix-l2sp"]
    assert default_methods(has_source=True) == there and "xmixup" in there
    assert default_methods(has_source=False) == [name for name in there if name in ("linear-probe", "finetune")]
    monkeypatch.setitem(METHODS, "linear-probe", METHODS["finetune"])
    assert default_methods(has_source=False) == ["linear-probe", "finetune"]


def test_keys_name_neither_the_place_of_the_photos_nor_the_machine() -> None:
    def keys(target: str, **given: Any) -> list[str]:
        plan = FoldPlan.of(target, {"source": ["s"], **given}, methods=["xmixup"])
        return [run.key for run in plan.comparison(2).runs({})]

    assert keys("a") == keys("/b/c", device="cuda", threads=3) != keys("a", lr=0.02)
    assert len(set(keys("a"))) == 2 * 2 * 5


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2h", 7200), ("0.5h", 1800), (" 1H ", 3600)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0m", "m", "-3m", "30 min", "1m30h", "infm"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="budget: expected a time such as 30m, 1h30m or 90s, got "):
        parse_budget(text)


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
