"""A catalog: the classes of a source, known before its images are there, and a way to the images of some of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .dataset import BadFile, Dataset, Sample

Log = Callable[[str], object]
"""Gets lines for the user."""


class Catalog(ABC):
    """The classes of a source, and its images as far as they are asked for."""

    name: str
    """The source, as the user called it."""
    classes: list[str]
    """Sorted class names. A label is a position in this list."""
    counts: list[int] | None = None
    """Training images of each class; None where they are not known without reading the source."""
    size: int | None = None
    """Bytes of all that would have to be read for all images; None where that is not known."""
    local: Dataset | None = None
    """The source, where all of its images are there, so that a look at them costs no download."""

    def origins(self) -> list[dict[str, Any]]:
        """Where images were fetched from: an object with url and revision for each place. Empty where all are there."""
        return []

    @abstractmethod
    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The training images of some classes.

        Args:
            labels: positions in ``classes``.
            limit: how many images of each class at most, where they have to be fetched; all if not given.
            log: gets lines for the user.

        Returns a dataset with all of ``classes``, so that labels stay what they are, whose training images include
        those asked for. Files that turn out not to be usable are listed in its ``bad``.

        Raises ValueError or OSError, with a message for the user, for what cannot be fetched.
        """


class LocalCatalog(Catalog):
    """The catalog of a dataset whose images are there."""

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.name = name
        self.local = self.dataset = dataset
        self.classes = dataset.classes
        counts = Counter(sample.label for sample in dataset.train)
        self.counts = [counts[label] for label in range(len(self.classes))]

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The dataset, as all of its images are there."""
        return self.dataset


class JoinedCatalog(Catalog):
    """Several catalogs as one: classes that have the same name, or are given it, are one class.

    Args:
        name: of the whole.
        parts: the catalogs.
        renamed: other names of classes, such as WordNet ids by the words that stand for them.
    """

    def __init__(self, name: str, parts: Sequence[Catalog], renamed: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.parts = parts
        self.names = [[(renamed or {}).get(one, one) for one in part.classes] for part in parts]
        """The names of each part's classes."""
        self.classes = sorted({one for names in self.names for one in names})
        self.label = {one: label for label, one in enumerate(self.classes)}
        if all(part.counts is not None for part in parts):
            self.counts = [0] * len(self.classes)
            for part, names in zip(parts, self.names, strict=True):
                for one, count in zip(names, part.counts or [], strict=True):
                    self.counts[self.label[one]] += count
        sizes = [part.size for part in parts]
        self.size = None if None in sizes else sum(size for size in sizes if size is not None)

    def origins(self) -> list[dict[str, Any]]:
        """Those of all parts."""
        return [origin for part in self.parts for origin in part.origins()]

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The images of each part, one part after the other; ``limit`` holds for each part."""
        wanted = {self.classes[label] for label in labels}
        train: list[Sample] = []
        bad: list[BadFile] = []
        for part, names in zip(self.parts, self.names, strict=True):
            of_part = part.fetch([label for label, one in enumerate(names) if one in wanted], limit, log)
            bad += of_part.bad
            train += [one._replace(label=self.label[names[one.label]]) for one in of_part.train]
        return Dataset(self.classes, train, [], [], bad)
