"""Class tars: a tar file of images for each class, in a folder, as a pattern, or all of them inside one large tar.

Class tars in a folder are found by a listing, or else by the names of classes that are tried. The headers of one large
tar are a chain: each tells where the next one is. Reading it takes a request of 513 bytes for each class,
since tarfile reads the byte before a header again; it is kept in ``members.json``, every 50 headers.

Of each class the first images are fetched, not random ones, so that they are one range.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...runtime.files import readable_bytes, write_json, writing_to_cache
from ...runtime.progress import Progress
from ...runtime.threads import in_flight
from ..catalog import Log
from ..dataset import BadFile
from ..formats import HEAD, is_image
from ..layout import class_name
from ..readers.tar_members import check_end, unusable
from ..readers.tree import is_silent
from .cache import Held, SafeNames, SourceFolder
from .files import RemoteFile, RemoteFiles
from .layout import Layout, Options
from .ranges import RangeFile

PIECE = 2**20
"""Bytes of a class tar that one request fetches, at most, unless an image is larger."""
SMALLEST_IMAGE = 2**14
"""Bytes of an image, about, for the first request to a class tar, when no image's size is known."""
HEADERS_KEPT = 50
"""After so many headers of the large tar, the chain is kept."""
_DAMAGE = (tarfile.TarError, EOFError, ValueError)


@dataclass(frozen=True)
class ClassTar:
    """The tar file of a class: a file, or a member of the large tar."""

    name: str
    """As messages show it."""
    read: Callable[[int, int], bytes]
    """Gives the bytes from one place up to another."""
    size: int
    version: str


class ClassTars(Layout):
    """Class tars, each of which is found by the name of its class."""

    def __init__(
        self, classes: Iterable[str], find: Callable[[str], ClassTar], check: Callable[[Sequence[str]], object]
    ) -> None:
        """
        Args:
            classes: names of the classes.
            find: gives the tar of a class. Raises FileNotFoundError where there is none.
            check: raises OSError where the tar of one of some classes has changed since it was found.
        """
        self.classes = sorted(classes)
        self._find, self._check = find, check

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        names = [self.classes[label] for label in labels]
        tars = dict(in_flight(lambda name: (name, self._find(name)), names))
        bound = sum(tar.size for tar in tars.values())
        what = "all images" if limit is None else f"up to {limit} images, the first ones,"
        log(f"fetching {what} of each of {len(names)} classes, at most {readable_bytes(bound)}")
        fetches = [_ClassFetch(name, tars[name], folder, limit) for name in names]
        with Progress(bound if limit is None else None, "fetching", unit="B") as bar:
            ended, left = threading.Event(), threading.Event()
            try:
                for _ in in_flight(lambda one: one.run(bar.update, ended, left), fetches, ended):
                    pass
            finally:
                left.set()
        self._check(names)  # before a class counts as whole: of another version, the next fetch begins anew
        for one in fetches:
            one.complete()


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of class tars at ``paths``."""
    by_class = _by_class({files.shown(path): path for path in paths}, files.name)
    found: dict[str, RemoteFile] = {}

    def find(name: str) -> ClassTar:
        path = by_class[name]
        try:
            found[name] = files.info(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: the class {name} has no tar there") from error
        return ClassTar(
            files.shown(path), lambda begin, end: files.read(path, begin, end), found[name].size, found[name].version
        )

    def check(names: Sequence[str]) -> None:
        for _ in in_flight(files.check_unchanged, [found[name] for name in names]):
            pass

    return ClassTars(by_class, find, check)


def large_layout(files: RemoteFiles, parts: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of one large tar of class tars, which may come in several parts."""
    infos = files.infos(parts)
    chain = _Chain(files, infos, folder)
    if not chain.is_whole:
        log(f"{files.url}: looking for its classes, once: a request for each")
    members = _by_class({name: name for name in chain.names()}, str)
    if not members:
        raise ValueError(f"{files.url}: expected a tar file of class tars, such as n01440764.tar, got none in it")

    def check(names: Sequence[str]) -> None:
        for info in infos:
            files.check_unchanged(info)

    found = ClassTars(members, lambda name: chain.tar(members[name]), check)
    found.size = sum(info.size for info in infos)
    return found


