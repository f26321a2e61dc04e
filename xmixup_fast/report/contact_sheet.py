"""Contact sheets of a selection: images of each target class beside those that it is mixed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from ..data.dataset import BadFile, Dataset, Sample
from ..data.decoding.decoder import TorchvisionDecoder
from ..models.class_names import readable_name
from ..selection.choice import Selection

ROWS = 20
"""Target classes on a sheet."""
TARGET_IMAGES, AUXILIARY_IMAGES = 4, 8
"""Images of a row."""
THUMBNAIL, GAP, TEXT = 96, 6, 18
"""Side of an image, space between images, and height of a line of text, in pixels."""

Group = tuple[str, list[Image.Image]]
"""Pictures that stand side by side, and what is written above them."""
Pictures = Callable[[Iterable[Sample], int], list[Image.Image]]
"""Gives so many pictures of the first images that can be decoded."""


def contact_sheets(
    selection: Selection, target: Dataset, source: Dataset, bad: list[BadFile], most: int | None = None
) -> list[Image.Image]:
    """A row for each of the ``most`` first target classes: training images of it, then those of what it is mixed with,
    best first.

    In place of an image that cannot be decoded, which is added to ``bad``, comes the next one. No other image is read.
    """
    decoder = TorchvisionDecoder(THUMBNAIL, torch.get_num_threads())

    def pictures(samples: Iterable[Sample], count: int) -> list[Image.Image]:
        rest = iter(samples)
        shown: list[Image.Image] = []
        while batch := [sample.image for sample in islice(rest, count - len(shown))]:
            for result in decoder.decode(batch):
                if isinstance(result, BadFile):
                    bad.append(result)
                else:
                    shown.append(_square(Image.fromarray(result.numpy())))
        return shown

    targets, sources = _by_class(target), _by_class(source)
    rows = (
        [(name, pictures(targets[label], TARGET_IMAGES)), *_auxiliary(selection, label, source, sources, pictures)]
        for label, name in enumerate(target.classes[:most])
    )
    sheets = []
    while part := list(islice(rows, ROWS)):
        sheets.append(_sheet(part))
    return sheets


def _auxiliary(
    selection: Selection, label: int, source: Dataset, by_class: Sequence[Sequence[Sample]], pictures: Pictures
) -> list[Group]:
    """What a target class is mixed with: groups of images of its first source classes, or its first images."""
    chosen = selection.chosen[label]
    scores = [f"{score:.2f} " for score in selection.scores[label]] if selection.scores else [""] * len(chosen)
    groups: list[Group] = []
    if selection.kind == "class":
        for i, score in list(zip(chosen, scores, strict=True))[:AUXILIARY_IMAGES]:
            count = AUXILIARY_IMAGES // min(len(chosen), AUXILIARY_IMAGES)
            groups.append((score + readable_name(source.classes[i]), pictures(by_class[i], count)))
        return groups
    for position, score in zip(chosen, scores, strict=True):
        sample = source.train[position]
        if len(groups) < AUXILIARY_IMAGES and (shown := pictures([sample], 1)):
            groups.append((score + readable_name(source.classes[sample.label]), shown))
    return groups


def _by_class(dataset: Dataset) -> list[list[Sample]]:
    """The training images of each class."""
    images: list[list[Sample]] = [[] for _ in dataset.classes]
    for sample in dataset.train:
        images[sample.label].append(sample)
    return images


def _square(picture: Image.Image) -> Image.Image:
    """The centre of a picture."""
    x, y = ((side - THUMBNAIL) // 2 for side in picture.size)
    return picture.crop((x, y, x + THUMBNAIL, y + THUMBNAIL))


def _sheet(rows: list[list[Group]]) -> Image.Image:
    cell, height = THUMBNAIL + GAP, TEXT + THUMBNAIL + 2 * GAP
    sheet = Image.new("RGB", (2 * GAP + (TARGET_IMAGES + AUXILIARY_IMAGES) * cell + GAP, len(rows) * height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 12)
    for number, row in enumerate(rows):
        left, top = GAP, number * height
        for place, (text, group) in enumerate(row):
            width = max(1, len(group)) * cell
            while pen.textlength(text, font) > width - GAP:
                text = text.removesuffix("…")[:-1] + "…"
            pen.text((left, top + GAP // 2), text, fill="black", font=font)
            for offset, picture in enumerate(group):
                sheet.paste(picture, (left + offset * cell, top + TEXT))
            left += (TARGET_IMAGES * cell + 2 * GAP) if place == 0 else width
    return sheet
