"""Compressed archives of class folders, such as imagenette2-320.tgz: they have no parts, so they are fetched whole."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..catalog import Log
from ..dataset import BadFile
from ..formats import is_image
from ..layout import class_name, some
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


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of one archive. It is fetched at once where the names of its classes are not known."""
    return Archive(files, files.info(paths[0]), folder, options, log)


class Archive(Layout):
    """An archive whose images lie in class folders: those in a folder train, where there is one, else the outermost."""

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
        log(f"{name}: fetching all of it, {self.file.size / 1e6:.1f} MB, as it has no parts")
        fetch_whole([Whole(self.files, self.file, archive)])
        log(f"{name}: unpacking")
        try:
            members = _members(archive)
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


def _members(archive: Path) -> list[tuple[str, tarfile.TarInfo]]:
    """The images of an archive, all of which is read, with the names of their classes. Raises what _DAMAGE lists."""
    with tarfile.open(archive) as tar:
        images = [one for one in tar if not one.isdir() and is_image(one.name, bytes)]
        check_end(tar)
        while tar.fileobj and tar.fileobj.read(2**20):  # up to the checksum
            pass
    found = [(tuple(part for part in one.name.split("/") if part not in ("", ".", "..")), one) for one in images]
    found = [(parts, one) for parts, one in found if not any(map(is_silent, parts))]
    if any("train" in parts[:-2] for parts, _ in found):
        found = [(parts[parts.index("train") + 1 :], one) for parts, one in found if "train" in parts[:-2]]
    elif len({parts[0] for parts, _ in found}) == 1:  # one folder around all others
        found = [(parts[1:], one) for parts, one in found]
    return [(class_name(parts[0]), one) for parts, one in found if len(parts) > 1]
