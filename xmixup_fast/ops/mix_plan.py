"""MixPlan: all that is random in a batch of mixed images, one row for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import as_size, check_tensor, describe
from .image_pool import Crops

WORDS = 32
"""Words of 32 bits in a row of a plan. csrc/core/plan.h has the same layout."""

# Where columns begin, in words; flags in bytes.
_TARGET_INDEX, _AUX_INDEX, _AUX_LABEL, _NOISE = 0, 2, 4, 6
_TARGET_WINDOW, _AUX_WINDOW, _BOX, _TARGET_ERASED, _AUX_ERASED = 8, 12, 16, 20, 24
_LAM = 28
_TARGET_FLIP, _AUX_FLIP, _BOXED = 116, 117, 118


class MixPlan(NamedTuple):
    """What :func:`xmixup_fast.draw` decides and :func:`xmixup_fast.mix_plan` renders, for B samples on one device.

    The properties are views of ``rows``, with gaps between their elements.
    """

    rows: Tensor
    """int32[B, 32]: a row for each sample, in the layout of csrc/core/plan.h."""
    color: Tensor
    """float32[B, 2, 3, 4]: for the target image and the auxiliary one, the matrix that turns R, G, B, 1 of a pixel, in
    0..255, into its new R, G, B, which are then clamped to 0..255; or float32[0, 2, 3, 4]: no colour changes."""

    @property
    def target_crops(self) -> Crops:
        """Images, windows and flips of the target images."""
        return self._crops(_TARGET_INDEX, _TARGET_WINDOW, _TARGET_FLIP)

    @property
    def aux_crops(self) -> Crops:
        """Images, windows and flips of the auxiliary images; without such, those of the target images."""
        return self._crops(_AUX_INDEX, _AUX_WINDOW, _AUX_FLIP)

    @property
    def aux_label(self) -> Tensor:
        """int64[B]: labels of the auxiliary images; -1 where :func:`xmixup_fast.draw` was given none."""
        return self._int64(_AUX_LABEL)

    @property
    def lam(self) -> Tensor:
        """float32[B] in 0..1: the weight of each target image and of its label; with a box, the share of the image that
        the box leaves visible."""
        return self.rows[:, _LAM].view(torch.float32)

    @property
    def boxed(self) -> Tensor:
        """bool[B]: whether the auxiliary image is pasted as a box; else both images are blended."""
        return self._flag(_BOXED)

    @property
    def box(self) -> Tensor:
        """int32[B, 4]: top, left, height and width of the box in the output, in pixels; zeros where there is none."""
        return self.rows[:, _BOX : _BOX + 4]

    @property
    def target_erased(self) -> Tensor:
        """int32[B, 4]: the rectangle of the output, in pixels, that is erased from the target image; or zeros."""
        return self.rows[:, _TARGET_ERASED : _TARGET_ERASED + 4]

    @property
    def aux_erased(self) -> Tensor:
        """int32[B, 4]: likewise of the auxiliary image."""
        return self.rows[:, _AUX_ERASED : _AUX_ERASED + 4]

    @property
    def noise(self) -> Tensor:
        """int64[B]: keys of the noise that erased rectangles are filled with."""
        return self._int64(_NOISE)

    @classmethod
    def of(
        cls,
        target_crops: Crops,
        aux_crops: Crops,
        lam: Tensor,
        *,
        aux_label: Tensor | None = None,
        box: Tensor | None = None,
        target_erased: Tensor | None = None,
        aux_erased: Tensor | None = None,
        noise: Tensor | None = None,
        color: Tensor | None = None,
    ) -> MixPlan:
        """The plan of B samples that are given by columns, as the properties return them. They are copied.

        Without ``aux_label`` it is -1; without the others nothing is pasted, erased or changed in colour.

        Raises TypeError or ValueError for a column of another dtype or shape, or elsewhere than ``lam``.
        """
        if not isinstance(lam, Tensor) or lam.dim() != 1:
            raise TypeError(f"lam: expected float32[batch], got {describe(lam)}")
        if color is None:
            color = torch.empty((0, 2, 3, 4), dtype=torch.float32, device=lam.device)
        if not isinstance(color, Tensor) or color.dim() == 0:
            raise TypeError(f"color: expected float32[batch, 2, 3, 4] or float32[0, 2, 3, 4], got {describe(color)}")
        check_tensor("color", color, torch.float32, (len(lam) if len(color) else 0, 2, 3, 4), lam.device)
        rows = torch.zeros((len(lam), WORDS), dtype=torch.int32, device=lam.device)
        plan = cls(rows, color.clone(memory_format=torch.contiguous_format))
        plan.aux_label.fill_(-1)
        plan.boxed.fill_(box is not None)
        columns = [("lam", plan.lam, lam)]
        for side, crops in (("target_crops", target_crops), ("aux_crops", aux_crops)):
            own = getattr(plan, side)
            columns += [(f"{side}.{name}", getattr(own, name), getattr(crops, name)) for name in Crops._fields]
        given = {"aux_label": aux_label, "box": box, "target_erased": target_erased, "aux_erased": aux_erased}
        given["noise"] = noise
        columns += [(name, getattr(plan, name), values) for name, values in given.items() if values is not None]
        for name, column, values in columns:
            check_tensor(name, values, column.dtype, column.shape, lam.device)
            column.copy_(values)
        return plan

    def part(self, begin: int, end: int) -> MixPlan:
        """The plan of samples ``begin`` to ``end``: views of this one."""
        return MixPlan(self.rows[begin:end], self.color[begin:end])

    def copy(self) -> MixPlan:
        """A plan of its own memory."""
        return MixPlan(self.rows.clone(), self.color.clone())

    def target_alone(self) -> MixPlan:
        """The plan that shows the target images alone, with the colours, erased rectangles and noise that they have
        when they are mixed."""
        alone = self.copy()
        alone.lam.fill_(1)
        alone.boxed.fill_(False)
        return alone

    def aux_alone(self, size: int | Sequence[int]) -> MixPlan:
        """The plan that shows the auxiliary images alone, as :meth:`target_alone`: each as a box of the whole output.

        Args:
            size: height and width of the output, in pixels; or an integer for both.

        Raises TypeError or ValueError for another ``size``.
        """
        height, width = as_size("size", size)
        alone = self.copy()
        alone.lam.fill_(0)
        alone.boxed.fill_(True)
        alone.box[:, :2].fill_(0)
        alone.box[:, 2].fill_(height)
        alone.box[:, 3].fill_(width)
        return alone

    def _crops(self, index: int, window: int, flip: int) -> Crops:
        return Crops(self._int64(index), self.rows[:, window : window + 4], self._flag(flip))

    def _int64(self, word: int) -> Tensor:
        return self.rows[:, word : word + 2].view(torch.int64)[:, 0]

    def _flag(self, byte: int) -> Tensor:
        # Not rows.view(torch.bool): where compiled code writes to such a view, all of the rows are copied as bools, and
        # copying makes every byte of a bool 0 or 1.
        return self.rows.view(torch.uint8)[:, byte].view(torch.bool)


torch.serialization.add_safe_globals([MixPlan])  # for torch.load, which takes no other classes by default