def _by_class(paths: Mapping[str, str], name_of: Callable[[str], str]) -> dict[str, str]:
    """The path of each class's tar. Raises ValueError where two tars are of one class; the keys are for messages."""
    found: dict[str, str] = {}
    for shown, path in paths.items():
        name = class_name(re.sub(r"\.tar$", "", PurePosixPath(name_of(path)).name, flags=re.IGNORECASE))
        if name in found:
            other = next(key for key, value in paths.items() if value == found[name])
            raise ValueError(f"{shown}: the class {name} has another tar, {other}: name a pattern that leaves one out")
        found[name] = path
    return found


def first_members(files: RemoteFiles, path: str, count: int) -> list[str]:
    """Names of the first members of a tar file; fewer where it is damaged or ends."""
    names: list[str] = []
    try:
        with tarfile.open(fileobj=files.file(path, tarfile.BLOCKSIZE + 1), mode="r:") as tar:
            while len(names) < count and (member := tar.next()) is not None:
                names.append(member.name)
    except _DAMAGE:
        pass
    return names


class _Chain:
    """The members of the large tar, found one after the other."""

    def __init__(self, files: RemoteFiles, parts: Sequence[RemoteFile], folder: SourceFolder) -> None:
        self._files, self._parts = files, parts
        self._kept = folder.path / "members.json"
        self._size = sum(part.size for part in parts)
        state = json.loads(self._kept.read_text(encoding="utf-8")) if self._kept.is_file() else {}
        self._members: dict[str, tuple[int, int]] = {name: (at, size) for name, at, size in state.get("members", [])}
        self._next: int | None = state.get("next", 0)
        """Where the next header is; None at the end."""

    @property
    def is_whole(self) -> bool:
        """Whether all members are known."""
        return self._next is None

    def names(self) -> list[str]:
        """Names of all class tars. Raises OSError, and ValueError where the large tar is damaged."""
        if self._next is not None:
            self._walk(self._next)
        return list(self._members)

    def tar(self, name: str) -> ClassTar:
        """A class tar, of those that ``names`` has found."""
        begin, size = self._members[name]
        version = " ".join(part.version for part in self._parts)
        return ClassTar(
            f"{self._files.url}/{name}", lambda first, end: self._read(begin + first, begin + end), size, version
        )

    def _walk(self, begin: int) -> None:
        """Finds the class tars from a header on."""
        stream = RangeFile(self._read, self._size, tarfile.BLOCKSIZE + 1)
        stream.seek(begin)
        seen = 0
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]
                    seen, self._next = seen + 1, tar.offset
                    if member.isreg() and member.name.lower().endswith(".tar"):
                        self._members[member.name] = (member.offset_data, member.size)
                    if seen % HEADERS_KEPT == 0:
                        self._keep()
                check_end(tar)
            self._next = None
        except _DAMAGE as error:
            raise ValueError(f"{self._files.url}: expected a whole, uncompressed tar file: {error}") from error
        finally:
            self._keep()

    def _keep(self) -> None:
        members = [(name, at, size) for name, (at, size) in self._members.items()]
        with writing_to_cache(self._kept.parent):
            write_json(self._kept, {"next": self._next, "members": members})

    def _read(self, begin: int, end: int) -> bytes:
        """Bytes of the parts, one behind the other."""
        data, start = [], 0
        for part in self._parts:
            first, last = max(begin - start, 0), min(end - start, part.size)
            if first < last:
                data.append(self._files.read(part.path, first, last))
            start += part.size
        return b"".join(data)


