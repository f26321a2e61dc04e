"""What Pillow does: it reads the headers of all images, and decodes those that no faster library decodes.

It decodes PNG files too, because torchvision 0.29 crashes on some damaged ones.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from .. import formats
from . import deep, tiff
from .jpeg import all_decoders_agree
from .notes import COMPOSED, FIRST, REDUCED, Notes
from .reading import Reading, reduced

# Pillow warns of images above half of its limit on pixels, but reads them. A filter holds for all threads, so it is
# set once, here.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def _readable() -> list[str]:
    """The formats that Pillow reads here: AVIF if it was built so, and HEIF with pillow-heif."""
    PIL.Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    missing = set() if PIL.features.check("avif") else {"AVIF"}
    return [name for name in formats.FORMATS if name in PIL.Image.OPEN and name not in missing]


READABLE = _readable()
"""Pillow's names of the formats that are decoded. The bytes of a file tell its format, not its name."""


DEFAULT_READING = Reading()

PHOTOMETRIC = 262
"""TIFF's tag for what samples mean: in grey images, 0 says that zero is white."""

JPEGS = ("JPEG", "MPO")
"""Pillow's names of JPEG files: of one image, and of several."""

_without_limit = threading.Lock()
"""Held while Pillow's own limit on pixels is off."""

MARKS = 16
"""As many bytes before an image are looked at, to say that they are in the way."""


class Header(NamedTuple):
    """What the first bytes of an encoded image tell."""

    plain_jpeg: bool
    """Whether it is a JPEG file that all decoders read alike, so that the fastest one may decode it."""
    height: int
    """In pixels as it is decoded, before it is turned upright; so is the width."""
    width: int


class NeedsExtra(ValueError):
    """An image is in a format that an optional package reads."""


def read_header(
    stream: BinaryIO, name: str, reading: Reading = DEFAULT_READING, short_side: int | None = None
) -> Header:
    """Reads an image's header, and decodes no pixel. ``name`` tells camera RAW, of which Pillow would read a thumbnail.

    ``short_side`` is what the image is resized to, in pixels; None where it keeps its own size.

    Raises OSError where bytes cannot be read, ValueError for anything but an image in one of the formats and for an
    image with too many pixels, and NeedsExtra among these for HEIC without pillow-heif.
    """
    if formats.is_raw(name):
        raise ValueError(formats.NO_CAMERA_RAW)
    image = _open(stream)
    scale = _scale(image, reading, short_side)
    is_plain = scale == 1 and image.format in JPEGS and all_decoders_agree(image)
    return Header(is_plain, *reduced(image.height, image.width, scale))


