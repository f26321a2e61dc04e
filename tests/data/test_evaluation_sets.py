"""Datasets without training images: any split will do for evaluation, and none for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from listings import numbered, write, write_shard, write_table

from xmixup_fast.data.layout import SPLITS
from xmixup_fast.data.sources import read_dataset


def folder(root: Path, names: list[str]) -> str:
    write(root, *(f"{name}/{kind}/{i}.jpg" for name in names for kind in ("cat", "dog") for i in range(2)))
    return str(root)


def table(root: Path, names: list[str]) -> str:
    folder(root / "images", names)
    paths = sorted((root / "images").rglob("*.jpg"))
    rows = [{"path": path, "label": path.parts[-2], "split": path.parts[-3]} for path in paths]
    return str(write_table(root / "table.csv", rows))


def shards(root: Path, names: list[str]) -> str:
    for name in names:
        write_shard(root / name / "0.tar", [*numbered(1, 2), *numbered(3, 4, label="dog")])
    return str(root)


def hub(root: Path, names: list[str]) -> str:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": b"x", "path": None}] * 4
    rows = datasets.Dataset.from_dict({"image": images, "label": ["cat", "cat", "dog", "dog"]})
    rows = rows.cast_column("image", datasets.Image(decode=False))
    datasets.DatasetDict(dict.fromkeys(names, rows)).save_to_disk(root)
    return f"hf:{root}"


@pytest.mark.parametrize("make", [folder, table, shards, hub])
@pytest.mark.parametrize("names", [["test"], ["val"], ["Testing"], ["dev", "test"], ["eval"]])
def test_any_split_will_do_for_evaluation(
    tmp_path: Path, make: Callable[[Path, list[str]], str], names: list[str]
) -> None:
    names = [name.lower() for name in names] if make is hub else names
    dataset = read_dataset(make(tmp_path / "data", names), needs_train=False)
    given = {SPLITS[name.lower()] for name in names}
    found = {split: len(getattr(dataset, split)) for split in ("train", "val", "test")}
    assert found == {split: 4 * (split in given) for split in ("train", "val", "test")}
    assert dataset.classes == ["cat", "dog"]


@pytest.mark.parametrize("make", [folder, table, hub])
def test_training_needs_a_train_split(tmp_path: Path, make: Callable[[Path, list[str]], str]) -> None:
    with pytest.raises(ValueError, match=r"has (val and test|test and val) but no train split: name one train"):
        read_dataset(make(tmp_path / "data", ["val", "test"]))


def test_shards_named_for_splits_without_train(tmp_path: Path) -> None:
    for name in ("test", "val"):
        write_shard(tmp_path / f"s-{name}-0.tar", [*numbered(1, 2), *numbered(3, 4, label="dog")])
    dataset = read_dataset(f"{tmp_path}/s-{{test,val}}-0.tar", needs_train=False)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (0, 4, 4)


def test_a_class_without_a_training_image_is_no_fault_of_an_evaluation_set(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1.jpg", "test/dog/2.jpg")
    assert read_dataset(tmp_path, needs_train=False).classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="class dog has no training image, but 1 in test"):
        read_dataset(tmp_path)


def test_an_evaluation_set_needs_an_image(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [{"path": "gone.jpg", "label": "a", "split": "test"}])
    with pytest.raises(ValueError, match=r"no such file .*\n  .*t\.csv: no images$"):
        read_dataset(table, needs_train=False)
