"""From the plan of a step to the images that the network sees: one call of the operator ``mix`` for each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import tee
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..data.center_crops import plain_images
from ..ops.image_format import ImageFormat
from ..ops.image_pool import Crops, ImagePool, Images
from .plan import StepPlan

Content = Literal["mixed", "auxiliary"]
"""What a batch shows: target images, mixed as the plan says, or auxiliary images alone."""


class Pools(NamedTuple):
    """What the crops of a plan refer to."""

    target: ImagePool
    auxiliary: ImagePool | None
    """None for methods without a source."""


def fetch(images: Images, auxiliary: ImagePool | None, plans: Iterable[StepPlan]) -> Iterator[tuple[StepPlan, Pools]]:
    """The plans, one after the other, each with the pools that its crops refer to.

    Streamed images are decoded ahead: plans are asked for before their turn. A plan's pools last until the next plan.
    """
    plans, ahead = tee(plans)
    fetched = images.fetch(plan.crops for plan in ahead)
    for plan, (pool, crops) in zip(plans, fetched, strict=True):
        yield replace(plan, crops=crops), Pools(pool, auxiliary)


def render(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
    """Target images, each mixed with its second image as the plan says.

    Args:
        plan: of B samples.
        pools: what the plan's crops refer to.
        form: size and normalisation of the batch.
        out: [B, 3, size, size] in channels_last, to write to; its dtype is the batch's.

    Returns ``out``.
    """
    target = _first(plan.crops, len(plan))
    second_pool, second = pools.target, target
    if plan.partner is not None:
        which = plan.partner
        second = Crops(plan.crops.index[which], plan.crops.window[which], plan.crops.flip[which])
    elif plan.auxiliary is not None:
        second_pool, second = _auxiliary(plan, pools)
    return ops.mix(
        pools.target,
        target,
        second_pool,
        second,
        plan.lam,
        mean=form.mean,
        std=form.std,
        size=(form.size, form.size),
        box=plan.box,
        memory_format=torch.channels_last,
        out=out,
    )


def render_auxiliary(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
    """The plan's auxiliary images alone, as :func:`render`. Raises ValueError where there are none."""
    pool, crops = _auxiliary(plan, pools)
    return plain_images(pool, crops, form, out)


def _auxiliary(plan: StepPlan, pools: Pools) -> tuple[ImagePool, Crops]:
    if pools.auxiliary is None or plan.auxiliary is None:
        raise ValueError("auxiliary: this run has no auxiliary images; the method needs uses_source = True")
    return pools.auxiliary, plan.auxiliary


def _first(crops: Crops, count: int) -> Crops:
    return Crops(crops.index[:count], crops.window[:count], crops.flip[:count])
