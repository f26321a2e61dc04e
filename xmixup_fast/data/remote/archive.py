"""Compressed archives of class folders, such as imagenette2-320.tgz: they have no parts, so they are fetched whole."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ..catalog import Log
from ..formats import is_image
from .cache import SafeNames, SourceFolder
from .fetch import progress
from .files import RemoteFile, RemoteFiles
from .layout import Layout, Options
from .whole import fetch_whole

ARCHIVES = (".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
"""How their names end."""


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of one archive. It is fetched at once where the names of its classes are not known."""
    if len(paths) != 1:
        raise ValueError(f"{files.url}: expected one archive, got {len(paths)}: name one after the other")
    return Archive(files, files.info(paths[0]), folder, options, log)


class Archive(Layout):
    """An archive whose images lie in class folders: those in a folder train, where there is one, else the outermost."""

    def __init__(self, files: RemoteFiles, file: RemoteFile, folder: SourceFolder, options: Options, log: Log) -> None:
        self.files = files
        self.file = file
        self.size = file.size
        if options.classes is not None:
            self.classes = sorted(options.classes)
        elif (folder.path / "catalog.json").is_file():  # unpacked before
            self.classes = folder.described()["classes"]
        else:
            self._unpack(folder, log)

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        """Unpacks the images of all classes, so that others need no further fetch."""
        found = self._unpack(folder, log)
        if absent := [self.classes[label] for label in labels if self.classes[label] not in found]:
            raise ValueError(f"{self.files.url}: has no images of {', '.join(absent)}; its classes are {sorted(found)}")

    def _unpack(self, folder: SourceFolder, log: Log) -> dict[str, list[tuple[str, int]]]:
        """Fetches and unpacks the archive, once. Returns names and sizes of each class's images."""
        archive, name = folder.path / "archive", self.files.name(self.file.path)
        log(f"{name}: fetching all of it, {self.file.size / 1e6:.1f} MB, as it has no parts")
        with progress(self.file.size) as on_bytes:
            fetch_whole(self.files, self.file, archive, on_bytes)
        log(f"{name}: unpacking")
        with tarfile.open(archive) as tar:
            images = list(_images(tar))
            if not hasattr(self, "classes"):
                self.classes = sorted({name for name, _ in images})
                folder.describe({"url": self.files.url, "classes": self.classes, "counts": None, "size": self.size})
            names: dict[str, SafeNames] = {}
            unpacked: dict[str, list[tuple[str, int]]] = {}
            for class_name, member in images:
                name = names.setdefault(class_name, SafeNames())(PurePosixPath(member.name).name)
                if not folder.has(class_name, name, member.size):
                    content = tar.extractfile(member)
                    assert content is not None
                    folder.write(class_name, name, content.read())
                unpacked.setdefault(class_name, []).append((name, member.size))
        for class_name, listed in unpacked.items():
            folder.complete(class_name, listed, None)
        archive.unlink()
        return unpacked


def _images(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields the images of an archive with the names of their classes."""
    found = [(PurePosixPath(one.name).parts, one) for one in tar if one.isreg() and is_image(one.name, bytes)]
    if any("train" in parts[:-2] for parts, _ in found):
        found = [(parts[parts.index("train") + 1 :], one) for parts, one in found if "train" in parts[:-2]]
    elif len({parts[0] for parts, _ in found}) == 1:  # one folder around all others
        found = [(parts[1:], one) for parts, one in found]
    yield from ((parts[0], one) for parts, one in found if len(parts) > 1)
