"""Figures of a run: its curves, and confusion matrices."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation import Evaluation
from ..runtime.files import atomic_write

NUMBERED = 25
"""Classes up to which a confusion matrix has its numbers written into it."""
NAMED = 150
"""Classes up to which their names stand beside it."""
LARGEST = 9.0
"""Side of a confusion matrix without names, in inches."""
LONGEST_NAME = 30
"""Letters of a name; the middle of longer ones is left out."""
GREY = "#808080"
"""Of what has to be read on light and on dark ground."""


def png(figure: Figure, dpi: int = 120, transparent: bool = False) -> bytes:
    """The figure as a PNG file's bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, transparent=transparent)
    return stream.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, in one piece."""
    with atomic_write(path) as aside:
        aside.write_bytes(png(figure))


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """The confusion matrix; colours tell the share of each true class's images, on a scale that shows small ones."""
    matrix = evaluation.confusion_matrix()
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    count = len(evaluation.classes)
    names = [_shorten(name) for name in evaluation.classes] if count <= NAMED else []
    cell = 0.42 if count <= NUMBERED else 0.14
    margin = 0.8 + 0.075 * max(map(len, names), default=0) * (1 if count <= NUMBERED else 0.8)
    side = max(cell * count, 2.0) if names else LARGEST
    figure = Figure(figsize=(side + margin + 0.9, side + margin), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set(xlabel="predicted class", ylabel="true class")
    if names:
        size = 8 if count <= NUMBERED else 6
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if NUMBERED < count <= NAMED:  # lines that lead from a cell to both names
        for place in range(4, count, 5):
            axes.axhline(place + 0.5, color=GREY, linewidth=0.3)
            axes.axvline(place + 0.5, color=GREY, linewidth=0.3)
    if count <= NUMBERED:
        for (row, column), number in zip(matrix.nonzero().tolist(), matrix[matrix > 0].tolist(), strict=True):
            colour = "white" if shares[row, column] > 0.36 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=min(1.0, 3 / side), label="share of the true class")
    return figure


def _shorten(name: str) -> str:
    """The name, without its middle where it is long."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Loss, validation accuracy and learning rate by step, out of the lines of metrics.jsonl, on no ground."""
    shown = {
        "train_loss": ("training loss", "tab:blue"),
        "val_accuracy": ("validation accuracy, %", "tab:green"),
        "lr": ("learning rate", "tab:orange"),
    }
    figures = []
    for name, (title, colour) in shown.items():
        points = [(line["step"], line[name]) for line in metrics if line[name] is not None]
        figures.append(Figure(figsize=(3.4, 2.4), layout="constrained"))
        axes = figures[-1].subplots()
        axes.plot(*zip(*points, strict=True), color=colour, marker="." if len(points) <= 30 else None)
        axes.set_title(title, color=GREY, fontsize=10)
        axes.set_xlabel("step", color=GREY)
        _grey(axes)
    return figures


def _grey(axes: Axes) -> None:
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_offset_text().set_color(GREY)
    axes.grid(color=to_rgba(GREY, 0.25), linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_color(GREY)
