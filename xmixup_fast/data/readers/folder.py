"""Reads datasets that are folders of images, with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..dataset import BadFile, Dataset, FileImage
from ..formats import EXTENSIONS
from .listing import Entry, Root, collect, refuse, unreadable

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of split folders, in lower case, and the split that each of them is."""


def read_folder(path: str | os.PathLike[str]) -> Dataset:
    """Lists the images of a folder that holds class folders, or train, val (valid, validation) and test with these.

    Images are found at any depth in a class folder, in sorted order. Files that are not named like images, and names
    that begin with a dot, are ignored. Bad files are links that lead out of the folder or to nothing, folders that are
    named like images, and folders that cannot be read.

    Raises FileNotFoundError where there is no such folder, OSError where it cannot be read, and ValueError, which lists
    all faults, for a folder without class folders, two folders for one split, splits without train, or a class without
    a training image.
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
    return collect(str(root.path), entries, bad, root=str(root.path), classes=classes, faults=faults)


def find_images(path: str | os.PathLike[str], bad: list[BadFile]) -> Iterator[FileImage]:
    """Yields the images at any depth in a folder, in sorted order, while the folder is walked.

    Bad files, as :func:`read_folder` describes them, are appended to ``bad``. Memory holds the names in the folders
    that lead to the current image, and no others.
    """
    return _images(Path(path), Root(path), bad, ())


def split_folders(root: Root, bad: list[BadFile]) -> dict[str, Path]:
    """Finds the folder of each split that a dataset has. A folder without split folders is train itself.

    Links that lead out of the folder are appended to ``bad``.

    Raises FileNotFoundError where there is no such folder, OSError where it cannot be read, and ValueError for two
    folders for one split, or splits without train.
    """
    if not root.path.is_dir():
        raise FileNotFoundError(f"{root.path}: no such folder")
    os.scandir(root.path).close()  # raises OSError where the folder cannot be read
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
    """The folders among a folder's entries. Links that lead out of the root are appended to ``bad``."""
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
    """Yields the images below a folder. ``above`` are the real paths of the folders that lead to it."""
    real = os.path.realpath(folder)
    if real in above:
        bad.append(BadFile(str(folder), f"links to {real}, which holds it"))
        return
    entries = _scan(folder, bad)
    for entry in entries:
        path = Path(entry.path)
        if path.suffix.lower() in EXTENSIONS:
            # root.file would be slow for every image. Only links and special files need it.
            found = None if entry.is_file(follow_symlinks=False) else root.file(path)
            if isinstance(found, BadFile):
                bad.append(found)
            else:
                yield FileImage(path)
    for subfolder in _subfolders(entries, root, bad):
        if subfolder.suffix.lower() not in EXTENSIONS:
            yield from _images(subfolder, root, bad, (*above, real))


def _scan(folder: Path, bad: list[BadFile]) -> list[os.DirEntry[str]]:
    """A folder's entries, sorted by name, without hidden names. A folder that cannot be read becomes a bad file."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        bad.append(unreadable(folder, error))
        return []
