"""Datasets: encoded images with their classes, in the splits train, val and test; and how missing splits are made."""

from __future__ import annotations

import hashlib
import io
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Image(ABC):
    """One encoded image, in a file, an archive, a table or memory.

    Two images are equal, and have the same hash, where they are kept in the same place.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the image in its dataset: messages show it, and images are sorted by it."""

    @abstractmethod
    def read(self) -> bytes:
        """Reads the encoded bytes. Raises OSError where they cannot be read."""

    def open(self) -> BinaryIO:
        """Opens a stream of the encoded bytes, to read a header alone. Raises OSError where they cannot be read."""
        return io.BytesIO(self.read())

    @abstractmethod
    def stamp(self) -> str:
        """A text that changes when the bytes may have changed, found without reading them, such as size and time.

        Raises OSError where it cannot be found.
        """

    def content(self) -> str:
        """A hash of the encoded bytes, 32 hexadecimal digits: what ``b2sum -l 128`` prints for a file.

        Raises OSError where they cannot be read.
        """
        return hashlib.blake2b(self.read(), digest_size=16).hexdigest()


def stamp_or_reason(image: Image) -> str:
    """The image's stamp or, where it cannot be found, the reason: names of cached files are hashes of these texts."""
    try:
        return image.stamp()
    except OSError as error:
        return f"{error.strerror}"


@dataclass(frozen=True)
class FileImage(Image):
    """An image in a file of its own."""

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
    weight: int = 1
    """How often training shows the image in each epoch: how many rows of a table name it."""


@dataclass(frozen=True)
class Findings:
    """What a reader met besides images, and how it took what can be taken in several ways."""

    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many files are no images, by folder (below the dataset's, with slashes) and extension (".txt", or "")."""
    guesses: Sequence[str] = ()
    """One line of text for each guess."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images in three splits. A split that a dataset does not have is empty."""

    classes: list[str]
    """Sorted class names. A label is a position in this list."""
    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    bad: list[BadFile] = field(default_factory=list)
    """Files that the reader found and that cannot be used, in the order found. They are in no split."""
    root: str = ""
    """What the names of the images begin with, before a slash, wherever the dataset is kept."""
    findings: Findings = field(default_factory=Findings)

    def name_of(self, image: Image) -> str:
        """The name of an image below ``root``; its whole name if it is elsewhere."""
        return image.name.removeprefix(f"{self.root}/")


def by_name(samples: Iterable[Sample]) -> list[Sample]:
    """The samples, sorted by the names of their images."""
    return sorted(samples, key=lambda sample: sample.image.name)


def split(dataset: Dataset, *, val_fraction: float, test_fraction: float, shots: int | None, seed: int) -> Dataset:
    """Makes the test and validation splits that a dataset lacks, then keeps ``shots`` training images of each class.

    A missing split takes its fraction of the training images of every class: at least one image, and never all. The
    same seed gives the same splits, and the images of fewer shots are a subset of the images of more.

    Raises ValueError for a class with too few images to split, or with fewer training images than ``shots``.
    """
    shuffle = random.Random(seed).shuffle
    train, val, test = [], list(dataset.val), list(dataset.test)
    for label, name in enumerate(dataset.classes):
        images = [sample for sample in dataset.train if sample.label == label]
        found = len(images)
        shuffle(images)
        for missing, cut, fraction in ((not dataset.test, test, test_fraction), (not dataset.val, val, val_fraction)):
            if missing:
                if len(images) < 2:
                    raise ValueError(
                        f"class {name}: expected more training images, to cut validation and test from, got {found}"
                    )
                count = min(max(round(fraction * len(images)), 1), len(images) - 1)
                cut += images[:count]
                del images[:count]
        if shots is not None and len(images) < shots:
            raise ValueError(f"shots: expected at most {len(images)}, the training images of class {name}, got {shots}")
        train += images[:shots]
    return replace(dataset, train=by_name(train), val=by_name(val), test=by_name(test))


def of_classes(samples: Iterable[Sample], labels: Sequence[int]) -> list[Sample]:
    """The samples with one of these labels, in their order."""
    wanted = set(labels)
    return [sample for sample in samples if sample.label in wanted]
