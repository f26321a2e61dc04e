"""Reading: what images become where their files leave it open, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...settings.values import DEFAULT_MAX_PIXELS, color

SCALES = (1, 2, 4, 8)
"""The parts of its size, 1/1 to 1/8, at which a JPEG file can be decoded."""


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        background: what shows where an image is transparent, red, green and blue in 0..255.
        bit_range: of images of 16 bits, take the upper byte (full), or the upper 8 of the 8, 10, 12, 14 or 16 bits that
            the image's largest sample needs (auto).
        max_pixels: of larger images, JPEG files are decoded at a part of their size, if that is enough; others are
            refused.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    bit_range: Literal["auto", "full"] = "full"
    max_pixels: int = DEFAULT_MAX_PIXELS

    @classmethod
    def of(
        cls, background: str = "white", bit_range: Literal["auto", "full"] = "full", max_pixels: int | None = None
    ) -> Reading:
        """The reading that settings of these names ask for. Raises ValueError for a background that is no colour."""
        return cls(color("background", background), bit_range, max_pixels or DEFAULT_MAX_PIXELS)

    def scale(self, height: int, width: int, short_side: int | None, *, is_jpeg: bool) -> int:
        """The part of its size at which an image is decoded: 1 where it is not too large, 2 for half its size.

        Sizes are in pixels; ``short_side`` is what the image is resized to, None where it keeps its own size.

        Raises ValueError for an image that is too large.
        """
        for scale in SCALES:
            rows, columns = reduced(height, width, scale)
            if rows * columns > self.max_pixels:
                continue
            if scale == 1 or (is_jpeg and short_side is not None and min(rows, columns) >= short_side):
                return scale
        raise ValueError(
            f"{width} x {height} pixels, more than max_pixels, {self.max_pixels}; raise --max-pixels, scale it down, "
            "or crop it"
        )


def reduced(height: int, width: int, scale: int) -> tuple[int, int]:
    """Height and width of a JPEG file that is decoded at a part of its size, in pixels: rounded up."""
    return -(-height // scale), -(-width // scale)
