"""Compressed archives of class folders, such as imagenette2-320.tgz: they have no parts, so they are fetched whole."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ...runtime.files import atomic_write
from ..catalog import Log
from ..formats import is_image
from .cache import SafeNames, SourceFolder
from .fetch import progress
from .files import Range, RemoteFile, RemoteFiles
from .layout import Layout, Options

BLOCK = 2**23
"""Bytes that are fetched at a time, and kept where a fetch is interrupted."""
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
        if options.classes is None:
            self.classes = sorted(self._unpack(folder, log))
        else:
            self.classes = sorted(options.classes)

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        """Unpacks the images of all classes, so that others need no further fetch."""
        found = self._unpack(folder, log)
        if absent := [self.classes[label] for label in labels if self.classes[label] not in found]:
            raise ValueError(f"{self.files.url}: has no images of {', '.join(absent)}; its classes are {sorted(found)}")

    def _unpack(self, folder: SourceFolder, log: Log) -> dict[str, list[tuple[str, int]]]:
        """Fetches and unpacks the archive, once. Returns names and sizes of each class's images."""
        archive = folder.path / "archive"
        fetch_whole(self.files, self.file, archive, log)
        log(f"unpacking {self.files.name(self.file.path)}")
        with tarfile.open(archive) as tar:
            images = list(_images(tar))
            folder.describe({"url": self.files.url, "classes": sorted({name for name, _ in images})})
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


def fetch_whole(files: RemoteFiles, file: RemoteFile, target: Path, log: Log) -> None:
    """Fetches a file in blocks that are kept, so that an interrupted fetch goes on, and joins them.

    Raises OSError where it cannot be fetched, or has changed meanwhile.
    """
    if target.is_file():
        return
    parts = target.with_name(f"{target.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    ranges = [Range(file.path, at, min(at + BLOCK, file.size)) for at in range(0, file.size, BLOCK)]
    paths = [parts / f"{number:06d}" for number in range(len(ranges))]
    missing = [
        i
        for i, path in enumerate(paths)
        if not path.is_file() or path.stat().st_size != ranges[i].end - ranges[i].begin
    ]
    total = sum(ranges[i].end - ranges[i].begin for i in missing)
    log(f"{files.name(file.path)}: fetching {total / 1e6:.1f} of {file.size / 1e6:.1f} MB")
    with progress(total, log) as on_bytes:
        for at, data in files.read_ranges([ranges[i] for i in missing], on_bytes):
            with atomic_write(paths[missing[at]]) as aside:
                aside.write_bytes(data)
    files.check_unchanged(file)
    with atomic_write(target) as aside, aside.open("wb") as whole:
        for path in paths:
            whole.write(path.read_bytes())
    for path in paths:
        path.unlink()
    parts.rmdir()
