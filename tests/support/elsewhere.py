"""A source that is elsewhere, without a network: its images are those of a dataset, and what is fetched is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmixup_fast.data.catalog import Catalog, Log
from xmixup_fast.data.dataset import Dataset


class Elsewhere(Catalog):
    """Fetches images out of a dataset."""

    def __init__(self, dataset: Dataset, size: int | None = 5_000_000_000) -> None:
        self.name = "elsewhere"
        self.dataset = dataset
        self.classes = dataset.classes
        self.size = size
        self.asked: list[tuple[list[int], int | None]] = []
        """Labels and limit of each fetch."""

    def origins(self) -> list[dict[str, Any]]:
        return [{"url": "made://elsewhere", "revision": "1"}]

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        self.asked.append((list(labels), limit))
        train = []
        for label in labels:
            train += [one for one in self.dataset.train if one.label == label][:limit]
        return Dataset(self.classes, train, [], [])
