"""Properties of every kind of dataset name: what is listed, from where, in which split, and what is refused.

An image's bytes are its path in the dataset, so that reading it shows that it is the right one.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from made import SOURCE, TARGET, write_folder
from scipy.io import savemat
from torchvision.io import decode_image

from xmixup_fast.data.dataset import Dataset, Sample
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.settings import Settings
from xmixup_fast.train import main, parse

Listing = dict[str, list[tuple[str, str]]]


def write(folder: Path, *names: str) -> Path:
    """Writes a file for each name, whose bytes are the name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def listing(dataset: Dataset) -> Listing:
    """By split: the bytes and the class of each image."""

    def of(samples: Sequence[Sample]) -> list[tuple[str, str]]:
        return sorted((sample.image.read().decode(), dataset.classes[sample.label]) for sample in samples)

    return {"train": of(dataset.train), "val": of(dataset.val), "test": of(dataset.test)}


def reasons(dataset: Dataset, root: Path) -> dict[str, str]:
    """Why each bad file is one, by its path in the dataset."""
    assert len({file.name for file in dataset.bad}) == len(dataset.bad)
    return {os.path.relpath(file.name, root): file.reason for file in dataset.bad}


# --- tables ---

ROWS = [
    {"path": "a/1.jpg", "label": "cat", "split": "train"},
    {"path": "a/2.jpg", "label": "çay, 大", "split": "train"},
    {"path": "a/3.jpg", "label": "cat", "split": "valid"},
    {"path": "Größe 1.png", "label": "cat", "split": "test"},
]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A table in the format that the name says."""
    columns = list(rows[0])
    if path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({name: [row[name] for row in rows] for name in columns}), path)
        return path
    separator = "\t" if path.suffix == ".tsv" else ","
    lines = [columns, *([str(row[name]) for name in columns] for row in rows)]
    text = "\n".join(separator.join(f'"{cell}"' for cell in line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=[".csv", ".tsv", ".parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def test_a_table_names_images_beside_it(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, *(row["path"] for row in ROWS), "a/unlisted.jpg")
    table = write_table(tmp_path / f"images{suffix}", [{"size": 7, **row} for row in ROWS])
    expected = {
        "train": [("a/1.jpg", "cat"), ("a/2.jpg", "çay, 大")],
        "val": [("a/3.jpg", "cat")],
        "test": [("Größe 1.png", "cat")],
    }
    assert listing(read_dataset(str(table))) == expected
    monkeypatch.chdir(tmp_path)
    assert listing(read_dataset(table.name)) == expected
    unsplit = write_table(tmp_path / f"unsplit{suffix}", [{"path": row["path"], "label": 3} for row in ROWS])
    assert listing(read_dataset(unsplit)) == {
        "train": [(name, "3") for name in sorted(row["path"] for row in ROWS)],
        "val": [],
        "test": [],
    }


def test_rows_without_a_usable_file_are_bad_files(tmp_path: Path, suffix: str) -> None:
    root = write(tmp_path / "data", "good.jpg", "far.jpg/x")
    write(tmp_path, "secret.jpg", "elsewhere/x.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    paths = ["absent.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "far.jpg", "link.jpg", "folder/x.jpg", ".."]
    paths += ["good.jpg/x.jpg", "n" * 300 + ".jpg"]
    paths += ["nul\0.jpg"] if suffix == ".parquet" else []  # csv refuses it in Python 3.10
    rows = [{"path": path, "label": "a"} for path in ["good.jpg", *paths]]
    dataset = read_dataset(write_table(root / f"images{suffix}", rows))
    assert listing(dataset)["train"] == [("good.jpg", "a")]
    found = [file.reason.split(" (")[0] for file in dataset.bad]
    assert [file.name for file in dataset.bad] == [str(root / path) for path in paths]
    up, elsewhere, secret = (
        f"leads to {tmp_path / name}, outside of {root}" for name in ("", "elsewhere", "secret.jpg")
    )
    assert found[:4] == ["no such file", up, up, "a folder, not a file"]
    assert found[4:7] == [secret, elsewhere, up]
    assert found[7:9] == ["Not a directory", "File name too long"] and all("null" in reason for reason in found[9:])
    assert ("row 2)" if suffix == ".parquet" else "line 3)") in dataset.bad[0].reason


def test_all_faults_of_a_table_are_listed(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, *(f"{i}.jpg" for i in range(5)), "deep/5.jpg")
    rows = [
        {"path": "0.jpg", "label": "a", "split": "train"},
        {"path": "1.jpg", "label": "a", "split": "trian"},
        {"path": "2.jpg", "label": "", "split": "train"},
        {"path": "", "label": "a", "split": "train"},
        {"path": "deep/../0.jpg", "label": "b", "split": "test"},
        {"path": "3.jpg", "label": "c", "split": "val"},
        {"path": "gone.jpg", "label": "a", "split": "val"},
    ]
    table = write_table(tmp_path / f"images{suffix}", rows)
    with pytest.raises(ValueError) as caught:
        read_dataset(table)
    at = [f"row {i}" if suffix == ".parquet" else f"line {i + 1}" for i in range(8)]
    assert str(caught.value).split("\n  ") == [
        f"{table}: {at[2]}: split: expected one of train, val, valid, validation, test, got 'trian'",
        f"{table}: {at[3]}: has no label",
        f"{table}: {at[4]}: has no path",
        f"{tmp_path / '0.jpg'}: listed twice, in class a of train ({at[1]}) and in class b of test ({at[5]})",
        f"{table}: class c has no training image",
        f"{tmp_path / 'gone.jpg'}: no such file ({table}, {at[7]})",
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "expected the columns path, label and perhaps split, got"),
        ("a.csv", b"a.jpg,cat\n", "expected the columns path, label and perhaps split, got a.jpg, cat"),
        ("a.csv", b"path,label\n", "a.csv: no images"),
        ("a.csv", b"path,label\nx.jpg\n", "line 2: has no label"),
        ("a.csv", b'path,label\n"x.jpg,a\n', "line 2: unexpected end of data"),
        ("a.csv", b"path,label\n\xff.jpg,a\n", "expected text in UTF-8"),
        ("a.csv", None, "a.csv: no such file"),
        ("a.parquet", b"not a table", "not a Parquet file that pyarrow reads"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError if content is not None else FileNotFoundError, match=expected):
        read_dataset(tmp_path / name)


def test_what_spreadsheets_write_is_a_table(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbfpath,label\r\n1.jpg,a\r\n\r\n2.jpg,b\r\n")
    assert listing(read_dataset(tmp_path / "a.CSV"))["train"] == [("1.jpg", "a"), ("2.jpg", "b")]


# --- shards ---


def write_shard(path: Path, members: Sequence[tuple[str, str | bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            encoded = content.encode() if isinstance(content, str) else content
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


def samples(*numbers: int, label: str = "cat") -> list[tuple[str, str]]:
    return [pair for i in numbers for pair in ((f"{i}.jpg", f"{i}.jpg"), (f"{i}.cls", label))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_shard_is_read_where_it_lies(tmp_path: Path, form: int) -> None:
    # A name longer than a header holds, with characters that are not ASCII, in the formats that can tell it.
    long = "Größe 大/" + ("n" * 60 if form == tarfile.USTAR_FORMAT else "n" * 200)
    members = [
        ("README.txt", "not a sample"),
        ("a/1.JPG", "a/1.JPG"),
        ("a/1.json", json.dumps({"label": 7, "other": 1})),
        ("b/1.cls", "cat\n"),
        ("b/1.seg.png", "not the image"),
        ("b/1.png", "b/1.png"),
        (f"{long}.webp", f"{long}.webp"),
        (f"{long}.cls", "7"),
        (f"{long}.json", json.dumps({"label": "from .cls where there is one"})),
        ("4.jpeg", b""),
        ("4.cls", "çay"),
    ]
    shard = write_shard(tmp_path / "a.tar", members, form)
    before = sorted(tmp_path.iterdir())
    dataset = read_dataset(shard)
    expected = [("", "çay"), ("a/1.JPG", "7"), ("b/1.png", "cat"), (f"{long}.webp", "7")]
    assert listing(dataset) == {"train": sorted(expected), "val": [], "test": []}
    assert not dataset.bad and sorted(tmp_path.iterdir()) == before
    image = dataset.train[0].image
    assert image.name == f"{shard}/4.jpeg" and image == read_dataset(shard).train[0].image
    stamp = image.stamp()
    assert stamp == read_dataset(shard).train[0].image.stamp() != dataset.train[1].image.stamp()
    os.utime(shard, (1, 1))
    assert image.stamp() != stamp
    shard.write_bytes(shard.read_bytes()[:1024])
    with pytest.raises(OSError, match="has become shorter"):
        dataset.train[1].image.read()


def test_names_of_shards_are_ranges_wildcards_or_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_shard(tmp_path / "train" / f"x-{i + 8:03d}.tar", samples(i))
    write_shard(tmp_path / "train" / "._x-008.tar", [("hidden.jpg", "hidden.jpg"), ("hidden.cls", "cat")])
    write_shard(tmp_path / "val" / "x.tar", samples(7))
    write_shard(tmp_path / "test" / "x.tar", samples(8, 9))
    all_train = [("0.jpg", "cat"), ("1.jpg", "cat"), ("2.jpg", "cat")]
    unsplit = {"train": all_train, "val": [], "test": []}
    cut = {"train": all_train, "val": [("7.jpg", "cat")], "test": [("8.jpg", "cat"), ("9.jpg", "cat")]}
    monkeypatch.chdir(tmp_path)
    for prefix in ("", f"{tmp_path}/"):
        for name in ("train/x-{008..010}.tar", "train/x-*.tar", "train", "train/x-0{0..1}{0..9}.tar"):
            dataset = read_dataset(prefix + name)
            assert listing(dataset) == unsplit, name
            missing = 17 if name.endswith("{0..9}.tar") else 0
            assert [file.reason for file in dataset.bad] == ["no such file"] * missing
        assert listing(read_dataset(prefix + "*/*.tar")) == cut
    assert listing(read_dataset(".")) == listing(read_dataset(tmp_path)) == cut
    assert listing(read_dataset("train/x-008.tar"))["train"] == all_train[:1]
    write_shard(tmp_path / "odd[1]{0..1}.tar", samples(5))
    assert listing(read_dataset("odd[1]{0..1}.tar"))["train"] == [("5.jpg", "cat")]
    with pytest.raises(FileNotFoundError, match=r"y\*\.tar: no such file"):
        read_dataset("y*.tar")
    with pytest.raises(ValueError, match=r"y-\{0\.\.1\}\.tar: no images\n  y-0\.tar: no such file\n  y-1\.tar"):
        read_dataset("y-{0..1}.tar")


def test_tars_beside_class_folders_are_no_dataset(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg")
    write_shard(tmp_path / "cat.tar", samples(1))
    assert listing(read_dataset(tmp_path))["train"] == [("cat/1.jpg", "cat")]


def test_members_that_cannot_be_used_are_bad_files(tmp_path: Path) -> None:
    members: list[tuple[str, str | bytes]] = [
        *samples(1),
        ("../up.jpg", "x"),
        ("a/../../up.cls", "x"),
        ("/root.jpg", "x"),
        ("unlabelled.jpg", "x"),
        ("pictureless.cls", "x"),
        ("other.tif", "x"),
        ("other.cls", "x"),
        *(("two.jpg", "x"), ("two.png", "x"), ("two.cls", "x")),
        *(("again.jpg", "x"), ("again.cls", "x"), ("again.jpg", "x")),
        *(("json.jpg", "x"), ("json.json", "{")),
        *(("list.jpg", "x"), ("list.json", "[]")),
        *(("float.jpg", "x"), ("float.json", '{"label": 0.5}')),
        *(("blank.jpg", "x"), ("blank.cls", " ")),
        *(("bytes.jpg", "x"), ("bytes.cls", b"\xff")),
    ]
    shard = write_shard(tmp_path / "a.tar", members)
    with tarfile.open(shard, "a") as tar:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dir.jpg", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "1.jpg"
            tar.addfile(member)
        member = tarfile.TarInfo("holes.jpg")
        member.pax_headers = {"GNU.sparse.map": "512,0", "GNU.sparse.size": "512"}
        tar.addfile(member)
    dataset = read_dataset(shard)
    assert listing(dataset)["train"] == [("1.jpg", "cat")]
    found = {file.name.removeprefix(f"{shard}/"): file.reason for file in dataset.bad}
    assert len(found) == len(dataset.bad) == 17
    link = "a link or special member, not a plain file"
    assert found.pop("json.jpg").startswith("Expecting property name")
    assert "can't decode byte 0xff" in found.pop("bytes.jpg")
    assert found == {
        "../up.jpg": "its name leads out of the archive",
        "a/../../up.cls": "its name leads out of the archive",
        "/root.jpg": "its name leads out of the archive",
        "unlabelled.jpg": "an image without a label (.cls or .json)",
        "pictureless": "a label without an image (.jpeg, .jpg, .png, .webp)",
        "other": "a label without an image (.jpeg, .jpg, .png, .webp)",
        "two.jpg": "two.png has the same name",
        "again.jpg": "again.jpg has the same name",
        "list.jpg": '.json: expected "label" with a number or a name, got None',
        "float.jpg": '.json: expected "label" with a number or a name, got 0.5',
        "blank.jpg": "an empty label",
        **{"soft.jpg": link, "hard.jpg": link, "holes.jpg": link, "dir.jpg": "a folder, not a file"},
    }


def test_damaged_shards_are_bad_files_and_what_is_whole_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "data"
    whole = write_shard(root / "a.tar", samples(1, 2)).read_bytes()
    blocks = [name for name, _ in samples(1, 2)]
    assert whole[4 * 512 :].startswith(b"2.jpg")  # header and content of each member are a block each
    (root / "empty.tar").write_bytes(b"")
    (root / "text.tar").write_text("not a tar file" * 100)
    (root / "cut.tar").write_bytes(whole[: 5 * 512 + 2])
    (root / "even.tar").write_bytes(whole[: len(blocks) * 1024])
    (root / "header.tar").write_bytes(whole[: 4 * 512] + b"?" * 512 + whole[5 * 512 :])
    with tarfile.open(root / "packed.tar", "w:gz") as tar:
        tar.add(root / "a.tar")
    (root / "link.tar").symlink_to(write_shard(tmp_path / "elsewhere.tar", samples(3)))
    (root / "folder.tar").mkdir()
    dataset = read_dataset(f"{root}/*.tar")
    names = sorted(sample.image.name.removeprefix(f"{root}/").removesuffix(".jpg") for sample in dataset.train)
    assert names == ["a.tar/1", "a.tar/2", "cut.tar/1", "even.tar/1", "even.tar/2", "header.tar/1"]
    found = reasons(dataset, root)
    assert found.pop("link.tar") == f"leads to {tmp_path / 'elsewhere.tar'}, outside of {root}"
    assert found.pop("folder.tar") == "a folder, not a file"
    assert found.pop("cut.tar/2") == "the shard ends within it"
    expected = {"empty.tar", "text.tar", "cut.tar", "even.tar", "header.tar", "packed.tar"}
    assert found.keys() == expected
    assert all(reason.startswith("expected a whole, uncompressed tar file: ") for reason in found.values())
    assert found["header.tar"].endswith("neither a header nor the end at byte 2048")


# --- datasets that torchvision and others publish ---

CUB = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]


def write_flowers102(root: Path) -> Listing:
    base = write(root / "flowers-102", *(f"jpg/image_{i:05d}.jpg" for i in range(1, 9)))
    savemat(base / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2, 1, 2]]})
    savemat(base / "setid.mat", {"trnid": [[8, 1, 3]], "valid": [[2, 5]], "tstid": [[4, 6]]})
    names = {1: "pink primrose", 0: "hard-leaved pocket orchid"}
    ids = {"train": (1, 3, 8), "val": (2, 5), "test": (4, 6)}
    return {split: [(f"jpg/image_{i:05d}.jpg", names[i % 2]) for i in ids[split]] for split in ids}


def write_food101(root: Path) -> Listing:
    base = write(root / "food-101", "images/pho/1.jpg", "images/pho/2.jpg", "images/pie/3.jpg", "images/pie/4.jpg")
    (base / "meta").mkdir()
    (base / "meta" / "train.json").write_text(json.dumps({"pie": ["pie/3"], "pho": ["pho/1"]}))
    (base / "meta" / "test.json").write_text(json.dumps({"pie": ["pie/4"], "pho": ["pho/2"]}))
    return {
        "train": [("images/pho/1.jpg", "pho"), ("images/pie/3.jpg", "pie")],
        "val": [],
        "test": [("images/pho/2.jpg", "pho"), ("images/pie/4.jpg", "pie")],
    }


def write_aircraft(root: Path) -> Listing:
    base = write(root / "fgvc-aircraft-2013b", *(f"data/images/{i:07d}.jpg" for i in range(6)))
    (base / "data" / "variants.txt").write_text("707-320\nA340-300 B\n")
    lists = {"train": "0000000 707-320\n0000001 A340-300 B\n", "val": "0000002 707-320\n", "test": "0000003 707-320\n"}
    for split, lines in lists.items():
        (base / "data" / f"images_variant_{split}.txt").write_text(lines)
    return {
        split: [(f"data/images/{line[:7]}.jpg", line[8:]) for line in lines.splitlines()]
        for split, lines in lists.items()
    }


def write_cars(root: Path) -> Listing:
    base = write(root / "stanford_cars", *(f"cars_{split}/0000{i}.jpg" for split in ("train", "test") for i in (1, 2)))
    (base / "devkit").mkdir()
    names = np.array(["Acura TL Sedan 2012", "Audi R8 Coupe 2012"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    cars = np.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=[("fname", object), ("class", np.uint8)])
    for path in ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"):
        savemat(base / path, {"annotations": cars})
    listed = {s: [(f"cars_{s}/00001.jpg", names[1]), (f"cars_{s}/00002.jpg", names[0])] for s in ("train", "test")}
    return {"val": [], **listed}


def write_pets(root: Path) -> Listing:
    names = ["Abyssinian_1", "Abyssinian_2", "great_pyrenees_1", "great_pyrenees_10"]
    base = write(root / "oxford-iiit-pet", *(f"images/{name}.jpg" for name in names))
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text(f"{names[0]} 1 1 1\n{names[2]} 2 2 1\n")
    (base / "annotations" / "test.txt").write_text(f"{names[1]} 1 1 1\n{names[3]} 2 2 1\n")
    classes = ["Abyssinian", "Abyssinian", "Great Pyrenees", "Great Pyrenees"]
    pairs = [(f"images/{name}.jpg", class_name) for name, class_name in zip(names, classes, strict=True)]
    return {"train": pairs[::2], "val": [], "test": pairs[1::2]}


def write_dtd(root: Path) -> Listing:
    names = [f"{label}/{label}_{i}.jpg" for label in ("banded", "blotchy") for i in range(3)]
    base = write(root / "dtd" / "dtd", *(f"images/{name}" for name in names))
    (base / "labels").mkdir()
    for k, split in enumerate(("train", "val", "test")):
        (base / "labels" / f"{split}1.txt").write_text("".join(f"{name}\n" for name in names[k::3]))
    pairs = [(f"images/{name}", name.partition("/")[0]) for name in names]
    return {split: pairs[k::3] for k, split in enumerate(("train", "val", "test"))}


def write_imagenette(root: Path) -> Listing:
    names = [f"{split}/n0{i}/{i}.JPEG" for split in ("train", "val") for i in (1, 2)]
    write(root / "imagenette2-160", "train/n09/small.JPEG", "val/n09/small.JPEG")
    write(root / "imagenette2-320", *names)
    pairs = [(name, name.split("/")[1]) for name in names]
    return {"train": pairs[:2], "val": pairs[2:], "test": []}


def write_cub200(root: Path) -> Listing:
    names = [f"{label}/A_{i}.jpg" for label in CUB for i in range(3)]
    base = write(root / "CUB_200_2011", *(f"images/{name}" for name in names))
    (base / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (base / "image_class_labels.txt").write_text("".join(f"{i} {(i > 3) + 1}\n" for i in range(1, 7)))
    (base / "train_test_split.txt").write_text("".join(f"{i} {i % 2}\n" for i in range(1, 7)))
    (base / "classes.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(CUB, 1)))
    pairs = [(f"images/{name}", name.partition("/")[0]) for name in names]
    return {"train": pairs[::2], "val": [], "test": pairs[1::2]}


def write_indoor67(root: Path) -> Listing:
    names = ["airport_inside/a b.jpg", "airport_inside/b.jpg", "bar/c.jpg", "bar/d.jpg"]
    write(root, *(f"Images/{name}" for name in names))
    (root / "TrainImages.txt").write_text("\n".join(names[::2]))  # the published list does not end with a new line
    (root / "TestImages.txt").write_text("\n".join(names[1::2]))
    pairs = [(f"Images/{name}", name.partition("/")[0]) for name in names]
    return {"train": pairs[::2], "val": [], "test": pairs[1::2]}


PUBLISHED: dict[str, Callable[[Path], Listing]] = {
    "Flowers102": write_flowers102,
    "Food101": write_food101,
    "FGVCAircraft": write_aircraft,
    "StanfordCars": write_cars,
    "OxfordIIITPet": write_pets,
    "DTD": write_dtd,
    "Imagenette": write_imagenette,
    "CUB200": write_cub200,
    "MITIndoor67": write_indoor67,
}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares checksums of the published files, which made ones cannot have."""
    for module in ("flowers102", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5: os.path.isfile(path))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_and_splits_are_kept(
    tmp_path: Path, name: str, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = PUBLISHED[name](tmp_path / "data")
    dataset = read_dataset(f"torchvision:{name}:{tmp_path / 'data'}")
    assert listing(dataset) == {split: sorted(pairs) for split, pairs in expected.items()} and not dataset.bad
    monkeypatch.chdir(tmp_path)  # data is the default
    assert listing(read_dataset(f"torchvision:{name}")) == listing(dataset)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_arrays_are_handed_out_as_png(tmp_path: Path, name: str, unchecked: None) -> None:
    ten = name == "CIFAR10"
    base = tmp_path / ("cifar-10-batches-py" if ten else "cifar-100-python")
    base.mkdir()
    random = np.random.default_rng(0)
    pixels = {}
    for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch") if ten else ("train", "test"):
        pixels[part] = random.integers(0, 256, (2, 3072), dtype=np.uint8)
        labels = {"labels" if ten else "fine_labels": [1, 0], "coarse_labels": [0, 0]}
        (base / part).write_bytes(pickle.dumps({"data": pixels[part], **labels}))
    names = {"label_names" if ten else "fine_label_names": ["zebra", "apple"]}
    (base / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(names))
    dataset = read_dataset(f"torchvision:{name}:{tmp_path}")
    assert dataset.classes == ["apple", "zebra"]
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (10 if ten else 2, 0, 2)
    assert [sample.label for sample in dataset.test] == [0, 1]
    image = dataset.test[1].image
    decoded = decode_image(torch.frombuffer(bytearray(image.read()), dtype=torch.uint8))
    assert decoded.flatten().tolist() == pixels["test_batch" if ten else "test"][1].tolist()
    again = read_dataset(f"torchvision:{name}:{tmp_path}").test[1].image
    assert again == image and again.stamp() == image.stamp() != dataset.test[0].image.stamp()


@pytest.mark.parametrize("name", [*PUBLISHED, "CIFAR10", "CIFAR100"])
def test_absent_datasets_say_where_they_would_be_and_how_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(f"torchvision:{name}:{tmp_path}")
    message = str(caught.value)
    assert message.startswith(f"torchvision:{name}: not found, or not whole, in {tmp_path}") and "\n" not in message
    fetched = f"torchvision.datasets.{name}({str(tmp_path)!r}, download=True) gets it"
    assert message.endswith(fetched) != (name in ("StanfordCars", "CUB200", "MITIndoor67"))


def test_files_that_published_lists_name_are_checked(tmp_path: Path) -> None:
    write_food101(tmp_path)
    base = write(tmp_path, "secret.jpg") / "food-101"
    lists = {"pho": ["pho/1", "pho/absent", "../../secret"], "pie": ["pie/3"]}
    (base / "meta" / "train.json").write_text(json.dumps(lists))
    dataset = read_dataset(f"torchvision:Food101:{tmp_path}")
    assert len(dataset.train) == 2
    assert reasons(dataset, base) == {
        "images/pho/absent.jpg": "no such file",
        "../secret.jpg": f"leads to {tmp_path}, outside of {base}",
    }
    lists["pie"] += ["pie/3", "pie/4"]
    (base / "meta" / "train.json").write_text(json.dumps(lists))
    twice = (
        r"3\.jpg: listed twice, in class pie of train and in class pie of train\n.*4\.jpg: .* and in class pie of test"
    )
    with pytest.raises(ValueError, match=twice):
        read_dataset(f"torchvision:Food101:{tmp_path}")


def test_lists_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_cub200(tmp_path)
    (tmp_path / "CUB_200_2011" / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(FileNotFoundError, match="torchvision:CUB200: not found, or not whole, in"):
        read_dataset(f"torchvision:CUB200:{tmp_path}")


def test_torchvision_checks_what_it_published(tmp_path: Path) -> None:
    write_flowers102(tmp_path)  # with checksums of other files
    with pytest.raises(FileNotFoundError, match="not found or corrupted"):
        read_dataset(f"torchvision:Flowers102:{tmp_path}")


# --- the datasets library ---


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
    """Rows whose images' bytes are their names; whole numbers label cat and dog."""
    label = hub.ClassLabel(names=["cat", "dog"]) if isinstance(labels[0], int) else hub.Value("string")
    values = {"image": [{"bytes": name.encode(), "path": None} for name in names], "label": labels, **columns}
    rows = hub.Dataset.from_dict(values)
    return rows.cast_column("image", hub.Image(decode=False)).cast_column("label", label)


def test_datasets_saved_to_disk_are_read(tmp_path: Path, hub: object) -> None:
    splits = {
        "train": table(hub, ["1", "2", "3"], [0, 1, 0], caption=["a", "b", "c"]),
        "validation": table(hub, ["4"], [1], caption=["d"]),
        "test": table(hub, ["5", "6"], [-1, -1], caption=["e", "f"]),  # as hub datasets hide labels
        "extra": table(hub, ["7"], [1], caption=["g"]),
    }
    hub.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    name = f"hf:{tmp_path / 'saved'}"
    dataset = read_dataset(name)
    assert listing(dataset) == {"train": [("1", "cat"), ("2", "dog"), ("3", "cat")], "val": [("4", "dog")], "test": []}
    assert not dataset.bad
    image, again = dataset.train[2].image, read_dataset(name).train[2].image
    assert image.name == f"{name}/train/00000002"
    assert image == again and image.stamp() == again.stamp() != dataset.train[1].image.stamp()
    table(hub, ["1", "2"], ["x", "y"]).select([1, 0]).save_to_disk(tmp_path / "one")
    assert listing(read_dataset(f"hf:{tmp_path / 'one'}"))["train"] == [("1", "x"), ("2", "y")]


def test_folders_of_parquet_files_are_read(tmp_path: Path, hub: object) -> None:
    for split, count in (("train", 1500), ("test", 2)):  # more than are looked at in one go
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
    # The library's own writers take the files' bytes into the table; others need not.
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
        (f"{name}/00000003", "no label"),
    ]


def test_columns_must_tell_images_and_labels(tmp_path: Path, hub: object) -> None:
    rows = table(hub, ["1", "2"], [0, 1])
    rows.rename_column("label", "kind").rename_column("image", "photo").save_to_disk(tmp_path / "other")
    assert listing(read_dataset(f"hf:{tmp_path / 'other'}"))["train"] == [("1", "cat"), ("2", "dog")]
    rows.remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="train: expected a column label, or one of class labels, among image"):
        read_dataset(f"hf:{tmp_path / 'unlabelled'}")
    rows.remove_columns("image").save_to_disk(tmp_path / "pictureless")
    with pytest.raises(ValueError, match="train: expected one column of images among label, found 0"):
        read_dataset(f"hf:{tmp_path / 'pictureless'}")
    with pytest.raises(ValueError, match=r"hf:/absent/folder: \S.*") as caught:
        read_dataset("hf:/absent/folder")
    assert "\n" not in str(caught.value)


