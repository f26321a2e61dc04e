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
    shares: dict[int, Tensor] = {}
    for i, (begin, (height, width)) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        for extent in (height, width):
            if extent not in shares:
                shares[extent] = _shares(extent, pixels.device)
        image = pixels[begin : begin + 3 * height * width].view(1, height, width, 3)
        means[i : i + 1] = _part_means(image, shares[height], shares[width])
    return means


def dense_mean_colors(images: Tensor) -> Tensor:
    """:func:`mean_colors` of images of one size, uint8[B, H, W, 3] without gaps: uint8[B, 8, 8, 3].

    No number is read back from a GPU, and ``torch.compile`` makes one graph of it.
    """
    _, height, width, _ = images.shape
    return _part_means(images, _shares(height, images.device), _shares(width, images.device))


def _part_means(images: Tensor, row_shares: Tensor, column_shares: Tensor) -> Tensor:
    """The means of images uint8[B, H, W, 3], with the shares of their rows and columns in each part."""
    batch, height, width, _ = images.shape
    # All sums are whole numbers, which float64 adds exactly: the same bytes on every device.
    rows = row_shares @ images.view(batch, height, 3 * width).double()
    sums = column_shares @ rows.view(batch, GRID, width, 3)
    return (sums / (height * width) + 0.5).floor().to(torch.uint8)


def _shares(extent: int, device: torch.device) -> Tensor:
    """How much of each of ``extent`` pixels lies in each of the parts, in eighths of a pixel: float64[8, extent]."""
    part = torch.arange(GRID, device=device).unsqueeze(1) * extent
    pixel = torch.arange(extent, device=device) * GRID
    overlap = torch.minimum(part + extent, pixel + GRID) - torch.maximum(part, pixel)
    return overlap.clamp(min=0).double()
