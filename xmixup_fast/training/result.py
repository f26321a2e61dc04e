"""Result: what fit returns, as a console and a notebook show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation import Evaluation
from ..models.class_names import readable_name
from ..models.network import Network
from ..report import figures
from ..report.html import png_url
from ..report.notebook import figure_row, fragment, paper, table
from ..report.results import confusion_section

SHOWN_CLASSES = 20
"""Rows of target classes that a notebook shows of a selection."""


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run.

    ``repr`` tells its accuracy and where it is; a notebook shows its curves, its selection, its first batch and the
    confusion matrix. A result stands for its folder wherever a path does, as in ``evaluate(result)``.
    """

    folder: Path
    """The run folder."""
    network: Network
    """The trained network, in evaluation mode; with ``ema_decay``, the average of its weights."""
    summary: dict[str, Any]
    """The content of summary.json."""
    selection: dict[str, Any] | None
    """The content of selection.json; None for a method without auxiliary images."""
    evaluation: Evaluation | None
    """Of the test images; without a test, of the validation images; None with neither test nor report."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        summary = self.summary
        accuracy = f"validation {summary['val_accuracy']:.2f} %"
        if summary["test_accuracy"] is not None:
            accuracy = f"test {summary['test_accuracy']:.2f} % of {summary['num_test']} images, {accuracy}"
        kept = summary["kept"]
        lines = [
            f"{summary['method']} on {summary['target']} with {summary['model']}: {accuracy}",
            f"  {summary['steps']} steps on {summary['num_train']} images, {summary['train_seconds']:.1f} s; "
            f"the weights are those of step {kept['step']} ({kept['weights']})",
            f"  {self.folder}",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        sections = []
        metrics, batch = self.folder / "metrics.jsonl", self.folder / "batch.png"
        if metrics.is_file():
            lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
            sections.append(("Training", figure_row(figures.curves(lines), "curve")))
        if self.selection is not None:
            sections.append(("Auxiliary classes", _selection_table(self.selection)))
        if batch.is_file():
            sections.append(("First batch", paper(png_url(batch.read_bytes()), "first batch", "40rem")))
        if self.evaluation is not None:
            sections.append(confusion_section(self.evaluation))
        gone = "" if metrics.is_file() else "\n  the folder is not there any more, and with it curves and first batch"
        return fragment(repr(self) + gone, sections)


def _selection_table(selection: dict[str, Any]) -> str:
    """The classes of the auxiliary images of each target class, with scores, best first."""
    rows = []
    for name, entries in selection["classes"].items():
        scores: dict[str, float | None] = {}
        for entry in entries:  # single images of one class have one entry, with the best score
            scores.setdefault(readable_name(entry["class"]), entry.get("score"))
        texts = [one if score is None else f"{one} {score:.3f}" for one, score in scores.items()]
        rows.append((readable_name(name), ", ".join(texts[:5]) + (" ..." if len(texts) > 5 else "")))
    more = len(rows) - SHOWN_CLASSES
    if more > 0:
        rows[SHOWN_CLASSES:] = [(f"... {more} more", "in selection.json")]
    return table(rows, ["target class", "auxiliary classes"])
