"""Class tars: a tar file of images for each class, in a folder, as a pattern, or all of them inside one large tar.

Class tars in a folder are asked for by name where the classes are known, and found by a listing otherwise. The headers
of one large tar are a chain: each tells where the next one is. Reading it takes a request of 513 bytes for each class,
since tarfile reads the byte before a header again; it is kept in ``members.json``, every 50 headers.

Of each class the first images are fetched, not random ones, so that they are one range.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
import unicodedata
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...runtime.files import write_json
from ..catalog import Log
from ..dataset import BadFile
from ..formats import HEAD, is_image
from ..readers.tar_shards import unusable
from ..readers.tree import is_silent
from .cache import Held, SafeNames, SourceFolder
from .fetch import progress
from .files import RemoteFile, RemoteFiles
from .in_flight import in_flight
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

    def __init__(self, classes: Sequence[str], find: Callable[[str], ClassTar], check: Callable[[str], object]) -> None:
        """
        Args:
            classes: names of the classes.
            find: gives the tar of a class. Raises FileNotFoundError where there is none.
            check: raises OSError where the tar of a class has changed since it was found.
        """
        self.classes = sorted(classes)
        self._find, self._check = find, check

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        names = [self.classes[label] for label in labels]
        tars = dict(in_flight(lambda name: (name, self._find(name)), names, threading.Event()))
        bound = sum(tar.size for tar in tars.values())
        what = "all images" if limit is None else f"up to {limit} images, the first ones,"
        log(f"fetching {what} of each of {len(names)} classes, at most {bound / 1e6:.1f} MB")
        with progress(bound if limit is None else None) as on_bytes:
            ended = threading.Event()

            def one(name: str) -> None:
                _ClassFetch(name, tars[name], folder, limit).run(on_bytes, ended, lambda: self._check(name))

            for _ in in_flight(one, names, ended):
                pass


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of class tars at ``paths``; of those of the known classes in the URL's folder if there are none."""
    by_class = _by_class({files.shown(path): path for path in paths}, files.name)
    if not by_class:
        by_class = {name: files.join(f"{name}.tar") for name in options.classes or ()}
    found: dict[str, RemoteFile] = {}

    def find(name: str) -> ClassTar:
        path = by_class[name]
        found[name] = files.info(path)
        read = _reader(files, path)
        return ClassTar(files.shown(path), read, found[name].size, found[name].version)

    return ClassTars(list(by_class), find, lambda name: files.check_unchanged(found[name]))


def large_layout(files: RemoteFiles, parts: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of one large tar of class tars, which may come in several parts."""
    infos = files.infos(parts)
    chain = _Chain(files, infos, folder)
    if options.classes is None:
        if not chain.is_whole:
            log(f"{files.url}: looking for its classes, once: a request for each")
        classes = list(_by_class({name: name for name in chain.names()}, str))
        if not classes:
            raise ValueError(f"{files.url}: expected a tar file of class tars, such as n01440764.tar, got none in it")
    else:
        classes = list(options.classes)
    size = sum(info.size for info in infos)

    def check(name: str) -> None:
        for info in infos:
            files.check_unchanged(info)

    found = ClassTars(classes, chain.find, check)
    found.size = size
    return found


def class_name(name: str) -> str:
    """The class whose tar has this name."""
    stem = PurePosixPath(name).name
    return unicodedata.normalize("NFC", stem[: -len(".tar")] if stem.lower().endswith(".tar") else stem).strip()


def _by_class(paths: Mapping[str, str], name_of: Callable[[str], str]) -> dict[str, str]:
    """The path of each class's tar. Raises ValueError where two tars are of one class; the keys are for messages."""
    found: dict[str, str] = {}
    for shown, path in paths.items():
        name = class_name(name_of(path))
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
        self._lock = threading.Lock()
        self._next: int | None = state.get("next", 0)
        """Where the next header is; None at the end."""

    @property
    def is_whole(self) -> bool:
        """Whether all members are known."""
        return self._next is None

    def names(self) -> list[str]:
        """Names of all class tars."""
        for _ in self._walk():
            pass
        return list(self._members)

    def find(self, name: str) -> ClassTar:
        """The tar of a class; looks no further than to it. Raises FileNotFoundError where there is none."""
        with self._lock, closing(self._walk()) as walk:
            known = {class_name(member): member for member in self._members}
            while name not in known and (member := next(walk, None)) is not None:
                known[class_name(member)] = member
        if name not in known:
            raise FileNotFoundError(f"{self._files.url}: has no tar of the class {name}, expected {name}.tar in it")
        begin, size = self._members[known[name]]

        def read(first: int, end: int) -> bytes:
            return self._read(begin + first, begin + end)

        version = " ".join(part.version for part in self._parts)
        return ClassTar(f"{self._files.url}/{known[name]}", read, size, version)

    def _walk(self) -> Generator[str, None, None]:
        """Finds the class tars that follow those that are known; yields the name of each."""
        if self._next is None:
            return
        stream = RangeFile(self._read, self._size, tarfile.BLOCKSIZE + 1)
        stream.seek(self._next)
        seen = 0
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]
                    seen, self._next = seen + 1, tar.offset
                    if member.isreg() and member.name.lower().endswith(".tar"):
                        self._members[member.name] = (member.offset_data, member.size)
                        yield member.name
                    if seen % HEADERS_KEPT == 0:
                        self._keep()
                _check_end(stream, tar)
            self._next = None
        except _DAMAGE as error:
            raise ValueError(f"{self._files.url}: expected a whole, uncompressed tar file: {error}") from error
        finally:
            self._keep()

    def _keep(self) -> None:
        members = [(name, at, size) for name, (at, size) in self._members.items()]
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


