"""Walks folders: finds images at any depth, follows links, and counts what is ignored."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath

from ..bad_files import printable
from ..dataset import BadFile, FileImage
from ..formats import is_image
from ..layout import TABLES, Folder
from .listing import Root, unreadable

SILENT = {
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "lost+found",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}
"""Names, in lower case, of what operating systems leave in folders. They are skipped without a word, as hidden ones."""

WRITTEN = (
    {"manifest.csv", "data.json"},
    {"config.yaml", "metrics.jsonl"},
    {"evaluation.json", "confusion.png"},
    {"selection.json", "contact-sheet-1.png"},
    {"lr.json", "lr.png"},
    {"catalog.json", "images", "lists"},
    {"hashes", "pools"},
)
"""Names that lie together in folders that this package writes: of train (two), evaluate, select, find-lr, of a source
that was fetched, and of the cache."""
BY_US = "of xmixup's"
"""What stands for the extension of files in such folders, where files are counted that are ignored."""
RUNS = "runs"
"""The folder in which commands make their folders by default."""


class Walk:
    """Walks one folder. A folder that links lead back to, when it is being walked, is a bad file.

    Links are followed wherever they lead. Bad files are links to nothing, files that are named like images and are
    none of the file system's regular files, folders that are named like images and hold none, and what cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], bad: list[BadFile]) -> None:
        self.root = Root(path)
        self.bad = bad
        self.ignored: Counter[tuple[str, str]] = Counter()
        """How many files are no images, by folder, below the walked one, and extension."""
        self.written: list[Path] = []
        """Folders that this package wrote, which :meth:`tree` leaves out."""

    def tree(self, path: Path, above: tuple[str, ...] = ()) -> Folder:
        """Everything below a folder, but for what this package wrote: the plots of a run would become a class.

        ``above`` are the real paths of the folders that lead to it.
        """
        folder = Folder(path)
        inner = self._inner(path, above)
        if inner is None:
            return folder
        found = len(self.bad)
        entries = self._scan(path)
        if above and _is_written(path, [entry.name for entry in entries]):
            self.written.append(path)
            return folder
        folder.images, paths, folder.tables = self._entries(path, entries)
        folder.count = len(folder.images) + len(self.bad) - found
        for below in paths:
            subfolder = self.tree(below, inner)
            if self.written[-1:] != [below]:
                folder.folders.append(subfolder)
                folder.count += subfolder.count or self._named_like_an_image(below)
        return folder

    def said(self) -> list[str]:
        """Lines for the user on links that lead out of the folder, and on folders that this package wrote."""
        return [*self.root.said(), *(f"{path}: left out, as xmixup wrote what is in it" for path in self.written)]

    def images(self, path: Path, above: tuple[str, ...] = ()) -> Iterator[FileImage]:
        """Yields the images below a folder, in sorted order, while it is walked, but for what this package wrote."""
        inner = self._inner(path, above)
        if inner is None:
            return
        entries = self._scan(path)
        if above and _is_written(path, [entry.name for entry in entries]):
            count = sum(len(files) for _, _, files in os.walk(path))
            self.ignored[path.relative_to(self.root.path).as_posix(), BY_US] += count
            return
        images, paths, _ = self._entries(path, entries)
        yield from images
        for below in paths:
            is_empty = True
            for image in self.images(below, inner):
                is_empty = False
                yield image
            if is_empty:
                self._named_like_an_image(below)

    def _inner(self, path: Path, above: tuple[str, ...]) -> tuple[str, ...] | None:
        """The real paths of the folders that lead into a folder; None where it is one of them, a bad file."""
        real = os.path.realpath(path)
        if real in above:
            self.bad.append(BadFile(str(path), f"links to {real}, which holds it"))
            return None
        return (*above, real)

    def _entries(
        self, path: Path, entries: Iterable[os.DirEntry[str]]
    ) -> tuple[list[FileImage], list[Path], list[Path]]:
        """The images, folders and tables among the entries of a folder, each sorted by name."""
        images, folders, tables = [], [], []
        for entry in entries:
            try:
                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(Path(entry.path))
                elif not is_image(entry.name, partial(_head, entry.path) if kind == "file" else bytes):
                    self._ignore(path, entry.name)
                    if PurePath(entry.name).suffix.lower() in TABLES:
                        tables.append(Path(entry.path))
                elif kind == "file":
                    images.append(FileImage(Path(entry.path)))
                else:
                    self.bad.append(BadFile(entry.path, "not a regular file"))
            except FileNotFoundError:
                self.bad.append(BadFile(entry.path, "no such file"))
            except OSError as error:
                self.bad.append(BadFile(entry.path, error.strerror or str(error)))
        return images, folders, tables

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """What an entry is, or leads to: file, folder or other. Raises OSError for a link to nothing."""
        if entry.is_symlink():
            mode = os.stat(entry.path).st_mode
            self.root.follow(Path(entry.path))
            return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "other"

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        """A folder's entries, sorted by name, without hidden names. A folder that cannot be read is a bad file."""
        try:
            with os.scandir(folder) as entries:
                return sorted((entry for entry in entries if not is_silent(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            self.bad.append(unreadable(folder, error))
            return []

    def _ignore(self, folder: Path, name: str) -> None:
        below = folder.relative_to(self.root.path).as_posix()
        self.ignored["" if below == "." else printable(below), printable(extension(name))] += 1

    def _named_like_an_image(self, folder: Path) -> int:
        """1 if an empty folder is named like an image, which is a bad file; else 0."""
        if not is_image(folder.name, bytes) or any(bad.name == str(folder) for bad in self.bad):
            return 0
        self.bad.append(BadFile(str(folder), "a folder, not a file"))
        return 1


def extension(name: str) -> str:
    """How a file's name ends, in lower case: of a compressed archive with what it holds, such as ".tar.gz"."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes[-2:]]
    return "".join(suffixes if suffixes[:1] == [".tar"] else suffixes[-1:])


def _is_written(path: Path, names: Iterable[str]) -> bool:
    """Whether this package wrote a folder, which has entries of these names."""
    there = set(names)
    if any(written <= there for written in WRITTEN):
        return True
    # The table of a comparison lies beside its results, in four formats.
    stems = (name.removesuffix(".jsonl") for name in there if name.endswith(".jsonl"))
    if any({f"{stem}.md", f"{stem}.csv", f"{stem}.png"} <= there for stem in stems):
        return True
    return path.name == RUNS and any(
        _is_written(Path(folder), [*folders, *files])
        for depth, (folder, folders, files) in enumerate(_folders_in(path))
        if depth
    )


def _folders_in(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """What os.walk yields of a folder, of the folders in it, and of those in these."""
    for folder, folders, files in os.walk(path):
        yield folder, list(folders), files
        if len(PurePath(folder).relative_to(path).parts) == 2:
            folders.clear()


def is_silent(name: str) -> bool:
    """Whether a file or folder is skipped without a word."""
    return name.startswith(".") or name.casefold() in SILENT


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(32)
