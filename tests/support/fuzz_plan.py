"""fuzz.py's calls of `mix_plan`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from plan_samples import PlanInputs, make_color
from samples import MixInputs, unchecked_pool
from torch import Tensor

from xmixup_fast.ops.augmentation import Augmentation
from xmixup_fast.ops.mix_plan import MixPlan

POOL = ("pixels", "offsets", "sizes")
PLAN_TENSORS = (*(f"{side}_{name}" for side in ("target", "aux") for name in POOL), "plan", "color")
FILLING = ("antialias", "fill", "noise_quantiles")
"""What an Augmentation tells. A call has a fill, or else quantiles of noise: what it does not use, nobody checks."""


def plan_arguments(rng: random.Random) -> dict[str, Any]:
    """Valid arguments of `mix_plan`; the tensors of pools and of the plan, and what an Augmentation tells, are
    arguments of their own, as in the schema."""
    size = (rng.randint(1, 6), rng.choice([rng.randint(1, 40), rng.randint(500, 600)]))
    mix = MixInputs.make(
        batch=rng.choice([0, 1, 2, 3, 4]),
        size=size,
        sizes=[(size[0] + rng.randint(0, 9), size[1] + rng.randint(0, 90)) for _ in range(rng.randint(1, 3))],
        memory_format=rng.choice([torch.channels_last, torch.contiguous_format]),
        seed=rng.getrandbits(31),
        dtype=rng.choice([torch.float32, torch.bfloat16, torch.float16]),
        resampled=(rng.random() < 0.3, rng.random() < 0.3),
        antialias=rng.random() < 0.5,
    )
    mix.lam[: rng.randint(0, 2)] = rng.choice([0.0, 1.0])
    fill = rng.choice(["mean", "noise", (0.25, 0.5, 1.0)])
    inputs = PlanInputs.make(mix, rng.getrandbits(31), erase=rng.random() < 0.7, color=False, fill=fill)
    if rng.random() < 0.5:
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        inputs.color = make_color(len(mix.lam), generator, rng.choice([0.0, 0.3, 1e3]))
    arguments = dict(zip([*PLAN_TENSORS, "mean", "std", "size"], inputs.raw(), strict=True))
    arguments |= {"dtype": mix.dtype, "memory_format": mix.memory_format, "antialias": mix.antialias}
    arguments |= {"noise_quantiles": inputs.filling()[1]} if fill == "noise" else {"fill": fill}
    if rng.random() < 0.5:
        arguments |= {"out": mix.empty_out()}
    return arguments


def call_mix_plan(mix_plan: Callable[..., Any], arguments: dict[str, Any], **more: Any) -> Any:
    """Calls `mix_plan` with pools, a plan and an Augmentation made of their parts; ``more`` adds arguments or replaces
    them."""
    parts = (*PLAN_TENSORS, *FILLING)
    options = {name: value for name, value in arguments.items() if name not in parts} | more
    pools = [unchecked_pool(*(arguments[f"{side}_{name}"] for name in POOL)) for side in ("target", "aux")]
    augmentation = object.__new__(Augmentation)
    filling = {"fill": "noise", "noise_quantiles": torch.zeros(0)} | arguments
    for name in FILLING:
        object.__setattr__(augmentation, name, filling[name])
    plan = MixPlan(arguments["plan"], arguments["color"])
    return mix_plan(*pools, plan, augmentation=augmentation, **options)


def error_of_mix_plan(
    target: Any, aux: Any, plan: MixPlan, *, mean: Any, std: Any, size: Any, augmentation: Augmentation, **_: Any
) -> Tensor:
    """The bound on the error of a call, for `call_mix_plan`."""
    mix = MixInputs(target, plan.target_crops, aux, plan.aux_crops, plan.lam, size, antialias=augmentation.antialias)
    color = plan.color if len(plan.color) else None
    erased = (plan.target_erased, plan.aux_erased)
    return PlanInputs(mix, augmentation, plan.boxed, plan.box, erased, plan.noise, color).error(mean, std)


def is_comparable(arguments: dict[str, Any]) -> bool:
    """Whether the reference, which needs quantiles for noise and adds in another order, gives numbers: no sum
    overflows."""
    numbers = [arguments["color"], arguments.get("noise_quantiles", torch.zeros(0))]
    return all(tensor is not None and bool((tensor.abs() < 1e30).all()) for tensor in numbers)
