"""What a run makes of weights of images, and of parts of a batch that hold one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import STEPS, assert_same, interrupted
from small_runs import run

from xmixup_fast.data.dataset import Dataset
from xmixup_fast.training import prepare


@pytest.fixture
def weighted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The weights 1, 2, 3, 1, ... for training images, as a table's repeated rows give them."""
    original, weights = prepare.read_datasets, [1 + i % 3 for i in range(18)]

    def read(*arguments: Any, **options: Any) -> tuple[Dataset, Dataset | None]:
        target, source = original(*arguments, **options)
        train = [sample._replace(weight=weight) for sample, weight in zip(target.train, weights, strict=True)]
        return replace(target, train=train), source

    monkeypatch.setattr(prepare, "read_datasets", read)
    return weights


def test_epochs_count_images_by_weight(
    data: Path, tmp_path: Path, weighted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(data, tmp_path / "run", steps=None, epochs=2, warmup_epochs=0.5)
    assert sum(weighted) == 36 and result.summary["steps"] == 9 and result.summary["num_train"] == 18
    assert "18 training, 6 validation and 6 test images, which a table's repeated rows show 36 times an" in (
        capsys.readouterr().out
    )


def test_a_resumed_run_with_weights_ends_with_the_same_bits(data: Path, tmp_path: Path, weighted: list[int]) -> None:
    whole = run(data, tmp_path / "whole", steps=STEPS)
    interrupted(data, tmp_path / "run", 5, storage="stream")
    assert_same(whole, run(data, tmp_path / "run", steps=STEPS, storage="stream", resume="auto"))
