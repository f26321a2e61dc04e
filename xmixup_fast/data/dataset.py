"""Datasets: encoded images with their classes, in the splits train, val and test; and how missing splits are made."""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, NamedTuple

SPLITS = ("train", "val", "test")
"""Names of the splits of a dataset."""
WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
"""A name that is a whole number; some programs write labels as 3.0."""


class Content(NamedTuple):
    """What tells an image from all others, wherever it is kept and whatever it is called."""

    size: int
    """In bytes."""
    digest: str
    """BLAKE2b hash of the bytes, 32 hexadecimal digits: what ``b2sum -l 128`` prints for a file."""

    @classmethod
    def of(cls, data: bytes) -> Content:
        """The content of an image whose bytes are these."""
        return cls(len(data), hashlib.blake2b(data, digest_size=16).hexdigest())


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

    def content(self) -> Content:
        """Size and hash of the encoded bytes. Raises OSError where they cannot be read."""
        return Content.of(self.read())


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
        # Programs can set back the time of the last write, but not that of the last change; and a file that takes the
        # place of another one has another inode.
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


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
    """Class names in the order of :func:`sorted_classes`, of a run that is resumed in the run's. A label is a position
    in this list."""
    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    bad: list[BadFile] = field(default_factory=list)
    """Files that the reader found and that cannot be used, in the order found. They are in no split."""
    root: str = ""
    """What the names of the images begin with, before a slash, wherever the dataset is kept."""
    findings: Findings = field(default_factory=Findings)

    @property
    def samples(self) -> list[Sample]:
        """The images of all splits."""
        return [*self.train, *self.val, *self.test]

    def with_splits(self, splits: Mapping[str, list[Sample]]) -> Dataset:
        """The same dataset with other images in its splits train, val and test."""
        return replace(self, train=splits["train"], val=splits["val"], test=splits["test"])

    def name_of(self, image: Image) -> str:
        """The name of an image below ``root``; its whole name if it is elsewhere."""
        return image.name.removeprefix(f"{self.root}/") if self.root else image.name


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Names of classes, each once, in the order of their labels: by value where all are whole numbers, else as texts.

    Programs that write numbers for classes expect output 2 of a network to be class 2, not class 10.
    """
    as_texts = sorted(set(names))
    if not all(map(WHOLE_NUMBER.fullmatch, as_texts)):
        return as_texts
    return sorted(as_texts, key=Decimal)  # equal numbers, such as 1 and 01, stay in the order of their texts


def by_name(samples: Iterable[Sample]) -> list[Sample]:
    """The samples, sorted by the names of their images."""
    return sorted(samples, key=lambda sample: sample.image.name)


def of_classes(samples: Iterable[Sample], labels: Sequence[int]) -> list[Sample]:
    """The samples with one of these labels, in their order."""
    wanted = set(labels)
    return [sample for sample in samples if sample.label in wanted]
