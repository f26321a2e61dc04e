"""Images as users name them one by one: files, folders, patterns, URLs, tables, lists in files, and standard input."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from ..settings.values import expanded, public_url
from .dataset import BadFile, FileImage, Image
from .formats import HEAD, format_of
from .readers.folder import find_images
from .readers.table import read_paths

STANDARD_INPUT = "-"
TABLES = (".csv", ".tsv", ".parquet")
"""How the names of tables end."""
LISTS = (".txt", ".lst", ".list")
"""How the names of files often end that list images; they are taken for lists where an @ says so."""
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Characters that are in no list of names."""


@dataclass(frozen=True)
class UrlImage(Image):
    """An image at a URL of any filesystem of fsspec's."""

    url: str

    @property
    def name(self) -> str:
        return self.url

    def read(self) -> bytes:
        from .remote.files import RemoteFiles

        try:
            return RemoteFiles(self.url).read_whole()
        except (OSError, ImportError, ValueError) as error:  # a package may be missing, or the protocol be unknown
            # Whoever reports the error names the image.
            raise OSError(str(error).removeprefix(f"{public_url(self.url)}: ")) from error

    def stamp(self) -> str:
        return self.url


@dataclass(frozen=True)
class BytesImage(Image):
    """An image in memory."""

    title: str
    data: bytes

    @property
    def name(self) -> str:
        return self.title

    def read(self) -> bytes:
        return self.data

    def stamp(self) -> str:
        return self.content().digest


def find_inputs(
    names: Iterable[str | os.PathLike[str]], bad: list[BadFile], ignored: dict[tuple[str, str], int]
) -> Iterator[Image]:
    """Yields the images that are named, in this order, while they are looked for.

    Args:
        names: ``-``, an image or a list of names on standard input; ``@FILE``, a list of names in a file, ``@-`` in any
            case on standard input; or what a line of a list may be: a file, a folder, whose images are found at any
            depth, a table (.csv, .tsv, .parquet) with a column ``path``, a URL, or a pattern such as ``a/*.jpg``, where
            ``**`` stands for any number of folders. What is there under a name is taken as it is, whatever the name
            looks like.
        bad: gets what is not there, or cannot be used.
        ignored: gets the numbers of files in folders that are no images, by folder and extension.

    Raises ValueError for a table or a list that cannot be read.
    """
    for name in (os.fspath(one) for one in names):
        if name == STANDARD_INPUT:
            yield from _standard_input(bad, ignored)
        elif name.startswith("@") and not os.path.lexists(name):
            for line in _listed(name[1:]):
                yield from _named(line, bad, ignored)
        else:
            yield from _named(name, bad, ignored)


def _named(name: str, bad: list[BadFile], ignored: dict[tuple[str, str], int]) -> Iterator[Image]:
    """The images of a name that is neither standard input nor a list."""
    name = name if os.path.lexists(name) else expanded("images", name)
    path = Path(name)
    if "://" in name and not os.path.lexists(name):
        yield UrlImage(name)
    elif path.is_dir():
        before, images = len(bad), find_images(path, bad, ignored)
        first = next(images, None)
        if first is not None:
            yield first
            yield from images
        elif len(bad) == before:
            bad.append(BadFile(name, "holds no images"))
    elif path.is_file() and path.suffix.lower() in TABLES:
        for found in read_paths(path):
            if isinstance(found, BadFile):
                bad.append(found)
            else:
                yield found
    elif path.is_file() and path.suffix.lower() in LISTS:
        bad.append(BadFile(name, f"a text; @{name} takes it for a list of images"))
    elif path.is_file():
        yield FileImage(path)
    elif glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            bad.append(BadFile(name, "no file or folder fits this pattern"))
        for match in matches:
            if not os.path.isdir(match):
                yield from _named(match, bad, ignored)
            elif not name.endswith("**"):  # with which all that is in folders comes, too: each file once
                yield from find_images(Path(match), bad, ignored)
    else:
        bad.append(BadFile(name, "not a file or folder" if path.exists() else "no such file or folder"))


def _standard_input(bad: list[BadFile], ignored: dict[tuple[str, str], int]) -> Iterator[Image]:
    """The image on standard input, or those that a list there names."""
    stream = sys.stdin.buffer if sys.stdin is not None else None
    if stream is None:
        bad.append(BadFile(STANDARD_INPUT, "there is no standard input"))
        return
    head = stream.read(HEAD)
    if format_of(head) is not None:
        yield BytesImage(STANDARD_INPUT, head + stream.read())
        return
    for line in _lines(head, stream, STANDARD_INPUT):
        yield from _named(line, bad, ignored)


def _listed(file: str) -> Iterator[str]:
    """The names in a list, which is a file or standard input. Raises ValueError where it cannot be read."""
    if file == STANDARD_INPUT:
        if sys.stdin is None:
            raise ValueError("images: @-: there is no standard input")
        yield from _lines(b"", sys.stdin.buffer, "@-")
        return
    file = expanded("images", file)
    try:
        with open(file, "rb") as stream:
            yield from _lines(b"", stream, f"@{file}")
    except OSError as error:
        raise ValueError(f"images: @{file}: expected a list of images, a line each ({error.strerror})") from error


def _lines(head: bytes, stream: BinaryIO, source: str) -> Iterator[str]:
    """The names in a stream that begins with ``head``: its lines, but empty ones, or what lies between zero bytes.

    The text is UTF-8, or UTF-16 with a byte order mark. Lines are yielded as they come. Raises ValueError, with the
    name of the ``source``, where it is no text.
    """
    first = head + stream.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        names: Iterable[str] = (first + stream.read()).decode("utf-16").splitlines()
    elif b"\0" in first:  # of find -print0
        names = map(os.fsdecode, (first + stream.read()).split(b"\0"))
    else:
        lines = chain(first.removeprefix(codecs.BOM_UTF8).splitlines(), stream)
        names = (os.fsdecode(line).rstrip("\r\n") for line in lines)
    for number, name in enumerate(names, start=1):
        if os.path.lexists(name):
            yield name
        elif _NO_TEXT.search(name):
            raise ValueError(f"images: {source}: expected a list of images, a line each; line {number} is no text")
        elif name.strip():
            yield name.strip()
