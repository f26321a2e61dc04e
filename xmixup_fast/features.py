"""Mixing of features instead of pixels, inside the network (manifold mixup, Verma et al. 2019, arXiv 1806.05236)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import operators


def mix_features(target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    """``lam[b] * target[b] + (1 - lam[b]) * aux[b]``, for features of any shape, in one pass.

    ``XMixup.pairs`` gives two batches and ``lam``: take both through the first layers, mix, and take the mix through
    the rest. To mix within a batch, give ``features[partner]`` as ``aux``. Differentiable in both features and in
    ``lam``, and deterministic. First derivatives take one pass too, and one more where ``lam`` needs a gradient; only
    then are the features kept for backward. Second derivatives are made of torch's own operations.

    Computed in float32, in float64 for float64 features, as ``lam * target + (1 - lam) * aux`` with each operation
    rounded, and then rounded to the features' dtype.

    Where ``lam[b]`` is 1, the result is ``target[b]``; ``aux[b]`` is not read, so that NaN there reaches neither the
    result nor a gradient, and the gradients of ``aux[b]`` and ``lam[b]`` are zero.

    Args:
        target: [B, ...], float32, bfloat16, float16 or float64.
        aux: of the same dtype, shape and device.
        lam: float[B] in 0..1, the weight of ``target``; rounded to what is computed in.

    Returns:
        As ``target``, with its strides where its samples lie one after the other, each without gaps; otherwise
        contiguous. Features of other strides are copied first.

    Raises:
        ValueError: an argument has a wrong dtype, shape or device. Values are not checked.
    """
    if not _is_floating_point(target) or target.dim() == 0:
        raise ValueError(f"target: expected floating-point [batch, ...], got {_describe(target)}")
    if not isinstance(aux, Tensor) or _kind(aux) != _kind(target):
        raise ValueError(f"aux: expected {_describe(target)}, as target, got {_describe(aux)}")
    if not _is_floating_point(lam) or lam.shape != target.shape[:1] or lam.device != target.device:
        raise ValueError(f"lam: expected floating-point [{len(target)}] on {target.device}, got {_describe(lam)}")
    mixed: Tensor = operators._library.mix_features(target, aux, lam)
    return mixed


def _is_floating_point(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size, torch.device]:
    return tensor.dtype, tensor.shape, tensor.device


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"


def _empty_dense(features: Tensor) -> Tensor:
    """As csrc/mix_features.cpp allocates what is like features."""
    expected = 1
    for stride, size in sorted(zip(features.stride()[1:], features.shape[1:], strict=True)):
        if size != 1 and stride != expected:
            return torch.empty(features.shape, dtype=features.dtype, device=features.device)
        expected *= size
    if len(features) > 1 and features.stride(0) != expected:
        return torch.empty(features.shape, dtype=features.dtype, device=features.device)
    return torch.empty_like(features)


@torch.library.register_fake("xmixup_fast::mix_features")  # type: ignore[untyped-decorator]
def _(target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    return _empty_dense(target)


@torch.library.register_fake("xmixup_fast::mix_features_backward")  # type: ignore[untyped-decorator]
def _(mixed_grad: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_dense(mixed_grad), _empty_dense(mixed_grad)


@torch.library.register_fake("xmixup_fast::mix_features_lam_backward")  # type: ignore[untyped-decorator]
def _(mixed_grad: Tensor, target: Tensor, aux: Tensor, lam: Tensor) -> Tensor:
    return lam.new_empty(lam.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    target, aux, lam = inputs
    ctx.save_for_backward(lam, *((target, aux) if lam.requires_grad else ()))


def _backward(ctx: Any, mixed_grad: Tensor) -> tuple[Tensor | None, ...]:
    lam, *features = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _differentiable_backward(mixed_grad, lam, *features)
    target_grad = aux_grad = lam_grad = None
    if any(ctx.needs_input_grad[:2]):
        target_grad, aux_grad = operators._library.mix_features_backward(mixed_grad, lam)
    if features:
        lam_grad = operators._library.mix_features_lam_backward(mixed_grad, *features, lam)
    return target_grad, aux_grad, lam_grad


def _differentiable_backward(mixed_grad: Tensor, lam: Tensor, *features: Tensor) -> tuple[Tensor | None, ...]:
    """For second derivatives: the same gradients, of torch's own operations."""
    dtype = mixed_grad.dtype
    weight = lam.to(torch.promote_types(dtype, torch.float32)).view(-1, *[1] * (mixed_grad.dim() - 1))
    unmixed = weight == 1
    target_grad, aux_grad = weight * mixed_grad, ((1 - weight) * mixed_grad).masked_fill(unmixed, 0)
    lam_grad = None
    if features:
        target, aux = (side.to(weight.dtype).masked_fill(unmixed, 0) for side in features)
        slopes = mixed_grad * (target - aux)
        lam_grad = slopes.reshape(len(lam), -1).sum(1).to(lam.dtype)
    return target_grad.to(dtype), aux_grad.to(dtype), lam_grad


torch.library.register_autograd("xmixup_fast::mix_features", _backward, setup_context=_setup_context)
