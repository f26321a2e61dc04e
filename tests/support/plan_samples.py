"""Random inputs of `mix_plan`, and what it is to make of them, by its definition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from samples import IMAGENET, MixInputs, Numbers, exact_views, make_boxes, view_error

from xmixup_fast import Crops
from xmixup_fast.ops import reference
from xmixup_fast.ops.augmentation import Augmentation
from xmixup_fast.ops.mix_plan import MixPlan

U = 2**-24
"""The rounding error of float32."""


def make_color(batch: int, generator: torch.Generator, spread: float = 0.5) -> torch.Tensor:
    """Random colour matrices float32[batch, 2, 3, 4]: the identity, with normal numbers of ``spread`` added to the
    matrix and of 100 times as much to the shift."""
    color = spread * torch.randn((batch, 2, 3, 4), generator=generator)
    color[..., 3] *= 100
    color[..., :3] += torch.eye(3)
    return color


@dataclass
class PlanInputs:
    """The arguments of one call of `mix_plan`: those of `mix`, and what else a plan has."""

    mix: MixInputs
    augmentation: Augmentation
    boxed: torch.Tensor
    """bool[batch]: which samples have a box."""
    box: torch.Tensor
    """int32[batch, 4]"""
    erased: tuple[torch.Tensor, torch.Tensor]
    """int32[batch, 4] each, of target and auxiliary images."""
    noise: torch.Tensor
    """int64[batch]"""
    color: torch.Tensor | None = None
    """float32[batch, 2, 3, 4]"""

    @classmethod
    def make(
        cls, mix: MixInputs, seed: int = 0, *, erase: bool = True, color: bool = True, **options: Any
    ) -> PlanInputs:
        """Random boxes for half of the samples, and rectangles and colours.

        Args:
            mix: pools, crops, weights and the form of the output; its boxes are not used.
            seed: of the random numbers.
            erase: erase rectangles.
            color: change colours.
            options: of the Augmentation, such as ``fill``.
        """
        generator = torch.Generator().manual_seed(seed)
        batch = len(mix.lam)
        box, target, aux = (make_boxes(batch, mix.size, generator) for _ in range(3))
        boxed = torch.rand(batch, generator=generator) < 0.5
        return cls(
            mix=replace(mix, box=None),
            augmentation=Augmentation(antialias=mix.antialias, **options),
            boxed=boxed,
            box=box * boxed.unsqueeze(1),
            erased=(target * int(erase), aux * int(erase)),
            noise=torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator),
            color=make_color(batch, generator) if color else None,
        )

    @property
    def plan(self) -> MixPlan:
        mix = self.mix
        rectangles = {"box": self.box, "target_erased": self.erased[0], "aux_erased": self.erased[1]}
        plan = MixPlan.of(mix.target_crops, mix.aux_crops, mix.lam, noise=self.noise, color=self.color, **rectangles)
        plan.boxed.copy_(self.boxed)
        return plan

    def to(self, device: torch.device) -> PlanInputs:
        return replace(
            self,
            mix=self.mix.to(device),
            augmentation=self.augmentation.to(device),
            boxed=self.boxed.to(device),
            box=self.box.to(device),
            erased=(self.erased[0].to(device), self.erased[1].to(device)),
            noise=self.noise.to(device),
            color=None if self.color is None else self.color.to(device),
        )

    def of(self, samples: slice) -> PlanInputs:
        """The arguments for some samples of the batch."""
        crops = [Crops(*(t[samples] for t in side)) for side in (self.mix.target_crops, self.mix.aux_crops)]
        return replace(
            self,
            mix=replace(self.mix, target_crops=crops[0], aux_crops=crops[1], lam=self.mix.lam[samples]),
            boxed=self.boxed[samples],
            box=self.box[samples],
            erased=(self.erased[0][samples], self.erased[1][samples]),
            noise=self.noise[samples],
            color=None if self.color is None else self.color[samples],
        )

    def swapped(self) -> PlanInputs:
        """The same call with the sides in each other's place, their weights among them; boxes are left out."""
        swapped = replace(self.mix.swapped(), lam=1 - self.mix.lam)
        color = None if self.color is None else self.color.flip(1)
        return replace(self, mix=swapped, boxed=torch.zeros_like(self.boxed), erased=self.erased[::-1], color=color)

    def call(self, mix_plan: Any, **more: Any) -> torch.Tensor:
        """Calls `mix_plan` of `ops` or `reference` with these arguments; ``more`` adds arguments or replaces them."""
        return mix_plan(self.mix.target, self.mix.aux, self.plan, **self.options() | more)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `mix_plan`."""
        mix = self.mix
        options = {"size": mix.size, "dtype": mix.dtype, "memory_format": mix.memory_format}
        return options | {"augmentation": self.augmentation} | IMAGENET

    def raw(self) -> tuple[Any, ...]:
        """The arguments of torch.ops.xmixup_fast.mix_plan in the schema's order, up to ``size``."""
        plan, pools = self.plan, (self.mix.target, self.mix.aux)
        tensors = [tensor for pool in pools for tensor in (pool.pixels, pool.offsets, pool.sizes)]
        return (*tensors, plan.rows, plan.color, IMAGENET["mean"], IMAGENET["std"], self.mix.size)

    def filling(self) -> tuple[Any, torch.Tensor | None]:
        """The arguments ``fill`` and ``noise_quantiles`` of torch.ops.xmixup_fast.mix_plan."""
        fill = self.augmentation.fill
        quantiles = self.augmentation.noise_quantiles if fill == "noise" else None
        return (IMAGENET["mean"] if isinstance(fill, str) else fill), quantiles

    def exact(self, mean: Numbers = IMAGENET["mean"], std: Numbers = IMAGENET["std"]) -> torch.Tensor:
        """The exact result of `mix_plan`, computed by its definition: float64[batch, 3, height, width]."""
        target, aux = (self._exact_side(side, mean, std) for side in (0, 1))
        lam = self.mix.lam.double().view(-1, 1, 1, 1)
        inside = reference.inside(self.box, self.mix.size).unsqueeze(1).double()
        lam = torch.where(self.boxed.view(-1, 1, 1, 1), 1 - inside, lam)
        means, deviations = (torch.tensor(v, dtype=torch.float64, device=lam.device).view(3, 1, 1) for v in (mean, std))
        return ((lam * target + (1 - lam) * aux) / 255 - means) / deviations

    def _exact_side(self, side: int, mean: Numbers, std: Numbers) -> torch.Tensor:
        mix = self.mix
        pool, crops = ((mix.target, mix.target_crops), (mix.aux, mix.aux_crops))[side]
        view = exact_views(pool, crops, mix.size, mix.antialias)
        if self.color is not None:
            color = self.color[:, side].double()
            view = torch.einsum("bij,bjhw->bihw", color[..., :3], view) + color[..., 3, None, None]
            view = view.clamp(0, 255)
        inside = reference.inside(self.erased[side], mix.size).unsqueeze(1)
        return torch.where(inside, self._filled(side, mean, std).to(view.device), view)

    def _filled(self, side: int, mean: Numbers, std: Numbers) -> torch.Tensor:
        """What erased pixels are filled with, in 0..255: float64[batch, 3, height, width]."""
        (height, width), fill = self.mix.size, self.augmentation.fill
        constant = torch.tensor(mean if isinstance(fill, str) else fill, dtype=torch.float64).view(3, 1, 1)
        levels = (255 * constant).expand(len(self.noise), 3, height, width)
        if fill != "noise":
            return levels
        quantiles = self.augmentation.noise_quantiles.cpu().double()
        deviations = 255 * torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
        y, x = (t.flatten() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        counters = torch.stack([x // 5, y, torch.full_like(y, side), torch.zeros_like(y)], dim=1)
        noises = []
        for key in self.noise.tolist():
            octets = reference.philox(counters, key).int().view(torch.uint8)  # of little-endian machines
            of_pixel = torch.stack([octets.gather(1, (3 * (x % 5) + c)[:, None])[:, 0] for c in range(3)])
            noises.append(quantiles[of_pixel.long()].view(3, height, width))
        return levels + torch.stack(noises) * deviations if noises else levels

    def error(self, mean: Numbers = IMAGENET["mean"], std: Numbers = IMAGENET["std"]) -> torch.Tensor:
        """The bound that `mix_plan` documents on the error of its float32 result: float64[batch, 3, 1, 1]."""
        mix = self.mix
        sides = []
        for side, crops in enumerate((mix.target_crops, mix.aux_crops)):
            levels = view_error(crops, mix.size, mix.antialias)[:, None].expand(-1, 3)
            if self.color is not None:
                color = self.color[:, side].double().abs()
                factor, shift = color[..., :3].sum(-1), color[..., 3]
                levels = (levels * factor + 4 * U * (255 * factor + shift)).clamp(max=255)
            sides.append(levels)
        device = mix.lam.device
        means, deviations = (torch.tensor(v, dtype=torch.float64, device=device) for v in (mean, std))
        fill, quantiles = self.augmentation.fill, self.augmentation.noise_quantiles
        largest = means.abs() if isinstance(fill, str) else torch.tensor(fill, dtype=torch.float64, device=device).abs()
        if fill == "noise":
            largest = largest + quantiles.abs().max() * deviations
        largest = largest.clamp(min=1)
        rounding = 6 * U * (largest + means.abs()) + 4 * U * largest  # of the blend, and of what is filled
        return ((torch.maximum(*sides) / 255 + rounding) / deviations)[:, :, None, None]
