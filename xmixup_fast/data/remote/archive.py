"""Compressed archives of class folders, such as imagenette2-320.tgz: they have no parts, so they are fetched whole."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...runtime.files import readable_bytes
from ..catalog import Log
from ..dataset import BadFile
from ..formats import is_image
from ..layout import class_name, name_splits, named_in_part, some
from ..readers.tar_members import check_end, unusable
from ..readers.tree import is_silent
from .cache import Found, SafeNames, SourceFolder
from .files import RemoteFile, RemoteFiles
from .layout import Layout, Options
from .whole import Whole, fetch_whole

ARCHIVES = (".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
"""How their names end."""
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
"""What reading a damaged archive raises; bz2 and gzip raise OSError."""
_Placed = tuple[list[str], tarfile.TarInfo]
"""An image, and the parts of its name."""


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of one archive. It is fetched at once where the names of its classes are not known."""
    return Archive(files, files.info(paths[0]), folder, options, log)


class Archive(Layout):
    """An archive whose images lie in class folders: those of the train split, where there are splits, else all."""

    def __init__(self, files: RemoteFiles, file: RemoteFile, folder: SourceFolder, options: Options, log: Log) -> None:
        self.files = files
        self.file = file
        self.size = file.size
        self.classes = sorted(options.classes or ())
        if not self.classes and (folder.path / "catalog.json").is_file():  # unpacked before
            self.classes = folder.described()["classes"]
        if not self.classes:
            self._unpack(folder, log)

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        """Unpacks the images of all classes, so that others need no further fetch."""
        found = self._unpack(folder, log)
        if absent := [self.classes[label] for label in labels if self.classes[label] not in found]:
            raise ValueError(f"{self.files.url}: has no images of {some(absent)}; its classes are {some(found)}")

    def _unpack(self, folder: SourceFolder, log: Log) -> list[str]:
        """Fetches and unpacks the archive, once. Returns the classes that it has, sorted.

        Raises OSError where it cannot be fetched, and ValueError where it is damaged or has no class folders.
        """
        archive, name = folder.path / "archive", self.files.name(self.file.path)
        log(f"{name}: fetching all of it, {readable_bytes(self.file.size)}, as it has no parts")
        fetch_whole([Whole(self.files, self.file, archive)])
        log(f"{name}: unpacking")
        try:
            members = _members(archive, lambda line: log(f"{name}: {line}"))
            there = sorted({one for one, _ in members})
            if not there:
                raise ValueError("no images in class folders")
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the decompressor
                raise
            archive.unlink()
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")  # tarfile lists all formats
            raise ValueError(
                f"{self.files.url}: expected a whole archive of class folders ({', '.join(ARCHIVES)}) ({reason}): it "
                "is removed; a new run fetches it anew"
            ) from error
        self.classes = self.classes or there
        if left := [one for one in there if one not in self.classes]:
            log(f"{name}: {some(left)} left out, as not among the classes that it should have")
        self._write([(one, member) for one, member in members if one in self.classes], archive, folder)
        archive.unlink()
        return there

    def _write(self, members: Sequence[tuple[str, tarfile.TarInfo]], archive: Path, folder: SourceFolder) -> None:
        """Writes the images of an archive that was found to be whole."""
        folder.name_classes(self.classes)
        found: dict[str, list[Found]] = {}
        names: dict[str, SafeNames] = {}
        with tarfile.open(archive) as tar:
            for own, member in members:
                of_class = found.setdefault(own, [])
                if reason := unusable(member) or (None if member.size else "an empty file"):
                    of_class.append(BadFile(f"{self.files.url}/{member.name}", reason))
                    continue
                name = names.setdefault(own, SafeNames())(PurePosixPath(member.name).name)
                if not folder.has(own, name, member.size):
                    content = tar.extractfile(member)
                    assert content is not None
                    folder.write(own, name, content.read())
                of_class.append((name, member.size))
        for own, of_class in found.items():
            folder.complete(own, of_class, None)


def _members(archive: Path, log: Log) -> list[tuple[str, tarfile.TarInfo]]:
    """The images of an archive, all of which is read, with the names of their classes. Raises what _DAMAGE lists."""
    with tarfile.open(archive) as tar:
        images = [one for one in tar if not one.isdir() and is_image(one.name, bytes)]
        check_end(tar)
        while tar.fileobj and (rest := tar.fileobj.read(2**20)):  # up to the checksum
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"an empty block at byte {tar.offset}, and more behind it")
    found = [([part for part in one.name.split("/") if part not in ("", ".", "..")], one) for one in images]
    found = [(parts, one) for parts, one in found if not any(map(is_silent, parts))]
    taken = _of_train(found, log)
    return [(class_name(parts[0]), one) for parts, one in taken if len(parts) > 1]


def _of_train(found: Sequence[_Placed], log: Log) -> list[_Placed]:
    """The images of the train split, below its folder; where there are no splits, all, below the folders around all.

    Raises ValueError where there are splits without train.
    """
    exact = name_splits({part for parts, _ in found for part in parts[:-2]})
    if "train" in exact.values():
        at = [next((i for i, part in enumerate(parts[:-2]) if part in exact), None) for parts, _ in found]
    else:
        found = _unwrapped(found)
        folders = {parts[0] for parts, _ in found if len(parts) > 2}
        exact = name_splits(folders) or named_in_part(folders)
        at = [0 if exact and len(parts) > 2 else None for parts, _ in found]
    if not exact:
        return list(found)
    if "train" not in exact.values():
        raise ValueError(f"has {some(sorted(exact))} but no train split: name one train")
    taken = [
        (parts[i + 1 :], one)
        for i, (parts, one) in zip(at, found, strict=True)
        if i is not None and exact.get(parts[i]) == "train"
    ]
    if left := len(found) - len(taken):
        names = [name for name, split in exact.items() if split == "train"]
        log(f"takes the training images, in {some(sorted(names))}; {left} others left out")
    return taken


def _unwrapped(found: Sequence[_Placed]) -> list[_Placed]:
    """Images without the folders that are around all of them; one class folder stays if others were around it."""
    found, is_first = list(found), True
    while found and len({parts[0] for parts, _ in found}) == 1 and (is_first or all(len(p) > 2 for p, _ in found)):
        found, is_first = [(parts[1:], one) for parts, one in found if len(parts) > 1], False
    return found
