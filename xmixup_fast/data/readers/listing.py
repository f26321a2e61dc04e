"""Shared by all readers: they list entries, check paths with :class:`Root`, and call :func:`collect`.

Two kinds of things can be wrong with a dataset. Faults make it useless as a whole, such as a class without a training
image, an image with two labels or an unknown split: a ValueError lists all of them at once. A single file that cannot
be used, because it is missing or is a folder, becomes a BadFile with its reason, and the caller decides whether to go
on without it.

Links are followed wherever they lead, as timm and torchvision do. Names that come from archives, indexes and manifests
are confined to the dataset's folder: :class:`Root` refuses absolute ones, and ``..`` that leads out.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..bad_files import first_lines, printable
from ..dataset import SPLITS, BadFile, Dataset, FileImage, Findings, Image, Sample, by_name, sorted_classes
from ..layout import class_name, joins_others, look, some


class Entry(NamedTuple):
    """An image that a dataset lists, with its class and its split: train, val or test."""

    image: Image
    class_name: str
    split: str
    where: str = ""
    """Where it is listed, for messages, such as "line 7"."""
    weight: int = 1
    """How often training shows it in each epoch."""


class Root:
    """The folder of a dataset: gives each file one name, and counts the links that lead out of the folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._real = Path(os.path.realpath(path))
        self._folders: dict[Path, Path] = {}
        self._names: dict[Path, Path] = {}
        self._links: dict[Path, None] = {}

    def follow(self, path: Path) -> None:
        """Counts the link by which a path leads out of the folder, if it is below it and there is one."""
        if not path.is_relative_to(self.path) or self._is_inside(path):
            return
        parts = path.relative_to(self.path).parts
        ways = (self.path.joinpath(*parts[: count + 1]) for count in range(len(parts)))
        self._links |= dict.fromkeys(islice((way for way in ways if not self._is_inside(way)), 1))

    def said(self) -> list[str]:
        """A line for the user on the links that lead out of the folder; no line where there are none."""
        if not self._links:
            return []
        found = f"{len(self._links)} links lead" if len(self._links) > 1 else "1 link leads"
        verb = "are" if len(self._links) > 1 else "is"
        link = next(iter(self._links))
        return [f"{self.path}: {found} out of it and {verb} followed, such as {link} -> {os.path.realpath(link)}"]

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._real)

    def file(self, path: Path, confined: bool = True) -> FileImage | BadFile:
        """The image file at a path, or a BadFile with the reason why it cannot be used.

        The same file has the same name, however the path is spelled. ``confined`` refuses paths that are absolute, or
        lead by ``..``, out of the folder; links may lead out of it in any case.
        """
        try:
            return FileImage(self._checked(path, confined))
        except FileNotFoundError:
            return BadFile(str(path), "no such file")
        except (OSError, ValueError) as error:
            return BadFile(str(path), _reason(error))

    def _checked(self, path: Path, confined: bool) -> Path:
        """The file's path under its only name.

        Raises OSError where there is no such file, and ValueError where it is not a file, or outside of the folder.
        """
        if path.parent not in self._folders:
            self._folders[path.parent] = self._folder(path.parent, confined)
        found = self._folders[path.parent] / path.name
        mode = found.lstat().st_mode
        if stat.S_ISLNK(mode):
            mode = found.stat().st_mode
            self.follow(found)
        if not stat.S_ISREG(mode):
            raise ValueError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        return found

    def _folder(self, path: Path, confined: bool) -> Path:
        """A folder's path under its only name. Raises ValueError where a confined path leads out of the dataset's."""
        real = Path(os.path.realpath(path))
        if real.is_relative_to(self._real):
            return self.path / real.relative_to(self._real)
        is_below = path.is_relative_to(self.path) and ".." not in path.relative_to(self.path).parts
        if confined and not is_below:
            raise ValueError(f"leads to {real}, outside of {self.path}")
        if is_below and path.exists():
            self.follow(path)
        return self._names.setdefault(real, path if is_below else real)


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
    findings: Findings | None = None,
    needs_train: bool = True,
) -> Dataset:
    """Checks what a reader has listed, and makes the dataset of it.

    Names of classes are stripped and in Unicode's form NFC; those that are equal then are one class. An image that is
    listed several times with one class and split has as large a weight. Images whose names are not valid Unicode become
    bad files, because no report could show their names.

    Args:
        where: name of the dataset, for messages.
        entries: the images.
        bad: files that cannot be used.
        root: what the images' names begin with, see :class:`Dataset`.
        classes: names of further classes, which may turn out to have no images.
        faults: messages about what makes the dataset useless as a whole.
        findings: what the reader met besides images; this function adds its own guesses.
        needs_train: whether each class needs a training image; if not, one image in any split will do.

    Raises ValueError, which lists all faults, and bad files before the faults that these may be the cause of:
    ``faults``, an image that is listed twice with two classes or splits, a dataset without images, and a class without
    a training image.
    """
    bad, faults = list(bad), list(faults)
    findings = findings or Findings()
    seen, spellings = _merged(entries, bad, faults)
    spellings |= dict.fromkeys(classes)
    names = sorted_classes(map(class_name, spellings))
    if "" in names:
        faults.append(f"{where}: the name of a class is empty or only spaces")
    if needs_train or not seen:
        refuse(faults, bad, _classes_without_training(where, names if needs_train else (), seen.values()))
    refuse(faults, bad)
    labels = {name: label for label, name in enumerate(names)}
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for entry in seen.values():
        splits[entry.split].append(Sample(entry.image, labels[entry.class_name], entry.weight))
    train, val, test = map(by_name, splits.values())
    guesses = [
        *findings.guesses,
        *_joined(where, spellings),
        *_numbered(where, names),
        *_look_alike(where, names),
        *_combined(where, names),
        *_repeated(where, seen.values()),
    ]
    return Dataset(
        names,
        train,
        val,
        test,
        [_printable(file) for file in bad],
        root,
        Findings(findings.ignored, [printable(guess) for guess in guesses]),
    )


