"""docs/small_images.py makes the images of the plans docs/small-images*.yaml, which can be read."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmixup_fast.comparison.plan import read
from xmixup_fast.data.readers.huggingface import read_huggingface

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLANS = sorted(path.name for path in DOCS.glob("small-images*.yaml") if path.name != "small-images-source.yaml")


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    pytest.importorskip("datasets")
    return runpy.run_path(str(DOCS / "small_images.py"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def cifar(classes: list[str], count: int) -> Any:
    """What torchvision has of a CIFAR: ``count`` images of each class, whose pixels tell class and number."""
    targets = [label for number in range(count) for label in range(len(classes))]
    numbers = [number for number in range(count) for _ in classes]
    data = np.array([np.full((32, 32, 3), (label, number, 0)) for label, number in zip(targets, numbers, strict=True)])
    return SimpleNamespace(classes=classes, targets=targets, data=data.astype(np.uint8))


def test_classes_are_taken_by_name_and_the_first_images_of_each(program: dict[str, Any]) -> None:
    rows = program["table"](cifar(["ant", "bee", "cow"], 5), ["cow", "ant"], 2)
    assert rows.features["label"].names == ["cow", "ant"] and rows["label"] == [0, 0, 1, 1]
    pixels = [np.asarray(image)[0, 0].tolist() for image in rows["image"]]
    assert pixels == [[2, 0, 0], [2, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert len(program["table"](cifar(["ant", "bee"], 5), ["bee"], None)) == 5


def test_a_source_without_test_images_has_some_held_out(program: dict[str, Any], tmp_path: Path) -> None:
    counts = {"cifar80/train": 30, "cifar20/train": 4, "cifar20/test": 2, "cifar10/train": 3, "cifar10/test": 1}
    for name, count in counts.items():
        rows = program["table"](cifar(["ant", "bee"], count), ["ant", "bee"], None)
        program["write"](tmp_path / "made" / f"{name}.parquet", rows)
    program["main"]([str(tmp_path / "out"), "--from", str(tmp_path / "made")])
    source = read_huggingface(str(tmp_path / "out" / "cifar80"))
    held, rest = ([sample.image.read() for sample in samples] for samples in (source.test, source.train))
    assert Counter(sample.label for sample in source.test) == {0: 25, 1: 25}
    assert Counter(sample.label for sample in source.train) == {0: 5, 1: 5} and not set(held) & set(rest)
    target = read_huggingface(str(tmp_path / "out" / "cifar20"))
    assert (len(target.train), len(target.test)) == (8, 4)


CLASSES = [f"class{number:02}" for number in range(12)]


def write_photographs(folder: Path, colours: dict[str, int]) -> None:
    """Photographs of several sizes: a grey level, with white edges outside of the square in the middle."""
    for name, level in colours.items():
        tall = level % 2
        pixels = np.full((100, 40, 3) if tall else (40, 100, 3), 255, np.uint8)
        pixels[(slice(30, 70), slice(None)) if tall else (slice(None), slice(30, 70))] = level
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def levels(file: Path) -> dict[str, list[int]]:
    """The grey levels of a Parquet file's images, by class. Each image is grey throughout, and has 32 pixels."""
    from datasets import Dataset

    found: dict[str, list[int]] = {}
    split = Dataset.from_parquet(str(file))
    for row in split:
        pixels = np.asarray(row["image"])
        assert pixels.shape == (32, 32, 3) and pixels[2:-2, 2:-2].std() == 0
        found.setdefault(split.features["label"].int2str(row["label"]), []).append(int(pixels[16, 16, 0]))
    return found


def test_class_folders_are_brought_down(program: dict[str, Any], tmp_path: Path) -> None:
    for name in ("flowers102", "dtd10"):
        for split, count in (("train", 3), ("test", 2)):
            for place, label in enumerate(CLASSES):
                photographs = {f"{label}/{i}.png": 20 * place + i for i in range(count)}
                write_photographs(tmp_path / "made" / name / split, photographs)
    program["main"]([str(tmp_path / "out"), "--from", str(tmp_path / "made"), "--photographs"])
    for name, classes in (("flowers102", CLASSES), ("dtd10", CLASSES[:10])):
        for split, count in (("train", 3), ("test", 2)):
            expected = {label: [20 * place + i for i in range(count)] for place, label in enumerate(classes)}
            assert levels(tmp_path / "out" / name / f"{split}.parquet") == expected
    assert len(read_huggingface(str(tmp_path / "out" / "dtd10")).train) == 30


def test_what_torchvision_has_is_brought_down(program: dict[str, Any], tmp_path: Path) -> None:
    """Its validation images are trained on. The dataset is there already, so nothing is downloaded."""
    base = tmp_path / "dtd" / "dtd"
    names = [f"{label}/{label}_{i}.png" for label in CLASSES for i in range(3)]
    write_photographs(base / "images", {name: number for number, name in enumerate(names)})
    (base / "labels").mkdir()
    for i, split in enumerate(("train", "val", "test")):
        (base / "labels" / f"{split}1.txt").write_text("".join(f"{name}\n" for name in names[i::3]))
    program["bring_down"]("dtd10", None, tmp_path)
    train, test = (levels(tmp_path / "dtd10" / f"{split}.parquet") for split in ("train", "test"))
    assert train == {label: [3 * place, 3 * place + 1] for place, label in enumerate(CLASSES[:10])}
    assert test == {label: [3 * place + 2] for place, label in enumerate(CLASSES[:10])}


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_have_the_controls_and_runs_of_their_own(name: str) -> None:
    plan = read(str(DOCS / name), settings={})
    runs = plan.runs({})
    assert len({run.key for run in runs}) == len(runs)
    assert len(runs) == len(plan.methods) * len(plan.tasks) * len(plan.seeds["finetune"])
    assert any(run.settings.selection == "random" for run in runs)
    assert all(run.settings.source_accuracy and run.settings.keep == "last" for run in runs)
    assert "docs/small-images-source.yaml" in plan.weights_from
