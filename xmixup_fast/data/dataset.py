"""What every reader of datasets gives: labelled images, still encoded, by split; and how splits are cut."""

from __future__ import annotations

import io
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Image(ABC):
    """One encoded image (JPEG, PNG or WebP), wherever it is kept. Equal and hashable by what tells where."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Names it in messages and orders it; no two images of a dataset have the same."""

    @abstractmethod
    def read(self) -> bytes:
        """Its encoded bytes. Raises OSError where they cannot be read."""

    def open(self) -> BinaryIO:
        """Its encoded bytes as a stream, for those who need the first of them alone. Raises OSError."""
        return io.BytesIO(self.read())

    @abstractmethod
    def stamp(self) -> str:
        """Another text whenever the bytes may have changed, without reading them. Raises OSError."""


def stamp_or_reason(image: Image) -> str:
    """The image's stamp or, where it has none, why: what names of cached files depend on."""
    try:
        return image.stamp()
    except OSError as error:
        return f"{error.strerror}"


@dataclass(frozen=True)
class FileImage(Image):
    """An image that is a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        return self.path.read_bytes()

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def stamp(self) -> str:
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class BadFile(NamedTuple):
    """A file of a dataset that cannot be used."""

    name: str
    reason: str


class Sample(NamedTuple):
    """An image and the position of its class among the dataset's classes."""

    image: Image
    label: int


@dataclass(frozen=True)
class Dataset:
    """Images by split; a split that a dataset does not have is empty."""

    classes: list[str]
    """Class names, sorted; a label is a position here."""
    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    bad: list[BadFile] = field(default_factory=list)
    """What a reader found that cannot be used, in the order found; it is in no split."""


def by_name(samples: Iterable[Sample]) -> list[Sample]:
    """Sorted by the images' names."""
    return sorted(samples, key=lambda sample: sample.image.name)


def split(dataset: Dataset, *, val_fraction: float, test_fraction: float, shots: int | None, seed: int) -> Dataset:
    """Cuts the test and validation splits that a dataset lacks from train, then keeps ``shots`` images of each class.

    Each cut takes its fraction of every class, at least one image and never all. The same seed gives the same splits,
    and fewer shots are a subset of more.

    Raises ValueError for a class with too few images to be cut or to keep ``shots`` of.
    """
    shuffle = random.Random(seed).shuffle
    train, val, test = [], list(dataset.val), list(dataset.test)
    for label, name in enumerate(dataset.classes):
        images = [sample for sample in dataset.train if sample.label == label]
        found = len(images)
        shuffle(images)
        for missing, part, fraction in ((not dataset.test, test, test_fraction), (not dataset.val, val, val_fraction)):
            if missing:
                if len(images) < 2:
                    raise ValueError(
                        f"class {name}: expected more training images, to cut validation and test from, got {found}"
                    )
                count = min(max(round(fraction * len(images)), 1), len(images) - 1)
                part += images[:count]
                del images[:count]
        if shots is not None and len(images) < shots:
            raise ValueError(f"shots: expected at most {len(images)}, the training images of class {name}, got {shots}")
        train += images[:shots]
    return replace(dataset, train=by_name(train), val=by_name(val), test=by_name(test))


def of_classes(samples: Iterable[Sample], labels: Sequence[int]) -> list[Sample]:
    """The samples of some classes, in their order."""
    wanted = set(labels)
    return [sample for sample in samples if sample.label in wanted]
