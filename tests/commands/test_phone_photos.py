"""A folder of phone pictures goes through train, evaluate, predict and export without a surprise."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import phone_photos
import pytest
from safetensors.torch import load_file

from xmixup_fast.__main__ import main

FLAGS = ["--method", "finetune", "--model", "test_resnet", "--weights", "none", "--image-size", "64", "--device", "cpu"]
FLAGS += ["--batch-size", "8", "--epochs", "12", "--lr", "0.05"]


def test_phone_pictures_without_a_surprise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phone_photos.write(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)

    assert main(["train", "--target", "photos", *FLAGS, "--output", "run"]) == 0
    shown = capsys.readouterr()
    said = shown.out.splitlines()
    assert shown.err == ""
    assert said[0] == "photos: 3 classes, 30 images (19 train, 5 val, 6 test)"
    counts = {"beach": (6, 2, 2), "forest": (6, 2, 2), "night": (7, 1, 2)}  # a copy counts once in the cut
    assert [line.split() for line in said[1:4]] == [
        [name, str(train), "train", str(val), "val", str(test), "test"] for name, (train, val, test) in counts.items()
    ]
    assert "ignored" not in shown.out and "bad file" not in shown.out
    (copies,) = [line for line in said if line.startswith("duplicates: ")]
    assert copies.startswith(
        "duplicates: 1 content more than once, with one label (night/IMG_0020 (1).HEIC = night/IMG_0020.HEIC)"
    )
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["bad_files"]["count"] == 0 and summary["test_accuracy"] == 100

    assert main(["evaluate", "run", "--output", "evaluation"]) == 0
    assert "photos: the run's own images, 6 of its 6 test images recognised" in capsys.readouterr().out
    found, own = (json.loads(Path(name, "evaluation.json").read_text()) for name in ("evaluation", "run"))
    assert (found["accuracy"], found["loss"]) == (own["accuracy"], own["loss"])

    assert main(["predict", "run", "photos", "--output", "predictions.csv"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("30 images predicted: predictions.csv\n", "")
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["class"] == Path(row["file"]).parts[1] for row in rows)
    assert len(rows) == 30 and right >= 29

    command = ["export", "run", "--format", "safetensors", "torch", "--with-preprocessing", "--output", "exported"]
    assert main(command) == 0
    assert load_file("exported/model.safetensors").keys() == load_file("run/model.safetensors").keys()
