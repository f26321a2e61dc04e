"""The fused operators. :mod:`xmixup_fast.reference` defines in plain PyTorch what each computes.

Each is an operator in ``torch.ops.xmixup_fast`` with kernels for CPU and CUDA. It is deterministic, whatever the number
of threads, and works under ``torch.compile(fullgraph=True)``. Wrong arguments raise a RuntimeError that names the
argument, what came and what was expected. Values inside CUDA tensors are checked in the kernel: there a wrong index or
window stops it, and the next synchronisation reports a device-side assert, as with torch's own indexing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _C  # noqa: F401  (registers the operators)
from .pool import Crops, ImagePool

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

    All tensors are on one device, the pools' own. Not differentiable: images are bytes, and ``lam`` is a drawn number.

    Args:
        target: images that lead the mix.
        target_crops: index int64[B], window int32[B, 4] and flip bool[B].
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


_SIDE_TENSORS = ("pixels", "offsets", "sizes", "index", "window", "flip")
_MIX_TENSORS = (*(f"target_{name}" for name in _SIDE_TENSORS), *(f"aux_{name}" for name in _SIDE_TENSORS), "lam")


@torch.library.register_fake("xmixup_fast::mix")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> Tensor:
    *tensors, _box, _mean, _std, size, dtype, channels_last = arguments
    device = _check_devices(tensors)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((tensors[-1].shape[0], 3, *size), dtype=dtype, device=device, memory_format=memory_format)


@torch.library.register_fake("xmixup_fast::mix_out")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> None:
    _check_devices(arguments[: len(_MIX_TENSORS)])


def _check_devices(tensors: Sequence[Tensor]) -> torch.device:
    """Fake tensors pass no native check, and a wrong device is what they are run for."""
    device = tensors[0].device
    for name, tensor in zip(_MIX_TENSORS, tensors, strict=True):
        if tensor.device != device:
            raise RuntimeError(
                f"xmixup_fast.mix: {name}: expected a tensor on {device}, as target_pixels, got one on {tensor.device}"
            )
    return device
