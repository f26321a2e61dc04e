"""From the plan of a step to the images that the network sees: one call of ``mix_plan`` for each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..ops.augmentation import Augmentation
from ..ops.image_format import ImageFormat
from ..ops.image_pool import ImagePool, Images
from ..ops.mix_plan import MixPlan
from .plan import StepPlan

Content = Literal["mixed", "auxiliary"]
"""What a batch shows: target images, mixed as the plan says, or auxiliary images alone."""


class Pools(NamedTuple):
    """What the windows of a plan refer to, and how they are rendered."""

    target: ImagePool
    auxiliary: ImagePool | None
    """None for methods without a source."""
    augmentation: Augmentation | None = None
    """The one that the plan was drawn with."""


def fetch(
    images: Images,
    auxiliary: ImagePool | None,
    plans: Iterable[StepPlan],
    augmentation: Augmentation | None = None,
) -> Iterator[tuple[StepPlan, Pools]]:
    """The plans, one after the other, each on the images' device and with the pools that its windows refer to.

    Streamed images are decoded ahead: plans are asked for before their turn. A plan's pools last until the next plan.
    """
    if isinstance(images, ImagePool):
        pools = Pools(images, auxiliary, augmentation)
        yield from ((plan, pools) for plan in plans)
        return
    device = images.labels.device
    plans, ahead = tee(plans)
    fetched = images.fetch(plan.target_windows for plan in ahead)
    for plan, (pool, crops) in zip(plans, fetched, strict=True):
        yield plan.to(device).with_target_windows(crops), Pools(pool, auxiliary, augmentation)


def render(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
    """Target images, each mixed with its second image as the plan says.

    Args:
        plan: of B samples.
        pools: what the plan's windows refer to.
        form: size and normalisation of the batch.
        out: [B, 3, size, size] in channels_last, to write to; its dtype is the batch's.

    Returns ``out``.
    """
    second = _auxiliary(pools) if plan.second == "auxiliary" else pools.target
    return _rendered(plan.mix, pools, second, form, out)


def render_auxiliary(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
    """The plan's auxiliary images alone, as :func:`render`. Raises ValueError where there are none."""
    return _rendered(plan.mix.aux_alone(form.size), pools, _auxiliary(pools), form, out)


def _auxiliary(pools: Pools) -> ImagePool:
    if pools.auxiliary is None:
        raise ValueError("auxiliary: this run has no auxiliary images; the method needs uses_source = True")
    return pools.auxiliary


def _rendered(plan: MixPlan, pools: Pools, second: ImagePool, form: ImageFormat, out: Tensor) -> Tensor:
    """The plan's target images with images of the pool ``second``."""
    return ops.mix_plan(
        pools.target,
        second,
        plan,
        mean=form.mean,
        std=form.std,
        size=(form.size, form.size),
        augmentation=pools.augmentation,
        memory_format=torch.channels_last,
        out=out,
    )
