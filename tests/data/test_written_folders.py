"""Folders that the package wrote are never read as classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import TARGET, write_folder
from PIL import Image
from small_runs import run

from xmixup_fast.commands.functions import evaluate, select
from xmixup_fast.data.readers.folder import find_images, read_folder
from xmixup_fast.data.readers.tree import BY_US

WRITTEN = {
    "run": ("manifest.csv", "data.json", "batch.png"),
    "run of before": ("config.yaml", "metrics.jsonl", "batch.png"),
    "runs/20261130-a": ("manifest.csv", "data.json", "batch.png"),
    "runs/20261130-demo/finetune": ("manifest.csv", "data.json", "batch.png"),
    "evaluated": ("evaluation.json", "confusion.png"),
    "selected": ("selection.json", "contact-sheet-1.png"),
    "rates": ("lr.json", "lr.png"),
    "compared": ("photos.jsonl", "photos.md", "photos.csv", "photos.png"),
    "cache": ("pools/a.safetensors", "hashes/a.json", "sources/x/images/cat/1.png"),
    "kept": ("catalog.json", "images/cat/1.png", "lists/cat.json"),
}


def write(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (40, 40)).save(path)
        else:
            path.write_text("{}")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("below", ["", "train", "red"])
def test_what_the_package_wrote_is_no_class_and_this_is_said(tmp_path: Path, name: str, below: str) -> None:
    photos = write_folder(tmp_path / "photos" / ("train" if below == "train" else ""), TARGET, 3)
    root = tmp_path / "photos"
    expected = read_folder(root)
    write(root / below / name, WRITTEN[name])
    if name.startswith("runs/"):
        write(root / below / "runs" / "20261130-demo" / "letters", ("a/1.png", "b/2.png"))  # beside what is known
    dataset = read_folder(root)
    assert dataset.samples == expected.samples and dataset.classes == sorted(TARGET)
    top = root / below / name.partition("/")[0]
    assert f"{top}: left out, as xmixup wrote what is in it" in dataset.findings.guesses
    assert photos.is_dir()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("below", ["", "red"])
def test_what_the_package_wrote_is_not_predicted_and_this_is_said(tmp_path: Path, name: str, below: str) -> None:
    root = write_folder(tmp_path / "photos", TARGET, 2)
    expected = list(find_images(root, []))
    write(root / below / name, WRITTEN[name])
    ignored: dict[tuple[str, str], int] = {}
    assert list(find_images(root, [], ignored)) == expected
    top = root / below / name.partition("/")[0]
    assert ignored == {(str(top), BY_US): len(WRITTEN[name])}
    there = [one for one in WRITTEN[name] if one.endswith(".png")]
    assert len(list(find_images(root / below / name, []))) == len(there)  # where it is asked for


@pytest.mark.parametrize("names", [("1.png", "selection.json"), ("1.png", "config.yaml"), ("runs.png", "runs.jsonl")])
@pytest.mark.parametrize("name", ["runs", "pools", "cat"])
def test_a_class_that_only_looks_a_little_like_it_stays(tmp_path: Path, name: str, names: tuple[str, ...]) -> None:
    write_folder(tmp_path / "photos", TARGET, 2)
    write(tmp_path / "photos" / name, names)
    assert name in read_folder(tmp_path / "photos").classes


def test_commands_that_write_into_the_target_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_folder(tmp_path / "photos", TARGET, 4)
    monkeypatch.chdir(photos)
    data = tmp_path
    settings = {"target": ".", "weights": "none", "cache": "cache", "report": True, "source": None}
    first = run(data, Path("runs/first"), "finetune", **settings)
    evaluate(first.folder, output="evaluated", log=lambda line: None)
    chosen = {"weights": "none", "selection": "random", "output": "selected", "image_size": 32}
    select(".", source=".", model="test_resnet", cache="cache", log=lambda line: None, **chosen)
    again = run(data, Path("again"), "finetune", **settings)
    third = run(data, Path("third"), "finetune", **settings)
    for result in (again, third):
        assert result.summary["data"] == first.summary["data"]
