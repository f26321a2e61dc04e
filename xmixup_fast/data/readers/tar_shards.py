"""Reads datasets that are tar shards in WebDataset's format. Images are read from the shards, which stay packed."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path
from typing import BinaryIO

from ...runtime.threads import in_flight
from ..dataset import BadFile, Dataset, FileImage, Findings, Image
from ..formats import is_image
from ..layout import PACKED, name_splits, some, split_faults, split_guesses, split_parts, why_no_class
from .listing import Entry, Root, collect, refuse
from .tar_members import as_source, check_end, unusable
from .tree import extension, is_silent

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_Opens = Callable[[], BinaryIO]


@dataclass(frozen=True)
class ShardImage(Image):
    """An image in an uncompressed tar file."""

    shard: Path
    member: str
    """Name of the image in the shard."""
    offset: int
    """Position of the image's first byte in the shard."""
    size: int
    """Number of bytes."""

    @property
    def name(self) -> str:
        return f"{self.shard}/{self.member}"

    def read(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.shard}: has become shorter since it was listed")
        return content

    def stamp(self) -> str:
        return f"{FileImage(self.shard).stamp()} {self.offset} {self.size}"


def names_shards(name: str) -> bool:
    """Whether a dataset's name means tar shards: a file or pattern that ends in .tar, or a folder of tar files.

    A folder counts if one of its split folders has tar files, or if it has tar files and no folders.
    """
    path = Path(name)
    if not path.is_dir():
        return path.suffix.lower() == ".tar"
    folders = _folders(path)
    return any(_tars(folders[split]) for split in name_splits(folders)) or (not folders and bool(_tars(path)))


def read_shards(name: str, image_field: str | None = None, needs_train: bool = True) -> Dataset:
    """Lists the images of tar shards: one file, a pattern such as a-{000..012}.tar or a*.tar, or a folder of shards.

    A sample consists of all members with the same key, which is their name up to the first dot after the last slash.
    What follows is the member's field, and its last part tells what it holds: an image, or, in a .cls member (a number
    or a name) or a .json member (the value of "label"), its class. A field without further dots comes first: png before
    seg.png. Shards are split by the names of their folders or, where these tell no split, by a part of their own names,
    as in ``imagenet-train-000000.tar``; they are all in train where no name tells or, if training
    images are needed, all tell the same.

    Args:
        name: the shards.
        image_field: the field of the image, such as ``input.jpg`` or ``input``, where samples have several.
        needs_train: whether each class needs a training image.

    Bad files are shards that are missing, damaged or compressed; members that are links, or whose names are absolute or
    contain ``..``; and samples without an image or a label, or with several images.

    Raises FileNotFoundError where there is no such shard, and ValueError, which lists all faults, for shards that name
    a split beside others that do not, two names for one split, splits without train, a class without a training image
    or an image that is listed twice.
    """
    root = Root(name if Path(name).is_dir() else _fixed_folder(name))
    paths = _paths(name)
    if not paths:
        raise FileNotFoundError(f"{name}: {'no tar shards in it' if Path(name).is_dir() else 'no such file'}")
    splits, guesses = _splits(name, paths, needs_train)
    empty = [item.name for item in _folders(Path(name)).values() if not _tars(item)]
    if empty:
        guesses.append(f"{name}: no shards in {some(empty)}, left out")
    beside, packed = _beside(Path(name), paths)
    if packed:
        guesses.append(
            f"{name}: {some(packed)} left out, as compressed: unpack to .tar, or to folders, what belongs to it"
        )
    bad: list[BadFile] = []
    entries: list[Entry] = []
    ignored = beside
    unlabelled: list[str] = []
    for path in paths:
        shard = root.file(path)
        if isinstance(shard, BadFile):
            bad.append(shard)
        else:
            contents = _Shard(shard.path, image_field, bad)
            entries += contents.entries(splits[path])
            unlabelled += contents.class_folders()
            folder = shard.path.parent.relative_to(root.path).as_posix()
            ignored.update({("" if folder == "." else folder, field): n for field, n in contents.ignored.items()})
    refuse(unlabelled, [])
    findings = Findings(ignored, [*guesses, *root.said()])
    return collect(name, entries, bad, root=str(root.path), findings=findings, needs_train=needs_train)


