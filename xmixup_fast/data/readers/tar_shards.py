"""Datasets that are tar shards as WebDataset writes them; images are read where they lie in the shard."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..dataset import BadFile, Dataset, FileImage, Image
from .folder import EXTENSIONS, SPLITS, split_folders
from .listing import Entry, Root, collect

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class ShardImage(Image):
    """An image in an uncompressed tar file."""

    shard: Path
    member: str
    offset: int
    """Its first byte in the shard."""
    size: int

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
    """Whether a dataset's name is a tar file, a pattern of them, or a folder of them without folders of images."""
    path = Path(name)
    if not path.is_dir():
        return path.suffix.lower() == ".tar"
    folders = [item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")]
    root = Root(path)
    splits = [folder for folder in folders if folder.name.lower() in SPLITS and root.outside(folder) is None]
    return any(_tars(folder) for folder in splits) or (not folders and bool(_tars(path)))


def read_shards(name: str) -> Dataset:
    """Lists the samples of tar shards: one file, a pattern such as a-{000..012}.tar or a*.tar, or a folder of shards.

    A sample is the members with one name up to the first dot after the last slash: an image, and its label in .cls
    (a number or a name) or .json ("label"). Shards of a folder, or of several, called train, val or test are that
    split; all others are train's. Bad files: shards that are missing, damaged, compressed or outside of the pattern's
    folder; members that are links or have names that are absolute or with ..; samples without an image or a label.

    Raises FileNotFoundError where no shard is named, and ValueError, which lists all that is wrong, for a class without
    a training image or a member that is there twice.
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
    return collect(name, entries, bad)


def _shards(name: str, root: Root, bad: list[BadFile]) -> list[tuple[str, Path]]:
    """The shards that a name stands for, and the split of each."""
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
    """The paths that a pattern stands for: all of a range, whether they exist or not, and all that a glob finds."""
    if Path(pattern).is_file():
        return [Path(pattern)]
    ends = _RANGE.search(pattern)
    if ends:
        first, last = ends.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [path for number in numbers for path in _expand(_RANGE.sub(number, pattern, count=1))]
    return [Path(path) for path in sorted(glob.glob(pattern))] if glob.has_magic(pattern) else [Path(pattern)]


def _fixed_folder(pattern: str) -> Path:
    """The folder that all paths of a pattern are in: its parents before the first with a wildcard."""
    if Path(pattern).is_file():
        return Path(pattern).parent
    parents = Path(pattern).parent.parts
    return Path(*takewhile(lambda part: not glob.has_magic(part) and not _RANGE.search(part), parents))


@dataclass
class _Sample:
    """What has been read of one sample."""

    image: ShardImage | None = None
    cls: bytes | None = None
    json: bytes | None = None
    reason: str | None = None
    """What is wrong with its members."""


def _entries(shard: Path, split: str, bad: list[BadFile]) -> list[Entry]:
    """The samples of one shard."""
    samples: dict[str, _Sample] = {}
    try:
        _read_members(shard, samples, bad)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        bad.append(BadFile(str(shard), f"expected a whole, uncompressed tar file: {error}"))
    entries = []
    for key, sample in samples.items():
        try:
            image, class_name = _whole(sample)
            entries.append(Entry(image, class_name, split))
        except ValueError as error:
            bad.append(BadFile(sample.image.name if sample.image else f"{shard}/{key}", str(error)))
    return entries


def _read_members(shard: Path, samples: dict[str, _Sample], bad: list[BadFile]) -> None:
    """Reads the headers and the labels. Raises TarError, EOFError, OSError or ValueError where the shard is damaged."""
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        length = shard.stat().st_size
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # they may be millions
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
        # The end of a tar file is a block of zeros. tarfile takes a damaged header for it, too.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a header nor the end at byte {tar.offset}")


def _unusable(member: tarfile.TarInfo) -> str | None:
    """Why a member is no plain file inside the archive."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the archive"
    if member.isdir():
        return "a folder, not a file"
    if not member.isreg() or member.issparse():
        return "a link or special member, not a plain file"
    return None


def _whole(sample: _Sample) -> tuple[ShardImage, str]:
    """A sample's image and class. Raises ValueError, which says what it lacks."""
    if sample.reason is not None:
        raise ValueError(sample.reason)
    if sample.image is None:
        raise ValueError(f"a label without an image ({', '.join(sorted(EXTENSIONS))})")
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
