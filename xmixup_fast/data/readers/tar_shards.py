"""Reads datasets that are tar shards in WebDataset's format. Images are read from the shards, which stay packed."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..dataset import BadFile, Dataset, FileImage, Image
from ..formats import EXTENSIONS
from .folder import SPLITS, split_folders
from .listing import Entry, Root, collect

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


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
    folders = [item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")]
    root = Root(path)
    splits = [folder for folder in folders if folder.name.lower() in SPLITS and root.outside(folder) is None]
    return any(_tars(folder) for folder in splits) or (not folders and bool(_tars(path)))


def read_shards(name: str) -> Dataset:
    """Lists the images of tar shards: one file, a pattern such as a-{000..012}.tar or a*.tar, or a folder of shards.

    A sample consists of all members with the same name up to the first dot after the last slash: an image, and its
    label in a .cls member (a number or a name) or a .json member (the value of "label"). Where there are several
    folders of shards, those called train, val and test are splits. All other shards belong to train.

    Bad files are shards that are missing, damaged, compressed or outside of the folder; members that are links, or
    whose names are absolute or contain ``..``; and samples without an image or a label, or with two images.

    Raises FileNotFoundError where there is no such shard, and ValueError, which lists all faults, for a class without a
    training image or an image that is listed twice.
    """
    root = Root(name if Path(name).is_dir() else _fixed_folder(name))
    bad: list[BadFile] = []
    entries: list[Entry] = []
    for split, path in _shards(name, root, bad):
        shard = root.file(path)
        if isinstance(shard, BadFile):
            bad.append(shard)
        else:
            entries += _entries(shard.path, split, bad)
    return collect(name, entries, bad, root=str(root.path))


def _shards(name: str, root: Root, bad: list[BadFile]) -> list[tuple[str, Path]]:
    """The shards that a dataset's name stands for, each with its split."""
    if Path(name).is_dir():
        shards = [(split, path) for split, folder in split_folders(root, bad).items() for path in _tars(folder)]
    else:
        paths = _expand(name)
        alone = len({path.parent for path in paths}) == 1
        shards = [("train" if alone else SPLITS.get(path.parent.name.lower(), "train"), path) for path in paths]
    if not shards:
        raise FileNotFoundError(f"{name}: no such file")
    return shards


def _tars(folder: Path) -> list[Path]:
    return [Path(path) for path in sorted(glob.glob(f"{glob.escape(str(folder))}/*.tar"))]


def _expand(pattern: str) -> list[Path]:
    """The paths that a pattern stands for: all numbers of a range, missing files too, and all matches of a wildcard."""
    if Path(pattern).is_file():
        return [Path(pattern)]
    ends = _RANGE.search(pattern)
    if ends:
        first, last = ends.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [path for number in numbers for path in _expand(_RANGE.sub(number, pattern, count=1))]
    return [Path(path) for path in sorted(glob.glob(pattern))] if glob.has_magic(pattern) else [Path(pattern)]


def _fixed_folder(pattern: str) -> Path:
    """The folder that holds all paths of a pattern: the part of the path before the first wildcard or range."""
    if Path(pattern).is_file():
        return Path(pattern).parent
    parents = Path(pattern).parent.parts
    return Path(*takewhile(lambda part: not glob.has_magic(part) and not _RANGE.search(part), parents))


@dataclass
class _Sample:
    """The members of one sample that have been read so far."""

    image: ShardImage | None = None
    cls: bytes | None = None
    json: bytes | None = None
    reason: str | None = None
    """Why the sample cannot be used; None if it can."""


def _entries(shard: Path, split: str, bad: list[BadFile]) -> list[Entry]:
    """Lists the samples of one shard."""
    samples: dict[str, _Sample] = {}
    try:
        _read_members(shard, samples, bad)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        bad.append(BadFile(str(shard), f"expected a whole, uncompressed tar file: {error}"))
    entries = []
    for key, sample in samples.items():
        try:
            image, class_name = _image_and_class(sample)
            entries.append(Entry(image, class_name, split))
        except ValueError as error:
            bad.append(BadFile(sample.image.name if sample.image else f"{shard}/{key}", str(error)))
    return entries


def _read_members(shard: Path, samples: dict[str, _Sample], bad: list[BadFile]) -> None:
    """Reads the headers of all members, and the labels, into ``samples``.

    Raises TarError, EOFError, OSError or ValueError where the shard is damaged; samples before the damage are kept.
    """
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        length = shard.stat().st_size
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all, perhaps millions
            folder, slash, last = member.name.rpartition("/")
            stem, _, extension = last.partition(".")
            extension = extension.lower()
            if f".{extension}" not in EXTENSIONS | {".cls", ".json"}:
                continue
            reason = _unusable(member)
            if reason is not None:
                bad.append(BadFile(f"{shard}/{member.name}", reason))
                continue
            sample = samples.setdefault(f"{folder}{slash}{stem}", _Sample())
            if extension in ("cls", "json"):
                content = tar.extractfile(member)
                setattr(sample, extension, content.read() if content else b"")
            elif member.offset_data + member.size > length:
                sample.reason = "the shard ends within it"
            elif sample.image is not None:
                sample.reason = f"{member.name} has the same name"
            else:
                sample.image = ShardImage(shard, member.name, member.offset_data, member.size)
        # A block of zeros ends a tar file, but tarfile takes a damaged header for the end as well.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a header nor the end at byte {tar.offset}")


def _unusable(member: tarfile.TarInfo) -> str | None:
    """Why a member cannot be used; None for a plain file inside of the archive."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the archive"
    if member.isdir():
        return "a folder, not a file"
    if not member.isreg() or member.issparse():
        return "a link or special member, not a plain file"
    return None


def _image_and_class(sample: _Sample) -> tuple[ShardImage, str]:
    """A sample's image and the name of its class. Raises ValueError with the reason where one of them is missing."""
    if sample.reason is not None:
        raise ValueError(sample.reason)
    if sample.image is None:
        raise ValueError("a label without an image")
    if sample.cls is not None:
        class_name = sample.cls.decode().strip()
    elif sample.json is not None:
        content = json.loads(sample.json)
        label = content.get("label") if isinstance(content, dict) else None
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise ValueError(f'.json: expected "label" with a number or a name, got {label!r}')
        class_name = str(label)
    else:
        raise ValueError("an image without a label (.cls or .json)")
    if not class_name:
        raise ValueError("an empty label")
    return sample.image, class_name
