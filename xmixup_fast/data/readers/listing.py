"""What the readers of datasets share: entries of lists, whether a path stays in its folder, and the checked dataset."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..bad_files import printable
from ..dataset import BadFile, Dataset, FileImage, Image, Sample, by_name


class Entry(NamedTuple):
    """An image that a list names, its class and its split: train, val or test."""

    image: Image
    class_name: str
    split: str
    where: str = ""
    """The place in the list, for messages, such as "line 7"."""


class Root:
    """A dataset's folder. Nothing outside of it is read, wherever paths and links lead."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._real = Path(os.path.realpath(path))
        self._folders: dict[Path, Path] = {}

    def outside(self, path: Path) -> str | None:
        """Where a path leads that leaves the folder, as a message; None where it stays inside."""
        real = Path(os.path.realpath(path))
        return None if real.is_relative_to(self._real) else f"leads to {real}, outside of {self.path}"

    def file(self, path: Path) -> FileImage | BadFile:
        """The image file at a path, by one name however the path is spelled; or what is wrong with it."""
        try:
            return FileImage(self._checked(path))
        except FileNotFoundError:
            return BadFile(str(path), "no such file")
        except (OSError, ValueError) as error:
            return BadFile(str(path), _reason(error))

    def _checked(self, path: Path) -> Path:
        """The file's path. Raises OSError, and ValueError where it is outside, no file, or no path at all."""
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
        """A folder's path, by one name however it is spelled. Raises ValueError where it is outside."""
        if path not in self._folders:
            reason = self.outside(path)
            if reason is not None:
                raise ValueError(reason)
            self._folders[path] = self.path / Path(os.path.realpath(path)).relative_to(self._real)
        return self._folders[path]


def unreadable(path: Path, error: OSError) -> BadFile:
    """A file or folder that the system does not let us read."""
    return BadFile(str(path), f"cannot be read: {_reason(error)}")


def collect(
    where: str,
    entries: Iterable[Entry],
    bad: Iterable[BadFile] = (),
    *,
    classes: Iterable[str] = (),
    faults: Iterable[str] = (),
) -> Dataset:
    """The dataset of the entries, whose classes are theirs and ``classes``. ``where`` names the dataset in messages.

    Images whose names are not valid Unicode join the bad files: no report could name them.

    Raises ValueError, which lists all of it, where there are ``faults``, no images, a class without a training image,
    or an image that is listed twice.
    """
    bad = list(dict.fromkeys(bad))  # a link may have been met as a split and as a class
    faults = list(faults)
    seen: dict[str, Entry] = {}
    for entry in entries:
        name = entry.image.name
        if not _is_unicode(name):
            bad.append(BadFile(name, "the name is not valid Unicode"))
        elif name in seen:
            faults.append(f"{name}: listed twice, {_placed(seen[name])} and {_placed(entry)}")
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
    return Dataset(names, train, val, test, [_printable(file) for file in bad])


def refuse(faults: Sequence[str], bad: Iterable[BadFile]) -> None:
    """Raises ValueError with all faults, if any; the bad files are listed after them, as they may be the cause."""
    if faults:
        bad_lines = [f"{name}: {reason}" for name, reason in map(_printable, bad)]
        raise ValueError("\n  ".join([*faults, *bad_lines]))


def join(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset of several; classes of one name are one class.

    Raises ValueError where two of them have the same images.
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


def _placed(entry: Entry) -> str:
    where = f" ({entry.where})" if entry.where else ""
    return f"in class {entry.class_name} of {entry.split}{where}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(file: BadFile) -> BadFile:
    return BadFile(*map(printable, file))
