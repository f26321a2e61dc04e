"""Datasets hf:NAME, which the datasets library loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from listings import listing, write

from xmixup_fast.data.layout import why_missing, why_several
from xmixup_fast.data.sources import read_dataset


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The datasets library, offline and with its cache in a temporary folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def table(hub: object, names: Sequence[str], labels: Sequence[int | str], **columns: Sequence[object]) -> object:
    """A table of images whose bytes are their names. Labels 0 and 1 are the classes cat and dog."""
    label = hub.ClassLabel(names=["cat", "dog"]) if isinstance(labels[0], int) else hub.Value("string")
    values = {"image": [{"bytes": name.encode(), "path": None} for name in names], "label": labels, **columns}
    rows = hub.Dataset.from_dict(values)
    return rows.cast_column("image", hub.Image(decode=False)).cast_column("label", label)


def test_datasets_saved_to_disk_are_read(tmp_path: Path, hub: object) -> None:
    splits = {
        "train": table(hub, ["1", "2", "3"], [0, 1, 0], caption=["a", "b", "c"]),
        "validation": table(hub, ["4"], [1], caption=["d"]),
        "test": table(hub, ["5", "6"], [-1, -1], caption=["e", "f"]),  # hidden labels, as on the hub
        "extra": table(hub, ["7"], [1], caption=["g"]),
    }
    hub.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    name = f"hf:{tmp_path / 'saved'}"
    dataset = read_dataset(name)
    assert listing(dataset) == {"train": [("1", "cat"), ("2", "dog"), ("3", "cat")], "val": [("4", "dog")], "test": []}
    assert not dataset.bad
    assert dataset.findings.guesses == [
        f"{name}: test (rows: 2) is left out, as none has a label",
        f"{name}: extra (rows: 1) is left out, as it is named like no split",
    ]
    image, again = dataset.train[2].image, read_dataset(name).train[2].image
    assert image.name == f"{name}/train/00000002"
    assert image == again and image.stamp() == again.stamp() != dataset.train[1].image.stamp()
    table(hub, ["1", "2"], ["x", "y"]).select([1, 0]).save_to_disk(tmp_path / "one")
    assert listing(read_dataset(f"hf:{tmp_path / 'one'}"))["train"] == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize(
    ("splits", "like"),
    [
        (["full"], "expected a split train, got full"),
        (["test"], "has test but no train split"),
        (["train", "dev", "validation"], "dev and validation are both a val split"),
    ],
)
def test_splits_that_are_not_clear_stop(tmp_path: Path, hub: object, splits: list[str], like: str) -> None:
    hub.DatasetDict({name: table(hub, ["1", "2"], [0, 1]) for name in splits}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=like):
        read_dataset(f"hf:{tmp_path / 'saved'}")


def test_labels_that_are_missing_are_no_class(tmp_path: Path, hub: object) -> None:
    table(hub, ["1", "2", "3", "4"], ["cat", " dog", "None", ""]).save_to_disk(tmp_path / "saved")
    dataset = read_dataset(f"hf:{tmp_path / 'saved'}")
    assert dataset.classes == ["cat", "dog"]
    assert [file.reason for file in dataset.bad] == [why_missing("None"), why_missing("")]


def test_several_labels_are_no_class(tmp_path: Path, hub: object) -> None:
    table(hub, ["1", "2", "3", "4"], ["cat", "cat;dog", "dog", "['cat']"]).save_to_disk(tmp_path / "saved")
    dataset = read_dataset(f"hf:{tmp_path / 'saved'}")
    assert dataset.classes == ["cat", "dog"]
    assert [file.reason for file in dataset.bad] == [f"{why_several()} {text!r}" for text in ("cat;dog", "['cat']")]


def test_folders_of_parquet_files_are_read(tmp_path: Path, hub: object) -> None:
    for split, count in (("train", 1500), ("test", 2)):  # more rows than one batch has
        (tmp_path / "data").mkdir(exist_ok=True)
        names = [f"{split} {i:04d}" for i in range(count)]
        table(hub, names, [i % 2 for i in range(count)]).to_parquet(tmp_path / "data" / f"{split}-00000.parquet")
    found = listing(read_dataset(f"hf:{tmp_path / 'data'}"))
    assert found["train"] == [(f"train {i:04d}", ("cat", "dog")[i % 2]) for i in range(1500)]
    assert found["test"] == [("test 0000", "cat"), ("test 0001", "dog")] and not found["val"]


def test_images_that_are_files_must_lie_in_the_folder(tmp_path: Path, hub: object) -> None:
    root = write(tmp_path / "data", "train/cat/1.jpg", "train/dog/2.jpg", "train/dog/3.jpg")
    assert listing(read_dataset(f"hf:{root}"))["train"] == [
        ("train/cat/1.jpg", "cat"),
        ("train/dog/2.jpg", "dog"),
        ("train/dog/3.jpg", "dog"),
    ]
    # The library writes the bytes of files into its tables. Tables of other programs may name files instead.
    parquet, secret, folder = pytest.importorskip("pyarrow.parquet"), tmp_path / "secret.jpg", tmp_path / "table"
    write(tmp_path, "secret.jpg", "table/in.jpg")
    images = [{"bytes": None, "path": str(path)} for path in (secret, folder / "in.jpg")]
    rows = hub.Dataset.from_dict({"image": [*images, None, {"bytes": b"4", "path": None}], "label": [*"aaa", None]})
    features = rows.cast_column("image", hub.Image(decode=False)).features
    parquet.write_table(rows.data.table.cast(features.arrow_schema), folder / "train.parquet")
    dataset = read_dataset(f"hf:{folder}")
    assert listing(dataset)["train"] == [("table/in.jpg", "a")]
    name = f"hf:{folder}/train"
    assert dataset.bad == [
        (str(secret), f"leads to {tmp_path}, outside of {folder}"),
        (f"{name}/00000002", "no image"),
        (f"{name}/00000003", why_missing("")),
    ]


def test_columns_must_tell_images_and_labels(tmp_path: Path, hub: object) -> None:
    rows = table(hub, ["1", "2"], [0, 1])
    rows.rename_column("label", "kind").rename_column("image", "photo").save_to_disk(tmp_path / "other")
    assert listing(read_dataset(f"hf:{tmp_path / 'other'}"))["train"] == [("1", "cat"), ("2", "dog")]
    rows.remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="train: expected a column label, or one of class labels, among image"):
        read_dataset(f"hf:{tmp_path / 'unlabelled'}")
    declared = rows.cast_column("label", hub.ClassLabel(names=["none", "dog"]))
    declared.add_column("coarse_label", [0, 0]).cast_column(
        "coarse_label", hub.ClassLabel(names=["animal"])
    ).rename_column("label", "fine_label").save_to_disk(tmp_path / "two")
    dataset = read_dataset(f"hf:{tmp_path / 'two'}")
    assert dataset.classes == ["dog", "none"]  # declared by the dataset, as by the name of a folder
    assert dataset.findings.guesses == [
        f"hf:{tmp_path / 'two'}: fine_label is learned, not coarse_label; to learn another column, rename it"
    ]
    rows.remove_columns("image").save_to_disk(tmp_path / "pictureless")
    with pytest.raises(ValueError, match="train: expected one column of images among label, found 0"):
        read_dataset(f"hf:{tmp_path / 'pictureless'}")
    with pytest.raises(ValueError, match=r"hf:/absent/folder: \S.*") as caught:
        read_dataset("hf:/absent/folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "data"])
def test_splits_in_capitals_which_the_library_would_mix_stop(tmp_path: Path, hub: object, place: str) -> None:
    write(tmp_path / place, "Training/cat/1.jpg", "Training/dog/2.jpg", "Testing/cat/3.jpg")
    with pytest.raises(
        ValueError, match=r"Testing, Training look like splits, .*: rename them testing, training, or drop"
    ):
        read_dataset(f"hf:{tmp_path}")
    if not place:
        assert len(read_dataset(tmp_path).test) == 1


def test_no_name_is_a_line(hub: object) -> None:
    with pytest.raises(ValueError, match=r"^hf: expected hf:NAME\[:CONFIG\], .* got no name$"):
        read_dataset("hf:")


def test_tables_of_paths_that_lead_nowhere_are_a_line(tmp_path: Path, hub: object) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": None, "path": f"{i}.jpg"} for i in range(30)]
    rows = hub.Dataset.from_dict({"image": images, "label": ["a", "b", "c"] * 10})
    (tmp_path / "t").mkdir()
    features = rows.cast_column("image", hub.Image(decode=False)).features
    parquet.write_table(rows.data.table.cast(features.arrow_schema), tmp_path / "t" / "train.parquet")
    with pytest.raises(
        ValueError, match=r"none of its images \(30\) can be used, .*; for a table of paths drop hf:"
    ) as caught:
        read_dataset(f"hf:{tmp_path / 't'}")
    assert "\n" not in str(caught.value)
