"""JPEG files that Pillow does not write: with other markers, and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator

ADOBE = b"\xff\xee"
JFIF = b"\xff\xe0"
EXIF = b"\xff\xe1"


def segments(jpeg: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the marker and the content of each segment before the image's data, which come last, with marker SOS."""
    place = 2
    while (marker := jpeg[place : place + 2]) != b"\xff\xda":
        (length,) = struct.unpack_from(">H", jpeg, place + 2)
        yield marker, jpeg[place + 4 : place + 2 + length]
        place += 2 + length
    yield marker, jpeg[place + 2 :]


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    *heads, (marker, data) = parts
    segments = b"".join(marker + struct.pack(">H", len(content) + 2) + content for marker, content in heads)
    return b"\xff\xd8" + segments + marker + data


def without(jpeg: bytes, *markers: bytes) -> bytes:
    """The file without its segments of some markers."""
    return joined([(marker, content) for marker, content in segments(jpeg) if marker not in markers])


def with_segments(jpeg: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The file with further segments, after JFIF's."""
    parts = list(segments(jpeg))
    place = 1 if parts[0][0] == JFIF else 0
    return joined([*parts[:place], *more, *parts[place:]])


def with_precision(jpeg: bytes, bits: int) -> bytes:
    """The file with another number of bits for each sample in its frame header."""
    return joined(
        [
            (marker, bytes([bits]) + content[1:] if marker in (b"\xff\xc0", b"\xff\xc2") else content)
            for marker, content in segments(jpeg)
        ]
    )


def exif(orientation: int, *, order: bytes = b"II", kind: int = 3, count: int = 1, head: bytes = b"Exif\0\0") -> bytes:
    """The content of an EXIF segment with one tag. ``kind`` is TIFF's type of its value: 1 byte, 3 short, 4 long."""
    e = {b"II": "<", b"MM": ">"}[order]
    value = struct.pack(e + {1: "Bxxx", 3: "Hxx", 4: "I"}[kind], orientation)
    entry = struct.pack(f"{e}HHI", 0x0112, kind, count) + value
    return head + order + struct.pack(f"{e}HIH", 42, 8, 1) + entry + bytes(4)


def xmp(orientation: int) -> bytes:
    """The content of an XMP segment that holds an orientation."""
    about = b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"' % orientation
    rdf = b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    description = b"<rdf:RDF %s><rdf:Description %s/></rdf:RDF>" % (rdf, about)
    return b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/">%s</x:xmpmeta>' % description
