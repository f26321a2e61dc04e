"""Writing files that are whole or absent, whenever the process dies; and where caches are kept."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .signals import unfinished


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a path to write to, in the same folder, which takes the name ``path`` once it is written and on disk."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    unfinished.add(aside)
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        unfinished.discard(aside)


@contextmanager
def folder_aside(parent: Path, prefix: str) -> Iterator[Path]:
    """Makes a folder in another one for what is not finished yet, and removes it at the end, however that comes."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        unfinished.add(Path(name))
        try:
            yield Path(name)
        finally:
            unfinished.discard(Path(name))


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file in one piece; escapes stand for bytes of file names that are not Unicode."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file for people to read, in one piece."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def file_digest(path: Path, algorithm: str) -> str:
    """The digest of a file in hexadecimal, by one of hashlib's algorithms, such as sha256."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def readable_bytes(count: float) -> str:
    """A number of bytes for people: 146 MB."""
    for size, unit in _UNITS:
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count:.0f} bytes"


def write_between_markers(file: Path, writer: str, text: str) -> None:
    """Replaces what a command, the writer, has written to a file before. Raises as :func:`around_markers` does."""
    before, after = around_markers(file, writer)
    write_text(file, f"{before}\n{text}\n{after}")


def around_markers(file: Path, writer: str) -> tuple[str, str]:
    """A file up to and with the line that marks where the writer's text begins, and from that of its end.

    Raises OSError, and ValueError where the two lines are missing.
    """
    begin, end = (f"<!-- {edge}: written by {writer} -->" for edge in ("begin", "end"))
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{file}: expected the lines '{begin}' and '{end}'")
    return before + begin, end + after


def check_writable(folder: Path, name: str = "output") -> None:
    """Raises OSError where the folder, or what is there of the path to it, cannot be written to. Leaves nothing.

    ``name`` is that of the flag.
    """
    there = folder
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{name}: {folder}: cannot be written ({there}: {error.strerror or error})") from error


def _is_there(path: Path) -> bool:
    """Whether there is anything at a path: a link that leads nowhere, too, which is in the way."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_file_writable(path: Path, name: str = "output") -> None:
    """Raises OSError where a file cannot be written at this path. Leaves nothing. ``name`` is that of the flag."""
    check_writable(path.parent, name)
    if path.is_dir():
        raise IsADirectoryError(f"{name}: expected a file, got the folder {path}")


def check_replaceable(path: Path, start: str, what: str) -> None:
    """Raises FileExistsError for a file, not empty, that does not begin as ``what`` a command writes there does."""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(start.encode()))
        if head not in (b"", start.encode()):
            raise FileExistsError(f"output: {path} holds something else than {what}; name another file, or remove it")


def default_cache() -> Path:
    """$XMIXUP_CACHE, where ``~`` and variables are expanded, or else ~/.cache/xmixup_fast."""
    given = os.environ.get("XMIXUP_CACHE") or "~/.cache/xmixup_fast"
    return Path(os.path.expandvars(given)).expanduser()


@contextmanager
def writing_to_cache(folder: Path) -> Iterator[None]:
    """Makes a folder of the cache; an OSError while it is written to says that it is the cache that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BrokenPipeError:  # of the console: nobody reads the lines that are printed meanwhile
        raise
    except OSError as error:
        raise OSError(f"cache: {folder}: {error.strerror or error}; name another folder, or none") from error
