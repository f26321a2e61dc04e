"""bench/end_to_end.py: made photographs, processes, checks, evaluator, table, and two of its sides."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import end_to_end
import pytest
import timm
import torch
from made import write_folder
from PIL import Image
from whole_runs import evaluate, photos, process, table
from whole_runs.recipe import Recipe, Steps, marks

COLOURS = {"a": (220, 30, 30), "b": (30, 220, 30)}


# --- Photographs ---


def test_photographs_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        photos.write_all(tmp_path / name, {"train": 10, "val": 10, "test": 10}, 20)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert len(files) == 50
    folders = {str(path.parent.parent) for path in files}
    assert folders == {"target/train", "target/val", "test", "source"}
    contents = [(tmp_path / "one" / path).read_bytes() for path in files]
    assert contents == [(tmp_path / "two" / path).read_bytes() for path in files]
    assert len(set(contents)) == len(contents), "no image is in two splits or classes"
    with Image.open(tmp_path / "one" / files[0]) as image:
        assert image.size == (500, 375) and image.format == "JPEG"


def test_numbers_that_leave_classes_uneven_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="photographs of val: expected a multiple of its 10 classes, got 15"):
        photos.write_all(tmp_path, {"train": 10, "val": 15}, 20)
    with pytest.raises(argparse.ArgumentTypeError, match="expected a multiple of 60, got 30"):
        end_to_end.number_of_images("30")


# --- Processes ---


def test_memory_of_a_child_counts(tmp_path: Path) -> None:
    child = "import time; block = bytearray(b'1' * 200 * 2**20); time.sleep(3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    took = process.run([sys.executable, "-c", parent], tmp_path / "log", timeout=60)
    assert took.pss_mib > 200 and took.rss_mib >= took.pss_mib
    assert took.ended - took.began > 3 and took.cpu_seconds > 0


def test_a_command_that_fails_or_hangs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3 after .*\nreason"):
        process.run([sys.executable, "-c", "print('reason'); exit(3)"], tmp_path / "log", timeout=60)
    with pytest.raises(RuntimeError, match="ended with -9"):
        process.run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", timeout=0.5)


# --- Checks and evaluator ---


def recipe_of(**more: Any) -> Recipe:
    folders = dict.fromkeys(("target", "source", "start", "output", "cache"), "/nowhere")
    return Recipe(**{**folders, "classes": 10, "epochs": 2, "workers": 1, **more})


def test_steps_other_than_the_recipes_are_refused() -> None:
    recipe, parameter = recipe_of(), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], recipe.lr, recipe.momentum, nesterov=True, weight_decay=1e-4)
    steps = Steps()
    optimizer.register_step_post_hook(steps.record)
    for step in range(4):  # two epochs of 60 images
        optimizer.param_groups[0]["lr"] = recipe.lr * (1 + math.cos(math.pi * step / 4)) / 2
        optimizer.step()
    told = json.loads(json.dumps({"ends": steps.ends, "rates": steps.rates, "how": sorted(steps.how)}))
    evaluate.check_steps(recipe, 60, told)
    with pytest.raises(ValueError, match="steps: expected 6, got 4"):
        evaluate.check_steps(recipe, 90, told)
    with pytest.raises(ValueError, match=r"optimiser: expected .*0\.5, True, 0\.0001"):
        evaluate.check_steps(recipe_of(momentum=0.5), 60, told)
    with pytest.raises(ValueError, match=r"learning rate of step 1 of 4: expected 0\.00854, got \[0\.01\]"):
        evaluate.check_steps(recipe, 60, {**told, "rates": [[0.01]] * 4})


def test_a_network_that_has_not_learnt_is_refused() -> None:
    start = {"body": torch.ones(2), "head": torch.zeros(2)}
    evaluate.check_learnt(start, {"body": torch.tensor([1.0, 2.0]), "head": torch.ones(2)})
    with pytest.raises(ValueError, match="body: expected other values"):
        evaluate.check_learnt(start, {"body": torch.ones(2), "head": torch.ones(2)})
    with pytest.raises(ValueError, match="head: expected finite numbers"):
        evaluate.check_learnt(start, {"body": torch.zeros(2), "head": torch.tensor([math.nan, 0])})
    with pytest.raises(ValueError, match="expected a tensor head"):
        evaluate.check_learnt(start, {"body": torch.zeros(2)})


def test_names_of_tensors_become_timms(tmp_path: Path) -> None:
    state = {"0.model.stem": torch.ones(1), "1.2.weight": torch.zeros(1), "loss.weight": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    names = {"0.model.": "", "1.2.": "classifier."}
    found = evaluate.read_state(tmp_path / "model.ckpt", names, "state_dict")
    assert sorted(found) == ["classifier.weight", "stem"] and found["stem"] == 1


class Greenness(torch.nn.Module):
    """Its logits are the means of red and of green."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 128, 128)
        return images.mean((2, 3))[:, :2]


