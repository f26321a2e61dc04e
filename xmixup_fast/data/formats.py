"""The formats of images, and how a file is told to be an image.

This is a list of our own, never Pillow's default: Pillow would start Ghostscript for an EPS file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

NOT_AN_IMAGE = "not a JPEG, PNG, WebP, TIFF, GIF, BMP, ICO, PPM, JPEG 2000, AVIF, HEIC or TGA image"
"""What is wrong with a file in none of the formats."""

_EXTENSIONS = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .mpo",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "ICO": ".ico",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .hif .heics .heifs",
    "TGA": ".tga .icb .vda .vst",
}

FORMATS = tuple(_EXTENSIONS)
"""Pillow's names of the formats. TGA is the last one, since its files do not begin with a magic number."""

EXTENSIONS = {extension for extensions in _EXTENSIONS.values() for extension in extensions.split()}
"""How the names of image files end, in lower case."""

HEAD = 32
"""As many first bytes tell a format."""

_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]|II\0[*+]|MM[*+]\0",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x10(48@l|]\0{3}",  # then the size of one of the headers that there are
    "DIB": rb"(\x0c\0{3}.{4}|[(48@l|]\0{3}.{8})\x01\0",  # that size, and one plane
    "ICO": rb"\0\0\x01\0[^\0]\0.{3}\0",
    "PPM": rb"P[1-6Ff]\s+[\d#]",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb".{4}ftyp(.{4})*?(avif|avis)",
    "HEIF": rb".{4}ftyp(.{4})*?(hei[cxms]|hev[cxms]|mif1|msf1)",
}
"""How files of each format begin. A later format is asked for where an earlier one does not fit."""

_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _MAGIC.items()}


def format_of(head: bytes) -> str | None:
    """The format, one of FORMATS, of a file that begins with ``head``; None where the bytes do not tell, as of TGA."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(head[:HEAD])), None)


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image, by its name or else by its first bytes.

    Args:
        name: the file's name.
        head: reads the first 32 bytes, or fewer; called where the name does not tell. What it raises is raised.
    """
    return PurePath(name).suffix.lower() in EXTENSIONS or format_of(head()) is not None
