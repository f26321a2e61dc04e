"""Makes the images of docs/small-images.yaml from CIFAR-100 and CIFAR-10, as Parquet files in DIR.

    python docs/small_images.py DIR                  # torchvision downloads both into DIR
    python docs/small_images.py DIR --from FOLDER    # FOLDER/NAME/train.parquet and test.parquet, made before
    python docs/small_images.py DIR --photographs    # those of docs/small-images-photos.yaml; with --from, too

It needs the extra hf. The datasets are

    cifar80    the source: 80 classes of CIFAR-100, of which the network learns from nothing
    cifar20    a target: one class of each superclass of CIFAR-100, so that each has four kindred classes in cifar80
    cifar10    a target: CIFAR-10

cifar80's test images are 25 of each class, of CIFAR-100's test images, or held out where FOLDER has none. Training sees
none of them: how many are recognised before and after training tells how much of the source a network has forgotten.

With --photographs they are these, the middles of photographs in 32 x 32 pixels:

    flowers102  a target: Oxford Flowers-102, at most ten test images a class
    dtd10       a target: the first ten classes of the Describable Textures, banded to crystalline

torchvision downloads 950 MB of them; FOLDER/NAME holds class folders in train/ and test/. What is published as a
validation split is trained on here, as the plan cuts its own.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xmixup_fast.data.dataset import Sample
from xmixup_fast.data.sources import read_dataset

CIFAR20 = [
    *("butterfly", "can", "chimpanzee", "couch", "girl", "house", "lamp", "lion", "lizard", "motorcycle", "mountain"),
    *("orange", "otter", "palm_tree", "possum", "rabbit", "ray", "rose", "snail", "streetcar"),
]
"""Of each superclass of CIFAR-100 the third class by name."""
TARGET_IMAGES = 200
"""Training images of each class of a target, and test images of cifar10's."""
HELD_OUT = 25
"""Test images of each class of the source."""
SIDE = 32
"""Pixels of the side of a photograph that was brought down."""
PHOTOGRAPHS = {"flowers102": ("Flowers102", 102, 10), "dtd10": ("DTD", 10, 40)}
"""What torchvision calls them, how many classes are taken, by name, and at most how many test images of each."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--from", dest="made", metavar="FOLDER", type=Path, help="what to take")
    parser.add_argument("--photographs", action="store_true", help="make flowers102 and dtd10")
    options = parser.parse_args(arguments)
    if options.photographs:
        for name in PHOTOGRAPHS:
            bring_down(name, options.made, options.folder)
    elif options.made:
        take(options.made, options.folder)
    else:
        download(options.folder)


def take(made: Path, folder: Path) -> None:
    """Copies the three datasets, and holds out images of a source without test images."""
    for name in ("cifar80", "cifar20", "cifar10"):
        files = {split: made / name / f"{split}.parquet" for split in ("train", "test")}
        tables = {
            split: datasets.Dataset.from_parquet(str(file)).cast_column("image", datasets.Image(decode=False))
            for split, file in files.items()
            if file.exists()
        }
        if "test" not in tables:
            held = held_out(np.array(tables["train"]["label"]))
            tables["test"] = tables["train"].select(held.nonzero()[0])
            tables["train"] = tables["train"].select((~held).nonzero()[0])
        for split, table in tables.items():
            write(folder / name / f"{split}.parquet", table)


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are held out: the last ones of each class."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[-HELD_OUT:]] = True
    return held


def download(folder: Path) -> None:
    """Makes the three datasets of what torchvision downloads."""
    from torchvision.datasets import CIFAR10, CIFAR100

    for split in ("train", "test"):
        hundred, ten = (cifar(folder, train=split == "train", download=True) for cifar in (CIFAR100, CIFAR10))
        others = [name for name in hundred.classes if name not in CIFAR20]
        limit = TARGET_IMAGES
        write(folder / "cifar80" / f"{split}.parquet", table(hundred, others, HELD_OUT if split == "test" else None))
        write(folder / "cifar20" / f"{split}.parquet", table(hundred, CIFAR20, limit))
        write(folder / "cifar10" / f"{split}.parquet", table(ten, ten.classes, limit))


def table(cifar: Any, classes: Sequence[str], limit: int | None) -> datasets.Dataset:
    """The images of some classes of a CIFAR, and of each class the first ones alone, if there is a limit."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    targets = np.array(cifar.targets)
    for label, name in enumerate(classes):
        rows = np.flatnonzero(targets == cifar.classes.index(name))[:limit]
        images += list(cifar.data[rows])
        labels += [label] * len(rows)
    return as_split(images, labels, classes)


def bring_down(name: str, made: Path | None, folder: Path) -> None:
    """Makes one of PHOTOGRAPHS of the class folders ``made``/NAME, or of what torchvision downloads."""
    published, count, limit = PHOTOGRAPHS[name]
    if made is None:
        import torchvision.datasets

        getattr(torchvision.datasets, published)(folder, download=True)
    found = read_dataset(str(made / name) if made else f"torchvision:{published}:{folder}")
    classes = found.classes[:count]
    for split, samples in (("train", [*found.train, *found.val]), ("test", found.test)):
        images: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for label in range(len(classes)):
            own = [sample for sample in samples if sample.label == label][: limit if split == "test" else None]
            images += [square(sample) for sample in own]
            labels += [label] * len(own)
        write(folder / name / f"{split}.parquet", as_split(images, labels, classes))


def square(sample: Sample) -> NDArray[np.uint8]:
    """The middle of a photograph, uint8[SIDE, SIDE, 3]."""
    with Image.open(io.BytesIO(sample.image.read())) as image:
        return np.asarray(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (SIDE, SIDE)))


def as_split(images: Sequence[NDArray[np.uint8]], labels: Sequence[int], classes: Sequence[str]) -> datasets.Dataset:
    """A split of images, uint8[H, W, 3] each, with their labels and the classes' names."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    return datasets.Dataset.from_dict({"image": list(images), "label": list(labels)}, features=features)


def write(file: Path, rows: datasets.Dataset) -> None:
    """Writes a split, images with their bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.cast_column("image", datasets.Image()).to_parquet(str(file))
    print(f"{file}: {len(rows)} images of {rows.features['label'].num_classes} classes")


if __name__ == "__main__":
    main()