def test_accuracy_counts_images(tmp_path: Path) -> None:
    write_folder(tmp_path, COLOURS, 4)
    images = evaluate.held_out(tmp_path, recipe_of(), [0.5] * 3, [0.5] * 3)
    assert evaluate.accuracy(Greenness(), images) == 100
    next((tmp_path / "a").iterdir()).rename(tmp_path / "b" / "red.png")
    images = evaluate.held_out(tmp_path, recipe_of(), [0.5] * 3, [0.5] * 3)
    assert evaluate.accuracy(Greenness(), images) == 100 * 7 / 8


# --- Table ---


def row(side: str, seconds: float, run: int = 0, **more: Any) -> dict[str, Any]:
    common = {"model": "net", "epochs": 2, "images": 60, "workers": 2, "steps": 4, "test_images": 100}
    measured = {"cpu_seconds": 50.0, "pss_mib": 900.0, "rss_mib": 1000.0, "accuracy": 60.0, "exit_seconds": 99.0}
    about = {"machine": "a machine, 2 cores", "versions": {"torch": "2.14.1"}, "date": "2026-01-02"}
    parts = {"start": 1.0, "setup": 2.0, "training": 3.0, "between": 4.0, "end": 5.0}
    which = {"side": side, "run": run, "seconds": seconds, "parts": parts}
    return {**common, **measured, **about, **which, **more}


def test_the_table_says_which_goals_are_met() -> None:
    rows = [row("finetune", seconds) for seconds in (10.0, 12.0, 50.0)]
    rows += [row("xmixup", 21.0), row("fastai", 30.0), row("lightning", 20.0, accuracy=90.0), row("timm", 40.0)]
    rows.append({"side": "huggingface", "not_run": "transformers not installed"})
    text = table.page(rows)
    assert "| *finetune*, first run | **12.0** (10.0 to 50.0) | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 50 | 900 |" in text
    assert "| Hugging Face's Trainer | not run: transformers not installed |" in text
    lightning = "fastest other (Lightning, torchvision's loader)"
    assert f"| {lightning} / *finetune*, first run | > 1 | 1.67, met |" in text
    assert f"| {lightning} / *xmixup*, first run | > 1 | 0.95, **missed** |" in text
    assert "| median other / *finetune*, first run | ≥ 2 | 2.50, met |" in text
    assert "| median other / *xmixup*, first run | ≥ 2 | 1.43, **missed** |" in text
    assert "from 60.0 to 90.0 %, apart by **more** than" in text


def test_a_table_without_a_side_is_not_written() -> None:
    with pytest.raises(SystemExit, match=r"found none of \*finetune\*, second run, \*xmixup\*"):
        table.page([row("finetune", 10.0)], complete=True)
    with pytest.raises(SystemExit, match="expected measurements, found none"):
        table.page([])


# --- Sides ---


def test_what_is_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measured(side: str, *rest: Any) -> list[dict[str, Any]]:
        calls.append(side)
        return [{"run": 0, "seconds": 1.0}]

    monkeypatch.setattr(end_to_end, "measured", measured)
    monkeypatch.setattr(end_to_end, "prepare", lambda *_: (tmp_path, tmp_path))
    for repeats in ("1", "2", "2"):
        flags = ["--folder", str(tmp_path), "--repeats", repeats, "--only", "timm", "fastai"]
        monkeypatch.setattr(sys, "argv", ["end_to_end.py", *flags])
        end_to_end.main()
    assert calls == ["timm", "fastai"] * 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, few of each split, and a small start."""
    folder = tmp_path_factory.mktemp("whole_runs")
    photos.write_all(folder / "photos", {"train": 60, "val": 10, "test": 20}, 20, 2)
    end_to_end.write_start("test_resnet", folder / "start")
    return folder


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads the memory of processes, as on Linux")
@pytest.mark.parametrize("side", ["finetune", "timm"])
def test_a_side_trains_and_is_evaluated(side: str, small: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        **{name: str(small / "photos" / name) for name in ("target", "source")},
        **{"start": str(small / "start"), "output": str(tmp_path / "run"), "cache": str(tmp_path / "cache")},
    )
    Path(recipe.output).mkdir()
    found = end_to_end.run_once(side, recipe, small / "photos" / "test", 60, timeout=300)
    assert found["steps"] == 4 and found["test_images"] == 20
    assert 0 <= found["accuracy"] <= 100 and found["accuracy"] % 5 == 0
    assert math.isclose(sum(found["parts"].values()), found["seconds"])
    assert all(seconds > 0 for seconds in found["parts"].values()) and found["pss_mib"] > 100
    log = (tmp_path / "run.log").read_text()
    assert [mark["mark"] for mark in marks(log)] == ["imported", "saved", "steps"]


def test_the_start_serves_any_number_of_classes(small: Path) -> None:
    made = timm.create_model(f"local-dir:{small / 'start'}", pretrained=True)
    again = timm.create_model(f"local-dir:{small / 'start'}", pretrained=True, num_classes=10)
    body = {name for name in made.state_dict() if not name.startswith("fc.")}
    assert len(body) > 10
    for name in body:
        assert torch.equal(made.state_dict()[name], again.state_dict()[name]), name