def _merged(
    entries: Iterable[Entry], bad: list[BadFile], faults: list[str]
) -> tuple[dict[str, Entry], dict[str, None]]:
    """Each image once, by its name, with the name of its class normalised; and how these names are spelled."""
    seen: dict[str, Entry] = {}
    spellings: dict[str, None] = {}
    for spelled in entries:
        name = spelled.image.name
        spellings[spelled.class_name] = None
        entry = spelled._replace(class_name=class_name(spelled.class_name))
        first = seen.get(name)
        if not _is_unicode(name):
            bad.append(BadFile(name, "the name is not valid Unicode"))
        elif first is None:
            seen[name] = entry
        elif (first.class_name, first.split) == (entry.class_name, entry.split):
            seen[name] = first._replace(weight=first.weight + entry.weight)
        else:
            faults.append(f"{name}: listed twice, {_position(first)} and {_position(entry)}")
    return seen, spellings


def _classes_without_training(where: str, names: Sequence[str], entries: Iterable[Entry]) -> list[str]:
    """A message for each class without a training image, or one for a dataset without classes."""
    if not names:
        return [f"{where}: no images"]
    counts = Counter((entry.class_name, entry.split) for entry in entries)
    lines = []
    for name in names:
        if not counts[name, "train"]:
            others = [f"{counts[name, split]} in {split}" for split in ("val", "test") if counts[name, split]]
            more = f", but {' and '.join(others)}: add some to train, or take the class out" if others else ""
            lines.append(f"{where}: class {name} has no training image{more}")
    return lines


