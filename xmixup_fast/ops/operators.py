"""The fused operators. :mod:`xmixup_fast.reference` defines in plain PyTorch what each computes.

Each is an operator in ``torch.ops.xmixup_fast`` with kernels for CPU and CUDA. It is deterministic, whatever the number
of threads, and works under ``torch.compile(fullgraph=True)``. Wrong arguments raise a RuntimeError that names the
argument, what came and what was expected. Values inside CUDA tensors are checked in the kernel: there a wrong index or
window stops it, and the next synchronisation reports a device-side assert, as with torch's own indexing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..runtime import extension  # noqa: F401  (registers the operators)
from .image_pool import Crops, ImagePool

_library = torch.ops.xmixup_fast


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
    out: Tensor | None = None,
) -> Tensor:
    """Cuts two windows a sample out of two pools, resamples, flips, blends and normalises them, in one pass.

    ``out[b] = (lam[b] * target[b] + (1 - lam[b]) * aux[b] - mean) / std`` with images scaled to 0..1. Computed per
    channel in float32 as ``fma(t, lam * s, fma(a, (1 - lam) * s, bias))`` with ``s = 1 / (255 * std)`` and
    ``bias = -mean / std``. Where ``lam[b]`` is 1, the auxiliary image is not read. With boxes (CutMix, arXiv
    1905.04899), the output is the auxiliary image inside ``box[b]`` and the target image outside, whatever ``lam`` is.

    A window of another size than the output's is brought to it by bilinear resampling with half-pixel centres, as
    ``torchvision.transforms.v2.functional.resized_crop(antialias=False)`` does, but without rounding to bytes.

    The float32 result is off from the exact one by less than ``(e / 255 + 6 * 2**-24 * (1 + abs(mean))) / std``. Here
    ``e`` is the resampling's error in levels of 0..255: less than ``(h + w + 1) / 20000`` for a window of h x w pixels
    (the larger one's, of two), and 0 for windows of the output's size.

    All tensors are on one device, the pools' own. Not differentiable: images are bytes, and ``lam`` is a drawn number.

    Args:
        target: images that lead the mix.
        target_crops: index int64[B], window int32[B, 4] of at most 2**24 pixels a side, and flip bool[B].
        aux: images that are mixed in.
        aux_crops: their index, window and flip.
        lam: float32[B] in 0..1, the weight of the target image.
        mean: of each channel, for images in 0..1.
        std: of each channel, positive.
        size: height and width of the output, 1 to 16384 pixels each.
        box: int32[B, 4], top, left, height and width of a rectangle in the output, which may be empty.
        dtype: of the result: float32, or bfloat16 or float16, which are the float32 result rounded to the nearest.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``, of the result and of ``out``.
        out: [B, 3, height, width] of any of these dtypes in that format, to write into; ``dtype`` is then its own.
            Fresh memory costs more than the mixing itself, so give one wherever the batch before is no longer needed.

    Returns:
        [B, 3, height, width] of ``dtype``; ``out`` itself where it was given.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or memory format, an index is outside its pool, or a
            window outside its image. Nothing has been written then.
        ValueError: ``memory_format`` is neither of the two.
    """
    if memory_format not in (torch.channels_last, torch.contiguous_format):
        raise ValueError(f"memory_format: expected torch.channels_last or torch.contiguous_format, got {memory_format}")
    arguments = (
        *(target.pixels, target.offsets, target.sizes, *target_crops),
        *(aux.pixels, aux.offsets, aux.sizes, *aux_crops),
        *(lam, box, mean, std, size),
    )
    channels_last = memory_format == torch.channels_last
    if out is None:
        mixed: Tensor = _library.mix(*arguments, dtype, channels_last)
        return mixed
    _library.mix_out(*arguments, channels_last, out)
    return out


class DrawOutput(NamedTuple):
    """All that is random in a batch of B samples, on one device."""

    target_crops: Crops
    """Windows and flips of the target images."""
    aux_crops: Crops
    """Which auxiliary images, their windows and flips."""
    lam: Tensor
    """float32[B] in 0..1: weight of the target image."""
    center: Tensor
    """float32[B, 2] in 0..1: the middle of a pasted rectangle, from the top and from the left."""


def draw(
    seed: int,
    *,
    sample: Tensor,
    epoch: Tensor,
    label: Tensor,
    target_index: Tensor,
    target_sizes: Tensor,
    offsets: Tensor,
    members: Tensor,
    aux_sizes: Tensor,
    lam_quantiles: Tensor,
    size: tuple[int, int],
    flip: bool = True,
) -> DrawOutput:
    """Draws all that :func:`mix` needs: crops of target and auxiliary images, which of these, weights, places.

    Besides the tables, what is drawn for a sample depends on the seed, its ``sample`` and its ``epoch`` alone: it is
    the same in any batch and order, in any process and on any device, to the bit. Random words come from Philox4x32-10
    (Salmon et al. 2011, doi:10.1145/2063384.2063405); its key is the seed, its counter the sample, the epoch and the
    purpose of the words. One word makes a whole number below n, ``word * n >> 32`` (uneven by less than n / 2**32), or
    a flip, where its upper bit is 0. Its upper 24 bits make a coordinate of ``center``, as a fraction of 2**24, or as
    such a fraction u ``lam``: the table of quantiles, linearly interpolated at ``u * Q``.

    Without members there are no auxiliary images: ``aux_crops`` are then zeros, and labels are not looked at.
    All tensors are contiguous and on one device.

    Args:
        seed: of the run, ``-2**63`` to ``2**63 - 1``.
        sample: int64[B], any numbers that tell the training images apart.
        epoch: int64[B], 0 to 2**32 - 1.
        label: int64[B], target class of each sample, 0 to K - 1.
        target_index: int64[B], each sample's image in ``target_sizes``.
        target_sizes: int32[n, 2], height and width of the target images.
        offsets: int64[K + 1], where each target class begins in ``members``: they rise from 0 to M.
        members: int64[M], the auxiliary images of each class, all equally likely; M is at most 2**31.
        aux_sizes: int32[m, 2], height and width of the auxiliary images.
        lam_quantiles: float32[Q + 1] in 0..1, quantiles of the distribution of ``lam`` at 0, 1/Q, ... 1, for Q from 1
            to 2**24. :func:`xmixup_fast.sampling.beta_quantiles` makes those of a Beta distribution.
        size: height and width of all windows.
        flip: mirror images left to right, half of the time.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, is not contiguous, or holds a wrong value: numbers
            out of range, a label without members, an image smaller than its window, offsets or quantiles that fall. Of
            members and sizes, those are checked that the samples use.
    """
    target_window, target_flip, aux_index, aux_window, aux_flip, lam, center = _library.draw(
        *(seed, sample, epoch, label, target_index, target_sizes, offsets, members, aux_sizes, lam_quantiles),
        *(size, flip),
    )
    aux_crops = Crops(aux_index, aux_window, aux_flip)
    return DrawOutput(Crops(target_index, target_window, target_flip), aux_crops, lam, center)


def dual_head_cross_entropy(
    target_logits: Tensor,
    source_logits: Tensor,
    target_labels: Tensor,
    source_labels: Tensor,
    lam: Tensor,
    *,
    source_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """XMixup's loss: the mean over b of ``lam[b] * CE(target) + source_weight * (1 - lam[b]) * CE(source)``.

    CE is the cross entropy of row b of a head's logits, smoothed as ``torch.nn.functional.cross_entropy`` does. The
    loss and the gradients of both heads come out of one pass over the logits, in float32 whatever their dtype; backward
    scales these gradients, and then rounds them to the logits' dtype.

    Where ``lam[b]`` is 1, the source logits of row b are not read, their gradient is zero, and the source label may be
    anything. All tensors are contiguous and on one device. There is no gradient of ``lam``.

    Args:
        target_logits: [B, K_t], float32, bfloat16 or float16.
        source_logits: [B, K_s] of the same dtype.
        target_labels: int64[B], 0 to K_t - 1.
        source_labels: int64[B], 0 to K_s - 1 where ``lam`` is less than 1.
        lam: float32[B] in 0..1, the weight of the target image.
        source_weight: 0 or greater.
        label_smoothing: 0 to 1.

    Returns:
        float32 scalar; NaN for an empty batch, as every mean in torch.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or memory format, or a value outside its range.
        NotImplementedError: in backward, where second derivatives are asked for.
    """
    loss: Tensor = _library.dual_head_cross_entropy(
        target_logits, source_logits, target_labels, source_labels, lam, source_weight, label_smoothing
    )[0]
    return loss


_SIDE_TENSORS = ("pixels", "offsets", "sizes", "index", "window", "flip")


_MIX_TENSORS = (*(f"target_{name}" for name in _SIDE_TENSORS), *(f"aux_{name}" for name in _SIDE_TENSORS), "lam")


@torch.library.register_fake("xmixup_fast::mix")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> Tensor:
    *tensors, box, _mean, _std, size, dtype, channels_last = arguments
    device = _check_devices("mix", _MIX_TENSORS, tensors, box=box)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((tensors[-1].shape[0], 3, *size), dtype=dtype, device=device, memory_format=memory_format)


@torch.library.register_fake("xmixup_fast::mix_out")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> None:
    *tensors, box, _mean, _std, _size, _channels_last, out = arguments
    _check_devices("mix", _MIX_TENSORS, tensors, box=box, out=out)


_DRAW_TENSORS = (
    *("sample", "epoch", "label", "target_index", "target_sizes"),
    *("offsets", "members", "aux_sizes", "lam_quantiles"),
)


@torch.library.register_fake("xmixup_fast::draw")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> tuple[Tensor, ...]:
    _seed, *tensors, _size, _flip = arguments
    device = _check_devices("draw", _DRAW_TENSORS, tensors)
    batch = tensors[0].shape[0]

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty((batch, *shape), dtype=dtype, device=device)

    target = empty(torch.int32, 4), empty(torch.bool)
    aux = empty(torch.int64), empty(torch.int32, 4), empty(torch.bool)
    return *target, *aux, empty(torch.float32), empty(torch.float32, 2)


_LOSS_TENSORS = ("target_logits", "source_logits", "target_labels", "source_labels", "lam")


@torch.library.register_fake("xmixup_fast::dual_head_cross_entropy")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    target_logits, source_logits, *_ = arguments
    device = _check_devices("dual_head_cross_entropy", _LOSS_TENSORS, arguments[: len(_LOSS_TENSORS)])
    shapes = ((), target_logits.shape, source_logits.shape)
    loss, target_grad, source_grad = (torch.empty(shape, device=device) for shape in shapes)
    return loss, target_grad, source_grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, target_grad, source_grad = output
    ctx.mark_non_differentiable(target_grad, source_grad)
    ctx.set_materialize_grads(False)  # no zeros for these two
    ctx.save_for_backward(target_grad, source_grad)
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, loss_grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise NotImplementedError("xmixup_fast.dual_head_cross_entropy: second derivatives are not implemented")
    # In float32, so that the scaled loss of float16 training neither overflows here nor loses small gradients.
    target_grad, source_grad = ((loss_grad * grad).to(ctx.dtype) for grad in ctx.saved_tensors)
    return target_grad, source_grad, None, None, None, None, None


torch.library.register_autograd("xmixup_fast::dual_head_cross_entropy", _backward, setup_context=_setup_context)


def _check_devices(op: str, names: Sequence[str], tensors: Sequence[Any], **optional: Tensor | None) -> torch.device:
    """Fake tensors pass no native check, and a wrong device is what they are run for."""
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
