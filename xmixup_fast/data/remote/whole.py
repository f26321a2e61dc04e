"""Fetching files whole, for what has no parts that could be fetched alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ...runtime.files import file_digest, writing_to_cache
from ...runtime.progress import Progress
from .files import IN_FLIGHT, Range, RemoteFile, RemoteFiles
from .ranges import LARGEST_BLOCK


class Whole(NamedTuple):
    """A file to fetch whole."""

    files: RemoteFiles
    file: RemoteFile
    target: Path
    """Where it goes, whole or not at all. What has come of it is kept beside it meanwhile."""

    @property
    def part(self) -> Path:
        """What has come of it."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def there(self) -> int:
        """How many of its bytes have come."""
        return next((path.stat().st_size for path in (self.target, self.part) if path.exists()), 0)


def fetch_whole(wanted: Sequence[Whole]) -> None:
    """Fetches files whole, from where an earlier try ended; does nothing where they are there.

    Raises OSError where a file cannot be read or written, has changed, or is not what the Hub's SHA-256 says.
    """
    total, done = sum(one.file.size for one in wanted), sum(one.there for one in wanted)
    with Progress(total, "fetching", unit="B", done=done) as bar:
        for one in wanted:
            if not one.target.exists():
                _fetch(one, bar.update)


def _fetch(one: Whole, on_bytes: Callable[[int], object]) -> None:
    files, file, target = one
    for begin in range(one.there, file.size, IN_FLIGHT * LARGEST_BLOCK):
        ends = range(begin, min(begin + IN_FLIGHT * LARGEST_BLOCK, file.size), LARGEST_BLOCK)
        blocks = [Range(file.path, at, min(at + LARGEST_BLOCK, file.size)) for at in ends]
        read = dict(files.read_ranges(blocks, on_bytes))
        with writing_to_cache(target.parent), one.part.open("ab") as out:
            out.writelines(read[i] for i in range(len(blocks)))
    files.check_unchanged(file)
    expected = files.sha256(file.path)
    if expected is not None and file_digest(one.part, "sha256") != expected:
        one.part.unlink()
        raise OSError(f"{files.shown(file.path)}: its SHA-256 is not what the hub says: run it again")
    with writing_to_cache(target.parent):
        one.part.touch()  # an empty file has had no block
        one.part.rename(target)
