"""Fetching a file whole, for what has no parts that could be fetched alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from .files import IN_FLIGHT, Range, RemoteFile, RemoteFiles
from .ranges import LARGEST_BLOCK


def fetch_whole(files: RemoteFiles, file: RemoteFile, target: Path, on_bytes: Callable[[int], object]) -> None:
    """Fetches a file whole, from where an earlier try ended; does nothing where it is there.

    Args:
        files: reads the file.
        file: the file, as its server describes it.
        target: where it goes, whole or not at all. What has come of it is kept beside it meanwhile.
        on_bytes: is told how many bytes have come.

    Raises OSError where the file cannot be read, has changed, or is not what the Hub's SHA-256 says.
    """
    if target.exists():
        return
    part = target.with_name(f"{target.name}.part")
    with part.open("ab") as out:
        for begin in range(out.tell(), file.size, IN_FLIGHT * LARGEST_BLOCK):
            ends = range(begin, min(begin + IN_FLIGHT * LARGEST_BLOCK, file.size), LARGEST_BLOCK)
            blocks = [Range(file.path, at, min(at + LARGEST_BLOCK, file.size)) for at in ends]
            read = dict(files.read_ranges(blocks, on_bytes))
            out.writelines(read[i] for i in range(len(blocks)))
            out.flush()
    files.check_unchanged(file)
    expected = getattr(files.fs.info(file.path).get("lfs"), "sha256", None) if files.protocol == "hf" else None
    if expected is not None and _sha256(part) != expected:
        part.unlink()
        raise OSError(f"{files.shown(file.path)}: its SHA-256 is not what the hub says: run it again")
    part.rename(target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
