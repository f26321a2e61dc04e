"""What torch is told of the operators besides their kernels: the shapes of results, and the gradients of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime import extension  # noqa: F401  (registers the operators)
from .outputs import empty_batch, empty_losses, empty_plan

# Fake kernels tell torch.compile the shapes of results. They get their arguments by position, in the schema's order.

_SIDE_TENSORS = ("pixels", "offsets", "sizes", "index", "window", "flip")
_MIX_TENSORS = (*(f"target_{name}" for name in _SIDE_TENSORS), *(f"aux_{name}" for name in _SIDE_TENSORS), "lam")


@torch.library.register_fake("xmixup_fast::mix")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> Tensor:
    *tensors, box, _mean, _std, size, dtype, channels_last, _antialias = arguments
    device = _check_devices("mix", _MIX_TENSORS, tensors, box=box)
    return empty_batch(tensors[-1].shape[0], size, dtype, device, channels_last=channels_last)


@torch.library.register_fake("xmixup_fast::mix_out")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> None:
    *tensors, box, _mean, _std, _size, _channels_last, _antialias, out = arguments
    _check_devices("mix", (*_MIX_TENSORS, "out"), (*tensors, out), box=box)


_POOL_TENSORS = ("pixels", "offsets", "sizes")
_PLAN_TENSORS = (*(f"{side}_{name}" for side in ("target", "aux") for name in _POOL_TENSORS), "plan", "color")


@torch.library.register_fake("xmixup_fast::mix_plan")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> Tensor:
    *tensors, _mean, _std, size, dtype, channels_last, _antialias, _fill, noise_quantiles = arguments
    device = _check_devices("mix_plan", _PLAN_TENSORS, tensors, noise_quantiles=noise_quantiles)
    return empty_batch(tensors[-2].shape[0], size, dtype, device, channels_last=channels_last)


@torch.library.register_fake("xmixup_fast::mix_plan_out")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> None:
    *tensors, _mean, _std, _size, _channels_last, _antialias, _fill, noise_quantiles, out = arguments
    _check_devices("mix_plan", (*_PLAN_TENSORS, "out"), (*tensors, out), noise_quantiles=noise_quantiles)


_DRAW_TENSORS = (
    "sample",
    "epoch",
    "label",
    "target_index",
    "target_sizes",
    "target_means",
    "offsets",
    "members",
    "aux_sizes",
    "aux_means",
    "aux_labels",
    "partner",
    "mixed",
    "lam_quantiles",
    "ratios",
    "turns",
    "erase_ratios",
)
_DRAW_OPTIONAL = {"target_means", "aux_means", "aux_labels", "partner", "mixed", "ratios", "turns", "erase_ratios"}


@torch.library.register_fake("xmixup_fast::draw")  # type: ignore[untyped-decorator]
def _(_seed: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, _size, _flip, _box, _one_lam, _scale, jitter, _erase = arguments
    device = _check_draw_devices(tensors)
    return empty_plan(tensors[0].shape[0], device, colored=len(jitter) > 0)


@torch.library.register_fake("xmixup_fast::draw_out")  # type: ignore[untyped-decorator]
def _(_seed: Any, *arguments: Any) -> None:
    *tensors, _size, _flip, _box, _one_lam, _scale, _jitter, _erase, plan, color = arguments
    _check_draw_devices(tensors, plan=plan, color=color)


def _check_draw_devices(tensors: Sequence[Any], **outputs: Any) -> torch.device:
    named = dict(zip(_DRAW_TENSORS, tensors, strict=True)) | outputs
    optional = {name: named.pop(name) for name in _DRAW_TENSORS if name in _DRAW_OPTIONAL}
    return _check_devices("draw", [*named], [*named.values()], **optional)


_LOSS_TENSORS = ("target_logits", "source_logits", "target_labels", "source_labels", "lam")


@torch.library.register_fake("xmixup_fast::dual_head_cross_entropy")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    _check_devices("dual_head_cross_entropy", _LOSS_TENSORS, arguments[: len(_LOSS_TENSORS)])
    loss, _, target_grad, source_grad = empty_losses(*arguments[:2])
    return loss, target_grad, source_grad


_LOSS_OUTPUTS = ("loss", "sample_loss", "target_grad", "source_grad")


@torch.library.register_fake("xmixup_fast::dual_head_cross_entropy_out")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> None:
    tensors = (*arguments[: len(_LOSS_TENSORS)], *arguments[-len(_LOSS_OUTPUTS) :])
    _check_devices("dual_head_cross_entropy", (*_LOSS_TENSORS, *_LOSS_OUTPUTS), tensors)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keeps the gradients that the loss's forward has computed, for :func:`backward`."""
    _, target_grad, source_grad = output
    ctx.mark_non_differentiable(target_grad, source_grad)
    ctx.set_materialize_grads(False)  # torch would allocate zeros as gradients of these two
    ctx.save_for_backward(target_grad, source_grad)
    ctx.dtype = inputs[0].dtype


def backward(ctx: Any, loss_grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    """The gradients of both heads' logits. Raises NotImplementedError where their own gradients are asked for."""
    if torch.is_grad_enabled():
        raise NotImplementedError("xmixup_fast.dual_head_cross_entropy: second derivatives are not implemented")
    # float32, so that the scaled loss of float16 training neither overflows nor loses small gradients here.
    target_grad, source_grad = ((loss_grad * grad).to(ctx.dtype) for grad in ctx.saved_tensors)
    return target_grad, source_grad, None, None, None, None, None


torch.library.register_autograd("xmixup_fast::dual_head_cross_entropy", backward, setup_context=setup_context)


@torch.library.register_fake("xmixup_fast::depthwise_conv2d_weight_grad")  # type: ignore[untyped-decorator]
def _(input: Tensor, grad_output: Tensor, kernel_size: Sequence[int], *_settings: Any) -> Tensor:
    _check_devices("depthwise_conv2d_weight_grad", ("input", "grad_output"), (input, grad_output))
    return input.new_empty((input.shape[1], 1, *kernel_size), dtype=torch.float32)


def _check_devices(op: str, names: Sequence[str], tensors: Sequence[Any], **optional: Tensor | None) -> torch.device:
    """The device that all tensors are on. Raises RuntimeError for None, and for a tensor on another device.

    No native code checks fake tensors.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            raise RuntimeError(f"xmixup_fast.{op}: {name}: expected a tensor, got None")
    device: torch.device = tensors[0].device
    for name, tensor in (*zip(names, tensors, strict=True), *optional.items()):
        if tensor is not None and tensor.device != device:
            raise RuntimeError(
                f"xmixup_fast.{op}: {name}: expected a tensor on {device}, as {names[0]}, got one on {tensor.device}"
            )
    return device
