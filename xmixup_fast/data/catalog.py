"""A catalog: the classes of a source, known before its images are there, and a way to the images of some of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .dataset import SPLITS, Dataset, of_classes

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

    @property
    def is_local(self) -> bool:
        """Whether all images are there, so that a look at them costs no download."""
        return False

    @abstractmethod
    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The training images of some classes.

        Args:
            labels: positions in ``classes``.
            limit: how many images of each class at most, where they have to be fetched; all if not given.
            log: gets lines for the user.

        Returns a dataset with all of ``classes``, so that labels stay what they are, whose training images are of the
        classes asked for. Files that turn out not to be usable are listed in its ``bad``.

        Raises ValueError or OSError, with a message for the user, for what cannot be fetched.
        """


@dataclass(frozen=True)
class LocalCatalog(Catalog):
    """The catalog of a dataset whose images are there."""

    name: str
    dataset: Dataset

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        return self.dataset.classes

    @property
    def counts(self) -> list[int]:  # type: ignore[override]
        counts = [0] * len(self.classes)
        for sample in self.dataset.train:
            counts[sample.label] += 1
        return counts

    @property
    def is_local(self) -> bool:
        return True

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The dataset without the images of other classes; ``limit`` is for what has to be fetched."""
        splits = {name: of_classes(getattr(self.dataset, name), labels) for name in SPLITS}
        return replace(self.dataset).with_splits(splits)