class _ClassFetch:
    """Fetches the first images of a class, from where an earlier fetch ended."""

    def __init__(self, name: str, tar: ClassTar, folder: SourceFolder, limit: int | None) -> None:
        self.name, self.tar, self.folder, self.limit = name, tar, folder, limit
        held = folder.held(name)
        version = [tar.size, tar.version]
        if held.state.get("version") != version:
            shutil.rmtree(folder.class_folder(name), ignore_errors=True)
            held = Held(state={"version": version, "next": 0, "members": []})
        self.held = held
        self._safe = SafeNames()
        for member in held.state["members"]:
            self._safe(member)

    def run(self, on_bytes: Callable[[int], object], ended: threading.Event, left: threading.Event) -> None:
        """Fetches. After ``ended`` is set, it makes no further request; after ``left`` is, it writes no more.

        Raises OSError.
        """

        def read(begin: int, end: int) -> bytes:
            self.folder.keep(self.name, self.held)  # the images so far are written: they are not fetched again
            data = b"" if ended.is_set() else self.tar.read(begin, end)
            if left.is_set() or not data:
                raise InterruptedError("another class could not be fetched")
            on_bytes(len(data))
            return data

        stream = RangeFile(read, self.tar.size, self._ahead())
        stream.seek(self.held.state["next"])
        try:
            if self.limit is None or self.held.count < self.limit:
                with tarfile.open(fileobj=stream, mode="r:") as opened:
                    self._take(opened, stream)
        except _DAMAGE as error:
            self.held.add(BadFile(self.tar.name, f"expected a whole, uncompressed tar file: {error}"))
            self.limit = None
        self.folder.keep(self.name, self.held)

    def complete(self) -> None:
        """Notes that all images that were asked for have come."""
        self.held.is_whole, self.held.limit = True, self.limit
        self.folder.keep(self.name, self.held)

    def _take(self, opened: tarfile.TarFile, stream: RangeFile) -> None:
        """Writes images until there are ``limit``, with bad ones, or until the end, where the limit becomes None."""
        held = self.held
        while self.limit is None or held.count < self.limit:
            stream.read_ahead = self._ahead()
            member = opened.next()
            if member is None:
                check_end(opened)
                self.limit = None
                return
            opened.members.clear()  # type: ignore[attr-defined]
            last = PurePosixPath(member.name).name
            reason = None if member.isdir() else unusable(member)
            stream.read_ahead = self._ahead(coming=1)
            if reason is None and member.isreg() and not is_silent(last) and _is_image(last, member, stream):
                reason = self._write(last, _bytes(stream, member, member.size), member.size)
            if reason:
                held.add(BadFile(f"{self.tar.name}/{member.name}", reason))
            if member.offset_data + member.size > self.tar.size:
                self.limit = None
                return
            held.state["next"] = opened.offset

    def _write(self, member: str, data: bytes, size: int) -> str | None:
        """Writes an image. Returns why it cannot be used, if so."""
        if len(data) < size or not size:
            return "the tar ends within it" if size else "an empty file"
        file = self._safe(member)
        self.folder.write(self.name, file, data)
        self.held.add((file, size))
        self.held.state["members"].append(member)
        return None

    def _ahead(self, coming: int = 0) -> int:
        """How many bytes to read ahead: about what the images that are missing take, and no more than a piece.

        Four fifths of the mean of the images so far, so that little is read behind the last one.
        """
        if self.limit is None:
            return PIECE
        missing = self.limit - self.held.count - coming
        if missing <= 0:
            return 0
        mean = 0.8 * self.held.state["next"] / len(self.held.files) if self.held.files else SMALLEST_IMAGE
        return min(max(int(missing * mean), tarfile.BLOCKSIZE + 1), PIECE)


def _bytes(stream: RangeFile, member: tarfile.TarInfo, size: int) -> bytes:
    """The first bytes of a member."""
    stream.seek(member.offset_data)
    return stream.read(min(size, member.size))


def _is_image(name: str, member: tarfile.TarInfo, stream: RangeFile) -> bool:
    return is_image(name, lambda: _bytes(stream, member, HEAD))
