"""The operators in plain PyTorch. This file defines what they compute; tests and benchmarks compare with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .pool import Crops, ImagePool


def gather(pool: ImagePool, crops: Crops) -> Tensor:
    """The windows themselves, cut out and flipped: uint8[B, height, width, 3]."""
    views = []
    for index, window, flip in zip(crops.index.tolist(), crops.window.tolist(), crops.flip.tolist(), strict=True):
        top, left, height, width = window
        view = pool[index][top : top + height, left : left + width]
        views.append(view.flip(1) if flip else view)
    return torch.stack(views)


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
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """normalise(lam * target + (1 - lam) * aux), as :func:`xmixup_fast.ops.mix`, to within rounding.

    With pixels t and a in 0..255, ``(lam t + (1 - lam) a) / 255`` less ``mean``, over ``std``, is
    ``t lam s + (a (1 - lam) s + b)`` with ``s = 1 / (255 std)`` and ``b = -mean / std``: two multiply-adds a channel.
    """
    if lam.numel() == 0:
        return torch.empty((0, 3, *size), device=lam.device, memory_format=memory_format)
    scale, bias = (torch.tensor(values, device=lam.device) for values in channel_constants(mean, std))
    lam = lam.view(-1, 1, 1, 1)
    t, a = gather(target, target_crops), gather(aux, aux_crops)
    mixed = t * (lam * scale) + (a * ((1 - lam) * scale) + bias)
    return mixed.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


def channel_constants(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Scale and bias that normalise a byte: ``byte * scale + bias == (byte / 255 - mean) / std``, per channel."""
    scale = [1 / (255 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return scale, bias
