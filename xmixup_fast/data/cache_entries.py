"""What is in the cache: how large it is, when it was used last, what it is of; and how it is removed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..runtime.claims import locked
from ..settings.values import format_bytes

POOLS, HASHES, SELECTION, SOURCES = "pools", "hashes", "selection", "sources"
"""Folders in the cache: of decoded images, contents of images, passes over sources, images that were fetched."""
RECORD_BYTES = 32
"""Of an image in the index of a pack, see image_cache.py."""


ADDED_BYTES = 2**30
"""A run that adds more to the cache says so."""


class Entry(NamedTuple):
    """What is removed together."""

    name: str
    """Below the cache's folder."""
    files: tuple[Path, ...]
    """Its files or, of what was fetched, its folder. An index of pixels comes before these."""
    bytes: int
    used: float
    """When it was used last, in seconds since 1970."""
    about: str
    """What it is of, for people."""

    @property
    def is_pixels(self) -> bool:
        """Whether these are decoded images, which any run makes again."""
        return self.name.startswith(f"{POOLS}/")

    def remove(self) -> bool:
        """Removes it. Returns False where a process is writing to it. Raises OSError where that fails."""
        lock = self.files[0] / "lock" if self.name.startswith(f"{SOURCES}/") else None
        if self.is_pixels:
            lock = self.files[0].with_name(f"{Path(self.name).name}.lock")
        try:
            if lock is None:
                self._unlink()
            else:
                with locked(lock, wait=False):
                    self._unlink()
                    lock.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True

    def _unlink(self) -> None:
        for path in self.files:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def entries(cache: Path) -> list[Entry]:
    """All that is in the cache, the longest unused first."""
    found = [*_pools(cache / POOLS), *_sources(cache / SOURCES)]
    for name, about in ((SELECTION, "what selections saw in sources"), (HASHES, "which content each file has")):
        if files := _files(cache / name):
            found.append(_entry(name, files, about))
    return sorted(found, key=lambda entry: entry.used)


def shrink(cache: Path, limit: int, before: float | None = None) -> list[Entry]:
    """Removes decoded images, the longest unused first, until the cache has ``limit`` bytes at most.

    What was fetched counts not, and stays. Nothing is removed that was used since ``before``, in seconds since 1970, or
    that a process is writing to. Returns what was removed. Raises OSError where that fails.
    """
    kept = [entry for entry in entries(cache) if not entry.name.startswith(f"{SOURCES}/")]
    size = sum(entry.bytes for entry in kept)
    removed = []
    for entry in kept:
        if size > limit and entry.is_pixels and (before is None or entry.used < before) and entry.remove():
            size -= entry.bytes
            removed.append(entry)
    return removed


def _pools(folder: Path) -> Iterator[Entry]:
    """The packs; what is of none, such as unfinished files, is an entry for each first part of a name."""
    groups: dict[str, list[Path]] = {}
    for path in _files(folder):
        groups.setdefault(path.name.lstrip(".").partition(".")[0], []).append(path)
    for name, files in groups.items():
        if [path.suffix for path in files] == [".lock"]:
            continue  # of a pack that is being made, or could not be
        files.sort(key=lambda path: path.suffix != ".index")
        about = _about(folder / f"{name}.json", folder / f"{name}.index")
        yield _entry(f"{POOLS}/{name}", [path for path in files if path.suffix != ".lock"], about)


def _about(file: Path, index: Path) -> str:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        count = index.stat().st_size // RECORD_BYTES
    except (OSError, ValueError):
        return "decoded images without an index, of no use"
    size = "full size" if told["short_side"] is None else f"short side {told['short_side']}"
    return f"{count} images of {told['of']}, {size}, by {told['decoder']}"


def _sources(folder: Path) -> Iterator[Entry]:
    for file in sorted(folder.glob("*/catalog.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
        yield Entry(f"{SOURCES}/{file.parent.name}", (file.parent,), size, told["used"], f"fetched from {told['url']}")


def _entry(name: str, files: Sequence[Path], about: str) -> Entry:
    size, used = 0, 0.0
    for path in files:
        with suppress(FileNotFoundError):  # another process has removed it
            status = path.stat()
            size, used = size + status.st_size, max(used, status.st_mtime)
    return Entry(name, tuple(files), size, used, about)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def when(used: float) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(used))


def total(found: Iterable[Entry]) -> int:
    """The bytes of several entries."""
    return sum(entry.bytes for entry in found)


@dataclass
class CacheUse:
    """How a run uses the cache.

    Args:
        folder: of the cache.
        limit: bytes that it may have, without what was fetched; None for no limit.
    """

    folder: Path
    limit: int | None = None
    started: float = field(default_factory=time.time)
    added: int = 0
    """Bytes of pixels that this run has added."""

    def make_room(self, size: int, log: Callable[[str], object]) -> None:
        """Removes what was used the longest ago, before the run, where ``size`` bytes more would exceed the limit.

        Says what it removes, and once that the run adds more than ADDED_BYTES. Raises OSError where that fails.
        """
        if self.limit is not None:
            for entry in shrink(self.folder, max(self.limit - size, 0), self.started):
                log(f"cache: {entry.name} removed, {format_bytes(entry.bytes)} ({entry.about})")
        before, self.added = self.added, self.added + size
        if before <= ADDED_BYTES < self.added:
            log(
                f"cache: this run adds more than {format_bytes(ADDED_BYTES)} to {self.folder}, "
                f"{format_bytes(self.added)} so far; xmixup cache lists and removes, --cache-size sets a limit, "
                "--cache none keeps nothing"
            )
