"""Makes the images of docs/small-images.yaml from CIFAR-100 and CIFAR-10, as Parquet files in DIR.

    python docs/small_images.py DIR                  # torchvision downloads both into DIR
    python docs/small_images.py DIR --from FOLDER    # FOLDER/NAME/train.parquet and test.parquet, made before

It needs the extra hf. The datasets are

    cifar80    the source: 80 classes of CIFAR-100, of which the network learns from nothing
    cifar20    a target: one class of each superclass of CIFAR-100, so that each has four kindred classes in cifar80
    cifar10    a target: CIFAR-10

cifar80's test images are 25 of each class, of CIFAR-100's test images, or held out where FOLDER has none. Training sees
none of them: how many are recognised before and after training tells how much of the source a network has forgotten.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

CIFAR20 = [
    *("butterfly", "can", "chimpanzee", "couch", "girl", "house", "lamp", "lion", "lizard", "motorcycle", "mountain"),
    *("orange", "otter", "palm_tree", "possum", "rabbit", "ray", "rose", "snail", "streetcar"),
]
"""Of each superclass of CIFAR-100 the third class by name."""
TARGET_IMAGES = 200
"""Training images of each class of a target, and test images of cifar10's."""
HELD_OUT = 25
"""Test images of each class of the source."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--from", dest="made", metavar="FOLDER", type=Path, help="Parquet files to take")
    options = parser.parse_args(arguments)
    if options.made:
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
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def write(file: Path, rows: datasets.Dataset) -> None:
    """Writes a split, images with their bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.cast_column("image", datasets.Image()).to_parquet(str(file))
    print(f"{file}: {len(rows)} images of {rows.features['label'].num_classes} classes")


if __name__ == "__main__":
    main()
