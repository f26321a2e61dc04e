"""`dual_head_cross_entropy`, forward and backward, of 64 samples with 102 and 1000 classes, against its reference.

The reference is what users write in eager PyTorch; `compiled` is torch.compile of it.

python -m pytest bench/bench_loss.py --benchmark-only -s
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import LossInputs

from xmixup_fast import ops
from xmixup_fast.ops import reference

BATCH, CLASSES = 64, (102, 1000)
ROUNDS = 201


@pytest.fixture(scope="module")
def sides() -> dict[str, Any]:
    """What is timed; each gives the same loss and gradients."""
    inputs = LossInputs.make(BATCH, CLASSES)
    compiled = torch.compile(reference.dual_head_cross_entropy, fullgraph=True)
    return {
        "fused": lambda: inputs.with_gradients(ops.dual_head_cross_entropy),
        "reference": lambda: inputs.with_gradients(reference.dual_head_cross_entropy),
        "compiled": lambda: inputs.with_gradients(compiled),
    }


@pytest.mark.benchmark(group="loss")
@pytest.mark.parametrize("side", ["fused", "reference", "compiled"])
def test_loss(benchmark: Any, sides: dict[str, Any], side: str) -> None:
    torch.testing.assert_close(sides[side](), sides["reference"](), rtol=1e-5, atol=1e-7)
    benchmark.pedantic(sides[side], rounds=ROUNDS, warmup_rounds=10)


@pytest.mark.benchmark(group="loss-in-turn")
def test_in_turn(benchmark: Any, sides: dict[str, Any]) -> None:
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    over_fused = {name: seconds / medians["fused"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_fused=over_fused)
    print(f"\nloss: fused {1e6 * medians['fused']:.0f} us; reference {over_fused['reference']:.2f}, ", end="")
    print(f"compiled {over_fused['compiled']:.2f} times that")
    assert over_fused["reference"] > 1.2  # below what it is, so that only a build gone wrong can fail it
