"""Contact sheets of a selection: images of each target class beside the auxiliary images it is mixed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from ..data.dataset import BadFile, Dataset, Sample
from ..data.decoding.decoder import PillowDecoder
from ..models.class_names import readable_name
from ..runtime.device import default_threads
from ..selection.choice import MARK, Selection
from .lettering import for_pillow

ROWS = 20
"""Rows of a sheet, one for each target class."""
TARGET_IMAGES, AUXILIARY_IMAGES = 4, 8
"""Images in a row."""
THUMBNAIL, GAP, TEXT = 96, 6, 18
"""Side of an image, space between images, and height of a line of text, in pixels."""
FONT_SIZE = 12

Group = tuple[str, list[Image.Image]]
"""A caption, and the images that stand side by side under it."""
Thumbnails = Callable[[Iterable[Sample], int], list[Image.Image]]
"""Function that decodes samples in order until it has made the given number of thumbnails."""


def contact_sheets(
    selection: Selection, target: Dataset, source: Dataset, bad: list[BadFile], max_classes: int | None = None
) -> list[Image.Image]:
    """Sheets with a row for each target class: training images of the class, then its auxiliary images, best first.

    An image that cannot be decoded is added to ``bad``, and the next one takes its place. No image is read that is not
    shown. Doubtful scores are marked, see :mod:`~xmixup_fast.selection.doubt`. ``max_classes`` limits the rows to the
    first target classes.
    """
    decoder = PillowDecoder(THUMBNAIL, default_threads())

    def thumbnails(samples: Iterable[Sample], count: int) -> list[Image.Image]:
        rest = iter(samples)
        made: list[Image.Image] = []
        while batch := [sample.image for sample in islice(rest, count - len(made))]:
            for result in decoder.decode(batch):
                if isinstance(result, BadFile):
                    bad.append(result)
                else:
                    made.append(_centre_square(Image.fromarray(result.numpy())))
        return made

    targets, sources = _by_class(target), _by_class(source)
    rows = (
        [
            (name, thumbnails(targets[label], TARGET_IMAGES)),
            *_auxiliary_groups(selection, label, source, sources, thumbnails),
        ]
        for label, name in enumerate(target.classes[:max_classes])
    )
    sheets = []
    while sheet_rows := list(islice(rows, ROWS)):
        sheets.append(_draw_sheet(sheet_rows))
    return sheets


def _auxiliary_groups(
    selection: Selection, label: int, source: Dataset, by_class: Sequence[Sequence[Sample]], thumbnails: Thumbnails
) -> list[Group]:
    """The auxiliary images of a target class: a group for each source class, or for each single image.

    ``by_class`` holds the source's training images of each class.
    """
    chosen = selection.chosen[label]
    scores = [f"{score:.2f} " for score in selection.scores[label]] if selection.scores else [""] * len(chosen)
    scores = [f"{score}{MARK} " if selection.is_doubtful(label, i) else score for i, score in enumerate(scores)]
    groups: list[Group] = []
    if selection.kind == "class":
        count = AUXILIARY_IMAGES // min(len(chosen), AUXILIARY_IMAGES)
        for source_class, score in list(zip(chosen, scores, strict=True))[:AUXILIARY_IMAGES]:
            caption = score + readable_name(source.classes[source_class])
            groups.append((caption, thumbnails(by_class[source_class], count)))
        return groups
    for position, score in zip(chosen, scores, strict=True):
        sample = source.train[position]
        if len(groups) < AUXILIARY_IMAGES and (shown := thumbnails([sample], 1)):
            groups.append((score + readable_name(source.classes[sample.label]), shown))
    return groups


def _by_class(dataset: Dataset) -> list[list[Sample]]:
    """The training images of each class, in the order of the classes."""
    images: list[list[Sample]] = [[] for _ in dataset.classes]
    for sample in dataset.train:
        images[sample.label].append(sample)
    return images


def _centre_square(picture: Image.Image) -> Image.Image:
    """The centre of a picture, THUMBNAIL x THUMBNAIL pixels."""
    x, y = ((side - THUMBNAIL) // 2 for side in picture.size)
    return picture.crop((x, y, x + THUMBNAIL, y + THUMBNAIL))


def _draw_sheet(rows: list[list[Group]]) -> Image.Image:
    """Draws rows of groups below each other. The first group of a row is the target class, set apart by a gap."""
    cell, height = THUMBNAIL + GAP, TEXT + THUMBNAIL + 2 * GAP
    sheet = Image.new("RGB", (2 * GAP + (TARGET_IMAGES + AUXILIARY_IMAGES) * cell + GAP, len(rows) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = GAP, number * height
        for position, (text, group) in enumerate(row):
            width = max(1, len(group)) * cell
            text, file = for_pillow(text)
            font = ImageFont.truetype(file, FONT_SIZE)
            while pen.textlength(text, font) > width - GAP:
                text = text.removesuffix("…")[:-1] + "…"
            pen.text((left, top + GAP // 2), text, fill="black", font=font)
            for offset, picture in enumerate(group):
                sheet.paste(picture, (left + offset * cell, top + TEXT))
            left += (TARGET_IMAGES * cell + 2 * GAP) if position == 0 else width
    return sheet
