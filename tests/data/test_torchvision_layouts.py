"""Datasets torchvision:NAME, in the layouts of torchvision and of their publishers."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from listings import Listing, listing, reasons, write
from scipy.io import savemat
from torchvision.io import decode_image

from xmixup_fast.data.sources import read_dataset

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
    """Switches off torchvision's checksums of published files, which the files of these tests do not match."""
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
    twice = r"^.*4\.jpg: listed twice, in class pie of train and in class pie of test\n"
    with pytest.raises(ValueError, match=twice):
        read_dataset(f"torchvision:Food101:{tmp_path}")


def test_links_out_of_a_published_dataset_are_followed_and_said(tmp_path: Path) -> None:
    expected = write_food101(tmp_path / "data")
    base, disk = tmp_path / "data" / "food-101", tmp_path / "disk"
    (base / "images").rename(disk)
    (base / "images").symlink_to(disk)
    dataset = read_dataset(f"torchvision:Food101:{tmp_path / 'data'}")
    assert listing(dataset) == expected and not dataset.bad
    assert {dataset.name_of(sample.image) for sample in dataset.train} == {"images/pho/1.jpg", "images/pie/3.jpg"}
    (said,) = dataset.findings.guesses
    assert said == f"{base}: 1 link leads out of it and is followed, such as {base}/images -> {disk}"


def test_lists_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_cub200(tmp_path)
    (tmp_path / "CUB_200_2011" / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(FileNotFoundError, match="torchvision:CUB200: not found, or not whole, in"):
        read_dataset(f"torchvision:CUB200:{tmp_path}")


def test_torchvision_checks_what_it_published(tmp_path: Path) -> None:
    write_flowers102(tmp_path)  # with checksums of other files
    with pytest.raises(FileNotFoundError, match="not found or corrupted"):
        read_dataset(f"torchvision:Flowers102:{tmp_path}")
