"""The operators in plain PyTorch. This file defines what they compute; tests and benchmarks compare with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pool import Crops, ImagePool


def gather(pool: ImagePool, crops: Crops, size: tuple[int, int]) -> Tensor:
    """The windows cut out, brought to the output's size and flipped: float32[B, height, width, 3], 0 to 255."""
    views = []
    for index, window, flip in zip(crops.index.tolist(), crops.window.tolist(), crops.flip.tolist(), strict=True):
        top, left, height, width = window
        view = pool[index][top : top + height, left : left + width].float()
        if (height, width) != tuple(size):
            planes = view.permute(2, 0, 1).unsqueeze(0)
            view = F.interpolate(planes, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        views.append(view.flip(1) if flip else view)
    return torch.stack(views) if views else torch.empty((0, *size, 3), device=pool.device)


def mix(
    target: ImagePool,
    target_crops: Crops,
    aux: ImagePool,
    aux_crops: Crops,
    lam: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int],
    box: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """normalise(lam * target + (1 - lam) * aux), as :func:`xmixup_fast.ops.mix`, to within rounding.

    With pixels t and a in 0..255, ``(lam t + (1 - lam) a) / 255`` less ``mean``, over ``std``, is
    ``t lam s + (a (1 - lam) s + b)`` with ``s = 1 / (255 std)`` and ``b = -mean / std``: two multiply-adds a channel.
    """
    scale, bias = (torch.tensor(values, device=lam.device) for values in channel_constants(mean, std))
    lam = lam.view(-1, 1, 1, 1) if box is None else 1 - inside(box, size).unsqueeze(-1).float()
    t, a = gather(target, target_crops, size), gather(aux, aux_crops, size)
    mixed = t * (lam * scale) + (a * ((1 - lam) * scale) + bias)
    return mixed.permute(0, 3, 1, 2).to(dtype).contiguous(memory_format=memory_format)


def inside(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels of the output are inside the boxes, int32[B, 4]: bool[B, height, width]."""
    top, left, height, width = box.view(-1, 4, 1, 1).unbind(1)
    y = torch.arange(size[0], device=box.device).view(-1, 1)
    x = torch.arange(size[1], device=box.device)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def channel_constants(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Scale and bias that normalise a byte: ``byte * scale + bias == (byte / 255 - mean) / std``, per channel."""
    scale = [1 / (255 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return scale, bias
