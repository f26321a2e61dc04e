"""Mixing weights: quantiles of their distribution, and CutMix's boxes with the weights that belong to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from .arguments import as_size

TABLE_SIZE = 4096
"""Intervals of the quantile table of the mixing weights."""


def cutmix_boxes(lam: Tensor, center: Tensor, size: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    """CutMix's boxes (Yun et al. 2019, arXiv 1905.04899) and the weights that belong to them.

    The sides of a box are sqrt(1 - lam) of the image's, rounded. The part of a box outside of the image is cut off.

    Args:
        lam: float32[B] in 0..1, the weights that were drawn for the images which boxes are pasted into.
        center: float32[B, 2] in 0..1, the middles of the boxes, from the top and from the left.
        size: height and width of the images, in pixels; or an integer for both.

    Returns:
        The boxes, int32[B, 4], as :func:`xmixup_fast.mix` takes them; and the final weights, float32[B]: the share of
        each image that its box leaves visible.

    Raises TypeError or ValueError for another size.
    """
    height, width = as_size("size", size)
    root = (1 - lam).sqrt()
    begins, extents = [], []
    for pixels, middle in zip((height, width), center.unbind(1), strict=True):
        side = (root * pixels).round().int()
        begin = (middle * pixels).int() - side // 2
        end = (begin + side).clamp(max=pixels)
        begins.append(begin.clamp(min=0))
        extents.append(end - begins[-1])
    # Two integer tensors' quotient would have torch's default dtype, which may be float64.
    covered = (extents[0] * extents[1]).to(lam.dtype) / (height * width)
    return torch.stack([*begins, *extents], dim=1), 1 - covered


def beta_quantiles(alpha: float, fold: bool) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at 0, 1/TABLE_SIZE, ... 1: float32[TABLE_SIZE + 1], rising.

    Folded, they are those of max(lam, 1 - lam): by symmetry the upper half of the distribution.
    """
    p = np.linspace(0.5 if fold else 0.0, 1.0, TABLE_SIZE + 1)
    return torch.from_numpy(betaincinv(alpha, alpha, p)).float()
