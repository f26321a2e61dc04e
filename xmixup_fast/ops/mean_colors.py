"""Mean colours of the parts of images: what is known of a window without reading its pixels."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 8
"""Parts of an image along each axis."""


def mean_colors(pixels: Tensor, offsets: Tensor, sizes: Tensor) -> Tensor:
    """The mean colour of each of the 8 x 8 equal parts of images, rounded to the nearest byte, half up.

    A pixel on the border of two parts counts in both, by the share of it that lies in each.

    Args:
        pixels: uint8[bytes], all images, each row by row as R, G, B.
        offsets: int64[n], where each image begins, in bytes.
        sizes: int32[n, 2], height and width of each image.

    Returns uint8[n, 8, 8, 3] on the same device.
    """
    means = torch.empty((len(offsets), GRID, GRID, 3), dtype=torch.uint8, device=pixels.device)
    weights: dict[int, Tensor] = {}
    for i, (begin, (height, width)) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        for extent in (height, width):
            if extent not in weights:
                weights[extent] = _shares(extent, pixels.device)
        # All sums are whole numbers, which float64 adds exactly: the same bytes on every device.
        image = pixels[begin : begin + 3 * height * width].view(height, 3 * width).double()
        rows = (weights[height] @ image).view(GRID, width, 3)
        sums = torch.matmul(weights[width], rows)
        means[i] = (sums / (height * width) + 0.5).floor()
    return means


def _shares(extent: int, device: torch.device) -> Tensor:
    """How much of each of ``extent`` pixels lies in each of the parts, in eighths of a pixel: float64[8, extent]."""
    part = torch.arange(GRID, device=device).unsqueeze(1) * extent
    pixel = torch.arange(extent, device=device) * GRID
    overlap = torch.minimum(part + extent, pixel + GRID) - torch.maximum(part, pixel)
    return overlap.clamp(min=0).double()
