"""Selection: the auxiliary classes or images of each target class, and the file selection.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.dataset import Dataset, Sample, of_classes
from ..models.class_names import readable_name

MARK = "(?)"
"""Stands behind a doubtful score; the name of a class may end in a question mark."""
DOUBT = f"{MARK}: the best of as many unrelated classes may well score as much; look at these on the contact sheet"
LISTED_CLASSES = 5
"""How many of the classes of single images :meth:`Selection.lines` names."""


@dataclass(frozen=True)
class Selection:
    """The source classes, or single source images, whose images are mixed with each target class."""

    kind: Literal["class", "image"]
    """Whether source classes or single training images of the source are chosen."""
    chosen: list[list[int]]
    """For each target class, what is chosen, best first: distinct positions in the source's ``classes`` for ``kind``
    "class", in its ``train`` for "image"."""
    scores: list[list[float]] | None
    """Scores of ``chosen``, in the same order: mean predicted probabilities, or cosine similarities. None for random
    classes, which have none."""
    doubtful: list[list[bool]] | None = None
    """Which of ``scores`` unrelated classes may well reach by chance, see :mod:`.doubt`; None where that is unknown."""

    def is_doubtful(self, target: int, number: int) -> bool:
        """Whether chance may explain the score of choice ``number`` of a target class."""
        return self.doubtful is not None and self.doubtful[target][number]

    def samples(self, source: Dataset) -> list[Sample]:
        """The training images of the source that are chosen or whose class is, each once, in the source's order."""
        if self.kind == "image":
            return [source.train[position] for position in self._positions()]
        return of_classes(source.train, self._positions())

    def sample_positions(self) -> list[list[int]]:
        """For ``kind`` "image": the positions among :meth:`samples` of the images of each target class."""
        sample_position = {position: i for i, position in enumerate(self._positions())}
        return [[sample_position[position] for position in row] for row in self.chosen]

    def to_json(self, target_classes: Sequence[str], source: Dataset) -> dict[str, list[dict[str, Any]]]:
        """The selection by names, as selection.json holds it.

        Maps the name of each target class to a list with an entry for each choice: its ``class``, for ``kind`` "image"
        also its ``image``, its ``score`` where there are scores, and ``doubtful`` where it is.
        """
        rows: dict[str, list[dict[str, Any]]] = {}
        for target, row in enumerate(self.chosen):
            entries: list[dict[str, Any]]
            if self.kind == "image":
                samples = [source.train[position] for position in row]
                entries = [{"class": source.classes[one.label], "image": one.image.name} for one in samples]
            else:
                entries = [{"class": source.classes[position]} for position in row]
            if self.scores is not None:
                for entry, score in zip(entries, self.scores[target], strict=True):
                    entry["score"] = round(score, 6)
            for number, entry in enumerate(entries):
                if self.is_doubtful(target, number):
                    entry["doubtful"] = True
            rows[target_classes[target]] = entries
        return rows

    def lines(self, target_classes: Sequence[str], source: Dataset) -> list[str]:
        """A line of text for each target class: the chosen source classes with their scores; one for doubtful scores.

        Single images are counted by their class.
        """
        width = max(map(len, target_classes))
        rows = enumerate(target_classes)
        lines = [f"  {name:{width}s} <- {self._describe(target, source)}" for target, name in rows]
        return [*lines, f"  {self.doubt()}"] if self.doubt() else lines

    def doubt(self) -> str:
        """What the mark (?) at scores means; empty where no score is doubtful."""
        return DOUBT if any(map(any, self.doubtful or [])) else ""

    def _positions(self) -> list[int]:
        """All positions in ``chosen``, sorted, each once."""
        return sorted({position for row in self.chosen for position in row})

    def _describe(self, target: int, source: Dataset) -> str:
        row, scores = self.chosen[target], self.scores[target] if self.scores else []
        if self.kind == "image":
            counts = Counter(source.train[position].label for position in row).most_common(LISTED_CLASSES)
            listed = ", ".join(f"{readable_name(source.classes[label])} {count}" for label, count in counts)
            rest = len(row) - sum(count for _, count in counts)
            score_range = f", {scores[0]:.3f} to {scores[-1]:.3f}" if scores else ""
            return f"{len(row)} images{score_range}: {listed}" + (f", other classes {rest}" if rest else "")
        marks = (f" {MARK}" if self.is_doubtful(target, number) else "" for number in range(len(row)))
        values = [f" {score:.3f}{mark}" for score, mark in zip(scores, marks, strict=False)] or [""] * len(row)
        return ", ".join(readable_name(source.classes[i]) + value for i, value in zip(row, values, strict=True))


def read_selection(path: str, target_classes: Sequence[str], source: Dataset) -> Selection:
    """Reads a selection from the file selection.json of a run.

    Raises FileNotFoundError where there is no such file, and ValueError where its form is another one, where it lacks a
    target class, or where it names a class or image that the source does not have.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"selection_file: {path}: no such file")
    try:
        rows: dict[str, list[dict[str, Any]]] = json.loads(Path(path).read_text(encoding="utf-8"))["classes"]
        kinds = {"image" if "image" in entry else "class" for entries in rows.values() for entry in entries}
        (kind,) = kinds
        names = {target: [str(entry[kind]) for entry in entries] for target, entries in rows.items()}
        scored = all("score" in entry for entries in rows.values() for entry in entries)
        values = {target: [float(entry["score"]) for entry in entries] for target, entries in rows.items() if scored}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"selection_file: {path}: expected the selection.json of a run or of xmixup select") from error
    doubts = {target: [bool(entry.get("doubtful")) for entry in entries] for target, entries in rows.items()}
    known = [sample.image.name for sample in source.train] if kind == "image" else source.classes
    position = {name: i for i, name in enumerate(known)}
    for target in target_classes:
        if not names.get(target):
            raise ValueError(f"selection_file: {path}: has nothing for the target class {target}")
        for name in names[target]:
            if name not in position:
                raise ValueError(f"selection_file: {path}: the source has no training {kind} {name}")
    chosen = [[position[name] for name in names[target]] for target in target_classes]
    return Selection(
        "image" if kind == "image" else "class",
        chosen,
        [values[target] for target in target_classes] if scored else None,
        [doubts[target] for target in target_classes] if any(map(any, doubts.values())) else None,
    )
