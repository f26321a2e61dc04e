"""What a network makes of labelled images, as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from PIL import Image

from ..data.center_crops import center_windows
from ..evaluation import ClassResult, Confusion, Evaluation, ImageResult
from ..models.class_names import readable_name
from ..ops.image_pool import Images
from . import figures
from .html import image, jpeg_url, png_url, section

HIGHEST_LOSSES = 16
"""Number of images with the highest loss that the page shows."""
PAIRS, PAIR_IMAGES = 6, 3
"""Pairs of classes that the page shows, and confused images of each."""
THUMBNAIL = 160
"""Largest height and width of these images, in pixels."""
SPLITS = {"test": "test", "val": "validation"}
"""Names of the splits for readers."""


def key_figures(evaluation: Evaluation, split: str, summary: Mapping[str, Any]) -> str:
    """Accuracy, numbers of images, and length of training, as cards."""
    low, high = evaluation.accuracy_interval
    top5 = {} if evaluation.top5_accuracy is None else {"top-5 accuracy": f"{evaluation.top5_accuracy:.2f} %"}
    values = {
        f"{SPLITS[split]} accuracy": f"{evaluation.accuracy:.2f} %",
        "its 95 % interval": f"{low:.1f} to {high:.1f} %",
        **top5,
        "mean of the classes": f"{evaluation.balanced_accuracy:.2f} %",
        evaluation.macro_f1_name: f"{evaluation.macro_f1:.2f} %",
        f"{SPLITS[split]} images": str(len(evaluation)),
        "training images": str(summary["num_train"]),
        "steps": str(summary["steps"]),
        "of training": f"{summary['train_seconds']:.1f} s",
    }
    best, last = (f"{summary[f'{which}_val_accuracy']:.2f} %" for which in ("best", "last"))
    if best != last:
        values |= {"best validation": best, "last validation": last}
    elif split == "test":
        values["validation accuracy"] = best
    cards = (f'<div class="figure"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in values.items())
    return f'<div class="figures">{"".join(cards)}</div>'


def confusion(evaluation: Evaluation, split: str) -> str:
    """The confusion matrix."""
    picture = image(png_url(figures.png(figures.confusion_matrix(evaluation))), "paper")
    if len(evaluation.classes) > figures.MAX_NUMBERED:
        picture = f'<div class="full">{picture}</div>'
    return section(f"Confusion of the {SPLITS[split]} images", picture)


def confused_pairs(evaluation: Evaluation, images: Images, size: int) -> str:
    """The pairs of classes that are confused most often, as pictures; nothing where all predictions are right."""
    pairs = evaluation.confused_pairs(PAIRS, PAIR_IMAGES)
    if not pairs:
        return ""
    positions = [i for pair in pairs for i in (*pair.positions, pair.example) if i is not None]
    crops = dict(zip(positions, _crops(images, positions, size), strict=True))
    content = "".join(_pair(pair, crops) for pair in pairs)
    text = "<p>Left: images of a class that are taken for another one. Right: an image of that other one.</p>"
    return section("Classes that are confused most often", f'{text}<div class="pairs">{content}</div>')


def _pair(pair: Confusion, crops: Mapping[int, Image.Image]) -> str:
    label, predicted = (escape(readable_name(name)) for name in (pair.label, pair.predicted))
    shown = "".join(image(jpeg_url(crops[i]), alt=pair.label) for i in pair.positions)
    example = "none here" if pair.example is None else image(jpeg_url(crops[pair.example]), alt=pair.predicted)
    return (
        f'<figure class="pair"><div><b>{label}</b> taken for {predicted}, {pair.times} times<p>{shown}</p></div>'
        f"<div><b>{predicted}</b><p>{example}</p></div></figure>"
    )


def calibration(evaluation: Evaluation, split: str) -> str:
    """The reliability curve, and how far probabilities can be trusted."""
    text = (
        f"The {SPLITS[split]} images by the probability of their prediction, and how many of them are right. The "
        "expected calibration error is the mean distance from the diagonal, in percentage points."
    )
    if evaluation.temperature is not None:
        text += " predict and export divide logits by the temperature with --calibrated."
        text += " It was fitted on these very images: calibration is worse on others." if split == "val" else ""
    picture = image(png_url(figures.png(figures.reliability(evaluation))), "paper")
    return section("Calibration", f"<p>{escape(text)}</p>{picture}")


def classes(rows: Sequence[ClassResult]) -> str:
    """The classes as a table, lowest recall first."""
    numbers = "".join(f"<th class=number>{name}" for name in ("images", "precision", "recall", "F1"))
    head = f"<tr><th>class{numbers}<th><th>most often confused with</tr>"
    lines = []
    # Classes without images have no recall and come last.
    for row in sorted(rows, key=lambda row: (row.recall is None, row.recall)):
        shares = ("" if share is None else f"{share:.1f} %" for share in (row.precision, row.recall, row.f1))
        cells = "".join(f"<td class=number>{cell}" for cell in (row.images, *shares))
        confused = f"{escape(readable_name(row.taken_for))} ({row.times})" if row.taken_for else ""
        lines.append(
            f"<tr><td>{escape(readable_name(row.name))}{cells}"
            f'<td class=bar><i style="width: {row.recall or 0:.0f}%"></i><td>{confused}</tr>'
        )
    return section("Classes", f'<div class="table"><table>{head}{"".join(lines)}</table></div>')


def highest_losses(evaluation: Evaluation, images: Images, size: int, split: str) -> str:
    """The images with the highest loss, cropped as for the network, with their classes and predictions."""
    rows = evaluation.top_losses(HIGHEST_LOSSES)
    pictures = _crops(images, [row.position for row in rows], size)
    content = "".join(_figure(row, picture) for row, picture in zip(rows, pictures, strict=True))
    return section(f"{SPLITS[split].capitalize()} images with the highest loss", f'<div class="losses">{content}</div>')


def _figure(row: ImageResult, picture: Image.Image) -> str:
    name = row.name.replace("\\", "/").rsplit("/", 1)[-1]
    return (
        f"<figure>{image(jpeg_url(picture), alt=row.label)}<b>{escape(readable_name(row.label))}</b><br>"
        f"predicted {escape(readable_name(row.predicted))}, {100 * row.probability:.0f} %<br>loss {row.loss:.3f}<br>"
        f'<small title="{escape(row.name)}">{escape(name)}</small></figure>'
    )


def _crops(images: Images, positions: Sequence[int], size: int) -> list[Image.Image]:
    """The centre crops, size x size pixels, of the images at some positions, shrunk to THUMBNAIL pixels."""
    index = torch.tensor(positions, device=images.labels.device)
    pool, crops = next(images.fetch([center_windows(images.sizes, size, index)]))
    pictures = []
    for i, (top, left, height, width) in zip(crops.index.tolist(), crops.window.tolist(), strict=True):
        picture = Image.fromarray(pool[i][top : top + height, left : left + width].cpu().numpy())
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        pictures.append(picture)
    return pictures
