"""Where the images of a remote source are kept: a folder of class folders, and lists of what is whole.

sources/NAME-KEY/
    catalog.json         URL, version, classes, when they were used last; written whenever the source is opened
    images/CLASS/MEMBER  the images' bytes as they came
    lists/CLASS.json     which images of the class are there, in the source's order, and which cannot be used
    lock
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.files import atomic_write, write_json, writing_to_cache
from ..catalog import Log
from ..dataset import BadFile

_ODD = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices."""
_LONGEST = 120
"""Characters of a file's name."""
LOCK_SECONDS = 2.0
"""How long another process is waited for before a line says so."""

Found = tuple[str, int] | BadFile
"""Name and bytes of an image file, or what cannot be used."""


class SafeNames:
    """Gives file names to names of a source, one after the other: the same to the same names in the same order.

    A file name has no separator, does not begin with a dot, and differs from all before it in more than case. A name
    that has to be changed keeps what is good of it, and gets a hash.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, name: str) -> str:
        plain = unicodedata.normalize("NFC", _ODD.sub("_", name)).strip(" ")
        plain = re.sub(r"^\.+|\.+$", "_", plain)
        is_good = plain == name != "" and len(plain.encode()) <= _LONGEST and not _RESERVED.match(plain)
        given, again = plain if is_good else _hashed(plain, name), 0
        while given.casefold() in self._given:
            again += 1
            given = _hashed(plain, f"{name}\0{again}")
        self._given.add(given.casefold())
        return given


def _hashed(plain: str, name: str) -> str:
    """A file name that a hash tells from others, with the extension."""
    stem, dot, end = plain.rpartition(".")
    stem, end = (stem, f".{end}") if dot and len(end.encode()) <= 10 else (plain, "")
    short = stem.encode()[: _LONGEST // 2].decode(errors="ignore").rstrip(" .")
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{short}-{digest}{end}"


@dataclass
class Held:
    """What is there of a class."""

    files: list[tuple[str, int]] = field(default_factory=list)
    """Names and bytes of the image files, in the source's order."""
    bad: list[tuple[int, BadFile]] = field(default_factory=list)
    """What of the class cannot be used, in the source's order, each with its position among images and bad files."""
    is_whole: bool = False
    """Whether all images that were asked for have come."""
    limit: int | None = None
    """How many images were asked for, bad files among them; None for all. Of use where ``is_whole``."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the layout needs to go on where a fetch was interrupted."""

    def is_enough(self, limit: int | None) -> bool:
        """Whether up to ``limit`` images, or all, have come."""
        return self.is_whole and (self.limit is None or (limit is not None and limit <= self.limit))

    @property
    def count(self) -> int:
        """Images and bad files so far."""
        return len(self.files) + len(self.bad)

    def add(self, found: Found) -> None:
        """Adds what follows in the source."""
        if isinstance(found, BadFile):
            self.bad.append((self.count, found))
        else:
            self.files.append(found)

    def first(self, limit: int | None) -> tuple[list[str], list[BadFile]]:
        """Names of the image files, and the bad files, among the first ``limit`` of the class, or all.

        So they are the same however much was fetched before; a bad file counts as one of ``limit``.
        """
        bad = [one for at, one in self.bad if limit is None or at < limit]
        return [name for name, _ in self.files[: None if limit is None else limit - len(bad)]], bad


