"""What the functions ``select`` and ``evaluate`` return, as a console and a notebook show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ..data.dataset import Dataset
from ..data.folder_pool import decoded_pool
from ..evaluation import Evaluation
from ..ops.image_pool import ImagePool
from ..selection.choice import Selection
from . import figures
from .html import jpeg_url, png_url
from .notebook import fragment, paper

SHOWN_CLASSES = 20
"""Lines of target classes that the text of a selection has."""


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult(Evaluation):
    """An evaluation, with where its images came from."""

    target: str = ""
    """The dataset."""
    split: str = ""
    """Which of its images."""
    folder: Path | None = None
    """Where evaluation.json and the confusion matrix were written; None where they were not."""

    def __repr__(self) -> str:
        matrix = self.confusion_matrix()
        counts, right = matrix.sum(1), matrix.diagonal()
        lines = [
            f"Evaluation of {self.target} ({self.split}): {self.accuracy:.2f} % of {len(self)} images",
            f"  mean of the {int((counts > 0).sum())} classes {self.balanced_accuracy:.2f} %, loss {self.loss:.4f}",
        ]
        shares = (right / counts).nan_to_num(1.0)  # a class without images has none
        worst = int(shares.argmin())
        if shares[worst] < 1:
            taken_for = self.classes[int((matrix - right.diag())[worst].argmax())]
            share = f"{100 * float(shares[worst]):.2f} %"
            lines.append(f"  lowest: {self.classes[worst]}, {share}, most often taken for {taken_for}")
        return "\n".join(lines + ([f"  {self.folder}"] if self.folder else []))

    def _repr_html_(self) -> str:
        return fragment(repr(self), [confusion_section(self)])


def confusion_section(evaluation: Evaluation) -> tuple[str, str]:
    """A section of a notebook's output with the confusion matrix."""
    picture = png_url(figures.png(figures.confusion_matrix(evaluation), 80))
    return "Confusion matrix", paper(picture, "confusion matrix")


@dataclass(frozen=True, eq=False, repr=False)
class SelectionResult:
    """What was selected for each target class."""

    selection: Selection
    """Positions in the source's classes or images, with scores."""
    target: Dataset
    source: Dataset
    report: dict[str, Any]
    """The content of selection.json: by the name of each target class, what was chosen, with scores."""
    sheets: list[Image.Image]
    """Contact sheets: training images of each target class beside the auxiliary images it gets, 20 classes a sheet."""
    known_outputs: dict[str, int] = field(default_factory=dict)
    """The classes that outputs of the pretrained classifier stand for, with these outputs' positions."""
    folder: Path | None = None
    """Where selection.json and the contact sheets were written; None where they were not."""

    @property
    def classes(self) -> list[str]:
        """The source classes that were chosen, or of which images were, sorted, each once."""
        return [self.source.classes[label] for label in self._labels()]

    @property
    def relatives(self) -> list[list[int]]:
        """For each target class, positions in ``classes``: what :class:`XMixup` takes as ``source_classes``, with the
        images of :meth:`pool`.

        Raises ValueError for a selection of single images.
        """
        if self.selection.kind == "image":
            raise ValueError("relatives: expected chosen classes, got single images, of selection sample")
        position = {label: i for i, label in enumerate(self._labels())}
        return [[position[label] for label in row] for row in self.selection.chosen]

    @property
    def outputs(self) -> list[int]:
        """The output of the pretrained classifier that stands for each of ``classes``: rows for a source head.

        Raises ValueError where the classifier does not know one of them; the source head then begins anew.
        """
        unknown = [name for name in self.classes if name not in self.known_outputs]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(
                f"outputs: the pretrained classifier has no output for {unknown[0]}{more}; take a source head of new "
                f"weights with {len(self.classes)} outputs"
            )
        return [self.known_outputs[name] for name in self.classes]

    def pool(
        self,
        resize: int | Literal["full"] = 256,
        *,
        decoder: Literal["auto", "dali", "torchcodec", "torchvision", "pillow"] = "auto",
        log: Callable[[str], object] = print,
    ) -> ImagePool:
        """The auxiliary images, decoded, labelled with positions in ``classes``, on the CPU.

        Args:
            resize: short side of the decoded images, in pixels; ``full`` for images of their own size.
            decoder: what decodes JPEG files; auto takes the first of these that is installed.
            log: gets lines for the user.

        Raises ValueError, which lists them, for images that cannot be decoded.
        """
        position = {label: i for i, label in enumerate(self._labels())}
        samples = [one._replace(label=position[one.label]) for one in self.selection.samples(self.source)]
        if not samples:
            raise ValueError("pool: there are no images, as select got no source: select(..., source=...)")
        pool, bad = decoded_pool(samples, self.classes, "auxiliary images", resize=resize, decoder=decoder, log=log)
        if bad:
            raise ValueError("\n  ".join(["pool: these images cannot be decoded:", *(f"{a}: {b}" for a, b in bad)]))
        return pool

    def _labels(self) -> Sequence[int]:
        chosen = {position for row in self.selection.chosen for position in row}
        if self.selection.kind == "image":
            chosen = {self.source.train[position].label for position in chosen}
        return sorted(chosen)

    def __repr__(self) -> str:
        lines = self.selection.lines(self.target.classes, self.source)
        more = len(lines) - SHOWN_CLASSES
        return "\n".join([self._title(), *lines[:SHOWN_CLASSES], *([f"  ... {more} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        scores = "" if self.selection.scores is None else ", with their scores"
        title = f"Left: target images. Right: auxiliary images{scores}."
        rest = len(self.sheets) - 1
        title += f" The first of {rest + 1} contact sheets; the others are in .sheets" if rest else ""
        return fragment(self._title(), [(title, paper(jpeg_url(self.sheets[0]), "contact sheet"))])

    def _title(self) -> str:
        counts = f"{len(self.target.classes)} target classes, {len(self.classes)} of {len(self.source.classes)} source"
        where = f"; {self.folder}" if self.folder else ""
        return f"Selection by {self.report['how']}: {counts} classes{where}"
