"""Shared by all readers: they list entries, check paths with :class:`Root`, and call :func:`collect`.

Two kinds of things can be wrong with a dataset. Faults make it useless as a whole, such as a class without a training
image, an image that is listed twice or an unknown split: a ValueError lists all of them at once. A single file that
cannot be used, because it is missing, is a folder or leads out of the dataset, becomes a BadFile with its reason, and
the caller decides whether to go on without it.

No reader may open anything outside of the dataset's folder, so :class:`Root` resolves links and ``..`` first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..bad_files import printable
from ..dataset import BadFile, Dataset, FileImage, Image, Sample, by_name


class Entry(NamedTuple):
    """An image that a dataset lists, with its class and its split: train, val or test."""

    image: Image
    class_name: str
    split: str
    where: str = ""
    """Where it is listed, for messages, such as "line 7"."""


class Root:
    """The folder of a dataset: tells whether a path stays inside of it, wherever links and ``..`` lead."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._real = Path(os.path.realpath(path))
        self._folders: dict[Path, Path] = {}

    def outside(self, path: Path) -> str | None:
        """A message that says where a path leads that leaves the folder; None for a path that stays inside."""
        real = Path(os.path.realpath(path))
        return None if real.is_relative_to(self._real) else f"leads to {real}, outside of {self.path}"

    def file(self, path: Path) -> FileImage | BadFile:
        """The image file at a path, or a BadFile with the reason why it cannot be used.

        The same file has the same name, however the path is spelled.
        """
        try:
            return FileImage(self._checked(path))
        except FileNotFoundError:
            return BadFile(str(path), "no such file")
        except (OSError, ValueError) as error:
            return BadFile(str(path), _reason(error))

    def _checked(self, path: Path) -> Path:
        """The file's path under its only name.

        Raises OSError where there is no such file, and ValueError where it is not a file, or outside of the folder.
        """
        found = self._folder(path.parent) / path.name
        mode = found.lstat().st_mode
        if stat.S_ISLNK(mode) or path.name == "..":
            reason = self.outside(found)
            if reason is not None:
                raise ValueError(reason)
            mode = found.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        return found

    def _folder(self, path: Path) -> Path:
        """A folder's path under its only name. Raises ValueError where it is outside of the dataset's folder."""
        if path not in self._folders:
            reason = self.outside(path)
            if reason is not None:
                raise ValueError(reason)
            self._folders[path] = self.path / Path(os.path.realpath(path)).relative_to(self._real)
        return self._folders[path]


def unreadable(path: Path, error: OSError) -> BadFile:
    """The BadFile for a file or folder that the operating system does not let us read."""
    return BadFile(str(path), f"cannot be read: {_reason(error)}")


def collect(
    where: str,
    entries: Iterable[Entry],
    bad: Iterable[BadFile] = (),
    *,
    root: str = "",
    classes: Iterable[str] = (),
    faults: Iterable[str] = (),
) -> Dataset:
    """Checks what a reader has listed, and makes the dataset of it.

    Images whose names are not valid Unicode become bad files, because no report could show their names.

    Args:
        where: name of the dataset, for messages.
        entries: the images.
        bad: files that cannot be used.
        root: what the images' names begin with, see :class:`Dataset`.
        classes: names of further classes, which may turn out to have no images.
        faults: messages about what makes the dataset useless as a whole.

    Raises ValueError, which lists all faults and then the bad files: ``faults``, a dataset without images, a class
    without a training image, and an image that is listed twice.
    """
    bad = list(dict.fromkeys(bad))  # folder datasets meet one link twice, as a split and as a class
    faults = list(faults)
    seen: dict[str, Entry] = {}
    for entry in entries:
        name = entry.image.name
        if not _is_unicode(name):
            bad.append(BadFile(name, "the name is not valid Unicode"))
        elif name in seen:
            faults.append(f"{name}: listed twice, {_position(seen[name])} and {_position(entry)}")
        else:
            seen[name] = entry
    names = sorted({*classes, *(entry.class_name for entry in seen.values())})
    trained = {entry.class_name for entry in seen.values() if entry.split == "train"}
    if not names and not faults:
        faults.append(f"{where}: no images")
    faults += [f"{where}: class {name} has no training image" for name in names if name not in trained]
    refuse(faults, bad)
    labels = {name: label for label, name in enumerate(names)}
    splits: dict[str, list[Sample]] = {split: [] for split in ("train", "val", "test")}
    for entry in seen.values():
        splits[entry.split].append(Sample(entry.image, labels[entry.class_name]))
    train, val, test = map(by_name, splits.values())
    return Dataset(names, train, val, test, [_printable(file) for file in bad], root)


def refuse(faults: Sequence[str], bad: Iterable[BadFile]) -> None:
    """Raises ValueError where there are faults. It lists the bad files after them, as these may be the cause."""
    if faults:
        bad_lines = [f"{name}: {reason}" for name, reason in map(_printable, bad)]
        raise ValueError("\n  ".join([*faults, *bad_lines]))


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Makes one dataset of several, in which classes of the same name are one class.

    Raises ValueError where an image is in two of them.
    """
    if len(datasets) == 1:
        return datasets[0]
    entries = (
        Entry(sample.image, dataset.classes[sample.label], split)
        for dataset in datasets
        for split, samples in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
        for sample in samples
    )
    return collect("sources", entries, [bad for dataset in datasets for bad in dataset.bad])


def _position(entry: Entry) -> str:
    where = f" ({entry.where})" if entry.where else ""
    return f"in class {entry.class_name} of {entry.split}{where}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(file: BadFile) -> BadFile:
    return BadFile(*map(printable, file))
