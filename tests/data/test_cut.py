"""How validation and test images are cut: what moves where images are added, and what becomes of duplicates."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmixup_fast.data.cut import OUT, UNUSED, Cut, cut
from xmixup_fast.data.dataset import Content, Dataset, FileImage, Sample, by_name
from xmixup_fast.settings.fields import Settings

SPLITS = ("train", "val", "test")


def made_settings(**changes: Any) -> Settings:
    return Settings(**{"target": "t", "model": "m", **changes})


def made(
    splits: Mapping[str, Mapping[str, Sequence[str]]], folder: str = "photos"
) -> tuple[Dataset, dict[str, Content]]:
    """A dataset of splits, classes and contents, which are any texts; the names of images follow from their place."""
    classes = sorted({name for split in splits.values() for name in split})
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    contents = {}
    for split, of_split in splits.items():
        for name, texts in of_split.items():
            for i, text in enumerate(texts):
                image = FileImage(Path(folder, split, name, f"{i:03d}.png"))
                samples[split].append(Sample(image, classes.index(name)))
                contents[image.name] = Content.of(text.encode())
    by_split = {split: by_name(of_split) for split, of_split in samples.items()}
    return Dataset(classes, root=folder, **by_split), contents


def placed(done: Cut, contents: Mapping[str, Content]) -> dict[str, str]:
    """The split of each content."""
    where = {one.image.name: split for split in SPLITS for one in getattr(done.dataset, split)} | dict(done.apart)
    return {content.digest: where[name] for name, content in contents.items()}


def place(splits: Mapping[str, Mapping[str, Sequence[str]]], **changes: Any) -> dict[str, str]:
    dataset, contents = made(splits)
    return placed(cut(dataset, contents, made_settings(**changes)), contents)


def texts(name: str, count: int) -> list[str]:
    return [f"{name} {i}" for i in range(count)]


@pytest.mark.parametrize("split_by", ["content", "order"])
@pytest.mark.parametrize("test", [0, 2])
def test_splits_are_disjoint_stratified_and_repeatable(test: int, split_by: str) -> None:
    train = {name: texts(name, count) for name, count in (("a", 20), ("b", 10), ("c", 3))}
    dataset, contents = made({"train": train, "test": {name: texts(f"test {name}", test) for name in train}})
    rule = made_settings(val_fraction=0.2, test_fraction=0.3, seed=4, split_by=split_by)
    found = cut(dataset, contents, rule).dataset
    assert found == cut(dataset, contents, rule).dataset
    assert found != cut(dataset, contents, replace(rule, seed=5)).dataset
    assert by_name(found.samples) == by_name(dataset.samples)
    assert Counter(one.label for one in found.val) == ({0: 4, 1: 2, 2: 1} if test else {0: 3, 1: 1, 2: 1})
    assert Counter(one.label for one in found.test) == ({0: 2, 1: 2, 2: 2} if test else {0: 6, 1: 3, 2: 1})


@pytest.mark.parametrize("split_by", ["content", "order"])
def test_shots_keep_as_many_of_each_class_and_nest(split_by: str) -> None:
    dataset, contents = made({"train": {"a": texts("a", 20), "b": texts("b", 10)}})
    few, more = (cut(dataset, contents, made_settings(shots=n, split_by=split_by)) for n in (2, 5))
    assert Counter(one.label for one in few.dataset.train) == {0: 2, 1: 2}
    assert set(few.dataset.train) < set(more.dataset.train)
    assert few.dataset.val == more.dataset.val and few.dataset.test == more.dataset.test
    assert Counter(few.apart.values()) == {UNUSED: 30 - 4 - len(few.dataset.val) - len(few.dataset.test)}
    with pytest.raises(ValueError, match="shots: expected at most 6, the training images of class b, got 7"):
        cut(dataset, contents, made_settings(shots=7, split_by=split_by))


EQUAL: dict[str, dict[str, dict[str, list[str]]]] = {
    "with two labels": {"train": {"a": texts("x", 5), "b": texts("x", 5)}},
    "in two splits": {"train": {"a": texts("x", 5)}, "test": {"a": texts("x", 5)}},
    "more than once, with one label": {"train": {"a": texts("x", 1) * 5}},
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_images_are_named_as_the_reason_where_too_few_are_left(kind: str) -> None:
    dataset, contents = made(EQUAL[kind])
    with pytest.raises(ValueError, match=rf"expected at least .*\n  duplicates: \d contents? {kind} \("):
        cut(dataset, contents, made_settings())


@settings(max_examples=60)
@given(count=st.integers(3, 60), seed=st.integers(0, 2**63 - 1), order=st.randoms(use_true_random=False))
def test_names_order_and_place_of_files_move_nothing(count: int, seed: int, order: random.Random) -> None:
    names = texts("a", count)
    before = place({"train": {"a": names, "b": texts("b", 9)}}, seed=seed)
    order.shuffle(names)
    dataset, contents = made({"train": {"a": names, "b": texts("b", 9)}}, folder="elsewhere")
    assert placed(cut(dataset, contents, made_settings(seed=seed)), contents) == before


@settings(max_examples=150)
@given(
    count=st.integers(3, 120),
    seed=st.integers(0, 1000),
    fractions=st.tuples(st.floats(0.02, 0.6), st.floats(0.02, 0.6)),
)
def test_one_image_more_moves_at_most_one_other_across_each_border(
    count: int, seed: int, fractions: tuple[float, float]
) -> None:
    rule = {"seed": seed, "val_fraction": fractions[0], "test_fraction": fractions[1]}
    before = place({"train": {"a": texts("a", count), "b": texts("b", 12)}}, **rule)
    after = place({"train": {"a": texts("a", count + 1), "b": texts("b", 12)}}, **rule)
    moved = [(before[one], after[one]) for one in before if before[one] != after[one]]
    crossed = Counter(frozenset(pair) for pair in moved)
    assert len(moved) <= 2 and all(times == 1 for times in crossed.values())
    assert all(
        before[Content.of(text.encode()).digest] == after[Content.of(text.encode()).digest] for text in texts("b", 12)
    )


def test_ten_images_more_move_few_others() -> None:
    moved = []
    for seed in range(200):
        before = place({"train": {"a": texts("a", 100), "b": texts("b", 5)}}, seed=seed)
        after = place({"train": {"a": texts("a", 110), "b": texts("b", 5)}}, seed=seed)
        moved.append(sum(before[one] != after[one] for one in before))
    assert sum(moved) / len(moved) < 3 and max(moved) <= 10


@settings(max_examples=60)
@given(count=st.integers(3, 60), seed=st.integers(0, 1000), fraction=st.floats(0.02, 0.9))
def test_the_test_images_depend_on_no_validation_fraction(count: int, seed: int, fraction: float) -> None:
    images = {"train": {"a": texts("a", count)}}
    first, other = place(images, seed=seed), place(images, seed=seed, val_fraction=fraction)
    assert {one for one in first if first[one] == "test"} == {one for one in other if other[one] == "test"}


@settings(max_examples=60)
@given(count=st.integers(3, 60), seed=st.integers(0, 1000))
def test_without_a_test_training_gets_its_images_and_validation_stays(count: int, seed: int) -> None:
    images = {"train": {"a": texts("a", count)}}
    run, held, none = (place(images, seed=seed, test=test) for test in ("run", "hold", "none"))
    assert run == held
    assert none == {one: "train" if split == "test" else split for one, split in run.items()}


@pytest.mark.parametrize(
    ("count", "given_splits", "test", "expected"),
    [
        (1, ("val", "test"), "run", {"train": 1}),
        (1, ("val",), "none", {"train": 1}),
        (2, ("test",), "run", {"train": 1, "val": 1}),
        (2, (), "none", {"train": 1, "val": 1}),
        (3, (), "run", {"train": 1, "val": 1, "test": 1}),
        (3, (), "hold", {"train": 1, "val": 1, "test": 1}),
    ],
)
def test_classes_of_few_images(count: int, given_splits: Sequence[str], test: str, expected: dict[str, int]) -> None:
    splits = {"train": {"a": texts("a", count)}} | {name: {"a": texts(name, 2)} for name in given_splits}
    found = place(splits, test=test)
    own = {Content.of(text.encode()).digest for text in texts("a", count)}
    assert Counter(split for one, split in found.items() if one in own) == expected


def test_all_classes_with_too_few_images_are_named() -> None:
    message = r"classes a \(2\), c \(1\): expected at least 3 different training images each, to cut test and valid"
    with pytest.raises(ValueError, match=message):
        place({"train": {"a": texts("a", 2), "b": texts("b", 3), "c": ["x", "x", "x"]}})
    with pytest.raises(ValueError, match=r"class a \(1\): expected at least 2 .*, to cut validation from"):
        place({"train": {"a": texts("a", 1)}}, test="none")


@settings(max_examples=100)
@given(
    counts=st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=12), min_size=2, max_size=3),
    seed=st.integers(0, 100),
    shots=st.sampled_from([None, 1]),
    duplicates=st.sampled_from(["warn", "drop"]),
)
def test_no_content_is_in_two_splits_that_are_cut(
    counts: list[list[int]], seed: int, shots: int | None, duplicates: str
) -> None:
    """Contents are few, so that many images are copies, also with other labels."""
    classes = {f"class {i}": [f"content {one}" for one in row] + texts(str(i), 3) for i, row in enumerate(counts)}
    dataset, contents = made({"train": classes})
    done = cut(dataset, contents, made_settings(seed=seed, shots=shots, duplicates=duplicates))
    splits: dict[str, set[str]] = {}
    labels: dict[str, set[int]] = {}
    for split in SPLITS:
        for one in getattr(done.dataset, split):
            splits.setdefault(contents[one.image.name].digest, set()).add(split)
    for one in dataset.samples:
        labels.setdefault(contents[one.image.name].digest, set()).add(one.label)
    assert all(len(found) == 1 for found in splits.values())
    assert all(splits.get(one, {"train"}) == {"train"} for one, found in labels.items() if len(found) > 1)
    names = [one.image.name for one in done.dataset.samples] + list(done.apart)
    assert sorted(names) == sorted(one.image.name for one in dataset.samples)
    if duplicates == "drop":
        kept = Counter(contents[one.image.name].digest for one in done.dataset.samples)
        assert set(kept.values()) == {1} and not any(len(labels[one]) > 1 for one in kept)


def test_drop_takes_copies_out_of_train_then_val_and_never_out_of_test() -> None:
    splits = {
        "train": {"a": ["1", "2", "3", "3", "own a"], "b": ["x", "own b"]},
        "val": {"a": ["1", "4"], "b": ["val b", "y"]},
        "test": {"a": ["2", "2", "4"], "b": ["y", "x"]},
    }
    dataset, contents = made(splits)
    done = cut(dataset, contents, made_settings(duplicates="drop"))
    kept = {
        split: sorted(Path(one.image.name).as_posix().removeprefix("photos/") for one in getattr(done.dataset, split))
        for split in SPLITS
    }
    assert kept == {
        "train": ["train/a/002.png", "train/a/004.png", "train/b/001.png"],
        "val": ["val/a/000.png", "val/b/000.png"],
        "test": [f"test/a/00{i}.png" for i in range(3)] + [f"test/b/00{i}.png" for i in range(2)],
    }
    assert set(done.apart.values()) == {OUT} and len(done.apart) == 6
    assert done.notes["photos/train/a/000.png"] == "copy of val/a/000.png"


def test_warn_leaves_given_splits_alone_and_says_what_it_found() -> None:
    splits = {
        "train": {"a": ["1", "2", "3", "3", "5"], "b": ["x", "z", "2", "y"]},
        "test": {"a": ["1", "y"], "b": ["t"]},
    }
    dataset, contents = made(splits)
    done = cut(dataset, contents, made_settings(test="hold", val_fraction=0.4))
    # The image that is a in test and b in train may be either.
    assert len(done.dataset.test) == 2 and done.apart == {"photos/test/a/001.png": OUT}
    lines = done.duplicates.lines("warn")
    assert lines[0].startswith("duplicates: 2 contents with two labels (test/a/001.png = train/b/003.png, train/a/001.")
    assert lines[1].startswith("duplicates: 1 content in two splits (test/a/000.png = train/a/000.png); ")
    assert lines[2].startswith(
        "duplicates: 1 content more than once, with one label (train/a/002.png = train/a/003.png)"
    )
    with pytest.raises(ValueError, match=r"(?s)duplicates: error stops .*two labels.*two splits.*more than once"):
        cut(dataset, contents, made_settings(duplicates="error"))
    assert (
        cut(*made({"train": {"a": texts("a", 3)}}), made_settings(duplicates="error")).duplicates.lines("error") == []
    )


def test_images_that_cannot_be_read_are_in_no_split() -> None:
    dataset, contents = made({"train": {"a": texts("a", 6)}})
    unreadable = dataset.train[2].image.name
    del contents[unreadable]
    done = cut(dataset, contents, made_settings())
    assert unreadable not in {one.image.name for one in done.dataset.samples} | set(done.apart)


@pytest.mark.parametrize("seed", range(20))
def test_a_training_image_with_another_label_in_test_is_not_cut_for_validation(seed: int) -> None:
    splits = {
        "train": {"a": ["either", *texts("a", 2)], "b": texts("b", 3)},
        "test": {"a": ["tested a"], "b": ["either", "tested b"]},
    }
    found = cut(*made(splits), made_settings(seed=seed)).dataset
    assert "photos/train/a/000.png" in {one.image.name for one in found.train}
    assert "photos/test/b/000.png" not in {one.image.name for one in found.samples}
