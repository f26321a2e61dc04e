"""Datasets that are folders of class folders of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..dataset import BadFile, Dataset, FileImage
from .listing import Entry, Root, collect, refuse, unreadable

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
"""What the names of images end with, in lower case."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of split folders, and the split each holds."""


def read_folder(path: str | os.PathLike[str]) -> Dataset:
    """Lists the images of a folder of class folders, directly or under train/, val/ (valid/, validation/) and test/.

    The classes are those of train. Files are found at any depth in a class folder, in sorted order; other files than
    images, and names that begin with a dot, are ignored. Bad files: links out of the folder or to nothing, folders
    named like images, folders that cannot be read.

    Raises FileNotFoundError where there is no such folder, OSError where it cannot be read, and ValueError, which lists
    all that is wrong, where it has no class folders or a class has no training image.
    """
    root = Root(path)
    bad: list[BadFile] = []
    entries: list[Entry] = []
    classes: list[str] = []
    for split, folder in split_folders(root, bad).items():
        for class_folder in _subfolders(_scan(folder, bad), root, bad):
            classes.append(class_folder.name)
            entries += (Entry(image, class_folder.name, split) for image in _images(class_folder, root, bad, ()))
    faults = [] if classes else [f"{root.path}: expected folders of images, one for each class; found none"]
    return collect(str(root.path), entries, bad, classes=classes, faults=faults)


def find_images(path: str | os.PathLike[str], bad: list[BadFile]) -> Iterator[FileImage]:
    """The images at any depth of a folder, as :func:`read_folder` finds those of a class, while it is walked.

    What cannot be used is added to ``bad``. What is kept at a time: the names in the folders that lead to an image.
    """
    return _images(Path(path), Root(path), bad, ())


def split_folders(root: Root, bad: list[BadFile]) -> dict[str, Path]:
    """The folder of each split that a dataset has; a folder without split folders is train itself.

    Raises FileNotFoundError and OSError as :func:`read_folder` does, and ValueError where two folders are one split, or
    there are splits but no train.
    """
    if not root.path.is_dir():
        raise FileNotFoundError(f"{root.path}: no such folder")
    os.scandir(root.path).close()  # raises where the dataset's own folder cannot be read
    links: list[BadFile] = []
    found: dict[str, list[Path]] = {}
    for folder in _subfolders(_scan(root.path, links), root, links):
        if folder.name.lower() in SPLITS:
            found.setdefault(SPLITS[folder.name.lower()], []).append(folder)
    bad += (link for link in links if Path(link.name).name.lower() in SPLITS)
    faults = [
        f"{root.path}: {' and '.join(folder.name for folder in folders)} are both a {split} split"
        for split, folders in found.items()
        if len(folders) > 1
    ]
    if found and "train" not in found:
        names = ", ".join(folder.name for folders in found.values() for folder in folders)
        faults.append(f"{root.path}: has {names} but no train folder")
    refuse(faults, bad)
    return {split: folder for split, (folder,) in found.items()} or {"train": root.path}


def _subfolders(entries: list[os.DirEntry[str]], root: Root, bad: list[BadFile]) -> list[Path]:
    """The folders among what a folder holds. Links out of the root join the bad files."""
    found = []
    for entry in entries:
        link = entry.is_symlink()
        if entry.is_dir(follow_symlinks=False) or (link and os.path.isdir(entry.path)):
            path = Path(entry.path)
            reason = root.outside(path) if link else None
            if reason is None:
                found.append(path)
            else:
                bad.append(BadFile(str(path), reason))
    return found


def _images(folder: Path, root: Root, bad: list[BadFile], above: tuple[str, ...]) -> Iterator[FileImage]:
    """The images below a folder; ``above`` are the real paths of the folders that lead to it."""
    real = os.path.realpath(folder)
    if real in above:
        bad.append(BadFile(str(folder), f"links to {real}, which holds it"))
        return
    entries = _scan(folder, bad)
    for entry in entries:
        path = Path(entry.path)
        if path.suffix.lower() in EXTENSIONS:
            # Only links and odd files need the closer look.
            found = None if entry.is_file(follow_symlinks=False) else root.file(path)
            if isinstance(found, BadFile):
                bad.append(found)
            else:
                yield FileImage(path)
    for subfolder in _subfolders(entries, root, bad):
        if subfolder.suffix.lower() not in EXTENSIONS:
            yield from _images(subfolder, root, bad, (*above, real))


def _scan(folder: Path, bad: list[BadFile]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without hidden names. A folder that cannot be read is a bad file."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        bad.append(unreadable(folder, error))
        return []
