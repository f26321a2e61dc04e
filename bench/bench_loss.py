"""`dual_head_cross_entropy`, forward and backward, of 64 samples with 102 and 1000 classes, against its reference.

python -m pytest bench/bench_loss.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import LossInputs

from xmixup_fast import ops, reference

BATCH, CLASSES = 64, (102, 1000)
ROUNDS = 201


@pytest.fixture(scope="module")
def sides() -> dict[str, Any]:
    """What is timed; each gives the same loss and gradients."""
    inputs = LossInputs.make(BATCH, CLASSES)
    return {
        "fused": lambda: inputs.with_gradients(ops.dual_head_cross_entropy),
        "reference": lambda: inputs.with_gradients(reference.dual_head_cross_entropy),
    }


@pytest.mark.benchmark(group="loss")
@pytest.mark.parametrize("side", ["fused", "reference"])
def test_loss(benchmark: Any, sides: dict[str, Any], side: str) -> None:
    torch.testing.assert_close(sides[side](), sides["reference"](), rtol=1e-5, atol=1e-7)
    benchmark.pedantic(sides[side], rounds=ROUNDS, warmup_rounds=10)


@pytest.mark.benchmark(group="loss-in-turn")
def test_fused_against_reference(benchmark: Any, sides: dict[str, Any]) -> None:
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    ratio = medians["reference"] / medians["fused"]
    benchmark.extra_info["reference_over_fused"] = ratio
    print(f"\nreference / fused = {ratio:.1f}")
    assert ratio >= 1.5  # below what it is, so that only a build gone wrong can fail it, and no busy machine
