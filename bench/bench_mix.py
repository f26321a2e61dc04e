"""`mix` for 64 crops of 224 x 224 out of 256 x 256 images, float32 channels_last, against its reference.

python -m pytest bench/bench_mix.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import MixInputs

from xmixup_fast import ops, reference

BATCH, SIZE, POOL = 64, (224, 224), [(256, 256)] * 128
ROUNDS = 9


@pytest.fixture(scope="module")
def inputs() -> MixInputs:
    return MixInputs.make(BATCH, SIZE, POOL)


@pytest.fixture(scope="module")
def sides(inputs: MixInputs) -> dict[str, Any]:
    """What is timed; each gives the same batch."""
    out = inputs.empty_out()
    return {
        "fused": lambda: inputs.call(ops.mix, out=out),
        "fused_alloc": lambda: inputs.call(ops.mix),
        "reference": lambda: inputs.call(reference.mix),
    }


@pytest.mark.benchmark(group="mix-crop-f32")
@pytest.mark.parametrize("side", ["fused", "fused_alloc", "reference"])
def test_mix_crop_f32(benchmark: Any, inputs: MixInputs, sides: dict[str, Any], side: str) -> None:
    torch.testing.assert_close(sides[side](), inputs.call(reference.mix), rtol=0, atol=4e-6)
    benchmark.pedantic(sides[side], rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="mix-crop-f32-in-turn")
def test_fused_against_reference(benchmark: Any, sides: dict[str, Any]) -> None:
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    ratio = medians["reference"] / medians["fused"]
    benchmark.extra_info["reference_over_fused"] = ratio
    print(f"\nreference / fused = {ratio:.1f}, fused_alloc / fused = {medians['fused_alloc'] / medians['fused']:.1f}")
    assert ratio >= 5  # far below what it is, so that only a build gone wrong can fail it, and no busy machine
