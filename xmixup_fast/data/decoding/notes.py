"""What decoding changes in images or leaves out of them, counted, so that it can be said in one line each."""

from __future__ import annotations

from ..bad_files import printable

COMPOSED = "images with transparency, composed on the background"
DARK_COLOR = (
    "16-bit colour images, in separate planes or with premultiplied alpha, with no value above 16383, which come out "
    "dark, since the upper byte is taken; scale them to 16 bits"
)
REDUCED = "JPEG files with more than max_pixels pixels, decoded at 1/2 to 1/8 of their size"
CLIPPED = "grey images with values outside of 0 to 65535, which were clipped"
FIRST = "images with several pages or frames, of which the first is taken"
PILLOW = "JPEG files that the decoder failed at, decoded with Pillow"


def unused_range(kind: str, bits: int, *, scaled: bool, inverted: bool) -> str:
    """What is said of 16-bit images, grey or colour, whose samples need fewer bits, 8 to 14.

    ``scaled`` tells that these are taken for the whole range, ``inverted`` that zero is white.
    """
    which = f"16-bit {kind} images with no value above {2**bits - 1}, which look like {bits} bits"
    if scaled:
        return f"{which} and are taken for such"
    nearly = "" if bits == 14 else "nearly "
    outcome = "white" if inverted else "dark" if bits == 14 else "black"
    return f"{which} and come out {nearly}{outcome}, since the upper byte is taken; --bit-range auto scales them"


class Notes:
    """Counts images by what happened to them. Threads may add at once."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._kinds: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Counts the image ``name``. ``kind``, a plural, says what happened to it."""
        self._names.setdefault(kind, []).append(name)
        self._kinds.setdefault(name, []).append(kind)

    def of(self, name: str) -> list[str]:
        """What happened to the image ``name``."""
        return self._kinds.get(name, [])

    def lines(self) -> list[str]:
        """One line for each kind, with the number of images and the first one's name."""
        return [f"{kind}: {len(names)}, such as {printable(min(names))}" for kind, names in sorted(self._names.items())]
