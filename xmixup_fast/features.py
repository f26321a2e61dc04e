"""Mixing of features instead of pixels, inside the network (manifold mixup, Verma et al. 2019, arXiv 1806.05236)."""

from __future__ import annotations

import torch
from torch import Tensor


def mix_features(target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    """``lam[b] * target[b] + (1 - lam[b]) * aux[b]``, for features of any shape.

    ``XMixup.pairs`` gives two batches and ``lam``: take both through the first layers, mix, and take the mix through
    the rest. To mix within a batch, give ``features[partner]`` as ``aux``. Differentiable, also twice, in both features
    and in ``lam``. Made of torch's own elementwise operations, which torch.compile fuses with those around them.

    Where ``lam[b]`` is 1, the result is ``target[b]``, as long as that is finite; whatever is in ``aux[b]``, also NaN,
    reaches neither the result nor a gradient, and the gradients of ``aux[b]`` and ``lam[b]`` are zero.

    Args:
        target: [B, ...], of any floating-point dtype.
        aux: of the same dtype, shape and device.
        lam: float[B] in 0..1, the weight of ``target``; rounded to the features' dtype.

    Returns:
        As ``target``, whose memory format it has where ``aux`` has the same.

    Raises:
        ValueError: an argument has a wrong dtype, shape or device. Values are not checked.
    """
    if not target.is_floating_point() or target.dim() == 0:
        raise ValueError(f"target: expected floating-point [batch, ...], got {_describe(target)}")
    if (aux.dtype, aux.shape, aux.device) != (target.dtype, target.shape, target.device):
        raise ValueError(f"aux: expected {_describe(target)}, as target, got {_describe(aux)}")
    if not lam.is_floating_point() or lam.shape != target.shape[:1] or lam.device != target.device:
        raise ValueError(f"lam: expected floating-point [{len(target)}] on {target.device}, got {_describe(lam)}")
    weight = lam.view(-1, *[1] * (target.dim() - 1))
    # Detached, because what comes this way has no part in a gradient: lerp's for aux is zero there.
    aux = torch.where(weight == 1, target.detach(), aux)
    return torch.lerp(aux, target, weight.to(target.dtype))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} on {tensor.device}"