class SourceFolder:
    """The folder of one version of a source."""

    def __init__(self, path: Path, classes: Sequence[str] = ()) -> None:
        self.path = path
        self.images = path / "images"
        self.name_classes(classes)

    @classmethod
    def make(cls, cache: Path, name: str, key: str) -> SourceFolder:
        """Makes the folder of a source, or takes that which is there. Raises OSError where it cannot be written.

        Args:
            cache: the folder of the cache.
            name: the source's name, or the last part of its URL.
            key: what tells this version of the source from others.
        """
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        path = cache / "sources" / f"{SafeNames()(name)}-{digest}"
        with writing_to_cache(path):
            (path / "lists").mkdir(exist_ok=True)
        return cls(path)

    @classmethod
    def newest(cls, cache: Path, url: str) -> SourceFolder | None:
        """The folder that was used last for a URL; None where there is none."""
        found = [cls(file.parent) for file in (cache / "sources").glob("*/catalog.json")]
        found = [folder for folder in found if folder.described()["url"] == url]
        newest = max(found, key=lambda folder: float(folder.described()["used"]), default=None)
        return None if newest is None else cls(newest.path, newest.described()["classes"])

    def described(self) -> dict[str, Any]:
        """What ``describe`` wrote, and ``used``, when it did, in seconds since 1970."""
        read: dict[str, Any] = json.loads((self.path / "catalog.json").read_text(encoding="utf-8"))
        return read

    def describe(self, catalog: dict[str, Any]) -> None:
        """Writes catalog.json: ``url``, ``classes`` and what else tells what the folder holds."""
        self.name_classes(catalog["classes"])
        with writing_to_cache(self.path):
            write_json(self.path / "catalog.json", {**catalog, "used": time.time()})

    def name_classes(self, classes: Sequence[str]) -> None:
        """Gives a folder to each class; the same ones to the same classes."""
        names = SafeNames()
        self._folders = {name: names(name) for name in classes}

    @contextmanager
    def locked(self, log: Log) -> Iterator[None]:
        """Keeps other processes of this machine from fetching into the folder; waits for one that does, and logs it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            log(f"{self.path}: another process fetches into this folder: waiting for it to end")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def class_folder(self, class_name: str) -> Path:
        """Where the images of a class lie."""
        return self.images / self._folders[class_name]

    def held(self, class_name: str) -> Held:
        """What is there of a class. Images whose files are gone, or not as long as they were, are not."""
        file = self._list(class_name)
        if not file.is_file():
            return Held()
        read = json.loads(file.read_text(encoding="utf-8"))
        if read.pop("class") != class_name:
            return Held()
        files = [(name, size) for name, size in read["files"]]
        bad = [(at, BadFile(name, reason)) for at, name, reason in read["bad"]]
        held = Held(**{**read, "files": files, "bad": bad})
        there = [(name, size) for name, size in files if self.has(class_name, name, size)]
        return held if there == files else Held()

    def sizes(self, class_name: str) -> dict[str, int]:
        """How long the images of a class were when they were listed, by their names, whether they are there or not."""
        file = self._list(class_name)
        read = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return dict(read["files"]) if read.get("class") == class_name else {}

    def keep(self, class_name: str, held: Held) -> None:
        """Writes what is there of a class."""
        bad = [(at, *one) for at, one in held.bad]
        with writing_to_cache(self.path / "lists"):
            write_json(self._list(class_name), {"class": class_name, **asdict(held), "bad": bad})

    def complete(self, class_name: str, found: Iterable[Found], limit: int | None) -> None:
        """Notes that all images of a class that were asked for have come.

        Args:
            class_name: the class.
            found: its image files, and what of it cannot be used, in the source's order.
            limit: how many were asked for; None for all, also where the class turned out to have fewer.
        """
        held = Held(is_whole=True, limit=limit)
        for one in found:
            held.add(one)
        self.keep(class_name, held)

    def has(self, class_name: str, name: str, size: int) -> bool:
        """Whether an image of so many bytes is there. Since files are renamed when they are written, it is whole."""
        file = self.class_folder(class_name) / name
        return file.is_file() and file.stat().st_size == size

    def write(self, class_name: str, name: str, data: bytes) -> None:
        """Writes an image under a name that SafeNames gave."""
        file = self.class_folder(class_name) / name
        with writing_to_cache(file.parent), atomic_write(file) as aside:
            aside.write_bytes(data)

    def _list(self, class_name: str) -> Path:
        return self.path / "lists" / f"{self._folders[class_name]}.json"
