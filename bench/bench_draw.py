"""`draw` for a batch of 64, against the same draws in eager PyTorch, and beside the `mix` that it is drawn for.

python -m pytest bench/bench_draw.py --benchmark-only -s
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import evict_caches, median_seconds_in_turn
from draw_inputs import RECIPE, DrawInputs, assert_same
from mix_sides import fused as fused_mix
from mix_sides import make_inputs
from torch import Tensor

from xmixup_fast import Crops, MixPlan, ops
from xmixup_fast.ops import reference
from xmixup_fast.ops.lam import beta_quantiles

BATCH, SIZE, ROUNDS, CALLS = 64, (224, 224), 51, 20
CLASSES, MEMBERS = 102, 1300  # flowers, each with one class of ImageNet


def eager(inputs: DrawInputs, generator: torch.Generator) -> MixPlan:
    """The same odds from a torch.Generator, in three dozen calls of PyTorch."""

    def below(limit: Tensor) -> Tensor:
        return (torch.rand(limit.shape, dtype=torch.float64, generator=generator) * limit).long()

    def crops(index: Tensor, sizes: Tensor) -> Crops:
        extent = torch.tensor(inputs.size).expand(len(index), 2)
        corner = below(sizes[index] - extent + 1)
        return Crops(index, torch.cat([corner, extent], 1).int(), torch.rand(len(index), generator=generator) < 0.5)

    target_crops = crops(inputs.target_index, inputs.target_sizes)
    first, last = inputs.offsets[inputs.label], inputs.offsets[inputs.label + 1]
    aux_crops = crops(inputs.members[first + below(last - first)], inputs.aux_sizes)
    place = torch.rand(len(inputs.label), generator=generator) * (len(inputs.lam_quantiles) - 1)
    left = place.long()
    lam = torch.lerp(inputs.lam_quantiles[left], inputs.lam_quantiles[left + 1], place - left)
    return MixPlan.of(target_crops, aux_crops, lam)


@pytest.fixture(scope="module")
def inputs() -> DrawInputs:
    made = DrawInputs.make(BATCH, SIZE, room=32, images=1020, aux_images=CLASSES * MEMBERS, classes=CLASSES)
    made.offsets = torch.arange(CLASSES + 1) * MEMBERS
    made.members = torch.arange(CLASSES * MEMBERS)
    made.lam_quantiles = beta_quantiles(0.2, fold=True)
    return made


@pytest.fixture(scope="module")
def recipe(inputs: DrawInputs) -> DrawInputs:
    """The same call with resized crops, colours, erased rectangles and boxes."""
    augmented = inputs.augmented(RECIPE)
    return replace(augmented, target_sizes=inputs.target_sizes, aux_sizes=inputs.aux_sizes, box=True)


@pytest.fixture(scope="module")
def sides(inputs: DrawInputs, recipe: DrawInputs) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "fused": lambda: inputs.call(ops.draw),
        "recipe": lambda: recipe.call(ops.draw),
        "reference": lambda: inputs.call(reference.draw),
        "eager": lambda: eager(inputs, generator),
    }


def check(plan: MixPlan, inputs: DrawInputs, side: str) -> None:
    """What is fused equals the reference; what is eager has other random numbers, but must obey the same limits."""
    if side != "eager":
        assert_same(plan, inputs.call(reference.draw))
    for crops, sizes in ((plan.target_crops, inputs.target_sizes), (plan.aux_crops, inputs.aux_sizes)):
        assert (crops.window[:, :2] >= 0).all()
        assert (crops.window[:, :2] + crops.window[:, 2:] <= sizes[crops.index]).all()
    assert torch.equal(plan.aux_crops.index // MEMBERS, inputs.label)
    assert (plan.lam >= (0 if inputs.box else 0.5)).all() and (plan.lam <= 1).all()


@pytest.mark.benchmark(group="draw")
@pytest.mark.parametrize("side", ["fused", "recipe", "reference", "eager"])
def test_draw(benchmark: Any, inputs: DrawInputs, recipe: DrawInputs, sides: dict[str, Any], side: str) -> None:
    check(sides[side](), recipe if side == "recipe" else inputs, side)
    iterations = CALLS if side in ("fused", "recipe") else 1
    benchmark.pedantic(sides[side], rounds=ROUNDS, iterations=iterations, warmup_rounds=1)


@pytest.mark.benchmark(group="draw-in-turn")
def test_draw_beside_mix(benchmark: Any, sides: dict[str, Any]) -> None:
    """Repeated calls, and single calls after other work, when even the interpreter's code is out of the caches."""

    def repeated(side: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                sides[side]()

        return run

    mix = fused_mix(make_inputs(BATCH))
    often = {side: repeated(side) for side in ("fused", "recipe")}
    warm = median_seconds_in_turn({**sides, **often, "mix": mix}, ROUNDS)
    for side in often:
        warm[side] /= CALLS
    cold = {"fused": sides["fused"], "mix": mix}
    cold = benchmark.pedantic(median_seconds_in_turn, args=(cold, ROUNDS, evict_caches), rounds=1)
    over_fused = {name: seconds / warm["fused"] for name, seconds in warm.items()}
    ratio, cold_ratio = warm["fused"] / warm["mix"], cold["fused"] / cold["mix"]
    benchmark.extra_info.update(
        seconds=warm, over_fused=over_fused, over_mix=ratio, cold=cold, cold_over_mix=cold_ratio
    )
    print(
        f"\ndraw: {1e6 * warm['fused']:.1f} us, {ratio:.4f} of mix; with the recipe {1e6 * warm['recipe']:.1f} us; "
        f"reference {over_fused['reference']:.1f}, ",
        end="",
    )
    print(f"eager {over_fused['eager']:.1f} times that; cold {1e6 * cold['fused']:.0f} us, {cold_ratio:.3f} of mix")
    assert ratio < 0.1  # far above what it is, so that only a build gone wrong can fail it, and no busy machine
