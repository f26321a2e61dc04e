"""Predictions: the list that the function ``predict`` returns, as a console and a notebook show it."""

from __future__ import annotations

from pathlib import Path

from ..data.bad_files import printable
from ..data.dataset import BadFile, FileImage
from .predict import Prediction

SHOWN = 12
"""Predictions that a console and a notebook show."""
THUMBNAIL = 120
"""Side of a notebook's pictures, in pixels."""


class Predictions(list[Prediction | BadFile]):
    """The predictions of images, in their order: a ``Prediction`` each, or a ``BadFile`` of what cannot be used."""

    def __repr__(self) -> str:
        lines = [_line(one) for one in self[:SHOWN]]
        more = len(self) - SHOWN
        rest = [f"... {more} more"] if more > 0 else []
        return "\n  ".join([self._title(), *lines, *rest])

    def _repr_html_(self) -> str:
        from html import escape

        from ..report.notebook import fragment

        cells = "".join(
            f'<figure style="margin: 0; width: {THUMBNAIL + 20}px; overflow-wrap: anywhere">{_thumbnail(one)}'
            f"<figcaption>{escape(_line(one))}</figcaption></figure>"
            for one in self[:SHOWN]
        )
        row = f'<div style="display: flex; flex-wrap: wrap; gap: .75rem; font-size: .85em">{cells}</div>'
        shown = f"The first {SHOWN}:" if len(self) > SHOWN else ""
        return fragment(self._title(), [(shown, row)])

    def _title(self) -> str:
        bad = sum(isinstance(one, BadFile) for one in self)
        count = len(self) - bad
        return f"{count} prediction{'s' * (count != 1)}" + (f", {bad} files that cannot be used" if bad else "")


def _line(one: Prediction | BadFile) -> str:
    """A file's name with its likeliest class, or why it cannot be used."""
    name = printable(Path(one[0]).name)
    if isinstance(one, BadFile):
        return f"{name}: {one.reason}"
    return f"{name}: {one.top[0].description} {100 * one.top[0].probability:.1f} %"


def _thumbnail(one: Prediction | BadFile) -> str:
    """A small picture of an image, as an HTML element; empty for a file that cannot be used, or is gone by now."""
    from PIL import Image

    from ..data.decoding.decoder import PillowDecoder
    from ..report.html import jpeg_url
    from ..report.notebook import paper
    from ..runtime.device import default_threads

    if isinstance(one, BadFile):
        return ""
    (pixels,) = PillowDecoder(THUMBNAIL, default_threads()).decode([FileImage(Path(one.file))])
    if isinstance(pixels, BadFile):
        return ""
    picture = Image.fromarray(pixels.numpy())
    left, top = ((side - THUMBNAIL) // 2 for side in picture.size)
    square = picture.crop((left, top, left + THUMBNAIL, top + THUMBNAIL))
    return paper(jpeg_url(square), _line(one))
