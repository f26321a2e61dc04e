"""Tells which TIFF files Pillow opens without reading the photo that they hold, or with other values than theirs."""

from __future__ import annotations

from typing import Any, BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from .. import formats

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PLANES = 256, 257, 258, 259, 284
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_IFDS, _SAMPLE_FORMAT, _DNG_VERSION = 254, 255, 330, 339, 50706
_UNCOMPRESSED, _SEPARATE, _SIGNED = 1, 2, 2
_PREVIEW = (
    "its first page is marked as a reduced-resolution image, as in camera RAW; convert the photo to JPEG, PNG or TIFF"
)
_LARGER = (
    "its first page is a preview of a larger image inside of it, as in camera RAW; convert the photo to JPEG, PNG or "
    "TIFF"
)


def fault(image: TiffImageFile) -> str | None:
    """Why an opened TIFF file cannot be used, with the way out; None where Pillow reads its first page rightly."""
    tags: Any = image.tag_v2
    bits, formats_of_samples = _numbers(tags, _BITS), _numbers(tags, _SAMPLE_FORMAT)
    if _DNG_VERSION in tags or formats.is_raw("", _start(image)):
        return formats.NO_CAMERA_RAW
    if any(number & 1 for number in _numbers(tags, _NEW_SUBFILE_TYPE)) or _numbers(tags, _SUBFILE_TYPE) == (2,):
        return _PREVIEW
    if _has_larger(image):
        return _LARGER
    if _SIGNED in formats_of_samples and max(bits, default=1) <= 8:
        return "signed samples of 8 bits, which Pillow takes for unsigned; save it with unsigned samples"
    if (
        _SEPARATE in _numbers(tags, _PLANES)
        and max(bits, default=1) > 8
        and _numbers(tags, _COMPRESSION) in ((), (_UNCOMPRESSED,))
    ):
        return (
            f"{max(bits)}-bit samples in separate planes, uncompressed, which Pillow misreads; save it with 8 bits, or "
            "with interleaved samples (PlanarConfiguration 1)"
        )
    return None


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    """The whole numbers of a tag, which is a single one or a tuple; empty where the tag is missing."""
    value = tags.get(tag, ())
    return tuple(number for number in (value if isinstance(value, tuple) else (value,)) if isinstance(number, int))


def _start(image: TiffImageFile) -> bytes:
    """The file's first bytes."""
    stream: BinaryIO = image.fp  # type: ignore[assignment]  # Pillow's own, which an opened file has
    stream.seek(0)
    return stream.read(formats.HEAD)


def _has_larger(image: TiffImageFile) -> bool:
    """Whether an image below the first page has more pixels: there, cameras keep RAW."""
    head, tags = _start(image), image.tag_v2
    for offset in _numbers(tags, _SUB_IFDS):
        below: Any = ImageFileDirectory_v2(head[: 16 if head[2] == 43 or head[3] == 43 else 8])
        try:
            image.fp.seek(offset)  # type: ignore[union-attr]
            below.load(image.fp)
            sizes = [_numbers(below, tag) for tag in (_WIDTH, _HEIGHT)]
        except Exception:  # parsers of damaged bytes raise almost anything; the first page may be sound
            continue
        if all(sizes) and sizes[0][0] * sizes[1][0] > image.width * image.height:
            return True
    return False
