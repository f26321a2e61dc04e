"""`mix_features`, forward and backward, of feature maps of 64 samples, 128 x 28 x 28 each in channels_last.

`reference` is what it computes, in eager PyTorch; `lerp` the same in the features' dtype, of torch's fewest operations;
`plain` the formula alone, which lets NaN of unmixed rows through. `compiled` is torch.compile of `lerp`. `floor` reads
and writes as many bytes as one pass forward and one backward: two maps read and one written, one read and two written.

python -m pytest bench/bench_mix_features.py --benchmark-only -s
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import evict_caches, median_seconds_in_turn
from torch import Tensor

from xmixup_fast import mix_features
from xmixup_fast.ops import reference
from xmixup_fast.ops.lam import beta_quantiles

SHAPE = (64, 128, 28, 28)
Side = Callable[[], tuple[Tensor, ...]]


def plain(target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    weight = lam.to(target.dtype).view(-1, 1, 1, 1)
    return weight * target + (1 - weight) * aux


def lerp(target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    weight = lam.view(-1, 1, 1, 1)
    aux = torch.where(weight == 1, target.detach(), aux)
    return torch.lerp(aux, target, weight.to(target.dtype))


@pytest.mark.benchmark(group="mix-features")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_turn(benchmark: Any, dtype: torch.dtype, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(3)]
    target, aux, flow = (t.to(memory_format=torch.channels_last) for t in maps)
    features = [target.requires_grad_(), aux.requires_grad_()]
    quantiles = beta_quantiles(0.2, fold=True)
    lam = quantiles[torch.randint(0, len(quantiles), SHAPE[:1], generator=generator)]

    def side(mix: Callable[..., Tensor]) -> Side:
        def run() -> tuple[Tensor, ...]:
            mixed = mix(*features, lam).to(dtype)
            return (mixed.detach(), *torch.autograd.grad(mixed, features, flow))

        return run

    buffers = [torch.empty_like(target) for _ in range(3)]

    def floor() -> None:
        with torch.no_grad():
            torch.add(target, aux, out=buffers[0])
            buffers[1].copy_(flow)
            buffers[2].zero_()

    calls = {
        "mix_features": mix_features,
        "reference": reference.mix_features,
        "lerp": lerp,
        "plain": plain,
        "compiled": torch.compile(lerp, fullgraph=True),
    }
    sides: dict[str, Side] = {name: side(call) for name, call in calls.items()}
    for run in sides.values():
        for result, expected in zip(run(), sides["reference"](), strict=True):
            torch.testing.assert_close(result, expected, rtol=0, atol=16 * torch.finfo(dtype).eps)
    turns = (sides | {"floor": floor}, rounds, evict_caches)
    medians = benchmark.pedantic(median_seconds_in_turn, args=turns, rounds=1)
    ratios = {name: seconds / medians["mix_features"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_mix_features=ratios)
    others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items() if name != "mix_features")
    name = str(dtype).removeprefix("torch.")
    print(f"\n{name}: mix_features {1e3 * medians['mix_features']:.1f} ms; times that: {others}")
