"""Samples of 16 bits become bytes: grey ones, which Pillow keeps, and colours, of which Pillow takes the upper byte."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from .notes import CLIPPED, DARK_COLOR, Notes, unused_range
from .reading import Reading

BITS = (8, 10, 12, 14, 16)
"""How many bits a camera's or scanner's samples have."""

_SWAPPED = "B" if sys.byteorder == "little" else "L"
_LOWER = {
    **{f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA", "RGBX") for order, other in ("BL", "LB")},
    **{f"{mode};16N": f"{mode};16{_SWAPPED}" for mode in ("RGB", "RGBA", "RGBX")},
    "LA;16B": "RGBA",
}
"""Pillow's raw modes of 16 bits, and those with which it takes the lower bytes in place of the upper ones. As RGBA,
grey samples with alpha are four bytes: upper and lower one of each."""

_PLANES, _SEPARATE = 284, 2
"""TIFF's tag for where a pixel's samples are, and its value for planes, whose bytes libtiff puts in order itself."""


def grey(samples: NDArray[Any], name: str, notes: Notes, reading: Reading, *, inverted: bool) -> NDArray[np.uint8]:
    """The upper bytes of grey samples of 16 bits, where convert("RGB") would clip them at 255: uint8[H, W, 3].

    With ``bit_range`` auto, those of the bits that they use. ``inverted`` tells that zero is white.
    """
    if samples.dtype == np.int32:  # Pillow's mode I
        clipped = samples.clip(0, 65535)
        if (clipped != samples).any():
            notes.add(CLIPPED, name)
        samples = clipped
    kept = _kept_bits("grey", samples, name, notes, reading, inverted=inverted)
    if inverted:
        samples = 2**kept - 1 - samples
    return np.repeat((samples >> (kept - 8)).astype(np.uint8)[..., None], 3, axis=2)


class Colors(NamedTuple):
    """How an opened image keeps colours of 16 bits, as its tiles say before they are read."""

    raw: str
    """Pillow's raw mode; empty where lower bytes cannot be had."""

    @classmethod
    def of(cls, opened: PIL.Image.Image) -> Colors | None:
        """Those of an opened image; None where its colours have other bits."""
        tiles = getattr(opened, "tile", [])
        raw = str(_raw(tiles[0].args)) if tiles else ""
        if ";16" not in raw:
            return None
        planes = getattr(opened, "tag_v2", {}).get(_PLANES)
        return cls(raw if raw in _LOWER and planes != _SEPARATE else "")

    def take_lower(self, opened: PIL.Image.Image) -> None:
        """Has Pillow take the lower bytes of the same image, opened again, in place of the upper ones."""
        image: Any = opened
        lower = _LOWER[self.raw]
        image.tile = [
            tile._replace(args=(lower, *tile.args[1:]) if isinstance(tile.args, tuple) else lower)
            for tile in image.tile
        ]

    def in_range(
        self,
        upper: PIL.Image.Image,
        read_lower: Callable[[], PIL.Image.Image],
        name: str,
        notes: Notes,
        reading: Reading,
    ) -> PIL.Image.Image:
        """The image by its upper bytes, or with ``bit_range`` auto by the upper 8 of the bits that its colours use.

        Alpha has the range of the colours where it fits in, or else 16 bits.

        Args:
            upper: the image by its upper bytes.
            read_lower: gives it by its lower bytes; called where the upper ones are low.
            name: of the image, for notes.
            notes: get a line where colours do not use all bits.
            reading: tells ``bit_range``.
        """
        high = np.asarray(upper)
        most = int(np.asarray(upper.convert("RGB")).max())
        if most >= 2 ** (BITS[-2] - 8):
            return upper
        if not self.raw:
            if most > 0:
                notes.add(DARK_COLOR, name)
            return upper
        low = np.asarray(read_lower())
        samples = high.astype(np.uint16) << 8 | (low[..., [1, 1, 1, 3]] if self.raw == "LA;16B" else low)
        kept = _kept_bits("colour", samples[..., :3], name, notes, reading, inverted=False)
        if kept == BITS[-1]:
            return upper
        pixels = (samples >> (kept - 8)).astype(np.uint8)
        if (samples[..., 3:] >= 2**kept).any():
            pixels[..., 3:] = high[..., 3:]
        return PIL.Image.fromarray(pixels)


def _kept_bits(kind: str, samples: NDArray[Any], name: str, notes: Notes, reading: Reading, *, inverted: bool) -> int:
    """The bits that samples are taken to have; it is noted where they use fewer than 16."""
    most, scaled = int(samples.max()), reading.bit_range == "auto"
    bits = next(bits for bits in BITS if most < 2**bits)
    if most > 0 and bits < BITS[-1]:
        notes.add(unused_range(kind, bits, scaled=scaled, inverted=inverted), name)
    return bits if scaled else BITS[-1]


def _raw(arguments: Any) -> Any:
    return arguments[0] if isinstance(arguments, tuple) else arguments
