"""`draw` for a batch of 64, against the same draws in eager PyTorch, and beside the `mix` that it is drawn for.

python -m pytest bench/bench_draw.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import DrawInputs, MixInputs
from torch import Tensor

from xmixup_fast import Crops, ops, reference
from xmixup_fast.ops import Draws
from xmixup_fast.sampling import beta_quantiles

BATCH, SIZE, ROUNDS = 64, (224, 224), 51
CLASSES, MEMBERS = 102, 1300  # flowers, each with one class of ImageNet


def eager(inputs: DrawInputs, generator: torch.Generator) -> Draws:
    """The same odds from a torch.Generator, in two dozen calls of PyTorch."""

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
    return Draws(target_crops, aux_crops, lam)


@pytest.fixture(scope="module")
def inputs() -> DrawInputs:
    made = DrawInputs.make(BATCH, SIZE, room=32, images=1020, aux_images=CLASSES * MEMBERS, classes=CLASSES)
    made.offsets = torch.arange(CLASSES + 1) * MEMBERS
    made.members = torch.arange(CLASSES * MEMBERS)
    made.lam_quantiles = beta_quantiles(0.2, fold=True)
    return made


@pytest.fixture(scope="module")
def sides(inputs: DrawInputs) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"fused": lambda: inputs.call(ops.draw), "eager": lambda: eager(inputs, generator)}


def check(draws: Draws, inputs: DrawInputs, fused: bool) -> None:
    """What is fused equals the reference; what is eager has other random numbers, but must obey the same limits."""
    expected = inputs.call(reference.draw)
    if fused:
        pairs = zip((*draws[0], *draws[1], draws.lam), (*expected[0], *expected[1], expected.lam), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    for crops, sizes in ((draws.target_crops, inputs.target_sizes), (draws.aux_crops, inputs.aux_sizes)):
        assert (crops.window[:, :2] >= 0).all()
        assert (crops.window[:, :2] + crops.window[:, 2:] <= sizes[crops.index]).all()
    assert torch.equal(draws.aux_crops.index // MEMBERS, inputs.label)
    assert (draws.lam >= 0.5).all() and (draws.lam <= 1).all()


@pytest.mark.benchmark(group="draw")
@pytest.mark.parametrize("side", ["fused", "eager"])
def test_draw(benchmark: Any, inputs: DrawInputs, sides: dict[str, Any], side: str) -> None:
    check(sides[side](), inputs, side == "fused")
    benchmark.pedantic(sides[side], rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.benchmark(group="draw-in-turn")
def test_draw_beside_mix(benchmark: Any, sides: dict[str, Any]) -> None:
    mixing = MixInputs.make(BATCH, SIZE, [(256, 256)] * 128)
    out = mixing.empty_out()
    in_turn = {**sides, "mix": lambda: mixing.call(ops.mix, out=out)}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(in_turn, ROUNDS), rounds=1)
    benchmark.extra_info["draw_over_mix"] = ratio = medians["fused"] / medians["mix"]
    benchmark.extra_info["eager_over_fused"] = medians["eager"] / medians["fused"]
    print(f"\ndraw / mix = {ratio:.4f}, eager / fused = {medians['eager'] / medians['fused']:.1f}")
    assert ratio < 0.1  # far above what it is, so that only a build gone wrong can fail it, and no busy machine
