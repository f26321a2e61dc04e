"""Cross-validation: how images are dealt to the folds, and one pool of images for all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TARGET, write_folder
from test_cut import made, made_settings, placed, texts

from xmixup_fast.data.bad_files import without
from xmixup_fast.data.cut import cut, deal
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.images import SplitImages
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.target import target_data


def validated(train: dict[str, list[str]], folds: int, **changes: Any) -> list[set[str]]:
    """The contents that each fold validates on."""
    dataset, contents = made({"train": train})
    changes = {"test": "none", **changes}
    found = [
        placed(cut(dataset, contents, made_settings(val_fold=f"{part}/{folds}", **changes)), contents)
        for part in range(1, folds + 1)
    ]
    return [{digest for digest, split in places.items() if split == "val"} for places in found]


@pytest.mark.parametrize("counts", [(20, 20), (7, 3, 2), (11, 5, 5, 5), (2, 2), (50, 2, 9)])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_image_is_validated_once_and_classes_are_dealt_evenly(counts: tuple[int, ...], folds: int) -> None:
    train = {f"class {i}": texts(f"class {i}", count) for i, count in enumerate(counts)}
    if folds > max(counts):
        with pytest.raises(ValueError, match=r"val_fold: expected at most 2 parts, as no class has more different"):
            validated(train, folds)
        return
    found = validated(train, folds)
    assert Counter(digest for fold in found for digest in fold) == Counter(dict.fromkeys(set.union(*found), 1))
    assert sum(map(len, found)) == sum(counts) and all(found)
    for name in train:
        dataset, contents = made({"train": {name: train[name]}})
        own = {contents[one.image.name].digest for one in dataset.train}
        sizes = [len(own & fold) for fold in found]
        assert max(sizes) - min(sizes) <= 1


def test_parts_that_get_one_more_differ_from_class_to_class() -> None:
    train = {f"class {i}": texts(f"class {i}", 6) for i in range(10)}
    assert [len(fold) for fold in validated(train, 5)] == [12] * 5


@pytest.mark.parametrize("folds", [2, 5, 10])
@given(count=st.integers(10, 60), seed=st.integers(0, 5))
@settings(max_examples=30)
def test_one_image_more_moves_at_most_one_across_each_border(folds: int, count: int, seed: int) -> None:
    digests = [f"{i:032x}" for i in range(count + 1)]
    before, after = deal(digests[:-1], folds, seed, 1), deal(digests, folds, seed, 1)
    assert sum(after[digest] != fold for digest, fold in before.items()) <= folds - 1


def test_repeats_deal_anew_and_shots_and_names_do_not_matter() -> None:
    train = {"a": texts("a", 20), "b": texts("b", 10)}
    first = validated(train, 5)
    assert first == validated({name: of[::-1] for name, of in train.items()}, 5) == validated(train, 5, shots=2)
    assert first != validated(train, 5, seed=1)


def test_copies_stay_together_and_images_with_two_labels_are_never_validated() -> None:
    train = {"a": [*texts("a", 6), "a 0", "a 0", "both"], "b": [*texts("b", 6), "both"]}
    dataset, contents = made({"train": train})
    found = [cut(dataset, contents, made_settings(val_fold=f"{part}/3", test="none")).dataset for part in (1, 2, 3)]
    for text, counts in {"a 0": [0, 0, 3], "a 1": [0, 0, 1], "both": [0, 0, 0]}.items():
        of_text = {
            image for image, content in contents.items() if content == made({"train": {"a": [text]}})[1].popitem()[1]
        }
        assert sorted(sum(one.image.name in of_text for one in fold.val) for fold in found) == counts
        assert all(sum(one.image.name in of_text for one in [*fold.val, *fold.train]) == len(of_text) for fold in found)


def test_test_images_are_put_aside_before() -> None:
    train = {"a": texts("a", 20), "b": texts("b", 10)}
    dataset, contents = made({"train": train})
    tested = set()
    for part in (1, 2, 3):
        places = placed(cut(dataset, contents, made_settings(val_fold=f"{part}/3", test="hold")), contents)
        tested.add(frozenset(digest for digest, split in places.items() if split == "test"))
        assert Counter(places.values())["test"] == 6 and Counter(places.values())["val"] == 8
    assert len(tested) == 1


@pytest.mark.parametrize(
    ("splits", "changes", "message"),
    [
        (
            {"train": {"a": texts("a", 1), "b": texts("b", 9)}},
            {},
            r"class a \(1\): expected at least 2 different .* add",
        ),
        ({"train": {"a": ["x", "x"], "b": texts("b", 9)}}, {}, r"class a \(1\): expected at least 2 different"),
        (
            {"train": {"a": texts("a", 4), "b": texts("b", 4)}},
            {},
            "at most 4 parts, as no class .* got 5; use 4 parts",
        ),
        ({"train": {"a": texts("a", 2), "b": texts("b", 9)}}, {"test": "hold"}, r"class a \(2\): expected at least 3"),
        (
            {"train": {"a": texts("a", 9), "b": texts("b", 9)}, "val": {"a": ["v"], "b": ["w"]}},
            {},
            "val_fold: expected a target without validation images of its own",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused(splits: Any, changes: dict[str, Any], message: str) -> None:
    dataset, contents = made(splits)
    with pytest.raises(ValueError, match=message):
        cut(dataset, contents, made_settings(val_fold="1/5", **{"test": "none", **changes}))


@pytest.mark.parametrize("value", ["0/5", "6/5", "1/1", "1", "a/b", "-1/5", "1/5/2", "", "1.5/3", " 1/5"])
def test_a_fold_is_a_part_of_two_or_more(value: str) -> None:
    with pytest.raises(ValueError, match="val_fold: expected a part of two or more, such as 2/5, got "):
        made_settings(val_fold=value)


def test_a_fold_needs_a_cut_by_content() -> None:
    with pytest.raises(ValueError, match="split_by: expected content with val_fold, got order"):
        made_settings(val_fold="1/5", split_by="order")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_images_of_all_folds_are_in_one_pool(tmp_path: Path, damaged: bool) -> None:
    folder = write_folder(tmp_path / "photos", TARGET, 6)
    if damaged:
        (folder / "red" / "002.png").write_bytes(b"\x89PNG damaged")
    common = {"target": str(folder), "image_size": 32, "cache": str(tmp_path / "cache"), "decoder": "pillow"}
    for part in ("1/3", "2/3"):
        chosen = resolved(Settings(**common, val_fold=part, test="none", bad_files="skip", device="cpu"))
        data = target_data(chosen, lambda text: None)
        dataset, images = data.dataset, SplitImages(chosen, data.dataset, lambda text: None, data.contents)
        for name in ("train", "val"):
            samples, pool = without(getattr(dataset, name), images.bad), images.splits[name]
            assert isinstance(pool, ImagePool) and len(pool) == len(samples)
            assert pool.labels.tolist() == [sample.label for sample in samples]
            decoded = images.store.decoder.decode(sample.image for sample in samples)
            assert all(torch.equal(pool[i], one) for i, one in enumerate(decoded))
    assert len(list((tmp_path / "cache" / "pools").glob("*.pixels"))) == 1