def decode(
    data: NDArray[np.uint8],
    name: str,
    notes: Notes,
    reading: Reading = DEFAULT_READING,
    short_side: int | None = None,
) -> NDArray[np.uint8]:
    """Decodes a whole image, and turns it upright: uint8[H, W, 3].

    A JPEG file of too many pixels is decoded at a part of its size that is no less than ``short_side``. Transparent
    images are composed on the background. The first page or frame is taken, and the upper byte of 16-bit samples, or
    of the range that they use. ``notes`` counts what is changed or lost by that.

    Raises ValueError for samples that have no meaning as RGB, or too many pixels, and whatever Pillow raises for a
    damaged file.
    """
    opened: Any
    with _open(io.BytesIO(data.data)) as opened:
        scale = _scale(opened, reading, short_side)
        if scale > 1:
            # Pillow takes the largest scale at which this size, rounded down, is still reached.
            opened.draft(None, (opened.width // scale, opened.height // scale))
            notes.add(REDUCED, name)
        if isinstance(opened, TiffImageFile):
            with _no_limit():  # here Pillow checks the size again
                opened.load_prepare()
        colors = deep.Colors.of(opened)
        image: Any = PIL.ImageOps.exif_transpose(opened)
        if opened.format != "MPO" and _has_more(opened):  # phones keep previews as an MPO file's further images
            notes.add(FIRST, name)
        inverted = opened.format == "TIFF" and opened.tag_v2.get(PHOTOMETRIC) == 0
    if image.mode in ("F", "LAB"):
        kind = {"F": "floating point", "LAB": "CIELAB"}[image.mode]
        raise ValueError(f"{kind} samples, whose range is not known; save it with 8 or 16 bits, grey or RGB")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        # Pillow turns samples in which zero is white round where they have 8 bits, but not where they have 16.
        pixels = deep.grey(samples, name, notes, reading, inverted=inverted and image.mode != "I")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and (samples == transparent).any():
            pixels[samples == transparent] = reading.background
            notes.add(COMPOSED, name)
        return pixels
    if colors is not None:
        image = colors.in_range(image, lambda: _lower_bytes(data, colors), name, notes, reading)
    return np.array(_composed(image, name, notes, reading) if image.has_transparency_data else image.convert("RGB"))


def _lower_bytes(data: NDArray[np.uint8], colors: deep.Colors) -> PIL.Image.Image:
    """The image that the lower bytes of 16-bit colours make, turned upright."""
    with _open(io.BytesIO(data.data)) as opened:
        colors.take_lower(opened)
        if isinstance(opened, TiffImageFile):
            with _no_limit():
                opened.load_prepare()
        upright: PIL.Image.Image = PIL.ImageOps.exif_transpose(opened)
        return upright


def _scale(image: PIL.Image.Image, reading: Reading, short_side: int | None) -> int:
    """The part of its size at which an opened image is decoded. ValueError for one with too many pixels."""
    return reading.scale(image.height, image.width, short_side, is_jpeg=image.format in JPEGS)


def _composed(image: PIL.Image.Image, name: str, notes: Notes, reading: Reading) -> PIL.Image.Image:
    """An image with transparency on the background, in RGB; counted where anything of it is transparent."""
    whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if whole.getchannel("A").getextrema() == (255, 255):
        return whole.convert("RGB")
    notes.add(COMPOSED, name)
    background = PIL.Image.new("RGBA", whole.size, (*reading.background, 255))
    return PIL.Image.alpha_composite(background, whole).convert("RGB")


def reason(error: Exception) -> str:
    """The first line of an error's message, with what to do about it where that is known."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\w+, \S+:\d+, ", "", lines[0])  # without a line of torchvision's source


def _open(stream: BinaryIO) -> PIL.Image.Image:
    """Opens an image. Raises ValueError with the reason where it is in no format that can be read."""
    try:
        try:
            image = PIL.Image.open(stream, formats=READABLE)
        except PIL.Image.DecompressionBombError:  # our own limit is a setting
            with _no_limit():
                image = PIL.Image.open(stream, formats=READABLE)
    except (PIL.UnidentifiedImageError, ValueError):  # such as of a PPM header that holds words
        raise _why_not(stream) from None
    fault = tiff.fault(image) if isinstance(image, TiffImageFile) else None
    if fault:
        raise ValueError(fault)
    return image


@contextmanager
def _no_limit() -> Iterator[None]:
    """A context without Pillow's limit on pixels, which holds for all threads, and is what it was afterwards."""
    with _without_limit:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _why_not(stream: BinaryIO) -> ValueError:
    """Why Pillow does not open an image."""
    stream.seek(0)
    head = stream.read(formats.HEAD + MARKS)
    if not head:
        return ValueError("empty")
    if formats.is_raw("", head):
        return ValueError(formats.NO_CAMERA_RAW)
    name = formats.format_of(head)
    if name is None:
        image = re.sub(rb"^(\xef\xbb\xbf|\xff\xfe|\xfe\xff|\s)+", b"", head)
        behind = formats.format_of(image)
        if behind is None:
            return ValueError(formats.NOT_AN_IMAGE)
        count = len(head) - len(image)
        return ValueError(
            f"{behind} behind {count} other byte{'s' * (count > 1)}, a byte-order mark or white space, as a transfer "
            "as text adds; remove these, or copy the file anew"
        )
    if name not in READABLE:
        return NeedsExtra(f"{name}, which cannot be read here; pip install 'xmixup_fast[heif]'")
    try:
        stream.seek(0)
        PIL.Image.OPEN[name][0](stream, "")
        why = "for no reason given"
    except Exception as error:  # parsers of damaged bytes raise almost anything
        why = reason(error)
    return ValueError(f"{name} that Pillow does not read ({why}); save it anew, as 8-bit JPEG or PNG")


def _has_more(image: PIL.Image.Image) -> bool:
    """Whether there is a page or frame after the first one, whole or not."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of a damaged page; parsers of damaged bytes raise almost anything
        return True
