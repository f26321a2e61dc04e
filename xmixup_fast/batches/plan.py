"""StepPlan: everything random in a training step, decided before a pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..ops.image_pool import Crops
from ..ops.mix_plan import MixPlan
from ..runtime.device import upload

Second = Literal["partner", "auxiliary"]
"""What each target image is mixed with: another image of the batch, or an auxiliary image."""


def part_bounds(length: int, part: int, parts: int) -> tuple[int, int]:
    """Where a part of so many samples begins and ends, of ``parts`` that follow each other and are nearly equal."""
    return length * part // parts, length * (part + 1) // parts


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What a step of B samples looks at. All tensors are on one device: to be rendered, on the pools'."""

    sample: Tensor
    """int64[B]: positions of the samples among the training images."""
    label: Tensor
    """int64[B]: their target classes."""
    mix: MixPlan
    """What the operator renders: windows, flips, colours, erased rectangles, and how two images become one."""
    lam: Tensor
    """float32[B] in 0..1: the final weight of each target image and of its label; 1 where a sample is not mixed."""
    second: Second | None = None
    """What the second image of each pair is; None where there is none."""
    second_label: Tensor | None = None
    """int64[B]: target classes of the partners, or else source classes of the auxiliary images."""
    micro_batch: int = 0
    """Which micro-batch of its step it is."""

    def __len__(self) -> int:
        return len(self.lam)

    @property
    def second_classes(self) -> Tensor:
        """``second_label`` of a plan that has one, int64[B]. Raises ValueError for a plan without a second image."""
        if self.second_label is None:
            raise ValueError("plan: has no second image; the method needs uses_source = True, or second = 'partner'")
        return self.second_label

    def part(self, begin: int, end: int) -> StepPlan:
        """The plan of samples ``begin`` to ``end``, which keep their partners."""
        if (begin, end) == (0, len(self)):
            return self
        own = slice(begin, end)
        return StepPlan(
            sample=self.sample[own],
            label=self.label[own],
            mix=self.mix.part(begin, end),
            lam=self.lam[own],
            second=self.second,
            second_label=None if self.second_label is None else self.second_label[own],
        )

    def split(self, parts: int) -> list[StepPlan]:
        """The plan in so many micro-batches, of nearly equal length, one after the other."""
        bounds = [part_bounds(len(self), part, parts) for part in range(parts)]
        return [replace(self.part(*of_part), micro_batch=number) for number, of_part in enumerate(bounds)]

    def to(self, device: torch.device) -> StepPlan:
        """The plan on a device, or itself where it is there already; the host does not wait for copies to a GPU."""
        if self.lam.device == device:
            return self
        return replace(
            self,
            sample=upload(self.sample, device),
            label=upload(self.label, device),
            mix=MixPlan(*(upload(tensor, device) for tensor in self.mix)),
            lam=upload(self.lam, device),
            second_label=None if self.second_label is None else upload(self.second_label, device),
        )

    @property
    def target_windows(self) -> Crops:
        """All windows of target images that the plan looks at: those of the samples, then those of their partners."""
        own = self.mix.target_crops
        if self.second != "partner":
            return own
        return Crops(*(torch.cat(both) for both in zip(own, self.mix.aux_crops, strict=True)))

    def with_target_windows(self, crops: Crops) -> StepPlan:
        """The plan with other images and windows in place of those of :attr:`target_windows`; flips stay."""
        mix = self.mix.copy()
        sides = [mix.target_crops] if self.second == "auxiliary" else [mix.target_crops, mix.aux_crops]
        for side, number in zip(sides, (0, len(crops.index) - len(self)), strict=False):
            side.index.copy_(crops.index[number : number + len(self)])
            side.window.copy_(crops.window[number : number + len(self)])
        return replace(self, mix=mix)

    def tensors(self) -> list[Tensor]:
        """All tensors of the plan, in a fixed order."""
        given = [self.sample, self.label, self.lam, self.second_label, *self.mix]
        return [tensor for tensor in given if tensor is not None]
