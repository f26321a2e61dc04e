"""What a run's length amounts to is said where its settings look like something else."""

from __future__ import annotations

from typing import Any

import pytest

from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.amounts import amounts


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ({}, 1000, []),
        ({"steps": 5000}, 1000, []),
        ({"batch_size": 48, "epochs": 30}, 48, []),
        (
            {"batch_size": 48, "epochs": 30},
            12,
            [
                "batch_size: 48 is more than the 12 training images: a batch shows each of them about 4 times, and an "
                "epoch is 0.25 of a step",
                "epochs: 30 of 12 training images are 8 steps of 48 images alone; ",
            ],
        ),
        ({"steps": 5, "batch_size": 8}, 200, ["steps: 5 steps of 8 images show 40 of the 200 training images, less"]),
        ({"epochs": 1}, 100, ["epochs: 1 of 100 training images are 3 steps of 48 images alone; "]),
        ({"steps": 50_000, "batch_size": 10}, 100, ["steps: 50000 steps of 10 images show each training image 5000"]),
        ({"epochs": 2000, "batch_size": 10}, 100, ["epochs: 20000 steps of 10 images show each training image 2000"]),
        ({"val_interval": 40}, 1000, ["val_interval: 40 epochs, and the run has 30: it validates at its end"]),
        ({"patience": 30}, 960, ["patience: 30 validations, and the run has 30: it does not stop early"]),
        ({"patience": 5, "val_interval": 10}, 960, ["patience: 5 validations, and the run has 3: it does not stop"]),
        ({"patience": 29}, 960, []),
    ],
)
def test_what_a_length_amounts_to(settings: dict[str, Any], images: int, expected: list[str]) -> None:
    lines = list(amounts(Settings(target="t", **settings), images))
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))
