"""Lines of text that say, before anything is decoded, how a dataset was understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from .dataset import SPLITS, Dataset, Findings
from .duplicates import EXAMPLES
from .layout import some

SHOWN = 10
"""Of many classes, how many are listed at the beginning, and at the end."""


def understood(name: str, dataset: Dataset, apart: Collection[str] = ()) -> Iterator[str]:
    """Yields lines about a dataset: its classes with their images by split, files that are ignored, and guesses.

    Args:
        name: the dataset's name, as the user wrote it.
        dataset: the dataset with the splits that are used.
        apart: what becomes of each image that is in no split, such as "unused".
    """
    by_class = class_counts(dataset)
    total = Counter({split: sum(row[split] for row in by_class.values()) for split in SPLITS}) + Counter(apart)
    listed = ", ".join(f"{total[place]} {place}" for place in dict.fromkeys([*SPLITS, *total]))
    yield f"{name}: {len(dataset.classes)} classes, {sum(total.values())} images ({listed})"
    width = max(map(len, dataset.classes), default=0)
    lines = [
        f"  {class_name:{width}s}  " + "  ".join(f"{row[split]:6d} {split}" for split in SPLITS)
        for class_name, row in by_class.items()
    ]
    if len(lines) > 2 * SHOWN:
        lines[SHOWN:-SHOWN] = [f"  ... {len(lines) - 2 * SHOWN} more classes ..."]
    yield from lines
    yield from found(dataset.findings)


def found(findings: Findings) -> Iterator[str]:
    """Yields lines about what a reader ignored and guessed."""
    if findings.ignored:
        most = sorted(findings.ignored.items(), key=lambda item: (-item[1], item[0]))
        kinds = [
            f"{count} {extension or 'without extension'} in {folder or 'the top folder'}"
            for (folder, extension), count in most
        ]
        count = sum(findings.ignored.values())
        yield f"{count} file{'s' * (count > 1)} ignored: {some(kinds, EXAMPLES)}"
    yield from findings.guesses


def class_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """The number of images of each class, by its name and by split."""
    counted = {split: Counter(sample.label for sample in getattr(dataset, split)) for split in SPLITS}
    return {name: {split: counted[split][label] for split in SPLITS} for label, name in enumerate(dataset.classes)}


def to_json(findings: Findings) -> dict[str, Any]:
    """What a reader ignored and guessed, as data.json holds it."""
    ignored = [
        {"folder": folder, "extension": extension, "files": count}
        for (folder, extension), count in sorted(findings.ignored.items())
    ]
    return {"ignored": ignored, "guesses": list(findings.guesses)}
