"""Times of the operators and of plain copies of as many bytes. Images and outputs change from call to call.

Two pools of 250 MB hold random bytes, and four outputs are written in turn: more than the L2 cache of a GPU holds. Each
result is compared with the CPU's before it is timed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from augment_inputs import IMAGES, AugmentInputs
from augment_inputs import make_inputs as make_augment_inputs
from mix_sides import SIZE, photo_sizes, resized_crops
from samples import LossInputs, MixInputs, make_crops, make_pool
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.ops import reference

from .lines import Figures, main
from .timing import Timer

OUTPUTS = 4
"""Outputs that are written in turn."""
CLASSES = (102, 1000)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    timer: Timer
    copied: int
    """Bytes of the large copy."""
    source: int
    """Bytes that smaller copies come from, piece by piece."""
    images: int
    """Images of each pool, of about 260 KB."""
    crops: int
    """Sets of windows, which are taken in turn."""
    batch: int
    large_batch: int


def scale_of(device: torch.device) -> Scale:
    if device.type == "cuda":
        return Scale(
            Timer(device), copied=8 * 10**9, source=5 * 10**8, images=960, crops=16, batch=64, large_batch=1024
        )
    return Scale(Timer(device, 1, 2), copied=10**6, source=10**5, images=4, crops=2, batch=2, large_batch=4)


def measure_all(figures: Figures, asked: argparse.Namespace) -> None:
    device = torch.device(asked.device)
    scale = scale_of(device)
    figures.measure("copy", lambda: copy(scale, scale.copied))
    pools = Pools(scale)
    for name, options in MIXES.items():
        figures.measure(name, lambda options=options: mix(scale, pools, **options))
    for name, dtype in (("augmented, float32", torch.float32), ("augmented, bfloat16", torch.bfloat16)):
        figures.measure(f"mix_plan: {name}", lambda dtype=dtype: mix_plan(scale, dtype))
    figures.measure("draw", lambda: draw(scale, augmented=False))
    figures.measure("draw: augmented", lambda: draw(scale, augmented=True))
    figures.measure("loss, with gradients", lambda: loss(scale))


MIXES: dict[str, dict[str, Any]] = {
    "mix: crops, bfloat16": {"dtype": torch.bfloat16},
    "mix: crops, float32": {"dtype": torch.float32},
    "mix: resized, bfloat16": {"dtype": torch.bfloat16, "resized": True},
    "mix: resized, float32": {"dtype": torch.float32, "resized": True},
    "mix: crops, bfloat16, large batch": {"dtype": torch.bfloat16, "large": True},
    "mix: crops, float32, large batch": {"dtype": torch.float32, "large": True},
}


def copy(scale: Scale, size: int) -> dict[str, Any]:
    """A copy of ``size`` bytes within the device's memory; sources and destinations change from call to call."""
    device = scale.timer.device
    large = size == scale.copied  # more than any cache holds
    source = torch.empty(max(size, scale.source), dtype=torch.uint8, device=device).random_()
    outputs = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(1 if large else OUTPUTS)]
    places = (len(source) - size) // 16 + 1  # at whole groups of 128 bits

    def work(n: int) -> None:
        begin = 16 * (n * size // 16 % places)
        outputs[n % len(outputs)].copy_(source[begin : begin + size])

    return {"bytes": 2 * size, "seconds": scale.timer.seconds(work, graph=not large)}


class Pools:
    """Two pools of random images on the CPU and on the device, made when they are first asked for."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.made: list[Any] = []

    def on_both(self) -> list[Any]:
        """A pair of pools on the CPU, and the same pair on the device."""
        if not self.made:
            generator = torch.Generator().manual_seed(0)
            pair = [make_pool(photo_sizes(self.scale.images, generator), generator) for _ in range(2)]
            self.made = [pair, [pool.to(self.scale.timer.device) for pool in pair]]
        return self.made


def mix(scale: Scale, pools: Pools, dtype: torch.dtype, resized: bool = False, large: bool = False) -> dict[str, Any]:
    """`mix` into outputs that are there, as a plain call, and as its reference; and a copy of as many bytes."""
    timer = scale.timer
    batch = scale.large_batch if large else scale.batch
    on_cpu, on_device = pools.on_both()
    generator = torch.Generator().manual_seed(1)

    def inputs() -> MixInputs:
        crops = [
            resized_crops(pool, batch, generator) if resized else make_crops(pool, batch, SIZE, generator)
            for pool in on_cpu
        ]
        lam = torch.rand(batch, generator=generator)
        return MixInputs(on_cpu[0], crops[0], on_cpu[1], crops[1], lam, SIZE, dtype=dtype)

    made = [inputs() for _ in range(scale.crops)]
    moved = [replace(one, target=on_device[0], aux=on_device[1]).to(timer.device) for one in made]
    outputs = [moved[0].empty_out() for _ in range(OUTPUTS)]
    torch.testing.assert_close(moved[0].call(ops.mix, out=outputs[0]).cpu(), made[0].call(ops.mix))

    windows = torch.cat([crops.window for one in made for crops in (one.target_crops, one.aux_crops)])
    moves = 3 * int(windows[:, 2:].long().prod(1).sum()) // len(made) + outputs[0].nbytes
    result = {
        "batch": batch,
        "bytes": moves,
        "seconds": timer.seconds(lambda n: moved[n % len(moved)].call(ops.mix, out=outputs[n % OUTPUTS]), graph=True),
        "plain call": timer.seconds(lambda n: moved[n % len(moved)].call(ops.mix)),
        "copy": copy(scale, moves // 2)["seconds"],
    }
    if not large:
        result["reference"] = few(timer).seconds(lambda n: moved[n % len(moved)].call(reference.mix))
    return result


def few(timer: Timer) -> Timer:
    """For what takes many launches."""
    return replace(timer, warm_up=min(timer.warm_up, 3), calls=min(timer.calls, 10))


@cache
def augment_inputs(images: int) -> AugmentInputs:
    return make_augment_inputs(ops.draw, images=max(images, IMAGES))


def mix_plan(scale: Scale, dtype: torch.dtype) -> dict[str, Any]:
    """`mix_plan` with resized crops, flips, colours and mixup; `draw` has been called before."""
    timer = scale.timer
    inputs = replace(augment_inputs(scale.images), dtype=dtype)
    there = inputs.to(timer.device)
    plans = [ops.draw(n, **inputs.draws) for n in range(scale.crops)]
    moved = [type(plan)(*(tensor.to(timer.device) for tensor in plan)) for plan in plans]
    outputs = [there.as_mix().empty_out() for _ in range(OUTPUTS)]

    def work(n: int) -> Tensor:
        return there.render(ops.mix_plan, moved[n % len(moved)], out=outputs[n % OUTPUTS])

    expected = inputs.render(ops.mix_plan, plans[0])
    torch.testing.assert_close(work(0).cpu(), expected, rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=5e-3)
    windows = torch.cat([crops.window for plan in plans for crops in (plan.target_crops, plan.aux_crops)])
    moves = 3 * int(windows[:, 2:].long().prod(1).sum()) // len(plans) + outputs[0].nbytes
    seconds = timer.seconds(work, graph=True)
    return {
        "batch": len(plans[0].rows),
        "bytes": moves,
        "seconds": seconds,
        "copy": copy(scale, moves // 2)["seconds"],
    }


def draw(scale: Scale, augmented: bool) -> dict[str, Any]:
    """`draw` for a batch: crops, flips and weights; or the whole recipe of mix_plan."""
    timer = scale.timer
    inputs = augment_inputs(scale.images)
    plain = {} if augmented else {"augmentation": None}
    draws, there = inputs.draws | plain, inputs.to(timer.device).draws | plain
    for drawn, expected in zip(ops.draw(0, **there), ops.draw(0, **draws), strict=True):
        assert torch.equal(drawn.cpu(), expected), "draw: expected the CPU's bits"
    return {"batch": len(draws["sample"]), "seconds": timer.seconds(lambda n: ops.draw(n, **there), graph=True)}


def loss(scale: Scale) -> dict[str, Any]:
    """The loss of two heads and its gradients, and the same in eager PyTorch."""
    timer = scale.timer
    inputs = LossInputs.make(scale.batch, CLASSES)
    there = inputs.to(timer.device)
    sides = {"seconds": ops.dual_head_cross_entropy, "reference": reference.dual_head_cross_entropy}
    expected = inputs.with_gradients(ops.dual_head_cross_entropy)
    times: dict[str, Any] = {"batch": scale.batch}
    for name, function in sides.items():
        result = [tensor.cpu() for tensor in there.with_gradients(function)]
        torch.testing.assert_close(result, list(expected), rtol=1e-4, atol=1e-6)
        times[name] = timer.seconds(lambda n, function=function: there.with_gradients(function), graph=True)
    return times


if __name__ == "__main__":
    main(measure_all)
