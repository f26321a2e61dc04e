"""Tells which JPEG files all decoders read alike. The others go to Pillow.

DALI takes CMYK for inverted only where Adobe's marker is, as the standard has it; Pillow and torchvision do always, as
the files that are found have it. And the libraries find the orientation in different places: Pillow alone in XMP,
torchvision in the first APP1 segment alone, DALI in the last one.
"""

from __future__ import annotations

import struct
from typing import Any

import PIL.Image

_ORIENTATION = 0x0112
_SHORT = 3
"""TIFF's type of an unsigned integer of two bytes, which an orientation has to have."""


def all_decoders_agree(image: PIL.Image.Image) -> bool:
    """Whether a JPEG file is grey or RGB, and its orientation is in the one place where every decoder finds it."""
    if image.mode not in ("L", "RGB"):
        return False
    applist: list[tuple[str, bytes]] = getattr(image, "applist", [])
    segments = [data for name, data in applist if name == "APP1"]
    # torchvision takes the first segment for EXIF whatever it is called.
    exif = [data for data in segments if not data.startswith(b"http://ns.adobe.com/")]
    in_xmp = any(b"tiff:Orientation" in data for data in segments)
    if not exif:
        return not in_xmp
    if len(exif) > 1 or segments[0] is not exif[0]:
        return False
    kinds = _orientation_kinds(exif[0])
    return kinds == [(_SHORT, 1)] or (kinds == [] and not in_xmp)


def _orientation_kinds(exif: bytes) -> list[tuple[int, int]] | None:
    """Type and count of each orientation in an EXIF segment; None where the segment is damaged."""
    order = {b"Exif\0\0II": "<", b"Exif\0\0MM": ">"}.get(exif[:8])
    tiff: Any = memoryview(exif)[6:]
    try:
        if order is None:
            return None
        magic, offset = struct.unpack_from(f"{order}HI", tiff, 2)
        (count,) = struct.unpack_from(f"{order}H", tiff, offset)
        entries = [struct.unpack_from(f"{order}HHI4x", tiff, offset + 2 + 12 * i) for i in range(count)]
    except struct.error:
        return None
    return [(kind, number) for tag, kind, number in entries if tag == _ORIENTATION] if magic == 42 else None
