"""Images of one content, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .contents import Contents
from .dataset import SPLITS, Dataset, Sample
from .layout import some

EXAMPLES = 3
"""How many examples a message gives."""


class Given:
    """The images of a dataset by content, in the splits that the dataset has."""

    def __init__(self, dataset: Dataset, contents: Contents) -> None:
        self.dataset = dataset
        self.split: dict[str, str] = {}
        """The split of each image, by the image's name."""
        self.groups: dict[str, list[Sample]] = {}
        """The images of each content, by its digest, in the order of their names."""
        samples = [(sample, split) for split in SPLITS for sample in getattr(dataset, split)]
        for sample, split in sorted(samples, key=lambda item: item[0].image.name):
            if sample.image.name in contents:
                self.split[sample.image.name] = split
                self.groups.setdefault(contents[sample.image.name].digest, []).append(sample)

    def labels(self, digest: str) -> list[str]:
        """The classes of the images of a content, sorted."""
        return [self.dataset.classes[label] for label in sorted({sample.label for sample in self.groups[digest]})]

    def splits(self, digest: str) -> set[str]:
        """The splits of the images of a content."""
        return {self.split[sample.image.name] for sample in self.groups[digest]}

    def dropped(self) -> dict[str, str]:
        """The images that ``--duplicates drop`` leaves out, by name, with the reason.

        Copies are left out of train, then of val, and never of test; all images of a content with two labels are.
        """
        notes: dict[str, str] = {}
        for digest, samples in self.groups.items():
            if len(labels := self.labels(digest)) > 1:
                notes |= {sample.image.name: two_labels(labels) for sample in samples}
                continue
            first, *copies = sorted(samples, key=lambda one: -SPLITS.index(self.split[one.image.name]))
            note = copy_of(self.dataset.name_of(first.image))
            notes |= {copy.image.name: note for copy in copies if self.split[copy.image.name] != "test"}
        return notes

    def unclear(self) -> dict[str, str]:
        """The validation and test images with two labels, of which either may be wrong, by name, with the reason."""
        return {
            sample.image.name: two_labels(labels)
            for digest, samples in self.groups.items()
            if len(labels := self.labels(digest)) > 1
            for sample in samples
            if self.split[sample.image.name] != "train"
        }


def copy_of(name: str) -> str:
    """The note of a copy of an image in manifest.csv."""
    return f"copy of {name}"


def two_labels(classes: Sequence[str]) -> str:
    """The note of an image that has several labels."""
    return f"two labels: {', '.join(classes)}"


@dataclass
class Duplicates:
    """Contents that several images have, as examples of names joined by " = "."""

    labels: list[str] = field(default_factory=list)
    """Contents with two labels."""
    splits: list[str] = field(default_factory=list)
    """Contents with one label, in two splits that the dataset has."""
    copies: list[str] = field(default_factory=list)
    """All other ones."""

    @classmethod
    def of(cls, given: Given) -> Duplicates:
        """The duplicates of a dataset."""
        found = cls()
        for digest, samples in given.groups.items():
            if len(samples) > 1:
                kinds = found.labels if len(given.labels(digest)) > 1 else found.copies
                kinds = found.splits if kinds is found.copies and len(given.splits(digest)) > 1 else kinds
                kinds.append(" = ".join(given.dataset.name_of(sample.image) for sample in samples))
        return found

    def lines(self, policy: str) -> list[str]:
        """A line of text for each kind, and what the policy does about it; nothing where there are no duplicates."""
        done: Mapping[str, tuple[str, str, str]] = {
            "warn": (
                "they train under each label, and are left out of validation and test; drop leaves them out altogether",
                "they stay in both; --duplicates drop takes them out of training",
                "copies go together into one split",
            ),
            "drop": ("all are left out", "left out of training and validation", "one of each is kept"),
            "error": ("", "", ""),
        }
        kinds = (
            (self.labels, "with two labels"),
            (self.splits, "in two splits"),
            (self.copies, "more than once, with one label"),
        )
        return [
            f"duplicates: {counted(names, 'content')} {kind} ({some(names, EXAMPLES)}){'; ' if effect else ''}{effect}"
            for (names, kind), effect in zip(kinds, done[policy], strict=True)
            if names
        ]

    def refuse(self) -> None:
        """Raises ValueError, which lists the duplicates, where there are any."""
        if lines := self.lines("error"):
            advice = "duplicates: error stops where images are equal; remove them, or use warn or drop"
            raise ValueError("\n  ".join([advice, *lines]))


def counted(items: Sequence[object], noun: str) -> str:
    """A number of things, such as "1 image" or "2 images"."""
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"