def _reader(files: RemoteFiles, path: str) -> Callable[[int, int], bytes]:
    return lambda begin, end: files.read(path, begin, end)


def _check_end(stream: RangeFile, tar: tarfile.TarFile) -> None:
    """Raises TarError where a tar file does not end: tarfile takes a damaged header for the end."""
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a header nor the end at byte {tar.offset}")


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

    def run(self, on_bytes: Callable[[int], object], ended: threading.Event, check: Callable[[], object]) -> None:
        """Fetches; stops at the next request after ``ended`` is set. Raises OSError, also where ``check`` does."""

        def read(begin: int, end: int) -> bytes:
            self.folder.keep(self.name, self.held)  # the images so far are written: they are not fetched again
            data = b"" if ended.is_set() else self.tar.read(begin, end)
            if ended.is_set():
                raise InterruptedError("another class could not be fetched")
            on_bytes(len(data))
            return data

        stream = RangeFile(read, self.tar.size, self._ahead())
        stream.seek(self.held.state["next"])
        try:
            if self.limit is None or len(self.held.files) < self.limit:
                with tarfile.open(fileobj=stream, mode="r:") as opened:
                    self._take(opened, stream)
        except _DAMAGE as error:
            self.held.bad.append(BadFile(self.tar.name, f"expected a whole, uncompressed tar file: {error}"))
            self.limit = None
        check()  # before the class counts as whole: of another version, the next fetch begins anew
        self.held.is_whole, self.held.limit = True, self.limit
        self.folder.keep(self.name, self.held)

    def _take(self, opened: tarfile.TarFile, stream: RangeFile) -> None:
        """Writes images until there are ``limit``, or until the tar's end, where the limit becomes None."""
        held = self.held
        while self.limit is None or len(held.files) < self.limit:
            stream.read_ahead = self._ahead()
            member = opened.next()
            if member is None:
                _check_end(stream, opened)
                self.limit = None
                return
            opened.members.clear()  # type: ignore[attr-defined]
            last = PurePosixPath(member.name).name
            reason = None if member.isdir() else unusable(member)
            stream.read_ahead = self._ahead(coming=1)
            if reason is None and member.isreg() and not is_silent(last) and _is_image(last, member, stream):
                reason = self._write(last, _bytes(stream, member, member.size), member.size)
            if reason:
                held.bad.append(BadFile(f"{self.tar.name}/{member.name}", reason))
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
        self.held.files.append((file, size))
        self.held.state["members"].append(member)
        return None

    def _ahead(self, coming: int = 0) -> int:
        """How many bytes to read ahead: about what the images that are missing take, and no more than a piece.

        Four fifths of the mean of the images so far, so that little is read behind the last one.
        """
        if self.limit is None:
            return PIECE
        missing = self.limit - len(self.held.files) - coming
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
