"""Reads published classification datasets with their official splits, from the folders where torchvision keeps them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dataset import BadFile, Content, Dataset, Findings, Image
from .folder import read_folder
from .listing import Entry, Root, collect

if TYPE_CHECKING:
    import numpy as np

_Listed = tuple[Path, str, str]
"""An image file, the name of its class, and its split."""

_FOLDERS = {
    "Flowers102": "flowers-102",
    "Food101": "food-101",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "StanfordCars": "stanford_cars",
    "OxfordIIITPet": "oxford-iiit-pet",
    "DTD": "dtd",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "Imagenette": "imagenette2",
    "CUB200": "CUB_200_2011",
    "MITIndoor67": "",
}
"""The folder of each dataset in the root folder. MIT Indoor-67 is published without a folder of its own."""

_SPLITS = {
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "FGVCAircraft": ("train", "val", "test"),
    "StanfordCars": ("train", "test"),
    "DTD": ("train", "val", "test"),
}
"""The splits of the datasets whose files a class of torchvision lists."""

_FROM = {
    "StanfordCars": "unpack cars_train, cars_test, devkit and cars_test_annos_withlabels.mat there",
    "CUB200": "unpack CUB_200_2011.tgz there, from https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "MITIndoor67": "put Images, TrainImages.txt and TestImages.txt there, from https://web.mit.edu/torralba/www/indoor.html",
}
"""How to get the datasets that torchvision does not download."""


@dataclass(frozen=True)
class ArrayImage(Image):
    """An image that is an array in memory; its encoded bytes are a PNG file."""

    where: str
    """Name of the image."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = field(compare=False, repr=False)
    """uint8[H, W, 3]"""

    @property
    def name(self) -> str:
        return self.where

    def read(self) -> bytes:
        import PIL.Image

        stream = io.BytesIO()
        PIL.Image.fromarray(self.pixels).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def stamp(self) -> str:
        return self.content().digest

    def content(self) -> Content:
        """Of the pixels: the bytes of a PNG file depend on the library that writes it."""
        return Content.of(self.pixels.tobytes())


def read_torchvision(name: str) -> Dataset:
    """Lists the images of ``NAME[:ROOT]``: a dataset of torchvision, CUB200 or MITIndoor67, in the folder ROOT.

    ROOT is ``data`` if not given. Nothing is downloaded. Where torchvision has a class that lists files, it lists them
    here, with its own checks. The classes of Imagenette are its folders, which are WordNet ids; of its published image
    sizes, the largest that is there is read. Bad files are listed files that are missing, or that the lists
    name outside of the folder.

    Raises FileNotFoundError, which says how to get the dataset, where it is missing or incomplete, and ValueError for
    an unknown name, a class without a training image, or an image that is listed twice.
    """
    name, _, root = name.partition(":")
    root = root or "data"
    if name not in _FOLDERS:
        raise ValueError(f"torchvision:{name}: expected one of {', '.join(_FOLDERS)}")
    folder = Path(root, _FOLDERS[name])
    try:
        if name == "Imagenette":
            sizes = [folder, Path(f"{folder}-320"), Path(f"{folder}-160")]
            folder = next((size for size in sizes if size.is_dir()), folder)
            return read_folder(folder)
        if name in ("CIFAR10", "CIFAR100"):
            return collect(str(folder), _cifar(name, root, folder), root=str(folder))
        if name in _SPLITS:
            files = list(_torchvision(name, root))
        else:
            files = list({"OxfordIIITPet": _pets, "CUB200": _cub200, "MITIndoor67": _mit_indoor67}[name](folder))
    except (OSError, RuntimeError, LookupError) as error:  # torchvision raises RuntimeError
        source = _FROM.get(name, f"torchvision.datasets.{name}({root!r}, download=True) gets it")
        message = f"torchvision:{name}: not found, or not whole, in {folder} ({error}); {source}"
        raise FileNotFoundError(message) from error
    return _checked(f"torchvision:{name}", files, Root(folder))


def _checked(where: str, files: Iterable[_Listed], root: Root) -> Dataset:
    """The dataset of the listed files that are inside of its folder."""
    entries, bad = [], []
    for path, class_name, split in files:
        found = root.file(path)
        if isinstance(found, BadFile):
            bad.append(found)
        else:
            entries.append(Entry(found, class_name, split))
    return collect(where, entries, bad, root=str(root.path), findings=Findings(guesses=root.said()))


def _torchvision(name: str, root: str) -> Iterator[_Listed]:
    """Lists the files of a dataset by torchvision's class, whose loader here returns the path and decodes nothing."""
    import torchvision.datasets

    for split in _SPLITS[name]:
        files = getattr(torchvision.datasets, name)(root, split=split, loader=Path)
        for i in range(len(files)):
            path, label = files[i]
            yield path, files.classes[label], split


def _cifar(name: str, root: str, folder: Path) -> Iterator[Entry]:
    import torchvision.datasets

    for split in ("train", "test"):
        images = getattr(torchvision.datasets, name)(root, train=split == "train")
        for i, (pixels, label) in enumerate(zip(images.data, images.targets, strict=True)):
            yield Entry(ArrayImage(f"{folder}/{split}/{i:05d}", pixels), images.classes[label], split)


def _pets(folder: Path) -> Iterator[_Listed]:
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in _lines(folder / "annotations" / file):
            stem = line.split()[0]
            breed = stem.rpartition("_")[0].replace("_", " ").title()
            yield folder / "images" / f"{stem}.jpg", breed, split


def _cub200(folder: Path) -> Iterator[_Listed]:
    images, labels, in_train, classes = (
        _table(folder / file)
        for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    for key, image in images.items():
        yield folder / "images" / image, classes[labels[key]], "train" if in_train[key] == "1" else "test"


def _mit_indoor67(folder: Path) -> Iterator[_Listed]:
    for split, file in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        for line in _lines(folder / file):
            yield folder / "Images" / line, line.partition("/")[0], split


def _table(path: Path) -> dict[str, str]:
    """Reads a text file of two columns: the second column by the first."""
    rows = {}
    for line in _lines(path):
        key, _, value = line.partition(" ")
        rows[key] = value
    return rows


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without empty ones."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