def read_open_shards(name: str, shards: Mapping[Path, _Opens], image_field: str | None) -> Dataset:
    """As :func:`read_shards`, of shards that are elsewhere, several at a time.

    ``shards`` opens each, by a relative path. Raises OSError as well where one cannot be read, which is no damage.
    """
    splits, guesses = _splits(name, list(shards), True)
    bad: list[BadFile] = []

    def listed(path: Path) -> tuple[Path, list[Entry], list[str]]:
        contents = _Shard(path, image_field, bad, shards[path])
        return path, contents.entries(splits[path]), contents.class_folders()

    found = {path: (entries, unlabelled) for path, entries, unlabelled in in_flight(listed, shards)}
    refuse([line for path in shards for line in found[path][1]], [])
    entries = chain.from_iterable(found[path][0] for path in shards)
    return collect(name, entries, sorted(bad), findings=Findings({}, guesses))


def _beside(folder: Path, shards: Iterable[Path]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """What lies beside the shards of a folder; nothing for a pattern.

    Returns how many files are no shards, by folder and extension, and the names of those that are compressed.
    """
    found: Counter[tuple[str, str]] = Counter()
    packed = []
    for place in dict.fromkeys(path.parent for path in shards) if folder.is_dir() else ():
        below = place.relative_to(folder).as_posix()
        for item in sorted(place.iterdir()):
            if item.suffix != ".tar" and item.is_file() and not is_silent(item.name):
                found["" if below == "." else below, extension(item.name)] += 1
                packed += [item.relative_to(folder).as_posix()] if item.suffix.lower() in PACKED else []
    return found, packed


def _paths(name: str) -> list[Path]:
    """The shards that a dataset's name stands for: of a folder, its own and those in its folders."""
    path = Path(name)
    if not path.is_dir():
        return _expand(name)
    return [*_tars(path), *(tar for folder in _folders(path).values() for tar in _tars(folder))]


def _folders(path: Path) -> dict[str, Path]:
    """The folders in a folder, by name; none in a pattern."""
    items = sorted(path.iterdir()) if path.is_dir() else []
    return {item.name: item for item in items if item.is_dir() and not is_silent(item.name)}


def _tars(folder: Path) -> list[Path]:
    return [Path(path) for path in sorted(glob.glob(f"{glob.escape(str(folder))}/*.tar"))]


def _splits(name: str, paths: Sequence[Path], needs_train: bool) -> tuple[dict[Path, str], list[str]]:
    """The split of each shard, and lines on what was guessed.

    Raises ValueError where some names tell a split and others none, and where splits are not clear.
    """
    folders = {path.parent for path in paths}
    is_alone = len(folders) == 1 and folders != {Path(name) / folder.name for folder in folders}
    if not is_alone and name_splits(folder.name for folder in folders):
        parts = {path: list(name_splits([path.parent.name])) for path in paths}
    else:
        parts = {path: sorted(set(split_parts(path.stem))) for path in paths}
    named = dict.fromkeys(part for found in parts.values() for part in found)
    is_whole = not named or (needs_train and len(named) == 1)
    if is_whole and all(len(found) == len(named) for found in parts.values()):
        guesses = [f"{name}: all shards are named {part}, and taken for the whole dataset" for part in named]
        return dict.fromkeys(paths, "train"), [] if "train" in name_splits(named).values() else guesses
    several = [
        f"{path}: names several splits, {', '.join(found)}: rename it, so that one is left, such as "
        f"{found[0]}-000{path.suffix}"
        for path, found in parts.items()
        if len(found) > 1
    ]
    unnamed = [path for path, found in parts.items() if not found]
    if unnamed:
        several.append(
            f"{name}: shards name the splits {some(named)}, but {some(path.name for path in unnamed)} none: "
            "rename these, or leave them out"
        )
    splits = name_splits(named)
    refuse([*several, *split_faults(name, splits, needs_train)], [])
    return {path: splits[part] for path, (part,) in parts.items()}, split_guesses(name, splits)


def expand_braces(pattern: str) -> list[str]:
    """The names that numbers, such as {000..012}, and choices, such as {a,b}, stand for, in their order."""
    ends = _RANGE.search(pattern)
    if ends:
        first, last = ends.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [name for number in numbers for name in expand_braces(_RANGE.sub(number, pattern, count=1))]
    choice = _CHOICE.search(pattern)
    if choice:
        start, end = pattern[: choice.start()], pattern[choice.end() :]
        return [name for text in choice[1].split(",") for name in expand_braces(f"{start}{text}{end}")]
    return [pattern]


def _expand(pattern: str) -> list[Path]:
    """The paths that a pattern stands for: numbers and choices, missing files too, and all matches of a wildcard."""
    names = [pattern] if Path(pattern).is_file() else expand_braces(pattern)
    return [Path(path) for name in names for path in _matches(name)]


def _matches(name: str) -> list[str]:
    return sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).is_file() else [name]


