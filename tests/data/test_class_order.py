"""Labels follow the values of classes that are whole numbers, and a run keeps the order that it began with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from interrupted_runs import assert_same, interrupted, run
from made import SOURCE, write_folder

from xmixup_fast import ImagePool, predict
from xmixup_fast.data.dataset import sorted_classes
from xmixup_fast.data.manifest import Manifest
from xmixup_fast.data.readers import listing
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network, save
from xmixup_fast.training.run_folder import read_data

NUMBERS = {"0": (40, 60, 220), "1": (30, 200, 60), "2": (220, 40, 30), "10": (200, 200, 40)}
TABLE: dict[str, list[str]] = {
    "digits": ["0", "1", "2", "10"],
    "many digits": ["7", "21", "100", "100000000000000000000000000000"],
    "years": ["987", "1066", "1989", "2026"],
    "below zero": ["-10", "-2", "0", "+3", "11"],
    "with zeros": ["001", "02", "10"],
    "equal numbers": ["01", "1", "2"],
    "as tables write numbers": ["0.0", "2.0", "10.0"],
    "other digits": ["\u0663", "\u0661\u0660"],  # 3 and 10
    "a word among numbers": ["10", "2", "unknown"],
    "numbers in words": ["class 1", "class 10", "class 2"],
    "numbers that are not whole": ["0.5", "10.5", "2.5"],
    "powers of ten": ["1e3", "2"],
    "capitals": ["B", "a"],
    "digits that are no decimals": ["10", "2", "\u00b2"],  # a superscript
    "one": ["10"],
    "none": [],
}


@pytest.mark.parametrize("kind", TABLE)
def test_classes_are_sorted(kind: str) -> None:
    expected = TABLE[kind]
    for seed in range(5):
        names = random.Random(seed).sample(expected, len(expected))
        assert sorted_classes([*names, *names[:1]]) == expected


ALIKE: dict[str, tuple[list[str], str]] = {
    "numbers with and without a point": (["0", "1", "1.0"], "'1' and '1.0'"),
    "zeros before": (["01", "1", "2"], "'01' and '1'"),
    "capitals": (["Cat", "cat", "dog"], "'Cat' and 'cat'"),
    "an invisible sign": (["cat", "cat\u200b"], "'cat' and 'cat\\u200b'"),
    "spaces within": (["red  fox", "red fox"], "'red  fox' and 'red fox'"),
    "wide letters": (["cat", "\uff43\uff41\uff54"], "'cat' and '\\uff43\\uff41\\uff54'"),
    "several": (["A", "B", "a", "b", "c"], "'A' and 'a', 'B' and 'b'"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_classes_that_look_alike_are_said(tmp_path: Path, kind: str) -> None:
    names, said = ALIKE[kind]
    table = write_labels(tmp_path, names)
    expected = f"{table}: classes look alike, {said}: give them one spelling if they are one class"
    assert expected in read_dataset(table).findings.guesses


@pytest.mark.parametrize("joined", ["cat dog", "cat+dog", "cat & dog", "dog/cat", "cat_dog", "cat-dog"])
def test_classes_that_are_named_by_others_are_said(tmp_path: Path, joined: str) -> None:
    table = write_labels(tmp_path, ["cat", "dog", joined])
    (said,) = read_dataset(table).findings.guesses
    assert said.startswith(f"{table}: {joined!r} may be several labels, as each part is a class")


def test_other_classes_are_not_said_to_look_alike(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "cats", "red cat", "a-b"], ["1", "10", "-1", "1.5"], ["tench, Tinca"])):
        (tmp_path / str(number)).mkdir()
        assert not read_dataset(write_labels(tmp_path / str(number), names)).findings.guesses


def write_labels(folder: Path, names: list[str]) -> Path:
    """A table of an image for each class; the images are empty files."""
    for number in range(len(names)):
        (folder / f"{number}.jpg").touch()
    lines = [f'{number}.jpg,"{name}"' for number, name in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["path,label", *lines, ""]), encoding="utf-8")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of target/, whose classes are numbers, source/ and weights.safetensors."""
    folder = tmp_path_factory.mktemp("numbers")
    write_folder(folder / "target", NUMBERS, 6)
    write_folder(folder / "source", SOURCE, 4)
    save(build("test_resnet", "none", sorted(SOURCE)), folder / "weights.safetensors", image_size=32)
    return folder


def test_every_layout_has_the_same_order(numbers: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted((numbers / "target").rglob("*.png"))]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows, ""]))
    for path in (numbers / "target", tmp_path / "labels.csv"):
        dataset = read_dataset(str(path), None, None)
        assert dataset.classes == list(NUMBERS)
        assert all(Path(one.image.name).parent.name == dataset.classes[one.label] for one in dataset.train)
        told = [line for line in dataset.findings.guesses if "whole numbers" in line]
        assert told == [f"{path}: classes are whole numbers, and labels follow their values: 0, 1, 2 to 10"]
    assert ImagePool.from_folder(numbers / "target", resize=32).classes == tuple(NUMBERS)


def test_a_run_prints_and_stores_the_order(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(numbers, tmp_path / "run", "finetune")
    printed = capsys.readouterr().out
    shown = [printed.index(f"\n  {name:2s}  ") for name in NUMBERS]
    assert shown == sorted(shown) and "classes are whole numbers, and labels follow their values" in printed
    assert result.network.classes == list(NUMBERS) == load_network(result)[0].classes
    assert list(json.loads((tmp_path / "run" / "data.json").read_text())["classes"]) == list(NUMBERS)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label_names"] == list(NUMBERS)
    assert Manifest.read(tmp_path / "run" / "manifest.csv").classes == list(NUMBERS)
    (found,) = predict(result, numbers / "target" / "10" / "000.png", top_k=4)
    assert {choice.name for choice in found.top} == set(NUMBERS)


def as_texts(names: Iterable[str]) -> list[str]:
    """The order of runs before numbers were told from texts."""
    return sorted(set(names))


def test_a_run_that_began_with_another_order_keeps_it(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(listing, "sorted_classes", as_texts)
        whole = run(numbers, tmp_path / "whole", "finetune")
        interrupted(numbers, tmp_path / "run", 3, "finetune")
    assert whole.network.classes == ["0", "1", "10", "2"] == read_data(tmp_path / "whole")[0].classes
    resumed = run(numbers, tmp_path / "run", "finetune", resume="auto")
    assert resumed.network.classes == ["0", "1", "10", "2"]
    assert_same(whole, resumed)
    new = build("test_resnet", str(tmp_path / "whole"), list(NUMBERS))
    rows = [whole.network.classes.index(name) for name in NUMBERS]
    assert torch.equal(new.body.get_classifier().weight, whole.network.body.get_classifier().weight[rows])
