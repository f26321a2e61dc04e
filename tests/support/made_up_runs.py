"""Runs of a comparison on photos that are made up, as real ones take seconds each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xmixup_fast import Settings
from xmixup_fast.comparison.workers import Workers
from xmixup_fast.training.target import target_data

RUN_SECONDS = 36.0
"""Of a made-up run: 10 s, with 30 steps of a second in place of 4 s of steps."""


class MadeUp:
    """Makes up what worker processes give."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}
        """Which share of the photos a method gets right, half of them if not given; their contents say which ones."""
        self.done: list[tuple[str, Settings]] = []
        """What was asked for: the kind of work, and the settings."""
        self.fails: Callable[[Settings], bool] = lambda settings: False
        self.interrupted_after: int | None = None
        self.probability: Callable[[Settings], float] = lambda settings: 0.9
        """How sure a run is of its predictions."""
        self.flips: Callable[[Settings], bool] = lambda settings: False
        """Whether a run predicts the contrary."""

    def process(self, workers: Workers, key: str, settings: list[Settings], work: dict[str, Any]) -> dict[str, Any]:
        (one,) = settings
        if self.interrupted_after == len(self.done):
            raise KeyboardInterrupt
        self.done.append((work["work"], one))
        if self.fails(one):
            return {"error": "lr: the loss became nan in step 3"}
        if work["work"] == "few_steps":
            return {"run_seconds": 10.0, "train_seconds": 4.0, "seconds_per_step": 1.0, "full_steps": 30}
        data = target_data(one, lambda text: None)
        count = len(data.dataset.classes)
        predictions = {}
        for sample in data.dataset.val:
            digest = data.contents[sample.image.name].digest
            draw = int(digest[:8], 16) / 16**8
            right = (draw < self.shares.get(one.method, 0.5)) != self.flips(one)
            row = [(1 - self.probability(one)) / (count - 1)] * count
            row[sample.label if right else (sample.label + 1) % count] = self.probability(one)
            predictions[digest] = row
        return {"val_accuracy": 50.0, "run_seconds": RUN_SECONDS, "predictions": predictions, "data": data.listing}

    def runs(self) -> list[Settings]:
        """The settings of all whole runs."""
        return [settings for work, settings in self.done if work == "predict"]

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
        """Takes the place of worker processes."""
        found = cls()
        monkeypatch.setattr(Workers, "_process", lambda self, *arguments: found.process(self, *arguments))
        return found
