"""Centre crops, for passes over images that are not training steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.image_pool import Crops


def center_windows(sizes: Tensor, size: int, index: Tensor) -> Crops:
    """The middle ``size`` x ``size`` pixels of images, not mirrored: sizes int32[n, 2] of the pool, index int64[B]."""
    corner = (sizes[index] - size) // 2
    window = torch.cat([corner, torch.full_like(corner, size)], dim=1).int()
    return Crops(index, window, torch.zeros_like(index, dtype=torch.bool))
