"""The inputs of the benchmarks of a whole recipe of augmentation, and what the sides must give for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from mix_sides import MEAN, SIZE, STD, photo_sizes
from natural import natural
from samples import MixInputs
from torch import Tensor

from xmixup_fast import Crops, ImagePool
from xmixup_fast.ops import reference
from xmixup_fast.ops.augmentation import Augmentation
from xmixup_fast.ops.lam import beta_quantiles
from xmixup_fast.ops.mix_plan import MixPlan

BATCH, IMAGES, CLASSES = 64, 128, 8
RECIPE = Augmentation(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), brightness=0.4, contrast=0.4, saturation=0.4)
"""Besides flips and mixup, whose weights are uniform."""
GREY = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in a pixel's grey level, as torchvision has them."""


class Jitter(NamedTuple):
    """Steps of colour that each of B images takes, distributed as those of RECIPE."""

    factors: Tensor
    """float32[B, 3]: of brightness, contrast and saturation."""
    order: Tensor
    """int64[B, 3]: the positions in ``factors`` in the order in which they are applied."""

    @classmethod
    def make(cls, batch: int, generator: torch.Generator) -> Jitter:
        width = torch.tensor([RECIPE.brightness, RECIPE.contrast, RECIPE.saturation])
        factors = 1 + width * (2 * torch.rand((batch, 3), generator=generator) - 1)
        return cls(factors, torch.rand((batch, 3), generator=generator).argsort(1))

    def matrices(self, images: Tensor) -> Tensor:
        """float32[B, 3, 4]: what the steps do together to images float32[B, H, W, 3], where nothing is clamped.

        Their order then makes no difference: brightness b scales the grey level that contrast c is about, and
        saturation s keeps it.
        """
        b, c, s = self.factors[:, :, None, None].unbind(1)
        grey, ones = torch.tensor([GREY]), torch.ones(3, 1)
        matrix = b * c * (s * torch.eye(3) + (1 - s) * ones * grey)
        level = grey * images.mean((1, 2))[:, None]
        shift = b * (1 - c) * level.sum(2, keepdim=True) * ones
        return torch.cat([matrix, shift], dim=2)


@dataclass
class AugmentInputs:
    """Two pools, a plan of RECIPE that refers to them, and steps of colour for sides that do not take matrices."""

    target: ImagePool
    aux: ImagePool
    draws: dict[str, Any]
    """The arguments of `draw` by which the plan was drawn."""
    plan: MixPlan
    jitters: tuple[Jitter, Jitter]
    """Of the target images and of the auxiliary images."""
    dtype: torch.dtype

    def to(self, device: torch.device) -> AugmentInputs:
        """The same on another device; the steps of colour stay."""
        movable = (Tensor, Augmentation)
        draws = {name: v.to(device) if isinstance(v, movable) else v for name, v in self.draws.items()}
        plan = MixPlan(*(tensor.to(device) for tensor in self.plan))
        return replace(self, target=self.target.to(device), aux=self.aux.to(device), draws=draws, plan=plan)

    def crops(self) -> tuple[Crops, Crops]:
        """The plan's windows of target images and of auxiliary images, in tensors without gaps."""
        target, aux = (Crops(*(tensor.contiguous() for tensor in crops)) for crops in _both(self.plan))
        return target, aux

    def as_mix(self) -> MixInputs:
        """The same windows and weights for `mix`, which leaves the colours as they are."""
        target, aux = self.crops()
        return MixInputs(self.target, target, self.aux, aux, self.plan.lam.contiguous(), SIZE, dtype=self.dtype)

    def render(self, mix_plan: Callable[..., Tensor], plan: MixPlan, **more: Any) -> Tensor:
        """Calls `mix_plan` of `ops` or `reference` with a plan; ``more`` adds arguments."""
        options = {"mean": MEAN, "std": STD, "size": SIZE, "augmentation": RECIPE, "dtype": self.dtype}
        return mix_plan(self.target, self.aux, plan, **options, **more)

    def jittered_plan(self) -> MixPlan:
        """The plan with other colours: those that ``jitters`` give without clamping in between."""
        colors = [
            jitter.matrices(reference.gather(pool, crops, SIZE))
            for jitter, pool, crops in zip(self.jitters, (self.target, self.aux), _both(self.plan), strict=True)
        ]
        return self.plan._replace(color=torch.stack(colors, dim=1))


def _both(plan: MixPlan) -> tuple[Crops, Crops]:
    return plan.target_crops, plan.aux_crops


def photo_pool(sizes: list[tuple[int, int]], random: np.random.Generator, photos: int = 8) -> ImagePool:
    """A pool of images with these heights and widths, cut out of as many ``photos`` that look like photographs."""
    side = max(max(size) for size in sizes) + 16
    whole = [np.asarray(natural(side, side, random)) for _ in range(photos)]
    images = []
    for i, (height, width) in enumerate(sizes):
        top, left = (int(random.integers(side - extent + 1)) for extent in (height, width))
        images.append(whole[i % photos][top : top + height, left : left + width])
    return ImagePool.from_images(images)


def make_inputs(
    draw: Callable[..., MixPlan], dtype: torch.dtype = torch.float32, images: int = IMAGES
) -> AugmentInputs:
    """A batch of pairs out of two pools of so many images of about 256 x 340 pixels, planned by `draw`."""
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    target, aux = (photo_pool(photo_sizes(images, generator), random) for _ in range(2))
    members = images // CLASSES
    draws = {
        "sample": torch.arange(BATCH),
        "epoch": torch.zeros(BATCH, dtype=torch.int64),
        "label": torch.arange(BATCH) % CLASSES,
        "target_index": torch.randint(0, images, (BATCH,), generator=generator),
        "target_sizes": target.sizes,
        "target_means": target.means,
        "offsets": torch.arange(CLASSES + 1) * members,
        "members": torch.arange(CLASSES * members),
        "aux_sizes": aux.sizes,
        "aux_means": aux.means,
        "lam_quantiles": beta_quantiles(1.0, fold=False),
        "size": SIZE,
        "augmentation": RECIPE,
    }
    jitters = Jitter.make(BATCH, generator), Jitter.make(BATCH, generator)
    return AugmentInputs(target, aux, draws, draw(0, **draws), jitters, dtype)