def _joined(where: str, spellings: Iterable[str]) -> list[str]:
    """A line for each class whose name is spelled in several ways."""
    by_name: dict[str, list[str]] = {}
    for spelling in spellings:
        by_name.setdefault(class_name(spelling), []).append(spelling)
    return [
        f"{where}: class {name} joins {', '.join(map(ascii, sorted(spelled)))}"
        for name, spelled in sorted(by_name.items())
        if len(spelled) > 1
    ]


def _numbered(where: str, names: Sequence[str]) -> list[str]:
    """A line on classes whose names are whole numbers, where the order of their values is not that of texts."""
    if list(names) == sorted(names):
        return []
    shown = f"{', '.join(names[:3])} to {names[-1]}" if len(names) > 3 else ", ".join(names)
    return [f"{where}: classes are whole numbers, and labels follow their values: {shown}"]


def _look_alike(where: str, names: Sequence[str]) -> list[str]:
    """A line on classes that people would take for one, as 1 and 1.0, cat and Cat, or names with invisible signs."""
    by_look: dict[str, list[str]] = {}
    for name in names:
        by_look.setdefault(look(name), []).append(name)
    alike = [" and ".join(map(ascii, same)) for same in by_look.values() if len(same) > 1]
    if not alike:
        return []
    return [f"{where}: classes look alike, {some(alike, 3)}: give them one spelling if they are one class"]


def _combined(where: str, names: Sequence[str]) -> list[str]:
    """A line on classes that are named by several others, as cat+dog beside cat and dog."""
    combined = [name for name in names if joins_others(name, set(names), ", +&/_-")]
    if not combined:
        return []
    found = some(map(ascii, combined), 3)
    return [f"{where}: {found} may be several labels, as each part is a class; learned as a class of its own"]


def _repeated(where: str, entries: Iterable[Entry]) -> list[str]:
    """A line on images that are listed several times."""
    repeated = [entry.image.name for entry in entries if entry.weight > 1]
    if not repeated:
        return []
    return [f"{where}: {len(repeated)} listed several times, which training shows as often: {some(repeated, 1)}"]


def refuse(faults: Sequence[str], bad: Iterable[BadFile], consequences: Sequence[str] = ()) -> None:
    """Raises ValueError where there are faults, or consequences, which bad files may be the cause of.

    The error lists faults, then the bad files, then the consequences: the first ones of each, and how many more.
    """
    if faults or consequences:
        bad_lines = [f"{name}: {reason}" for name, reason in map(_printable, bad)]
        raise ValueError(
            "\n  ".join(
                map(printable, [line for lines in (faults, bad_lines, consequences) for line in first_lines(lines)])
            )
        )


def join(datasets: Sequence[Dataset], needs_train: bool = True) -> Dataset:
    """Makes one dataset of several, in which classes of the same name are one class.

    Raises ValueError where an image is in two of them, and what :func:`collect` raises.
    """
    if len(datasets) == 1:
        return datasets[0]
    entries = []
    faults = []
    found: dict[str, int] = {}
    ignored: Counter[tuple[str, str]] = Counter()
    for number, dataset in enumerate(datasets):
        for split, samples in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
            for image, label, weight in samples:
                if found.setdefault(image.name, number) != number:
                    faults.append(f"{image.name}: listed twice, in two of the sources")
                else:
                    entries.append(Entry(image, dataset.classes[label], split, weight=weight))
        for (folder, extension), count in dataset.findings.ignored.items():
            ignored[f"{dataset.root}/{folder}".rstrip("/"), extension] += count
    bad = [bad for dataset in datasets for bad in dataset.bad]
    findings = Findings(ignored, [guess for dataset in datasets for guess in dataset.findings.guesses])
    return collect("sources", entries, bad, faults=faults, findings=findings, needs_train=needs_train)


def _position(entry: Entry) -> str:
    where = f" ({entry.where})" if entry.where else ""
    return f"in class {entry.class_name} of {entry.split}{where}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(file: BadFile) -> BadFile:
    return BadFile(*map(printable, file))
