"""Reads datasets that are folders of images, with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..dataset import BadFile, Dataset, FileImage, Findings
from ..layout import Classes, Folder, Layout, understand
from .listing import Entry, collect, refuse
from .table import is_table
from .tree import Walk


def read_folder(path: str | os.PathLike[str], classes: Classes | None = None, needs_train: bool = True) -> Dataset:
    """Lists the images of a folder that holds class folders, or a folder for each split with these.

    Splits are named, in any case, train or training; val, valid, validation or dev; test, testing, eval or evaluation
    (eval beside a test is val). One folder that holds all others is passed by. Images are found at any depth in a class
    folder, in sorted order. Other files are counted; hidden names, and what operating systems leave, are ignored, and
    so are folders that this package wrote, such as ``runs``. Links are followed. Bad files are links to nothing, or to
    a folder that holds them; folders that are named like images and hold none; and what cannot be read.

    Args:
        path: the folder.
        classes: which folders are classes, where all class folders hold the same folders, or one is named like a split
            beside others. ``outer``: the outer ones. ``inner``: the ones in them.
        needs_train: whether each class needs a training image.

    Raises FileNotFoundError where there is no such folder, OSError where it cannot be read, and ValueError, which lists
    all faults: no class folders; folders named like splits beside others; two folders for one split, or splits without
    train; images directly in a split's folder; classes that all hold the same folders, without ``classes``; a class
    without a training image; and a table of paths and labels in the folder, which was to be given instead.
    """
    bad: list[BadFile] = []
    walk = Walk(path, bad)
    folder = walk.root.path
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    os.scandir(folder).close()  # raises OSError where the folder cannot be read
    tree = walk.tree(folder)
    layout = understand(tree, classes, needs_train)
    refuse(_tables(tree, layout), [])
    refuse([*layout.faults, *(_no_images(walk) if not layout.classes else [])] if layout.faults else [], bad)
    if layout.top.images:
        _count_images(layout.top, walk)
    entries = (Entry(image, name, split) for split, name, found in layout.classes for image in found.all_images())
    return collect(
        str(folder),
        entries,
        bad,
        root=str(folder),
        classes=[name for _, name, _ in layout.classes],
        needs_train=needs_train,
        findings=Findings(walk.ignored, [*layout.guesses, *walk.said()]),
    )


def find_images(
    path: str | os.PathLike[str], bad: list[BadFile], ignored: dict[tuple[str, str], int] | None = None
) -> Iterator[FileImage]:
    """Yields the images at any depth in a folder, in sorted order, while the folder is walked.

    Bad files, as :func:`read_folder` describes them, are appended to ``bad``. At the end, files that are no images are
    counted in ``ignored``, by folder and extension. Memory holds the names in the folders that lead to the current
    image, and no others.
    """
    walk = Walk(path, bad)
    yield from walk.images(Path(path))
    if ignored is not None:
        for (folder, extension), count in walk.ignored.items():
            place = (str(Path(path, folder)), extension)
            ignored[place] = ignored.get(place, 0) + count


def _tables(given: Folder, layout: Layout) -> list[str]:
    """A message for each table of paths and labels that lies in the dataset's folder, or beside its classes."""
    tables = dict.fromkeys(table for folder in (given, layout.top, *layout.splits.values()) for table in folder.tables)
    return [
        f"{given.path}: {table} lists paths and labels: give this table instead, or move it away to take the folders"
        for table in tables
        if is_table(table)
    ]


def _no_images(walk: Walk) -> list[str]:
    """A line on files that were ignored where there are no classes."""
    most = walk.ignored.most_common(3)
    if not most:
        return []
    kinds = ", ".join(
        f"{count} {extension or 'without extension'} in {below or 'the top folder'}"
        for (below, extension), count in most
    )
    way_out = "archives have to be unpacked, camera RAW to be converted"
    return [f"{walk.root.path}: ignored what is no image: {kinds}; {way_out}"]


def _count_images(folder: Folder, walk: Walk) -> None:
    """Counts images beside the class folders, which are in no class, among what is ignored."""
    below = folder.path.relative_to(walk.root.path).as_posix()
    for image in folder.images:
        walk.ignored["" if below == "." else below, PurePath(image.name).suffix.lower()] += 1