# --- every kind ---


def test_missing_packages_are_named_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^.*a\.parquet: .* needs pyarrow: pip install 'xmixup_fast\[parquet\]'$"):
        read_dataset(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"^hf:x: needs the datasets library: pip install 'xmixup_fast\[hf\]'$"):
        read_dataset("hf:x")


def test_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(ValueError, match=r"a\.zip: expected a folder, a table"):
        read_dataset(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(ValueError, match="torchvision:MNIST: expected one of Flowers102, Food101"):
        read_dataset("torchvision:MNIST")


def test_several_datasets_are_one_in_which_classes_of_one_name_are_one(tmp_path: Path) -> None:
    write(tmp_path / "a", "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg")
    write(tmp_path / "b", "4.jpg", "5.jpg")
    pairs = (("4.jpg", "ant"), ("5.jpg", "cat"), ("absent.jpg", "cat"))
    table = write_table(tmp_path / "b" / "b.csv", [{"path": path, "label": label} for path, label in pairs])
    joined = read_dataset([str(tmp_path / "a"), str(table)])
    assert joined.classes == ["ant", "cat", "dog"]
    assert listing(joined) == {
        "train": [("4.jpg", "ant"), ("5.jpg", "cat"), ("train/cat/1.jpg", "cat"), ("train/dog/2.jpg", "dog")],
        "val": [("val/cat/3.jpg", "cat")],
        "test": [],
    }
    assert reasons(joined, tmp_path) == {"b/absent.jpg": f"no such file ({table}, line 4)"}
    with pytest.raises(ValueError, match=r"train/cat/1\.jpg: listed twice"):
        read_dataset([str(tmp_path / "a"), str(tmp_path / "a")])


@contextmanager
def opened() -> Iterator[list[str]]:
    """The real paths of all files and folders that are opened meanwhile."""
    paths: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | bytes | Path):
            paths.append(os.path.realpath(os.fsdecode(arguments[0])))

    sys.addaudithook(hook)  # stays for the life of the process
    yield paths
    active = False


