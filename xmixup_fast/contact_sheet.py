"""Contact sheets of a selection: images of each target class beside those that it is mixed with."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from .data.dataset import Dataset, Sample
from .data.pools import decode
from .models import describe
from .selection import Selection

ROWS = 20
"""Target classes on a sheet."""
TARGET_IMAGES, AUXILIARY_IMAGES = 4, 8
"""Images of a row."""
THUMBNAIL, GAP, TEXT = 96, 6, 18
"""Side of an image, space between images, and height of a line of text, in pixels."""

Group = tuple[str, list[Sample]]
"""Images that stand side by side, and what is written above them."""


def contact_sheets(selection: Selection, target: Dataset, source: Dataset) -> list[Image.Image]:
    """A row for each target class: training images of it, then those of what it is mixed with, best first.

    No other image is read. Raises ValueError, which lists the images that cannot be decoded.
    """
    rows = [
        [(target.classes[label], _images(target, label, TARGET_IMAGES)), *_auxiliary(selection, label, source)]
        for label in range(len(target.classes))
    ]
    return [_sheet(rows[begin : begin + ROWS]) for begin in range(0, len(rows), ROWS)]


def _auxiliary(selection: Selection, label: int, source: Dataset) -> list[Group]:
    """What a target class is mixed with: groups of images of its first source classes, or its first images."""
    chosen = selection.chosen[label][:AUXILIARY_IMAGES]
    scores = selection.scores[label] if selection.scores else []
    values = [f"{score:.2f} " for score in scores[: len(chosen)]] or [""] * len(chosen)
    if selection.kind == "image":
        samples = [source.train[position] for position in chosen]
        classes, images = [sample.label for sample in samples], [[sample] for sample in samples]
    else:
        classes, images = chosen, [_images(source, i, AUXILIARY_IMAGES // len(chosen)) for i in chosen]
    names = [value + describe(source.classes[i]) for value, i in zip(values, classes, strict=True)]
    return list(zip(names, images, strict=True))


def _images(dataset: Dataset, label: int, count: int) -> list[Sample]:
    return [sample for sample in dataset.train if sample.label == label][:count]


def _sheet(rows: list[list[Group]]) -> Image.Image:
    pool = decode([image for row in rows for _, group in row for image in group], THUMBNAIL, "images to show")
    pictures = (Image.fromarray(pool[i].numpy()) for i in range(len(pool)))
    cell, height = THUMBNAIL + GAP, TEXT + THUMBNAIL + 2 * GAP
    sheet = Image.new("RGB", (2 * GAP + (TARGET_IMAGES + AUXILIARY_IMAGES) * cell + GAP, len(rows) * height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 12)
    for number, row in enumerate(rows):
        left, top = GAP, number * height
        for place, (text, group) in enumerate(row):
            while pen.textlength(text, font) > len(group) * cell - GAP:
                text = text.removesuffix("…")[:-1] + "…"
            pen.text((left, top + GAP // 2), text, fill="black", font=font)
            for offset in range(len(group)):
                picture = next(pictures)
                x, y = ((side - THUMBNAIL) // 2 for side in picture.size)
                sheet.paste(picture.crop((x, y, x + THUMBNAIL, y + THUMBNAIL)), (left + offset * cell, top + TEXT))
            left += (TARGET_IMAGES * cell + 2 * GAP) if place == 0 else len(group) * cell
    return sheet
