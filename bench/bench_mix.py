"""`mix` for a batch of 64, 224 x 224 out of ragged images, channels_last, against other means to the same result.

python -m pytest bench/bench_mix.py --benchmark-only -s
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from conftest import evict_caches, median_seconds_in_turn
from mix_sides import SIDES, make_inputs

from xmixup_fast.ops import reference

GROUPS: dict[str, dict[str, Any]] = {
    "mix-crop-f32": {},
    "mix-crop-bf16": {"dtype": torch.bfloat16},
    "mix-resized-f32": {"resized": True},
}
SLOW = 0.02
"""Seconds of a call from which on fewer of them are timed."""
NO_KORNIA = "kornia is not installed: pip install kornia"


class Case:
    """A group's inputs and sides, each made when it is first asked for, once it gave the right result."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.inputs = make_inputs(**GROUPS[group])
        self.expected = self.inputs.call(reference.mix)
        self.sides: dict[str, Callable[[], object]] = {}

    def side(self, name: str) -> Callable[[], object]:
        if name not in self.sides:
            run = SIDES[name](self.inputs)
            if name != "ceiling":  # which checks itself
                torch.testing.assert_close(run(), self.expected, **tolerance(self.group, name))
            self.sides[name] = run
        return self.sides[name]


def tolerance(group: str, name: str) -> dict[str, float]:
    """As in tests/ops/test_mix.py; torchvision, which resamples bytes to bytes in two passes, may be off by a level."""
    atol = 4e-6 if group != "mix-resized-f32" else 1e-3
    if group == "mix-resized-f32" and name == "torchvision":
        atol = 1.5 / (255 * 0.224)
    return {"rtol": 2**-7 if group == "mix-crop-bf16" else 0, "atol": atol}


@pytest.fixture(scope="module", params=GROUPS)
def case(request: pytest.FixtureRequest, ceiling_library: None) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("side", SIDES)
def test_mix(benchmark: Any, case: Case, side: str) -> None:
    if side == "kornia" and not find_spec("kornia"):
        pytest.skip(NO_KORNIA)
    benchmark.group = case.group
    benchmark.pedantic(case.side(side), setup=evict_caches, rounds=5, warmup_rounds=1)


def test_in_turn(benchmark: Any, case: Case, rounds: int) -> None:
    """The ratios that count: all sides in one process, one call of each after the other."""
    benchmark.group = f"{case.group}-in-turn"
    names = [name for name in SIDES if name != "kornia" or find_spec("kornia")]
    sides = {name: case.side(name) for name in names}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, rounds, evict_caches, SLOW), rounds=1)
    over_fused = {name: seconds / medians["fused"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_fused=over_fused)
    print(f"\n{case.group}: fused {1e3 * medians['fused']:.2f} ms; in multiples of it:", end=" ")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in over_fused.items() if name != "fused"))
    # Far from what they are, so that only a build gone wrong can fail them, and no busy machine.
    assert over_fused["reference"] > 3
    assert over_fused["torchvision"] > 1.5