def test_nothing_outside_of_the_folder_is_opened(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "1.jpg", "class/2.jpg")
    write_shard(outside / "x.tar", samples(1))
    root = write(tmp_path / "root", "cat/1.jpg", "cat/2.jpg")
    for name, to in (("cat/far.jpg", "1.jpg"), ("cat/far", "class"), ("far", "class")):
        (root / name).symlink_to(outside / to)
    rows = [{"path": path, "label": "a"} for path in ("cat/1.jpg", "../outside/1.jpg", "cat/far/2.jpg")]
    shards = write_shard(tmp_path / "shards" / "a.tar", samples(1, 2))
    (shards.parent / "b.tar").symlink_to(outside / "x.tar")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(outside)
    with opened() as paths:
        with pytest.raises(ValueError, match=rf"train: leads to {outside}"):
            read_dataset(tmp_path / "linked")
        for name in (root, write_table(root / "a.csv", rows), f"{shards.parent}/*.tar", shards.parent):
            dataset = read_dataset(name)
            assert dataset.bad
            listing(dataset)
    assert str(root / "cat" / "1.jpg") in paths and str(shards) in paths
    assert not [path for path in paths if path.startswith(str(outside))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    write_folder(folder / "target", TARGET, 10)
    write_folder(folder / "a", SOURCE, 2)
    write_folder(folder / "b", {"snow": SOURCE["snow"], "mud": (90, 70, 40)}, 2)
    return folder


def flags(folders: Path, output: Path, *more: str) -> list[str]:
    small = ["--model", "test_resnet", "--weights", "none", "--selection", "random", "--top-k", "5"]
    small += ["--steps", "1", "--batch-size", "8", "--image-size", "32", "--device", "cpu", "--output", str(output)]
    return [*small, "--target", str(folders / "target"), *more]


def test_a_run_takes_several_sources(folders: Path, tmp_path: Path) -> None:
    sources = [str(folders / "a"), str(folders / "b")]
    assert main(flags(folders, tmp_path / "run", "--source", *sources)) == 0
    selection = json.loads((tmp_path / "run" / "selection.json").read_text())
    for entries in selection["classes"].values():
        assert {entry["class"] for entry in entries} == {*SOURCE, "mud"}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["source"] == sources
    assert Settings.from_yaml(tmp_path / "run" / "config.yaml").source == sources
    assert parse(["--config", str(tmp_path / "run" / "config.yaml"), "--seed", "2"]).source == sources
    assert parse(["--target", "t", "--model", "m", "--source", "a"]).source == "a"


def test_a_run_lists_the_bad_files_of_target_and_source(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for name in ("target", "a"):
        paths = sorted(path.relative_to(folders) for path in (folders / name).rglob("*.png"))
        rows = [{"path": path, "label": path.parent.name} for path in [*paths, Path(name, "absent.png")]]
        tables[name] = str(write_table(folders / f"{name}.csv", rows))
    asked = flags(folders, tmp_path / "run", "--target", tables["target"], "--source", tables["a"])
    assert main(asked) == 2
    error = "error: top_k: expected at most 4, the number of usable source classes, got 5\n"
    assert capsys.readouterr().err == error
    assert main([*asked, "--top-k", "4"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 2 bad files; --bad-files skip trains without them:"
    names = [line.split(": ")[0].strip() for line in lines]
    assert names == [str(folders / name / "absent.png") for name in ("target", "a")]
    assert not (tmp_path / "run").exists()


def test_the_default_output_is_a_plain_folder_name(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path.relative_to(folders) for path in (folders / "target").rglob("*.png")]
    odd = write_table(folders / "odd: [*] ä.csv", [{"path": path, "label": path.parent.name} for path in paths])
    monkeypatch.chdir(tmp_path)
    plain = [flag for flag in flags(folders, tmp_path) if flag not in ("--output", str(tmp_path))]
    assert main([*plain, "--method", "finetune", "--target", str(odd)]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-finetune-odd-ä.csv-s0")
