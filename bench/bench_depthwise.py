"""A training step of a network with depthwise convolutions, with their weights' gradients of torch and ours, in turn.

python -m pytest bench/bench_depthwise.py --benchmark-only -s
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_step import make_trainer
from conftest import median_seconds_in_turn
from torch import Tensor

from xmixup_fast.training.trainer import Trainer

MODEL, SIZE, BATCH = "tf_efficientnet_lite0", 96, 32
SIDES = {"ours": True, "torch": False}
"""What a trainer's loss is told by the side."""


def made_trainer(fast: bool) -> Trainer:
    trainer = make_trainer("finetune", MODEL, SIZE, BATCH)
    trainer.loss.fast_depthwise = fast  # type: ignore[assignment]
    return trainer


def gradients(trainer: Trainer) -> list[Tensor]:
    """Those of a first step."""
    trainer.step()
    return [p.grad for p in trainer.network.parameters() if p.grad is not None]


@pytest.mark.benchmark(group="step-depthwise")
def test_in_turn(benchmark: Any, request: pytest.FixtureRequest) -> None:
    trainers = {name: made_trainer(fast) for name, fast in SIDES.items()}
    for ours, torchs in zip(*map(gradients, trainers.values()), strict=True):
        assert (ours - torchs).norm() <= 1e-4 * torchs.norm()
    steps = {name: trainer.step for name, trainer in trainers.items()}
    medians = benchmark.pedantic(
        median_seconds_in_turn, args=(steps, request.config.getoption("--step-rounds")), rounds=1
    )
    over = {name: seconds / medians["ours"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_ours=over, model=MODEL, size=SIZE, batch=BATCH)
    print(f"\nstep of {MODEL}: {1e3 * medians['ours']:.1f} ms; torch's gradients {over['torch']:.3f} times that")
    assert all(torch.isfinite(trainer.step()) for trainer in trainers.values())
