"""What is drawn at random for one training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.image_pool import Crops
from ..ops.lam import rectangles


@dataclass(frozen=True, eq=False)
class Draw:
    """All that is random in one step of B samples, on the pools' device."""

    label: Tensor
    """int64[B]: target classes."""
    all_crops: Crops
    """Target images and their windows: of the samples and, in a part of a batch, behind them of their partners."""
    lam: Tensor
    """float32[B] in 0..1: weight of the target image; 1 where a sample is not mixed."""
    center: Tensor
    """float32[B, 2] in 0..1: the middle of a pasted rectangle, from the top and from the left."""
    partner: Tensor | None = None
    """int64[B]: place among ``all_crops`` of the sample that each is mixed with, for mixing within the batch."""
    partner_label: Tensor | None = None
    """int64[B]: target classes of the partners."""
    aux_label: Tensor | None = None
    """int64[B]: source classes; None without auxiliary images."""
    aux_crops: Crops | None = None
    """Auxiliary images and their windows."""
    rectangle: bool = False
    """Whether xmixup pastes rectangles in this step, instead of blending."""

    @property
    def crops(self) -> Crops:
        """The samples' images and windows."""
        return _part(self.all_crops, slice(len(self.lam)))

    def rectangles(self, size: int) -> tuple[Tensor, Tensor]:
        """What :func:`rectangles` gives for images of size x size pixels."""
        return rectangles(self.lam, self.center, (size, size))

    def part(self, begin: int, end: int) -> Draw:
        """What is drawn for some of the samples, which keep their partners."""
        if (begin, end) == (0, len(self.lam)):
            return self
        own = slice(begin, end)
        crops, partner, partner_label = _part(self.all_crops, own), None, None
        if self.partner is not None and self.partner_label is not None:
            theirs = _part(self.all_crops, self.partner[own])
            crops = Crops(*map(torch.cat, zip(crops, theirs, strict=True)))
            partner = torch.arange(end - begin, 2 * (end - begin), device=self.lam.device)
            partner_label = self.partner_label[own]
        return Draw(
            *(self.label[own], crops, self.lam[own], self.center[own], partner, partner_label),
            None if self.aux_label is None else self.aux_label[own],
            None if self.aux_crops is None else _part(self.aux_crops, own),
            self.rectangle,
        )


def _part(crops: Crops, which: slice | Tensor) -> Crops:
    return Crops(*(tensor[which] for tensor in crops))
