"""Predictions: what the function ``predict`` returns, a list that is made as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

from ..data.bad_files import printable
from ..data.dataset import BadFile, FileImage
from .predict import Prediction

SHOWN = 12
"""Predictions that a console and a notebook show."""
THUMBNAIL = 120
"""Side of a notebook's pictures, in pixels."""


class Predictions(Sequence[Prediction | BadFile]):
    """What ``xmixup_fast.predict`` returns: the predictions of images, in their order, a ``Prediction`` tuple each.

    Each loop over them predicts anew, one image after the other, and keeps nothing, however many images there are;
    ``len``, an index, ``list`` or a notebook that shows them predict all images, once, and keep the predictions.

    Args:
        start: begins a pass over the images.
        once: whether there can only be one pass, as the files come from an iterator.
    """

    def __init__(self, start: Callable[[], Iterator[Prediction | BadFile]], once: bool = False) -> None:
        self._start, self._once = start, once
        self._started = False
        self._kept: list[Prediction | BadFile] | None = None

    def __iter__(self) -> Iterator[Prediction | BadFile]:
        # All of this happens at the first item: list() makes an iterator, and asks for the length before that.
        if self._kept is not None:
            yield from self._kept
            return
        if self._once and self._started:
            raise ValueError("images: expected a list for a second pass, got an iterator, which gives its files once")
        self._started = True
        yield from self._start()

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, i: int) -> Prediction | BadFile: ...
    @overload
    def __getitem__(self, i: slice) -> list[Prediction | BadFile]: ...
    def __getitem__(self, i: int | slice) -> Prediction | BadFile | list[Prediction | BadFile]:
        return self._all()[i]

    def _all(self) -> list[Prediction | BadFile]:
        if self._kept is None:
            self._kept = [one for one in self]
        return self._kept

    def __repr__(self) -> str:
        lines = [_line(one) for one in self._all()[:SHOWN]]
        more = len(self) - SHOWN
        rest = [f"... {more} more"] if more > 0 else []
        return "\n  ".join([self._title(), *lines, *rest])

    def _repr_html_(self) -> str:
        from html import escape

        from ..report.notebook import fragment

        cells = "".join(
            f'<figure style="margin: 0; width: {THUMBNAIL + 20}px; overflow-wrap: anywhere">{_thumbnail(one)}'
            f"<figcaption>{escape(_line(one))}</figcaption></figure>"
            for one in self._all()[:SHOWN]
        )
        row = f'<div style="display: flex; flex-wrap: wrap; gap: .75rem; font-size: .85em">{cells}</div>'
        shown = f"The first {SHOWN}:" if len(self) > SHOWN else ""
        return fragment(self._title(), [(shown, row)])

    def _title(self) -> str:
        bad = sum(isinstance(one, BadFile) for one in self._all())
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
    import torch
    from PIL import Image

    from ..data.decoding.decoder import PillowDecoder
    from ..report.html import jpeg_url
    from ..report.notebook import paper

    if isinstance(one, BadFile):
        return ""
    (pixels,) = PillowDecoder(THUMBNAIL, torch.get_num_threads()).decode([FileImage(Path(one.file))])
    if isinstance(pixels, BadFile):
        return ""
    picture = Image.fromarray(pixels.numpy())
    left, top = ((side - THUMBNAIL) // 2 for side in picture.size)
    square = picture.crop((left, top, left + THUMBNAIL, top + THUMBNAIL))
    return paper(jpeg_url(square), _line(one))
