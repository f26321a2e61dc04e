"""The manifest of a run: which images it has, in which split, known by their content wherever they are kept.

``manifest.csv`` has a line for each image. Tools that know nothing of this package can read, compare and check it:
``b2sum -l 128 FILE`` prints the hash in its column blake2b.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..runtime.files import write_text
from ..settings.identity import short_hash
from .contents import Contents
from .cut import OUT, UNUSED, Cut
from .dataset import SPLITS, BadFile, Dataset, Sample

PLACES = (*SPLITS, UNUSED, OUT)
"""What the column split holds."""


class Row(NamedTuple):
    """An image of a run."""

    split: str
    """train, val or test; unused, for an image not among the shots; or out, for one that is left out: see note."""
    class_name: str
    """Empty for a file that was not listed as an image of a class."""
    name: str
    """Path below the dataset's folder, with slashes; of an archive's member the archive's path and the member's."""
    weight: int
    """How often training shows the image in each epoch."""
    bytes: int
    blake2b: str
    """Hash of the bytes (see :class:`~.dataset.Content`); empty where they cannot be read."""
    note: str
    """What is to be said of the image: "copy of NAME", "two labels: ...", "cannot be used: REASON"; or nothing."""


COLUMNS = ("split", "class", "name", "weight", "bytes", "blake2b", "note")


def is_manifest(path: Path) -> bool:
    """Whether a file begins as manifest.csv does."""
    head = ",".join(COLUMNS).encode() + b"\n"
    with path.open("rb") as file:
        return file.read(len(head)) == head


@dataclass(frozen=True)
class Manifest:
    """The images of a run, sorted by split and name."""

    rows: list[Row]

    @classmethod
    def of(cls, cut: Cut, listed: Dataset, contents: Contents, bad: Mapping[str, str]) -> Manifest:
        """The manifest of a dataset that was cut.

        Args:
            cut: where each image goes.
            listed: the dataset before.
            contents: of all images that can be read.
            bad: the reasons why files cannot be used, by name.
        """
        split = dict(cut.apart)
        for name in SPLITS:
            split |= {sample.image.name: name for sample in getattr(cut.dataset, name)}
        rows = []
        for sample in listed.samples:
            name = sample.image.name
            size, digest = contents.get(name, (0, ""))
            note = f"cannot be used: {bad[name]}" if name in bad else cut.notes.get(name, "")
            place = OUT if name in bad else split[name]
            class_name = listed.classes[sample.label]
            rows.append(Row(place, class_name, listed.name_of(sample.image), sample.weight, size, digest, note))
        images = {sample.image.name for sample in listed.samples}
        prefix = f"{listed.root}/"
        for name, reason in bad.items():
            if name not in images:
                rows.append(Row(OUT, "", name.removeprefix(prefix), 1, 0, "", f"cannot be used: {reason}"))
        return cls(sorted(rows, key=lambda row: (row.split, row.name)))

    @cached_property
    def fingerprint(self) -> str:
        """Identifies images, labels, weights and splits, wherever the images are kept: 15 hexadecimal digits."""
        lines = sorted(f"{row.blake2b} {row.split} {row.class_name} {row.weight}" for row in self.rows)
        return short_hash("\n".join(lines))

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted. A label is a position in this list."""
        return sorted({row.class_name for row in self.rows if row.class_name})

    def of_split(self, split: str) -> list[Row]:
        """The images of a split, sorted by name."""
        return [row for row in self.rows if row.split == split]

    def write(self, path: Path) -> None:
        """Writes the manifest as a CSV file, in one piece."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.rows)
        write_text(path, text.getvalue())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest. Raises OSError where that fails, and ValueError, with the line, for anything else."""
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file, strict=True)
            try:
                head = next(lines, [])
                if tuple(head) != COLUMNS:
                    raise ValueError(f"expected the columns {', '.join(COLUMNS)}, got {', '.join(head)}")
                return cls([_row(line) for line in lines])
            except (csv.Error, ValueError) as error:
                raise ValueError(f"{path}: line {lines.line_num}: {error}") from error


def _row(cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} cells, got {len(cells)}")
    split, class_name, name, weight, size, digest, note = cells
    if split not in PLACES:
        raise ValueError(f"split: expected one of {', '.join(PLACES)}, got {split!r}")
    if ".." in Path(name).parts:
        raise ValueError(f"name: {name} leads out of the dataset")
    return Row(split, class_name, name, int(weight), int(size), digest, note)


