"""StepPlan: everything random in a training step, decided before a pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..ops.image_pool import Crops

Second = Literal["partner", "auxiliary"]
"""What each target image is mixed with: another image of the batch, or an auxiliary image."""


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What a step of B samples looks at. All tensors are on the pools' device."""

    sample: Tensor
    """int64[B]: positions of the samples among the training images."""
    label: Tensor
    """int64[B]: their target classes."""
    crops: Crops
    """Windows of W >= B target images: those of the samples and, in a part of a batch, those of their partners."""
    lam: Tensor
    """float32[B] in 0..1: the final weight of each target image and of its label; 1 where a sample is not mixed."""
    box: Tensor | None = None
    """int32[B, 4]: top, left, height and width of the box with the second image; None where images are blended."""
    partner: Tensor | None = None
    """int64[B]: position among ``crops`` of the image that each is mixed with, for mixing within the batch."""
    auxiliary: Crops | None = None
    """Windows of B auxiliary images; None where there are none."""
    second_label: Tensor | None = None
    """int64[B]: target classes of the partners, or else source classes of the auxiliary images."""

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
        crops, partner = _rows(self.crops, own), None
        if self.partner is not None:
            partners = _rows(self.crops, self.partner[own])
            crops = Crops(
                torch.cat([crops.index, partners.index]),
                torch.cat([crops.window, partners.window]),
                torch.cat([crops.flip, partners.flip]),
            )
            partner = torch.arange(end - begin, 2 * (end - begin), device=self.lam.device)
        return StepPlan(
            sample=self.sample[own],
            label=self.label[own],
            crops=crops,
            lam=self.lam[own],
            box=None if self.box is None else self.box[own],
            partner=partner,
            auxiliary=None if self.auxiliary is None else _rows(self.auxiliary, own),
            second_label=None if self.second_label is None else self.second_label[own],
        )

    def split(self, parts: int) -> list[StepPlan]:
        """The plan in so many parts, of nearly equal length, one after the other."""
        cuts = [len(self) * part // parts for part in range(parts + 1)]
        return [self.part(begin, end) for begin, end in pairwise(cuts)]

    def tensors(self) -> list[Tensor]:
        """All tensors of the plan, in a fixed order."""
        fields = (self.sample, self.label, self.lam, self.box, self.partner, self.second_label)
        return [tensor for tensor in (*fields, *self.crops, *(self.auxiliary or ())) if tensor is not None]


def _rows(crops: Crops, which: slice | Tensor) -> Crops:
    return Crops(crops.index[which], crops.window[which], crops.flip[which])
