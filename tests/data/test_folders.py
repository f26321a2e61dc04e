"""What names in a dataset are taken for: splits, classes, nested folders; what is said of it, and what stops."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import write, write_table

from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.layout import SPLITS, Classes, class_name, name_splits, split_faults
from xmixup_fast.data.readers.folder import find_images, read_folder
from xmixup_fast.data.sources import read_dataset, read_target

NAMES = {split: [name for name, of in SPLITS.items() if of == split] for split in ("train", "val", "test")}


def classes(*names: str) -> list[str]:
    """The names of two images in each folder."""
    return [f"{name}/{i}.jpg" for name in names for i in range(2)]


def counts(dataset: Dataset) -> dict[str, int]:
    return {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)}


def fault(root: Path, *, like: str, **options: str) -> str:
    """The message with which a folder is refused."""
    with pytest.raises(ValueError, match=like) as caught:
        read_folder(root, **options)
    return str(caught.value)


def cased(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name.title(), name.upper(), f" {name}"])


@given(train=st.sampled_from(NAMES["train"]).flatmap(cased), others=st.data())
def test_splits_are_known_by_the_names_people_use_in_any_case(train: str, others: st.DataObject) -> None:
    val = others.draw(st.sampled_from(NAMES["val"]).flatmap(cased))
    test = others.draw(st.sampled_from(NAMES["test"]).flatmap(cased))
    assert name_splits([train, val, test, "cat"]) == {train: "train", val: "val", test: "test"}
    assert not split_faults("x", name_splits([train, val, test]))
    assert split_faults("x", name_splits([val, test])) == [
        f"x: has {val} and {test} but no train split: name one train"
    ]


@pytest.mark.parametrize("test", ["test", "Testing"])
@pytest.mark.parametrize("eval_name", ["eval", "EVALUATION"])
def test_eval_beside_a_test_is_val(tmp_path: Path, test: str, eval_name: str) -> None:
    write(tmp_path / "a", *classes("Train/cat", "Train/dog", f"{test}/cat", f"{eval_name}/dog"))
    dataset = read_folder(tmp_path / "a")
    assert counts(dataset) == {"train": 4, "val": 2, "test": 2}
    assert dataset.findings.guesses == [f"{tmp_path}/a: {eval_name} is taken for the val split"]
    write(tmp_path / "b", *classes("train/cat", "train/dog", f"{eval_name}/cat", "dev/dog"))
    assert counts(read_folder(tmp_path / "b")) == {"train": 4, "val": 2, "test": 2}


def test_two_names_for_one_split_and_splits_without_train_stop(tmp_path: Path) -> None:
    for i, (one, other) in enumerate((("val", "valid"), ("Train", "training"), ("test", "testing"), ("eval", "test"))):
        folders = [f"{name}/{label}" for name in {"train", "val", one, other} for label in ("cat", "dog")]
        write(tmp_path / str(i), *classes(*folders))
        fault(tmp_path / str(i), like=r"and .* are both a \w+ split: join them, or take one out")
    write(tmp_path / "lone", *classes("test/cat", "test/dog"))
    fault(tmp_path / "lone", like="has test but no train split")


@pytest.mark.parametrize("prefix", ["", "photos", "photos/photos"])
@pytest.mark.parametrize("splits", ["", "Training Testing", "training_set test_set", "x-train x.val"])
def test_folders_around_the_dataset_are_passed_by_and_said(tmp_path: Path, prefix: str, splits: str) -> None:
    folders = [Path(prefix, split) for split in splits.split() or [""]]
    write(tmp_path, *(str(folder / name) for folder in folders for name in classes("ant", "bee")), "README.txt")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ["ant", "bee"] and dataset.findings.ignored == {("", ".txt"): 1}
    assert counts(dataset) == {"train": 4, "val": 4 * ("val" in splits), "test": 4 * ("est" in splits)}
    nested = [line for line in dataset.findings.guesses if line.endswith("which is taken instead")]
    assert nested == ([f"{tmp_path}: all is in {tmp_path / prefix}, which is taken instead"] if prefix else [])
    guessed = [line for line in dataset.findings.guesses if line not in nested]
    assert len(guessed) == ("set" in splits or "x" in splits)
    assert all(f"{name} is taken for " in line for line in guessed for name in splits.split())


def test_archives_that_unpack_into_themselves_within_splits_are_passed_by(tmp_path: Path) -> None:
    write(tmp_path / "a", *classes("train/train/cat", "train/train/dog", "test/test/cat", "test/test/dog"))
    dataset = read_folder(tmp_path / "a")
    assert dataset.classes == ["cat", "dog"] and counts(dataset) == {"train": 4, "val": 0, "test": 4}
    assert len(dataset.findings.guesses) == 2
    # A split with one class, whose folder holds folders, is no archive: other splits know the class.
    write(tmp_path / "b", *classes("train/cat", "train/dog", "test/cat/2023", "test/cat/2024"))
    dataset = read_folder(tmp_path / "b")
    assert dataset.classes == ["cat", "dog"] and counts(dataset)["test"] == 4 and not dataset.findings.guesses


def test_split_names_beside_other_folders_with_images_stop(tmp_path: Path) -> None:
    write(tmp_path / "a", *classes("bus", "car", "train"))
    write(tmp_path / "b", *classes("bus", "car", "train/steam", "train/diesel"))
    write(tmp_path / "c", *classes("train/bus", "train/car", "test/bus", "extra"))
    for name in "abc":
        fault(tmp_path / name, like="expected splits alone, got .* with images beside .*: move .*--classes outer")
    for name in "ab":
        assert read_folder(tmp_path / name, "outer").classes == ["bus", "car", "train"]
    write(tmp_path / "d", *classes("train/bus", "train/car"), "docs/notes.txt", "labels/train/1.txt")
    dataset = read_folder(tmp_path / "d")
    assert dataset.classes == ["bus", "car"] and counts(dataset)["train"] == 4
    assert dataset.findings.guesses == [f"{tmp_path}/d: no class or split, as without any image: docs, labels"]
    assert dataset.findings.ignored == {("docs", ".txt"): 1, ("labels/train", ".txt"): 1}


def test_folders_that_are_named_in_part_like_splits_stop_where_that_is_not_clear(tmp_path: Path) -> None:
    intel = classes("seg_train/seg_train/ice", "seg_train/seg_train/sea", "seg_test/seg_test/ice", "seg_pred/seg_pred")
    write(tmp_path / "a", *intel)
    fault(tmp_path / "a", like="expected splits alone, got seg_pred with images beside seg_test, seg_train: move")
    write(tmp_path / "b", *intel[:-2])
    assert counts(read_folder(tmp_path / "b")) == {"train": 4, "val": 0, "test": 2}
    write(tmp_path / "c", *classes("train_images", "test_images"))
    fault(tmp_path / "c", like="expected class folders in test_images, train_images, got images: sort them, or")
    assert read_folder(tmp_path / "c", "outer").classes == ["test_images", "train_images"]
    write(tmp_path / "d", *classes("train_a/x", "train_b/x", "test_a/x"))
    fault(tmp_path / "d", like="train_a and train_b are both a train split")
    write(tmp_path / "e", *classes("train_steam", "train_diesel", "bus"))
    assert read_folder(tmp_path / "e").classes == ["bus", "train_diesel", "train_steam"]


def test_images_directly_in_a_split_stop(tmp_path: Path) -> None:
    write(tmp_path / "a", *classes("train/cat", "train/dog", "test"))
    fault(tmp_path / "a", like=r"test: 2 images lie directly in it, in no class folder, such as 0\.jpg: move each into")
    write(tmp_path / "b", *classes("train/cat", "train/dog"), "train/stray.jpg")
    fault(tmp_path / "b", like=r"train: an image lies directly in it, in no class folder, such as stray\.jpg: move it")
    write(tmp_path / "c", *classes("train/cat", "train/dog", "test/images"))
    fault(tmp_path / "c", like="test: its images, in .*test/images, have no classes: sort them into class folders")


def test_tiny_imagenet_says_how_to_sort_its_images(tmp_path: Path) -> None:
    root = write(tmp_path / "tiny", *classes("train/n01/images", "train/n02/images", "val/images", "test/images"))
    (root / "val" / "val_annotations.txt").write_text("0.jpg\tn01\t0\t0\n1.jpg\tn02\t0\t0\n")
    message = fault(root, like="val: expected class folders, got tiny-imagenet's .*val/images; sort them: cd ")
    assert f"move {root}/test away" in message
    (command,) = (line.partition("; sort them: ")[2] for line in message.splitlines() if "tiny-imagenet" in line)
    assert os.system(command) == 0  # the way out, as it is said
    (root / "test").rename(tmp_path / "away")
    dataset = read_folder(root)
    assert dataset.classes == ["n01", "n02"] and counts(dataset) == {"train": 4, "val": 2, "test": 0}


@pytest.mark.parametrize("split", ["", "train/"])
def test_classes_that_all_hold_the_same_folders_want_a_decision(tmp_path: Path, split: str) -> None:
    write(tmp_path, *classes(*(f"{split}{outer}/{inner}" for outer in ("site1", "site2") for inner in ("ill", "well"))))
    message = fault(
        tmp_path, like="site1, site2 all hold the folders ill, well: expected --classes outer to learn site1"
    )
    assert "--classes inner to learn ill, well" in message
    for choice, names in (("outer", ["site1", "site2"]), ("inner", ["ill", "well"])):
        dataset = read_dataset(str(tmp_path), choice)
        assert dataset.classes == names and Counter(sample.label for sample in dataset.train) == {0: 4, 1: 4}
    write(tmp_path, f"{split}site1/map.jpg")
    fault(
        tmp_path, like="site1: 1 images lie beside its folders, which are classes with --classes inner", classes="inner"
    )


def test_the_way_out_of_splits_within_classes_turns_them_around(tmp_path: Path) -> None:
    write(tmp_path, *classes("cat/train", "cat/test", "dog/train"))
    fault(
        tmp_path, like="cat, dog hold the splits test, train: move these outside, like test/cat; or cut new ones with"
    )
    assert read_folder(tmp_path, "outer").classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "inner", "likely"),
    [
        (["cat/a", "cat/b", "dog/c"], ["a", "b", "c"], True),
        (["cat/a", "cat/b", "dog/a"], ["a", "b"], True),
        (["cat", "dog/a", "dog/b"], ["a", "b", "cat"], False),
        (["cat/a", "dog/a"], ["cat", "dog"], False),
        (["cat", "dog"], ["cat", "dog"], False),
    ],
)
def test_other_folders_in_classes_are_of_their_class(
    tmp_path: Path, names: list[str], inner: list[str], likely: bool
) -> None:
    """Which is said if these folders are likely to be meant as classes."""
    write(tmp_path, *classes(*names))
    dataset = read_folder(tmp_path)
    assert dataset.classes == ["cat", "dog"]
    end = f"--classes inner takes {', '.join(inner)}"
    said = f"{tmp_path}: classes are cat, dog, with all folders in these; {end}"
    assert dataset.findings.guesses == ([said] if likely else [])
    chosen = read_folder(tmp_path, "inner")
    assert chosen.classes == inner
    assert len(chosen.findings.guesses) == (inner == ["cat", "dog"])


def test_a_target_of_one_class_stops_and_a_source_of_one_does_not(tmp_path: Path) -> None:
    write(tmp_path, *classes("cat"))
    assert read_dataset(str(tmp_path)).classes == ["cat"]
    with pytest.raises(
        ValueError, match=r"^target: .*: expected at least two classes, got one, cat: name the folder that holds"
    ):
        read_target(str(tmp_path))


@pytest.mark.parametrize("name", ["a.csv", "b.TSV", "c.parquet"])
@pytest.mark.parametrize("images", [["0.jpg"], ["cat/0.jpg", "dog/0.jpg"], ["train/cat/0.jpg", "train/dog/0.jpg"]])
@pytest.mark.parametrize("place", ["", "photos/", "train/"])
def test_a_table_of_the_images_beside_them_is_to_be_given(
    tmp_path: Path, name: str, images: list[str], place: str
) -> None:
    if place == "train/" and not images[0].startswith(place):
        place = ""
    write(tmp_path, *images)
    write(tmp_path / place, "x")
    table = write_table(tmp_path / place / name, [{"path": images[0], "label": "cat"}])
    if place == "photos/":  # in a folder without images, it is a table of something else
        return
    fault(tmp_path, like=f"{table} lists paths and labels: give this table instead, or move it away")
    table.unlink()
    write_table(table, [{"size": images[0], "label": "cat"}])
    if len(images) > 1:
        assert read_folder(tmp_path).findings.ignored[place.strip("/"), table.suffix.lower()] == 1


@pytest.mark.parametrize("names", [("TrainSet", "TestSet"), ("trainset", "devset"), ("train2017", "val2017")])
@pytest.mark.parametrize("is_uneven", [False, True])
def test_folders_that_look_like_splits_are_not_learned_as_classes(
    tmp_path: Path, names: tuple[str, str], is_uneven: bool
) -> None:
    write(tmp_path, *classes(*(f"{name}/{kind}" for name in names for kind in ("cat", "dog"))))
    write(tmp_path, *classes(f"{names[0]}/owl") if is_uneven else ())
    expected = f"{', '.join(sorted(names))} look like splits: rename them "
    assert expected in fault(tmp_path, like="each with a folder for each class; or have them be classes with --classes")
    assert read_folder(tmp_path, "outer").classes == sorted(names)
    for name, split in zip(names, ("train", "val"), strict=True):
        (tmp_path / name).rename(tmp_path / split)
    assert counts(read_folder(tmp_path)) == {"train": 6 if is_uneven else 4, "val": 4, "test": 0}


def test_folders_of_other_names_are_pooled_only_by_asking(tmp_path: Path) -> None:
    write(tmp_path, *classes("fold0/cat", "fold0/dog", "fold1/cat", "fold1/dog"))
    fault(
        tmp_path, like="--classes inner to learn cat, dog, which pools the images of fold0, fold1: where these are spl"
    )


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val", "Testing")])
def test_classes_may_be_called_like_splits_by_asking(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, *classes(*names))
    listed = ", ".join(sorted(names))
    fault(tmp_path, like=f"expected class folders in {listed}, got images: .* be classes with --classes outer$")
    assert read_target(str(tmp_path), "outer").classes == sorted(names)


SPELLINGS = st.sampled_from(["é", "e\u0301", "ﬁ", "Å", "A\u030a", "cat", "大"])


@given(
    st.lists(st.tuples(st.sampled_from(["", " ", "\t", "\u00a0"]), SPELLINGS, st.sampled_from(["", " "])), min_size=1)
)
def test_names_of_classes_are_compared_stripped_and_in_nfc(parts: list[tuple[str, str, str]]) -> None:
    for before, name, after in parts:
        spelled = class_name(before + name + after)
        assert spelled == class_name(spelled) == unicodedata.normalize("NFC", name)


def test_unicode_forms_of_a_folder_are_one_class_and_said(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "éclair") for form in ("NFC", "NFD"))
    write(tmp_path, f"train/{nfc}/1.jpg", "train/cat/2.jpg", f"test/{nfd}/3.jpg", f"train/{nfd}/4.jpg")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ["cat", nfc] and counts(dataset) == {"train": 3, "val": 0, "test": 1}
    assert dataset.findings.guesses == [f"{tmp_path}: class {nfc} joins 'e\\u0301clair', '\\xe9clair'"]
    assert {nfc, nfd} <= {Path(sample.image.name).parent.name for sample in dataset.train}  # paths keep their form


def test_links_out_of_the_folder_are_followed_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "far", "1.jpg", "deep/2.jpg")
    root = write(tmp_path / "a", *classes("cat", "dog"))
    (root / "owl").symlink_to(tmp_path / "far")
    (root / "cat" / "far.jpg").symlink_to(tmp_path / "far" / "1.jpg")
    (root / "dog" / "near.jpg").symlink_to(root / "dog" / "0.jpg")
    (tmp_path / "far" / "back").symlink_to(root)
    dataset = read_folder(root)
    assert dataset.classes == ["cat", "dog", "owl"] and {sample.label for sample in dataset.train} == {0, 1, 2}
    assert all(dataset.name_of(sample.image).split("/")[0] in ("cat", "dog", "owl") for sample in dataset.train)
    assert [file.reason for file in dataset.bad] == [f"links to {root}, which holds it"]
    (said,) = dataset.findings.guesses
    assert said == f"{root}: 2 links lead out of it and are followed, such as {root}/owl -> {tmp_path}/far"
    bad: list[object] = []
    assert len(list(find_images(root, bad))) == len(dataset.train) and bad == dataset.bad
    link = tmp_path / "link"
    link.symlink_to(root)
    assert read_folder(link).findings.guesses[0].startswith(f"{link}: 2 links lead")


def test_what_is_no_image_is_counted_and_what_systems_leave_is_not(tmp_path: Path) -> None:
    write(tmp_path, *classes("cat", "dog/deep"), "cat/a.TXT", "cat/b.txt", "dog/deep/c.svg", "README", "stray.jpg")
    write(tmp_path, "cat/Thumbs.db", "dog/DESKTOP.INI", "__MACOSX/cat/._0.jpg", "cat/@eaDir/0.jpg", "cat/.hidden/1.jpg")
    write(tmp_path, "$RECYCLE.BIN/0.jpg", "lost+found/0.jpg", ".DS_Store", "misc/notes.md")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ["cat", "dog"] and counts(dataset)["train"] == 4
    expected = {("cat", ".txt"): 2, ("dog/deep", ".svg"): 1, ("", ""): 1, ("", ".jpg"): 1, ("misc", ".md"): 1}
    assert dataset.findings.ignored == expected
    assert dataset.findings.guesses == [
        f"{tmp_path}: 1 image beside its folders is in no class, and not used: stray.jpg",
        f"{tmp_path}: no class or split, as without any image: misc",
    ]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "a", "cat/1.svg", "cat/2.svg", "dog.zip")
    assert "ignored what is no image: 2 .svg in cat, 1 .zip in the top folder; archives have to be unpacked" in fault(
        tmp_path / "a", like="expected folders of images, one for each class; found none"
    )
    write(tmp_path / "b", "1.jpg", "2.jpg")
    fault(tmp_path / "b", like="one for each class; found none; 2 images directly in it$")


FOLDERS = st.sampled_from(["train", "Testing", "val", "eval", "training_set", "cat", "dog", "images", "photos"])
FILES = st.sampled_from(["1.jpg", "2.JPEG", "notes.txt", "labels.csv", "x"])


@given(
    paths=st.sets(st.tuples(st.lists(FOLDERS, max_size=3).map(tuple), FILES), min_size=1, max_size=12),
    choice=st.sampled_from([None, "outer", "inner"]),
)
def test_no_file_vanishes(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[tuple[str, ...], str]], choice: Classes | None
) -> None:
    """Each visible file is an image of the dataset, or counted as ignored, or the layout is refused with a reason."""
    root = tmp_path_factory.mktemp("t")
    write(root, *("/".join((*folders, name)) for folders, name in paths), ".hidden/1.jpg")
    try:
        dataset = read_folder(root, choice)
    except ValueError as error:
        assert str(error).startswith(str(root))
        return
    images = [Path(s.image.name) for s in (*dataset.train, *dataset.val, *dataset.test)]
    assert len(set(images)) == len(images) and not dataset.bad
    assert len(images) + sum(dataset.findings.ignored.values()) == len(paths)
    assert all(dataset.classes[s.label] in Path(dataset.name_of(s.image)).parent.parts for s in dataset.train)