def _fixed_folder(pattern: str) -> Path:
    """The folder that holds all paths of a pattern: the part of the path before the first wildcard or range."""
    if Path(pattern).is_file():
        return Path(pattern).parent
    parents = Path(pattern).parent.parts
    return Path(*takewhile(lambda part: not glob.has_magic(part) and "{" not in part, parents))


@dataclass
class _Sample:
    """The members of one sample that have been read so far."""

    images: dict[str, ShardImage] = field(default_factory=dict)
    """By their fields, such as png or seg.png."""
    labels: dict[str, bytes] = field(default_factory=dict)
    """The contents of .cls and .json members, by their fields."""
    reason: str | None = None
    """Why the sample cannot be used; None if it can."""


class _Shard:
    """One shard, whose headers and labels are read. What cannot be used is appended to ``bad``."""

    def __init__(self, path: Path, image_field: str | None, bad: list[BadFile], opens: _Opens | None = None) -> None:
        self.path = path
        self._is_here = opens is None
        self._opens = opens or (lambda: path.open("rb"))
        self._damage = (tarfile.TarError, EOFError, ValueError, *(() if opens else (OSError,)))
        self.image_field = image_field
        self.bad = bad
        self._size = 0
        self.samples: dict[str, _Sample] = {}
        self.ignored: Counter[str] = Counter()
        """How many members are neither images nor labels, or are not looked at, by field, such as ".seg.png"."""

    def entries(self, split: str) -> list[Entry]:
        """Lists the samples."""
        try:
            self._read_members()
        except self._damage as error:
            self.bad.append(BadFile(str(self.path), f"expected a whole, uncompressed tar file: {error}"))
        entries: list[Entry] = []
        if self.is_unlabelled() and not self.class_folders():
            reason = f"its images ({len(self.samples)}) have no labels: expected a .cls or .json member beside each"
            self.bad.append(BadFile(str(self.path), f"{reason}; {as_source(self._is_here and self.path.parent)}"))
        elif not self.samples and any(field.endswith(".tar") for field in self.ignored):
            reason = f"holds tar files, no images; {as_source(self._is_here and self.path)}"
            self.bad.append(BadFile(str(self.path), reason))
        for key, sample in self.samples.items() if not self.is_unlabelled() else ():
            try:
                image = self._image(sample)
                entries.append(Entry(image, self._class(sample), split))
            except ValueError as error:
                first = next(iter(sample.images.values()), None)
                self.bad.append(BadFile(first.name if first else f"{self.path}/{key}", str(error)))
        return entries

    def is_unlabelled(self) -> bool:
        """Whether there are several samples, and none has a label."""
        return len(self.samples) > 1 and not any(sample.labels for sample in self.samples.values())

    def class_folders(self) -> list[str]:
        """A message where the shard is a packed folder of class folders: its images lie in folders, without labels."""
        folders = sorted({key.rpartition("/")[0].removeprefix("./") for key in self.samples})
        if not self.is_unlabelled() or "" in folders or "." in folders:
            return []
        return [
            f"{self.path}: holds class folders ({some(folders, 3)}), no samples with labels (.cls or .json): unpack it "
            "and name the folder, or leave it out"
        ]

    def _read_members(self) -> None:
        """Reads the headers of all members, and the labels.

        Raises TarError, EOFError, OSError or ValueError where the shard is damaged; samples before the damage are kept.
        """
        with self._opens() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            self._size = file.seek(0, os.SEEK_END)
            file.seek(0)
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all, perhaps millions
                if not any(is_silent(part) for part in member.name.split("/") if part not in (".", "..")):
                    self._add(tar, member)
            check_end(tar)

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Adds a member to its sample."""
        folder, slash, last = member.name.rpartition("/")
        stem, _, name = last.partition(".")
        name = name.lower()
        kind = name.rpartition(".")[2]
        is_label = kind in ("cls", "json")
        if not is_label and not (kind and is_image(f"x.{kind}", bytes)):
            self.ignored[f".{name}" if name else ""] += not member.isdir()
            return
        reason = unusable(member)
        if reason is not None:
            self.bad.append(BadFile(f"{self.path}/{member.name}", reason))
            return
        sample = self.samples.setdefault(f"{folder}{slash}{stem}", _Sample())
        if name in (sample.labels if is_label else sample.images):
            sample.reason = f"{member.name} has the same name"
        elif is_label:
            content = tar.extractfile(member)
            sample.labels[name] = content.read() if content else b""
        else:
            sample.images[name] = ShardImage(self.path, member.name, member.offset_data, member.size)
            if member.offset_data + member.size > self._size:
                sample.reason = "the shard ends within it"

    def _image(self, sample: _Sample) -> ShardImage:
        """The image of a sample; counts its other images as ignored. Raises ValueError where it is not clear."""
        if sample.reason is not None:
            raise ValueError(sample.reason)
        asked = self.image_field
        plain = [name for name in sample.images if "." not in name]
        if asked:
            plain = [name for name in sample.images if asked.lower() in (name, name.rpartition(".")[0])]
        fields = plain or ([] if asked else list(sample.images))
        if len(fields) != 1:
            found = some(f".{name}" for name in sample.images)
            if asked:
                raise ValueError(f"no image in the field {asked}, which image_field names; it has {found or 'none'}")
            if len(plain) > 1:
                raise ValueError(f"{sample.images[plain[1]].member} has the same name")
            if not fields:
                raise ValueError("a label without an image")
            raise ValueError(
                f"{len(fields)} images of one key, which ends at the first dot: {found}: choose one with "
                "--image-field, or rename the members"
            )
        self.ignored.update(f".{name}" for name in sample.images if name != fields[0])
        return sample.images[fields[0]]

    def _class(self, sample: _Sample) -> str:
        """The name of a sample's class. Raises ValueError with the reason where there is none."""
        for kind in ("cls", "json"):
            fields = [name for name in sample.labels if name.rpartition(".")[2] == kind]
            fields = [kind] if kind in fields else fields
            if len(fields) > 1:
                raise ValueError(f"several labels: {some(f'.{name}' for name in fields)}")
            if fields:
                self.ignored.update(f".{name}" for name in sample.labels if name != fields[0])
                return _class_name(sample.labels[fields[0]], kind)
        raise ValueError("an image without a label (.cls or .json)")


def _class_name(content: bytes, kind: str) -> str:
    """The class in a .cls or .json member. Raises ValueError where there is none."""
    if kind == "cls":
        name = content.decode()
    else:
        read = json.loads(content)
        label = read.get("label") if isinstance(read, dict) else None
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise ValueError(f'.json: expected "label" with a number or a name, got {label!r}')
        name = str(label)
    if fault := why_no_class(name):
        raise ValueError(fault)
    return name
