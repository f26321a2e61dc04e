"""Fetching encoded images that lie within remote files into the image folder of a source."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import NamedTuple

from ...runtime.files import readable_bytes
from ...runtime.progress import Progress
from ..catalog import Log
from ..dataset import BadFile
from .cache import Found, SafeNames, SourceFolder
from .files import Range, RemoteFile, RemoteFiles


class Piece(NamedTuple):
    """An encoded image, which is a member of a remote tar file."""

    class_name: str
    member: str
    """Its name, which the tar header, the 512 bytes before ``offset``, must tell."""
    file: RemoteFile
    offset: int
    """Position of its first byte in the file."""
    size: int
    """In bytes."""


def fetch_pieces(
    files: RemoteFiles, pieces: Sequence[Piece], folder: SourceFolder, limit: int | None, log: Log
) -> None:
    """Fetches the images of some classes, and notes that these classes are complete. What is there is not fetched.

    Args:
        files: reads the pieces' files.
        pieces: all images that are wanted of each class, in the source's order. Each class has at least one.
        folder: gets the images.
        limit: how many images of each class were asked for; None for all.
        log: gets lines for the user.

    Broken pieces are bad files. Raises OSError or ValueError where something cannot be fetched, or a file has
    changed meanwhile; what has come by then is kept.
    """
    names = _file_names(pieces)
    reasons = {i: reason for i, piece in enumerate(pieces) if (reason := _fault(piece))}
    missing = [
        i
        for i, piece in enumerate(pieces)
        if i not in reasons and not folder.has(piece.class_name, names[i], piece.size)
    ]
    ranges = [
        Range(piece.file.path, piece.offset - tarfile.BLOCKSIZE, piece.offset + piece.size)
        for piece in (pieces[i] for i in missing)
    ]
    total = sum(one.end - one.begin for one in ranges)
    if missing:
        log(to_fetch(len(missing), total, len(pieces) - len(reasons) - len(missing)))
    with Progress(total, "fetching", unit="B") as bar:
        for at, data in files.read_ranges(ranges, bar.update):
            i = missing[at]
            if reason := _header_fault(data[: tarfile.BLOCKSIZE], pieces[i]):
                reasons[i] = reason
            else:
                folder.write(pieces[i].class_name, names[i], data[tarfile.BLOCKSIZE :])
    for file in dict.fromkeys(pieces[i].file for i in missing):
        try:
            files.check_unchanged(file)
        except OSError:
            for i in (i for i in missing if pieces[i].file == file):
                (folder.class_folder(pieces[i].class_name) / names[i]).unlink(missing_ok=True)
            raise
    found: dict[str, list[Found]] = {}
    for i, piece in enumerate(pieces):
        bad = BadFile(f"{files.shown(piece.file.path)}/{piece.member}", reasons[i]) if i in reasons else None
        found.setdefault(piece.class_name, []).append(bad or (names[i], piece.size))
    for class_name, of_class in found.items():
        folder.complete(class_name, of_class, limit)


def to_fetch(images: int, size: float, there: int = 0) -> str:
    """A line on how much will be fetched."""
    return f"fetching {images} images, {readable_bytes(size)}" + (f" ({there} are there)" if there else "")


def _file_names(pieces: Sequence[Piece]) -> list[str]:
    """The file name of each piece. The names of a class follow from the pieces of this class and their order alone."""
    names: dict[str, SafeNames] = {}
    return [names.setdefault(piece.class_name, SafeNames())(piece.member) for piece in pieces]


def _fault(piece: Piece) -> str | None:
    """Why a piece cannot be whole, by what is known before it is fetched; None where it may be."""
    if piece.size <= 0:
        return "an empty file"
    if piece.offset + piece.size > piece.file.size or piece.offset < tarfile.BLOCKSIZE:
        return f"its file ends within it, at byte {piece.file.size}: the file is cut off, or the index of another one"
    return None


def _header_fault(header: bytes, piece: Piece) -> str | None:
    """Why a tar header is not that of a piece; None where it is."""
    older = "the index is older than the shards: run xmixup index again"
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return f"no tar header before it; {older}"
    # The header of a long name, or one that is not ASCII, need not hold all of it.
    is_named = not piece.member.isascii() or len(piece.member) > 99 or _plain(info.name) == _plain(piece.member)
    if not info.isreg() or info.size != piece.size or not is_named:
        return f"the tar header before it names {info.name}, {info.size} bytes; {older}"
    return None


def _plain(member: str) -> str:
    return member.removeprefix("./")
