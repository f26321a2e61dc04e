"""A batch of 64 pairs as people train: resized crops, flips, colour jitter, mixup; against other means to such batches.

Scale 0.08 to 1, aspect ratio 3:4 to 4:3, jitter of 0.4 in brightness, contrast and saturation, 224 x 224 out of ragged
images, channels_last, normalised; without antialiasing, but for `timm`. `mix` is the plain operator for the same
windows, `mix-resized` is the case of bench_mix.py: what colours and draws add is to be seen beside them.

python -m pytest bench/bench_augment.py --benchmark-only -s
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from augment_inputs import AugmentInputs, make_inputs
from augment_sides import SIDES, missing
from conftest import evict_caches, median_seconds_in_turn
from mix_sides import MEAN, STD
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.ops import reference

GROUPS: dict[str, torch.dtype] = {"augment-f32": torch.float32, "augment-bf16": torch.bfloat16}
SLOW = 0.02
"""Seconds of a call from which on fewer of them are timed."""
BYTES = 2 / (255 * 0.224) * 2.8
"""Error in a channel's standard deviations where windows are rounded to bytes before their colours change: up to two
levels, as both passes of resampling round, times the largest factor, 1.4 * 1.4 * 1.4 for greys."""


class Case:
    """A group's inputs and sides, each made when it is first asked for, once it gave the right result."""

    def __init__(self, group: str) -> None:
        self.group, self.dtype = group, GROUPS[group]
        self.inputs = make_inputs(reference.draw, self.dtype)
        self.expected = self.inputs.render(reference.mix_plan, self.inputs.plan)
        self.sides: dict[str, Callable[[], object]] = {}

    def side(self, name: str) -> Callable[[], object]:
        if name not in self.sides:
            run = SIDES[name](self.inputs)
            check(self, name, run)
            self.sides[name] = run
        return self.sides[name]


def check(case: Case, name: str, run: Callable[[], object]) -> None:
    inputs = case.inputs
    if name in ("ceiling", "mix-resized"):  # the first checks itself, bench_mix.py the other
        return
    result = run()
    assert isinstance(result, Tensor) and result.dtype == case.dtype and result.shape == case.expected.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    rtol = 2**-7 if case.dtype == torch.bfloat16 else 0
    if name == "mix":
        torch.testing.assert_close(result, inputs.as_mix().call(reference.mix), rtol=rtol, atol=1e-3)
    elif name in ("fused", "fused_alloc"):
        check_plan(inputs)
        torch.testing.assert_close(result, case.expected, rtol=rtol, atol=5e-3)
    elif name == "compiled":
        torch.testing.assert_close(result, case.expected, rtol=rtol, atol=BYTES)
    elif name in ("torchvision", "kornia"):
        check_steps(inputs, result)
    else:
        check_own_draws(result, case.expected)


def check_plan(inputs: AugmentInputs) -> None:
    """`draw` decides what the reference does."""
    plan = ops.draw(0, **inputs.draws)
    assert torch.equal(plan.rows, inputs.plan.rows)
    torch.testing.assert_close(plan.color, inputs.plan.color, rtol=1e-5, atol=1e-3)


def check_steps(inputs: AugmentInputs, result: Tensor) -> None:
    """Colours changed step by step, with clamping after each: in the mean, levels of 0..255 are as the matrices' are.

    torchvision's are 1.5 too low, as it cuts off fractions of a level after each step. Without saturation, the batch
    would be 5.7 off; with another image's factors, 29.
    """
    off = levels(result) - levels(inputs.render(reference.mix_plan, inputs.jittered_plan()))
    per_image = off.abs().mean((1, 2, 3))
    assert per_image.mean() < 2.5 and per_image.max() < 8


def check_own_draws(result: Tensor, expected: Tensor) -> None:
    """Levels within 0..255, whose mean, and the spread of the images' means, are about those of the plan's batch."""
    got, wanted = levels(result), levels(expected)
    assert got.min() > -2 and got.max() < 257
    assert abs(got.mean() - wanted.mean()) < 6
    spread, usual = (images.mean((1, 2, 3)).std() for images in (got, wanted))
    assert 0.65 < spread / usual < 1.5


def levels(images: Tensor) -> Tensor:
    """What was normalised, in 0..255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return 255 * (images.float() * std + mean)


@pytest.fixture(scope="module", params=GROUPS)
def case(request: pytest.FixtureRequest, ceiling_library: None) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("side", SIDES)
def test_augment(benchmark: Any, case: Case, side: str) -> None:
    if why := missing(side):
        pytest.skip(why)
    benchmark.group = case.group
    benchmark.pedantic(case.side(side), setup=evict_caches, rounds=1)


def test_in_turn(benchmark: Any, case: Case, rounds: int) -> None:
    """The ratios that count: all sides in one process, one call of each after the other."""
    benchmark.group = f"{case.group}-in-turn"
    sides = {name: case.side(name) for name in SIDES if not missing(name)}
    # Half of the rounds: the other means take up to a second.
    turns = -(-rounds // 2)
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, turns, evict_caches, SLOW), rounds=1)
    over_fused = {name: seconds / medians["fused"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_fused=over_fused)
    print(f"\n{case.group}: fused {1e3 * medians['fused']:.2f} ms; in multiples of it:", end=" ")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in over_fused.items() if name != "fused"))
    # Far from what it is, so that only a build gone wrong can fail it, and no busy machine.
    assert over_fused["torchvision"] > 2
