"""xmixup compare photos/: which runs are made, what their predictions are told to mean, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made import TARGET
from made_up_runs import MadeUp

import xmixup_fast
from xmixup_fast import Settings, Verdict
from xmixup_fast.commands.compare import main
from xmixup_fast.comparison import folds
from xmixup_fast.comparison.results import Results
from xmixup_fast.training.target import target_data

ANSWER = re.compile(
    r"these 60 photos cannot tell: a difference below (\d+\.\d) points would not show; four times as many repeats "
    r"would bring that to (\d+\.\d)$"
)


FLAGS = ["photos", "--source", "source", "--model", "test_resnet", "--methods", "finetune", "xmixup", "xcutmix-l2sp"]


def verdict(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """What --format json prints."""
    capsys.readouterr()
    assert main([*FLAGS, *flags, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


HELPS = r"auxiliary images help here: \+\d+\.\d points \(\+\d.* to \+\d.*\) over fine-tuning, with xmixup$"
HURTS = r"they hurt here: -\d+\.\d points \(-\d.* to -\d.*\) against fine-tuning, with "


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"xmixup": 0.95}, ("help", "xmixup", HELPS)),
        ({"xcutmix": 0.95, "xmixup": 0.8}, ("help", "xcutmix-l2sp", r"images help .*, with xcutmix-l2sp$")),
        ({"xmixup": 0.05, "xcutmix": 0.05}, ("hurt", "finetune", HURTS)),
        ({"xmixup": 0.05}, ("cannot tell", "finetune", ANSWER.pattern)),
        ({"xmixup": 0.52}, ("cannot tell", "finetune", ANSWER.pattern)),
        ({"finetune": 1.0, "xmixup": 1.0, "xcutmix": 1.0}, ("cannot tell", "finetune", ANSWER.pattern)),
        ({"finetune": 0.0, "xmixup": 1.0, "xcutmix": 1.0}, ("help", "xmixup", r"\+100\.0 points")),
    ],
)
def test_the_sentence_says_what_the_photos_tell(
    place: Path,
    made_up: MadeUp,
    capsys: pytest.CaptureFixture[str],
    shares: dict[str, float],
    expected: tuple[str, str, str],
) -> None:
    made_up.shares = shares
    answer, winner, sentence = expected
    found = verdict(capsys, "--repeats", "1")
    assert (found["answer"], found["winner"]) == (answer, winner)
    assert re.search(sentence, found["sentence"]), found["sentence"]
    assert (found["photos"], found["classes"], found["folds"], found["repeats"]) == (60, 3, 5, 1)
    if match := ANSWER.search(found["sentence"]):
        assert 100 / 60 - 0.05 <= float(match[2]) < float(match[1]), "never below one photo"


def test_figures_are_those_of_the_predictions(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.shares = {"xmixup": 0.9}
    found = verdict(capsys, "--repeats", "1")
    base, own, _ = found["methods"]
    data = target_data(Settings(target="photos", test="none"), lambda text: None)
    draws = [int(data.contents[one.image.name].digest[:8], 16) / 16**8 for one in data.dataset.samples]
    expected = [100 * sum(draw < share for draw in draws) / 60 for share in (0.5, 0.9)]
    assert [base["accuracy"], own["accuracy"]] == pytest.approx(expected, abs=1e-3)
    assert own["difference"] == pytest.approx(expected[1] - expected[0], abs=1e-3)
    low, high = own["difference_interval"]
    assert low < own["difference"] < high and low > 0 and own["p"] <= own["p_holm"] < 0.05
    assert base["accuracy_interval"][0] < base["accuracy"] < base["accuracy_interval"][1] and "p" not in base
    assert own["seconds"] == 36


def test_each_photo_is_predicted_once_a_repeat_by_a_network_that_has_not_seen_it(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict(capsys, "--repeats", "2")
    runs = made_up.runs()
    assert len(runs) == 3 * 5 * 2 and len({(run.method, run.seed, run.val_fold) for run in runs}) == 30
    for run in runs:
        data = target_data(run, lambda text: None).dataset
        assert not {one.image for one in data.val} & {one.image for one in data.train}
        assert len(data.val) + len(data.train) == 60 and not data.test
        # No weights, rates or steps are chosen by the very photos that are predicted.
        assert (run.keep, run.patience, run.test, run.shots) == ("last", None, "none", None)
    for seed in (0, 1):
        of_repeat = [run for run in runs if run.seed == seed and run.method == "finetune"]
        names = [one.image for run in of_repeat for one in target_data(run, lambda text: None).dataset.val]
        assert len(names) == len(set(names)) == 60


def test_the_budget_decides_the_repeats_and_the_estimate_is_printed_first(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "MOST_REPEATS", 4)
    assert main([*FLAGS, "--budget", "30m"]) == 0
    out = capsys.readouterr().out
    # 3 methods x 5 folds x 36 s are 9 minutes.
    assert "estimate: 27 min for 3 repeats (a run of finetune 36 s, xmixup 36 s, xcutmix-l2sp 36 s; 5 folds)" in out
    assert out.index("estimate:") < out.index("[1/45]") and "27 min of runs, estimated 27 min" in out
    assert [work for work, _ in made_up.done[:6]] == ["few_steps"] * 6 and len(made_up.done) == 6 + 45
    assert main([*FLAGS, "--budget", "8m"]) == 2
    assert (
        "error: budget: expected 9 min at least, which one repeat takes (a run of finetune 36 s, xmixup 36 s, "
        "xcutmix-l2sp 36 s; 5 folds), got 8m; give --budget 9m, fewer --methods"
    ) in capsys.readouterr().err
    assert main([*FLAGS, "--budget", "24h"]) == 0
    assert "for 4 repeats" in capsys.readouterr().out
    assert len(made_up.done) == 6 + 15 * 4, "nothing is run or timed again"


def test_a_method_without_steps_takes_what_its_short_run_took() -> None:
    line = {"run_seconds": 7.0, "train_seconds": 1.0, "seconds_per_step": 0.0, "full_steps": 0}
    assert folds._run_seconds(line) == 7.0
    assert folds._run_seconds({**line, "full_steps": 100, "seconds_per_step": 0.2}) == 26.0


def test_rates_are_averaged_as_probabilities(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.shares = {"finetune": 0.5, "xmixup": 0.5, "xcutmix": 1.0}
    # At a rate of 0.1 the predictions are the contrary, but less sure than at the others.
    made_up.flips = lambda settings: settings.lr == 0.1
    made_up.probability = lambda settings: 0.6 if settings.lr == 0.1 else 0.9
    found = verdict(capsys, "--repeats", "1", "--rates", "0.1", "0.01")
    assert found["rates"] == [0.01, 0.1] and found["methods"][2]["accuracy"] == 100
    assert found["methods"][0]["seconds"] == 2 * 36
    assert sorted({run.lr for run in made_up.runs()}) == [0.01, 0.1] and len(made_up.runs()) == 2 * 15
    one, other = found["commands"]
    assert one.endswith("--lr 0.01") and other.endswith("--lr 0.1") and "--recipe xcutmix-l2sp" in one


def test_the_command_that_trains_can_be_run_as_it_is(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    from shlex import split

    from xmixup_fast.cli import parse_settings

    made_up.shares = {"xmixup": 0.95}
    (place / "photos").rename(place / "my photos")
    flags = ["my photos", "--source", "source", "--methods", "xmixup-random", "--model", "test_resnet", "--no-flip"]
    flags += ["--scale", "0.5", "1", "--crop", "resized", "--lr", "0.0001", "--epochs", "3", "--repeats", "2"]
    assert main([*flags, "--format", "json"]) == 0
    (command,) = json.loads(capsys.readouterr().out)["commands"]
    words = split(command)
    assert words[:3] == ["xmixup", "train", "my photos"]
    found = parse_settings(words[2:], "xmixup train", None)
    expected = {"method": "xmixup", "selection": "random", "flip": False, "scale": [0.5, 1.0], "lr": 1e-4, "epochs": 3}
    expected |= {"source": "source", "test": "none", "keep": "last", "model": "test_resnet"}
    assert {name: getattr(found, name) for name in expected} == expected
    trained = target_data(found, lambda text: None).dataset
    assert (len(trained.train), len(trained.val), len(trained.test)) == (57, 3, 0)


def test_what_is_done_is_not_done_again(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    first = verdict(capsys, "--repeats", "1")
    count = len(made_up.done)
    assert verdict(capsys, "--repeats", "1") == first and len(made_up.done) == count
    # Spelled otherwise, or from another folder, they are the same photos.
    assert main(["./photos/", *FLAGS[1:], "--repeats", "1"]) == 0 and len(made_up.done) == count
    assert verdict(capsys, "--repeats", "2")["repeats"] == 2 and len(made_up.done) == count + 15
    assert verdict(capsys, "--table")["repeats"] == 2 and len(made_up.done) == count + 15
    assert verdict(capsys, "--repeats", "1", "--epochs", "3")["repeats"] == 1 and len(made_up.done) > count + 15


def test_a_stopped_comparison_goes_on(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    for after in (3, 9, 20):
        made_up.interrupted_after = after
        assert main([*FLAGS, "--repeats", "2"]) == 130
        assert "stopped; the same command goes on" in capsys.readouterr().err
    made_up.interrupted_after = None
    assert verdict(capsys, "--table")["repeats"] == 0
    assert "no repeat is complete yet" in verdict(capsys, "--table")["sentence"]
    assert verdict(capsys, "--repeats", "2")["repeats"] == 2 and len(made_up.done) == 6 + 30


def test_what_another_process_is_timing_is_waited_for(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, refused = Results.claim, []

    @contextmanager
    def claimed(self: Results, key: str) -> Iterator[bool]:
        if len(refused) < 2:  # as by another process, which dies
            refused.append(key)
            yield False
        else:
            with claim(self, key) as mine:
                yield mine

    monkeypatch.setattr(Results, "claim", claimed)
    monkeypatch.setattr(folds, "WAIT_SECONDS", 0.0)
    assert verdict(capsys, "--repeats", "1")["repeats"] == 1 and len(refused) == 2


def test_failed_runs_are_counted_and_their_repeats_left_out(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up.fails = lambda settings: settings.seed == 1 and settings.method == "xmixup" and settings.steps is None
    assert main([*FLAGS, "--repeats", "3"]) == 1
    out = capsys.readouterr().out
    assert "5 runs have failed" in out and "2 repeats of 5 folds" in out
    made_up.fails = lambda settings: False
    assert verdict(capsys, "--repeats", "3")["repeats"] == 3


def test_what_cannot_be_run_at_all_is_said_by_its_first_steps(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up.fails = lambda settings: settings.method == "xmixup"
    assert main(FLAGS) == 2
    message = r"error: xmixup: lr: the loss became nan in step 3; runs/compare-\S+/results\.work/\w+\.log tells more\n"
    assert re.fullmatch(message, capsys.readouterr().err) and not made_up.runs()


def test_other_photos_have_other_results(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    verdict(capsys, "--repeats", "1", "--results", "own.jsonl")
    verdict(capsys, "--repeats", "1")
    next((place / "photos" / "red").iterdir()).unlink()
    assert verdict(capsys, "--repeats", "1")["photos"] == 59 and len(list((place / "runs").iterdir())) == 2
    assert main([*FLAGS, "--repeats", "1", "--results", "own.jsonl"]) == 2
    assert re.search(r"results: own\.jsonl has runs on other images than photos has now", capsys.readouterr().err)


def test_copies_are_predicted_once(place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    photo = place / "photos" / "red" / "000.png"
    for name in ("copy 1.png", "copy 2.png"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    assert verdict(capsys, "--repeats", "1")["photos"] == 60


def test_the_page_shows_photos_and_classes_that_gain_and_lose(
    place: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up.shares = {"xmixup": 0.9}
    found = verdict(capsys, "--repeats", "1")
    page = Path(found["page"]).read_text(encoding="utf-8")
    gained = round(60 * found["methods"][1]["difference"] / 100)
    assert "Auxiliary images help here" in page and "xmixup train photos --method xmixup" in page
    for title in (
        "Accuracy against seconds",
        "Photos that xmixup gets, and finetune does not",
        "Classes that gain and lose",
    ):
        assert f"<h2>{title}</h2>" in page
    assert f"<p>{gained} photos" in page and page.count("right: xmixup 100 %, finetune 0 %") == min(gained, 16)
    assert page.count("data:image/jpeg") == min(gained, 16) and page.count("data:image/png") == 1
    assert "<p>0 photos.</p>" in page and all(f"<tr><td>{name}" in page for name in TARGET)
    assert "<script" not in page


def test_the_function_returns_a_small_result(place: Path, made_up: MadeUp) -> None:
    made_up.shares = {"xmixup": 0.9}
    said: list[object] = []
    options: dict[str, Any] = {"methods": ["xmixup"], "repeats": 1, "log": said.append}
    found = xmixup_fast.compare(place / "photos", source="source", model="test_resnet", **options)
    assert isinstance(found, Verdict) and found.answer == "help" and found.winner.name == "xmixup" and any(said)
    text = repr(found)
    assert text.startswith(f"{place / 'photos'}: 60 photos of 3 classes, 1 repeat of 5 folds\n\n| method | accuracy")
    assert found.sentence in text and found.commands[0] in text and str(found.page) in text
    assert found.sentence in found._repr_html_()
    again = xmixup_fast.compare(Settings(target="photos", source="source", model="test_resnet"), **options, table=True)
    assert again.sentence == found.sentence and len(made_up.runs()) == 10
    for wrong, error in (
        ({"methd": "x"}, TypeError),
        ({"method": "xmixup"}, ValueError),
        ({"report": True}, ValueError),
        ({"seed": 3}, ValueError),
        ({"folds": "many"}, ValueError),
        ({"budget": 30}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            xmixup_fast.compare("photos", **{**options, "source": "source", "model": "test_resnet", **wrong})
