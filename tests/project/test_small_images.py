"""docs/small_images.py makes the images of the plans docs/small-images*.yaml, which can be read."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_have_the_controls_and_runs_of_their_own(name: str) -> None:
    plan = read(str(DOCS / name), settings={})
    runs = plan.runs({})
    assert len({run.key for run in runs}) == len(runs)
    assert len(runs) == len(plan.methods) * len(plan.tasks) * len(plan.seeds["finetune"])
    assert any(run.settings.selection == "random" for run in runs)
    assert all(run.settings.source_accuracy and run.settings.keep == "last" for run in runs)
    assert "docs/small-images-source.yaml" in plan.weights_from