@dataclass(frozen=True)
class Match:
    """A dataset, as it is now, beside a run's manifest. Images are the same where their content is."""

    manifest: Manifest
    dataset: Dataset
    rows: dict[str, Row]
    """The row of each image that the run has, by the image's name now."""
    images: dict[Row, Sample]
    """The images that are there, by their row; copies may stand for each other."""
    new: list[Sample]
    """Images with a content and a name that the run does not have."""
    edited: dict[Row, Sample]
    """Images with a content that the run does not have, by the row of the image that had their name."""
    copies: list[Sample]
    """Images with a content of which the run has fewer images."""
    missing: list[Row]
    """Images of the run whose content is not there, under any name."""

    @classmethod
    def of(cls, manifest: Manifest, dataset: Dataset, contents: Contents) -> Match:
        """Finds the images of a manifest in a dataset, of which ``contents`` holds all that can be read."""
        by_digest: dict[str, list[Row]] = {}
        for row in manifest.rows:
            if row.blake2b:
                by_digest.setdefault(row.blake2b, []).append(row)
        listed = [one for one in dataset.samples if one.image.name in contents]
        found = {one.image.name: by_digest.get(contents[one.image.name].digest, []) for one in listed}
        rows: dict[str, Row] = {}
        images: dict[Row, Sample] = {}
        # Of several copies, each image takes the row of its own name, else one of its own class, else any.
        for fits in (_same_name, _same_class, _any):
            for sample in (one for one in listed if one.image.name not in rows):
                free = (row for row in found[sample.image.name] if row not in images and fits(row, dataset, sample))
                if (own := next(free, None)) is not None:
                    rows[sample.image.name], images[own] = own, sample
        copies = [one for one in listed if found[one.image.name] and one.image.name not in rows]
        rows |= {one.image.name: found[one.image.name][0] for one in copies}
        by_content = {contents[one.image.name].digest: one for one in reversed(listed)}
        for row in manifest.rows:
            if row not in images and row.blake2b in by_content:
                images[row] = by_content[row.blake2b]
        missing = [row for row in manifest.rows if row.blake2b and row not in images]
        gone = {row.name: row for row in missing}
        unknown = {dataset.name_of(one.image): one for one in listed if one.image.name not in rows}
        new = [one for name, one in unknown.items() if name not in gone]
        edited = {gone[name]: one for name, one in unknown.items() if name in gone}
        return cls(manifest, dataset, rows, images, new, edited, copies, missing)

    def of_split(self, split: str) -> list[tuple[Row, Sample]]:
        """The images of one of the run's splits that are there, in the manifest's order, with the manifest's labels."""
        label = {name: position for position, name in enumerate(self.manifest.classes)}
        rows = [row for row in self.manifest.of_split(split) if row in self.images]
        return [(row, Sample(self.images[row].image, label[row.class_name], row.weight)) for row in rows]

    @property
    def recognised_by(self) -> str:
        """What tells whether a dataset is the run's: its test images or, where it has none, its validation images."""
        return "test images" if self.manifest.of_split("test") else "validation images"

    def recognised(self) -> tuple[int, int]:
        """How many of these images are there, and how many the run has."""
        rows = self.manifest.of_split("test") or self.manifest.of_split("val")
        return sum(row in self.images for row in rows), len(rows)

    def differences(self) -> list[str]:
        """How the dataset differs from the run's: a text for each kind, with the number and three names."""
        same = [(row, one) for row, one in self.images.items() if self.rows[one.image.name] == row]
        relabelled = [one for row, one in same if not _same_class(row, self.dataset, one)]
        kinds = (
            (self._names(self.new), "new"),
            ([row.name for row in self.missing if row not in self.edited], "missing"),
            (self._names(relabelled), "with another label, of which the run's counts"),
            (self._names(self.edited.values()), "with other content"),
            (self._names(one for row, one in same if row.weight != one.weight), "in another number of rows"),
            (self._names(self.copies), "further copies"),
        )
        return [f"{len(names)} {kind} ({', '.join(names[:3])})" for names, kind in kinds if names]

    def _names(self, samples: Iterable[Sample]) -> list[str]:
        return [self.dataset.name_of(sample.image) for sample in samples]


def _same_name(row: Row, dataset: Dataset, sample: Sample) -> bool:
    return row.name == dataset.name_of(sample.image)


def _same_class(row: Row, dataset: Dataset, sample: Sample) -> bool:
    return row.class_name == dataset.classes[sample.label]


def _any(row: Row, dataset: Dataset, sample: Sample) -> bool:
    return True


def reasons(bad: Iterable[BadFile]) -> dict[str, str]:
    """The reason of each bad file, by name."""
    return {file.name: file.reason for file in bad}
