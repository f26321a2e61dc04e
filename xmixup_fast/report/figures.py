"""Figures of a run: its first batch, curves of its metrics, and confusion matrices."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..evaluation import Evaluation
from ..runtime.files import atomic_write
from .lettering import drawable, text_style

MAX_NUMBERED = 25
"""Largest number of classes whose confusion matrix has the counts written into its cells."""
MAX_NAMED = 150
"""Largest number of classes whose names stand beside the confusion matrix."""
UNNAMED_SIDE = 9.0
"""Side of a confusion matrix without class names, in inches."""
NAME_LENGTH = 30
"""Letters of a class name beside the confusion matrix; the middle of a longer name is left out."""
NOTE_LENGTH = 38
"""Letters of a note that fit below each column of a grid of images."""
GREY = "#808080"
"""Colour of text and lines that are legible on a light and on a dark background."""


def png(figure: Figure, dpi: int = 120, transparent: bool = False) -> bytes:
    """The bytes of a PNG file of the figure; ``dpi`` is in pixels per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, transparent=transparent)
    return stream.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, which appears whole or not at all."""
    with atomic_write(path) as aside:
        aside.write_bytes(png(figure))


def image_grid(images: Tensor, captions: Sequence[str], note: str | None = None) -> Figure:
    """Images in rows of four with their captions, and a note below.

    ``images`` are float32[n, H, W, 3] in 0..1; a caption has up to two lines.
    """
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    # One pair of axes for all images, since a pair for each takes longer than the images. Units are image widths.
    height, gap = images.shape[1] / images.shape[2], 0.05
    pitch = height + 0.2  # with a caption
    lines = textwrap.wrap(note or "", NOTE_LENGTH * columns)
    right, bottom = columns * (1 + gap), rows * pitch + gap
    end = bottom + (0.08 * len(lines) + gap if lines else 0.0)
    inches = 2.4 * columns / (right + gap)
    figure = Figure(figsize=(inches * (right + gap), inches * end))
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, low = number % columns * (1 + gap), (number // columns + 1) * pitch
        axes.imshow(image.numpy(), extent=(left, left + 1, low, low - height))
        shown = "\n".join(map(drawable, caption.split("\n")))
        axes.text(left + 0.5, low - height - 0.02, shown, fontsize=8, ha="center", va="bottom", **text_style())
    axes.text(0, bottom, "\n".join(lines), fontsize=8, va="top")
    axes.set(xlim=(-gap, right), ylim=(end, 0))
    axes.axis("off")
    return figure


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """The confusion matrix of an evaluation.

    The colour of row i, column j is the share of the images of class i that were predicted as class j, on a square-root
    scale, which makes small shares visible.
    """
    matrix = evaluation.confusion_matrix()
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    count = len(evaluation.classes)
    names = [shorten(drawable(name)) for name in evaluation.classes] if count <= MAX_NAMED else []
    cell = 0.42 if count <= MAX_NUMBERED else 0.14
    margin = 0.8 + 0.075 * max(map(len, names), default=0) * (1 if count <= MAX_NUMBERED else 0.8)
    side = max(cell * count, 2.0) if names else UNNAMED_SIDE
    figure = Figure(figsize=(side + margin + 0.9, side + margin), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set(xlabel="predicted class", ylabel="true class")
    if names:
        size = 8 if count <= MAX_NUMBERED else 6
        axes.set_xticks(range(count), names, rotation=90, fontsize=size, **text_style())
        axes.set_yticks(range(count), names, fontsize=size, **text_style())
    if MAX_NUMBERED < count <= MAX_NAMED:  # every fifth line, to follow from a cell to both names
        for position in range(4, count, 5):
            axes.axhline(position + 0.5, color=GREY, linewidth=0.3)
            axes.axvline(position + 0.5, color=GREY, linewidth=0.3)
    if count <= MAX_NUMBERED:
        for (row, column), number in zip(matrix.nonzero().tolist(), matrix[matrix > 0].tolist(), strict=True):
            colour = "white" if shares[row, column] > 0.36 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=min(1.0, 3 / side), label="share of the true class")
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """The reliability curve of an evaluation, with its temperature besides where it has one, and images by confidence.

    A point below the diagonal is of predictions that are less often right than their probabilities say.
    """
    figure = Figure(figsize=(4.8, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 100), (0, 100), color=GREY, linewidth=1, linestyle="--")
    kinds = [(False, "as trained", "tab:blue")]
    if evaluation.temperature is not None:
        kinds.append((True, f"temperature {evaluation.temperature:g}", "tab:orange"))
    for calibrated, name, colour in kinds:
        bins, error = evaluation.reliability(calibrated), evaluation.expected_calibration_error(calibrated)
        label = f"{name}: expected calibration error {error:.1f}"
        points = [row.confidence for row in bins], [row.accuracy for row in bins]
        upper.plot(*points, ".-", color=colour, label=label, clip_on=False)
        width = bins[0].high - bins[0].low
        images = {round(row.low / width): row.images for row in bins}
        counts = [images.get(i, 0) for i in range(round(1 / width))]
        edges = [100 * i / len(counts) for i in range(len(counts) + 1)]
        lower.stairs(counts, edges, color=colour, linewidth=1.5, clip_on=False)  # of both in the same bins
    upper.set(ylabel="accuracy, %", ylim=(0, 100))
    upper.legend(fontsize=8, loc="upper left")
    lower.set(xlabel="confidence: probability of the predicted class, %", ylabel="images", xlim=(0, 100))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def shorten(name: str) -> str:
    """The name, with an ellipsis for its middle where it is longer than NAME_LENGTH."""
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Figures of training loss, validation accuracy and learning rate by step, for a transparent background.

    ``metrics`` are the lines of metrics.jsonl.
    """
    titles = {
        "train_loss": ("training loss", "tab:blue"),
        "val_accuracy": ("validation accuracy, %", "tab:green"),
        "lr": ("learning rate", "tab:orange"),
    }
    figures = []
    for name, (title, colour) in titles.items():
        points = [(line["step"], line[name]) for line in metrics if line[name] is not None]
        figures.append(Figure(figsize=(3.4, 2.4), layout="constrained"))
        axes = figures[-1].subplots()
        axes.plot(*zip(*points, strict=True), color=colour, marker="." if len(points) <= 30 else None)
        axes.set_title(title, color=GREY, fontsize=10)
        axes.set_xlabel("step", color=GREY)
        _style(axes)
    return figures


def _style(axes: Axes) -> None:
    """Draws axes, ticks and grid in grey."""
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_offset_text().set_color(GREY)
    axes.grid(color=to_rgba(GREY, 0.25), linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_color(GREY)
