"""Groups of images, such as those of a patient, go into one split; columns that look like groups are named."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TARGET, write_folder
from small_runs import run

from xmixup_fast.data.cut import UNUSED, cut
from xmixup_fast.data.dataset import SPLITS, Content, Dataset, FileImage, Sample
from xmixup_fast.data.groups import read_groups, said
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.settings.fields import Settings


def made(classes: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[Dataset, dict[str, Content], dict[str, str]]:
    """A dataset whose images are given by group and content."""
    names = sorted(classes)
    samples, contents, groups = [], {}, {}
    for name, images in classes.items():
        for i, (group, text) in enumerate(images):
            image = FileImage(Path("photos", name, f"{i:03d}.png"))
            samples.append(Sample(image, names.index(name)))
            contents[image.name], groups[image.name] = Content.of(text.encode()), group
    return Dataset(names, samples, [], [], root="photos"), contents, groups


def splits_of(dataset: Dataset, groups: Mapping[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for split in SPLITS:
        for one in getattr(dataset, split):
            found.setdefault(groups[one.image.name], set()).add(split)
    return found


@settings(max_examples=150)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=8, max_size=30),
    seed=st.integers(0, 1000),
    shared=st.lists(st.integers(0, 5), max_size=6),
    shots=st.sampled_from([None, 1]),
)
def test_no_group_and_no_content_is_in_two_splits(
    sizes: list[tuple[int, int]], seed: int, shared: list[int], shots: int | None
) -> None:
    """Groups have images of both classes, and some images are in several groups."""
    classes: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
    for group, counts in enumerate(sizes):
        for name, count in zip("ab", counts, strict=True):
            classes[name] += [(f"group {group}", f"{name} {group} {i}") for i in range(count)]
    for place, number in enumerate(shared):
        classes["a"].append((f"group {place % len(sizes)}", f"shared {number}"))
    for name in "ab":
        classes[name] += [(f"own {name} {i}", f"own {name} {i}") for i in range(4)]
    dataset, contents, groups = made(classes)
    done = cut(dataset, contents, Settings(target="t", seed=seed, shots=shots), groups)
    assert all(len(found) == 1 for found in splits_of(done.dataset, groups).values())
    by_content: dict[str, set[str]] = {}
    for split in SPLITS:
        for one in getattr(done.dataset, split):
            by_content.setdefault(contents[one.image.name].digest, set()).add(split)
    assert all(len(found) == 1 for found in by_content.values())
    for split in SPLITS:
        assert {one.label for one in getattr(done.dataset, split)} == {0, 1}, split
    names = [one.image.name for one in done.dataset.samples] + list(done.apart)
    assert sorted(names) == sorted(one.image.name for one in dataset.samples)
    if shots:
        assert Counter(one.label for one in done.dataset.train) == {0: 1, 1: 1}
        assert set(done.apart.values()) <= {UNUSED}


def test_shares_are_about_as_large_as_asked_for() -> None:
    classes = {name: [(f"{name} {i % 40}", f"{name} {i}") for i in range(400)] for name in "ab"}
    dataset, contents, groups = made(classes)
    done = cut(dataset, contents, Settings(target="t", test_fraction=0.3, val_fraction=0.2), groups)
    for label in (0, 1):
        counts = {split: sum(one.label == label for one in getattr(done.dataset, split)) for split in SPLITS}
        assert counts == {"train": 230, "val": 50, "test": 120}  # whole groups, of ten images each


def test_groups_are_cut_alike_whatever_order_and_place_they_have() -> None:
    classes = {name: [(f"{name} {i % 9}", f"{name} {i}") for i in range(90)] for name in "ab"}
    dataset, contents, groups = made(classes)
    rule = Settings(target="t", seed=3)
    before = splits_of(cut(dataset, contents, rule, groups).dataset, groups)
    dataset, contents, groups = made({name: images[::-1] for name, images in classes.items()})
    assert splits_of(cut(dataset, contents, rule, groups).dataset, groups) == before
    other = splits_of(cut(dataset, contents, Settings(target="t", seed=4), groups).dataset, groups)
    assert other != before


def test_without_a_test_validation_stays_and_training_gets_the_rest() -> None:
    dataset, contents, groups = made({name: [(f"{i % 9}", f"{name} {i}") for i in range(90)] for name in "ab"})
    run_, hold, none = (
        splits_of(cut(dataset, contents, Settings(target="t", test=test), groups).dataset, groups)
        for test in ("run", "hold", "none")
    )
    assert run_ == hold
    assert none == {group: {"train"} if found == {"test"} else found for group, found in run_.items()}


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_too_few_groups_is_named(count: int) -> None:
    classes = {"a": [(f"{i % 9}", f"a {i}") for i in range(30)], "b": [(f"b {i % count}", f"b {i}") for i in range(30)]}
    with pytest.raises(ValueError, match=rf"groups: the images of class b are in {count} groups, of which none"):
        cut(*made(classes)[:2], Settings(target="t"), made(classes)[2])


# Where groups come from


def write_groups(folder: Path, suffix: str = ".csv", splits: Sequence[str] = (), **columns: Any) -> Path:
    """A table of 24 images of three classes with further columns, each of a function of the image's number."""
    write_folder(folder, TARGET, 8)
    rows = []
    for label in sorted(TARGET):
        for i in range(8):
            row = {"path": f"{label}/{i:03d}.png", "label": label} | {name: of(i) for name, of in columns.items()}
            rows.append(row | ({"split": splits[i % len(splits)]} if splits else {}))
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(",".join(map(str, row)) for row in [list(rows[0]), *(r.values() for r in rows)]))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("given_name", ["Patient ID", "patient id", " PATIENT ID "])
def test_a_column_keeps_groups_together(tmp_path: Path, suffix: str, given_name: str) -> None:
    columns = {"age": lambda i: 30 + i, "Patient ID": lambda i: i // 2}
    table = write_groups(tmp_path / "photos", suffix, **columns)
    dataset = read_dataset(table)
    groups = read_groups(dataset, Settings(target=str(table), group_by=given_name))
    assert {dataset.name_of(one.image): groups[one.image.name] for one in dataset.samples} == {
        f"{label}/{i:03d}.png": str(i // 2) for label in TARGET for i in range(8)
    }


PATTERNS = {
    r"^p(\d+)_": ["1", "1", "2", "2"],
    r"p\d+": ["p1", "p1", "p2", "p2"],
    r"(p\d)_(left|right)": ["p1 left", "p1 right", "p2 left", "p2 right"],
    r"(?:left|right)": ["left", "right", "left", "right"],
    r"^(\w+)/": ["cat", "cat", "dog", "dog"],
    r"/p(\d)": ["1", "1", "2", "2"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_finds_groups_in_names(pattern: str) -> None:
    names = ["cat/p1_left.png", "cat/p1_right.png", "dog/p2_left.png", "dog/p2_right.png"]
    samples = [Sample(FileImage(Path("photos", name)), int("dog" in name)) for name in names]
    dataset = Dataset(["cat", "dog"], samples, [], [], root="photos")
    groups = read_groups(dataset, Settings(target="photos", group_regex=pattern))
    assert [groups[one.image.name] for one in samples] == PATTERNS[pattern]


def test_runs_keep_groups_together_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_groups(tmp_path / "photos", patient=lambda i: f"p{i // 2}")
    settings = {"target": str(table), "weights": "none", "source": None, "steps": 1}
    result = run(tmp_path, tmp_path / "column", "finetune", **settings, group_by="patient")
    assert "groups: 4, each in one split (2 train, 1 val, 1 test)" in capsys.readouterr().out
    assert json.loads((result.folder / "data.json").read_text())["group_by"] == "patient"
    places: dict[int, set[str]] = {}
    for line in (result.folder / "manifest.csv").read_text().splitlines()[1:]:
        split, _, name, *_ = line.split(",")
        places.setdefault(int(Path(name).stem) // 2, set()).add(split)
    assert len(places) == 4 and all(len(found) == 1 for found in places.values())
    again = run(tmp_path, tmp_path / "column", "finetune", **settings, group_by="patient", resume="auto")
    assert again.summary["data"] == result.summary["data"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no column": ({"group_by": "camera"}, r"group_by: .*: expected one column camera, got 0; it has patient"),
    "no table": ({"group_by": "patient", "target": "photos"}, r"group_by: expected a table, got .*--group-regex finds"),
    "no match": ({"group_regex": "nothing"}, r"group_regex: 24 images without a group, such as blue/000.png, "),
    "some match": ({"group_regex": "^00[0-6]"}, r"group_regex: 3 images without a group, such as blue/007.png, "),
    "empty match": ({"group_regex": "x*"}, r"group_regex: 24 images without a group"),
    "empty cells": ({"group_by": "empty"}, r"group_by: 3 images without a group, such as blue/000.png, "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_gives_no_groups_is_named(tmp_path: Path, name: str) -> None:
    table = write_groups(tmp_path / "photos", patient=lambda i: i // 2, empty=lambda i: i // 2 if i else "")
    changes, message = BAD[name]
    changes = {**changes, "target": str(tmp_path / changes.get("target", "photos/table.csv"))}
    with pytest.raises(ValueError, match=message):
        read_groups(read_dataset(table), Settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_by": "a", "group_regex": "b"}, "group_regex: expected none with group_by, got b"),
        ({"group_regex": "("}, r"group_regex: '\(' is no regular expression: "),
        ({"group_by": "a", "split_by": "order"}, "split_by: expected content with group_by and group_regex, got order"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(target="t", **changes)


def test_a_group_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    table = write_groups(tmp_path / "photos", splits=("train", "test"), patient=lambda i: i // 2)
    with pytest.raises(
        ValueError, match=r"group_by: 4 groups in two of the splits .*, such as 0 in test and train: move"
    ):
        read_groups(read_dataset(table), Settings(target=str(table), group_by="patient"))


COLUMNS = {
    "patient": True,
    "Patient ID": True,
    "patientId": True,
    "patient_id": True,
    "SubjectID": True,
    "camera": True,
    "site-name": True,
    "uid": True,
    "age": False,
    "width": False,
    "comment": False,
    "valid": False,
    "centered": False,
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("column", COLUMNS)
def test_an_ignored_column_that_looks_like_a_group_is_named(tmp_path: Path, column: str, suffix: str) -> None:
    table = write_groups(tmp_path / "photos", suffix, **{column: lambda i: f"v{i % 4}"})
    dataset = read_dataset(table)
    contents = {one.image.name: one.image.content() for one in dataset.samples}
    lines = list(said(cut(dataset, contents, Settings(target=str(table))).dataset, Settings(target=str(table)), {}))
    assert len(lines) == COLUMNS[column]
    for line in lines:
        assert re.search(rf"column {column} is ignored, and \d of its 4 values are in two splits, such as v\d: ", line)
        assert f"--group-by {column!r} keeps each" in line


@pytest.mark.parametrize(
    "of", [lambda i: "one value", lambda i: f"own {i}", lambda i: ""], ids=["one value", "one image each", "empty"]
)
def test_a_column_that_tells_nothing_of_groups_is_not_named(tmp_path: Path, of: Any) -> None:
    table = write_groups(tmp_path / "photos", splits=("train", "val", "test"), patient=of)
    assert list(said(read_dataset(table), Settings(target=str(table)), {})) == []
