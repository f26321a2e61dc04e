"""Datasets that are folders of class folders of images."""

from __future__ import annotations

import os
from pathlib import Path

from .dataset import Dataset, FileImage, Sample, in_order

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
"""What is taken for an image, in lower case; torchvision decodes these."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of split folders, and the split each holds."""


def read_folder(path: str | os.PathLike[str]) -> Dataset:
    """Lists the images of a folder of class folders, directly or under train/, val/ (valid/, validation/) and test/.

    The classes are those of train. Files are found at any depth in a class folder, in sorted order; other files than
    images, and names that begin with a dot, are ignored.

    Raises FileNotFoundError where there is no such folder, and ValueError where it has no class folders, a class has
    no training image, val or test has a class that train lacks, or a link leads out of the folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders: dict[str, Path] = {}
    for folder in _folders(root, root):
        if folder.name.lower() in SPLITS:
            split = SPLITS[folder.name.lower()]
            if split in folders:
                raise ValueError(f"{root}: {folders[split].name} and {folder.name} are both a {split} split")
            folders[split] = folder
    if "train" not in folders:
        if folders:
            raise ValueError(f"{root}: has {', '.join(f.name for f in folders.values())} but no train folder")
        folders = {"train": root}
    classes = [folder.name for folder in _folders(folders["train"], root)]
    if not classes:
        raise ValueError(f"{folders['train']}: expected folders of images, one for each class; found none")
    samples = {split: _samples(folder, classes, root) for split, folder in folders.items()}
    empty = sorted(set(range(len(classes))) - {sample.label for sample in samples["train"]})
    if empty:
        raise ValueError(f"{folders['train'] / classes[empty[0]]}: no image ({', '.join(sorted(EXTENSIONS))})")
    return Dataset(classes, samples["train"], samples.get("val", []), samples.get("test", []))


def _samples(folder: Path, classes: list[str], root: Path) -> list[Sample]:
    """All images below the class folders of one split."""
    labels = {name: label for label, name in enumerate(classes)}
    samples = []
    for class_folder in _folders(folder, root):
        if class_folder.name not in labels:
            raise ValueError(f"{class_folder}: a class that train does not have")
        for parent, folders, files in os.walk(class_folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(parent, name) for name in files if not name.startswith(".")):
                if path.suffix.lower() in EXTENSIONS:
                    samples.append(Sample(FileImage(_inside(path, root)), labels[class_folder.name]))
    return in_order(samples)


def _folders(path: Path, root: Path) -> list[Path]:
    """The folders in a folder, sorted by name."""
    return sorted(_inside(item, root) for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _inside(path: Path, root: Path) -> Path:
    """The path itself; ValueError where it is a link that leads out of the dataset's folder."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{path}: links to {path.resolve()}, outside of {root}; such links are not followed")
    return path
