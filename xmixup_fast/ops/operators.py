"""The fused operators; :mod:`xmixup_fast.ops.reference` defines in plain PyTorch what they compute.

Each function calls an operator in ``torch.ops.xmixup_fast``, which has kernels for CPU and CUDA, gives the same bits
with any number of threads, and works under ``torch.compile(fullgraph=True)``. Wrong arguments raise a RuntimeError that
names the argument, its value and what was expected. Values inside CUDA tensors are checked by the kernel: a wrong index
or window stops it with one printed line that names operator and argument, and the next synchronisation reports a
device-side assert, as for torch's own indexing. :mod:`xmixup_fast.runtime.device_asserts` makes that line, and the
sample, the error.

Where a GPU's memory is full, the functions raise torch.OutOfMemoryError. Operators in ``torch.ops.xmixup_fast`` that
allocate their results raise a RuntimeError then: called directly, by compiled code, or within torch.vmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from . import registrations  # also registers the operators
from .augmentation import Augmentation, as_augmentation
from .image_pool import Crops, ImagePool
from .mix_plan import MixPlan
from .outputs import empty_batch, empty_losses, empty_plan, is_batch, is_packed, torch_allocates
from .packing import as_labels, can_copy, listed, moved_to, packed, sides_of

_library = torch.ops.xmixup_fast


def mix(
    target: ImagePool,
    target_crops: Crops,
    aux: ImagePool,
    aux_crops: Crops,
    lam: Tensor,
    *,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    size: int | Sequence[int],
    box: Tensor | None = None,
    antialias: bool = False,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    out: Tensor | None = None,
) -> Tensor:
    """Mixes a window of a target image with a window of an auxiliary image, for each sample of a batch, in one pass.

    Windows are cut out of the pools, resampled to the output's size, flipped, blended and normalised:
    ``out[b] = (lam[b] * target[b] + (1 - lam[b]) * aux[b] - mean) / std``, with images scaled to 0..1. With boxes
    (CutMix, arXiv 1905.04899), the output is the auxiliary image inside of ``box[b]`` and the target image outside, and
    ``lam`` has no effect. Where ``lam[b]`` is 1, the auxiliary image is not read.

    A window whose size is not the output's is resampled bilinearly with half-pixel centres, as
    ``torchvision.transforms.v2.functional.resized_crop(antialias=False)`` does, but without rounding to bytes.

    Each channel is computed in float32 as ``fma(t, lam * s, fma(a, (1 - lam) * s, bias))``, with
    ``s = 1 / (255 * std)`` and ``bias = -mean / std``. The error of the result is less than
    ``(e / 255 + 6 * 2**-24 * (1 + abs(mean))) / std``. Here ``e`` is the error of resampling, in levels of 0..255: less
    than ``(h + w + 1) / 20000`` for the larger of the two windows, of h x w pixels, and 0 for windows of the output's
    size; where an axis is filtered, less than ``(h + w + 10) / 5400``.

    All tensors are on the device of the pools, with any strides. The result is not differentiable: images are bytes,
    and ``lam`` is a random number.

    Args:
        target: pool of the target images.
        target_crops: index int64[B], window int32[B, 4] of at most 2**24 pixels a side, and flip bool[B].
        aux: pool of the auxiliary images.
        aux_crops: as ``target_crops``, for the auxiliary images.
        lam: float32[B] in 0..1, the weight of the target image.
        mean: mean of each channel, for images in 0..1.
        std: standard deviation of each channel, for images in 0..1; positive.
        size: height and width of the output, 1 to 16384 pixels each; or an integer for both.
        box: int32[B, 4], top, left, height and width of a rectangle in the output, which may be empty.
        antialias: filter an axis along which a window is larger than the output, as torchvision's ``antialias=True``
            does; otherwise each pixel of the output is interpolated between two pixels along an axis.
        dtype: float32, bfloat16 or float16; the last two are the float32 result, rounded to nearest.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
        out: tensor to write the result to, [B, 3, height, width] in this memory format and in one of these dtypes;
            ``dtype`` is then ignored. Without it the output is new, and is never overwritten while anything refers to
            it: the memory of outputs that are gone is taken again, as writing to new memory takes longer than the
            mixing. So a loop that drops its batches need not pass ``out``.

    Returns:
        ``out``, or else a new tensor [B, 3, height, width] of ``dtype``. On the CPU, from 1 MiB on, ``mix``
        keeps the memory of up to two outputs that are gone; :func:`xmixup_fast.free_outputs` gives it back. Storages of
        such outputs cannot grow: ``resize_`` to more elements raises torch's RuntimeError. The environment variable
        ``XMIXUP_OUTPUT_CACHE=0`` has torch allocate every output.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or memory format, an index is outside of its pool, or
            a window outside of its image. Nothing has been written then. Or a CPU has no memory for the output.
        torch.OutOfMemoryError: a GPU has no memory for the output; in compiled code, a RuntimeError.
        ValueError: ``memory_format`` is neither of the two.
    """
    arguments = {
        "target_pixels": target.pixels,
        "target_offsets": target.offsets,
        "target_sizes": target.sizes,
        "target_index": packed(target_crops.index),
        "target_window": packed(target_crops.window),
        "target_flip": packed(target_crops.flip),
        "aux_pixels": aux.pixels,
        "aux_offsets": aux.offsets,
        "aux_sizes": aux.sizes,
        "aux_index": packed(aux_crops.index),
        "aux_window": packed(aux_crops.window),
        "aux_flip": packed(aux_crops.flip),
        "lam": packed(lam),
        "box": packed(box),
        "mean": listed(mean),
        "std": listed(std),
        "size": sides_of(size),
        "channels_last": _is_channels_last(memory_format),
        "antialias": antialias,
    }
    out = _new_batch(target.pixels, (arguments["target_index"], 1), arguments, dtype) if out is None else out
    if out is None:
        mixed: Tensor = _library.mix(**arguments, dtype=dtype)
        return mixed
    # mix_out returns nothing: torch.compile does not take operators that return the tensor that they write to. Nor does
    # that of torch 2.11 take a channels_last tensor by the name out: all arguments are in the schema's order.
    _library.mix_out(*arguments.values(), out)
    return out


def mix_plan(
    target: ImagePool,
    aux: ImagePool,
    plan: MixPlan,
    *,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    size: int | Sequence[int],
    augmentation: Augmentation | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    out: Tensor | None = None,
) -> Tensor:
    """Renders a plan of :func:`draw`: mixes a window of a target image with one of an auxiliary image, in one pass.

    As :func:`mix`, whose arguments the plan's columns are. Besides, each window's colours are changed by the plan's
    matrix and clamped, and a rectangle of it is filled, before both windows are mixed.

    With a row m of the matrix, a channel is ``fma(m[0], R, fma(m[1], G, fma(m[2], B, m[3])))``, clamped to 0..255; what
    is not a number counts as 0. An error of e levels before it becomes less than
    ``e * s + 2**-22 * (255 * s + abs(m[3]))``, where s is ``abs(m[0]) + abs(m[1]) + abs(m[2])``, and at most 255.
    Erased pixels are filled with ``255 * fill``, plus ``255 * std`` times a quantile of the normal distribution for
    noise: the same for the same key of the plan, row, column, side and channel.

    Args:
        target: pool of the target images.
        aux: pool of the auxiliary images; without such, ``target`` again.
        plan: of B samples, for outputs of this size.
        mean: as for :func:`mix`.
        std: as for :func:`mix`.
        size: as for :func:`mix`.
        augmentation: the one that the plan was drawn with: tells what erased rectangles are filled with, and whether
            windows are filtered where they are reduced.
        dtype: as for :func:`mix`.
        memory_format: as for :func:`mix`.
        out: as for :func:`mix`.

    Returns:
        ``out``, or else a new tensor [B, 3, height, width] of ``dtype``.

    Raises:
        RuntimeError: as for :func:`mix`; or a rectangle of the plan is outside of the output.
        torch.OutOfMemoryError: as for :func:`mix`.
        TypeError: ``augmentation`` is something else.
        ValueError: ``memory_format`` is neither of the two.
    """
    augmentation = as_augmentation(augmentation)
    fill = augmentation.fill
    arguments = {
        "target_pixels": target.pixels,
        "target_offsets": target.offsets,
        "target_sizes": target.sizes,
        "aux_pixels": aux.pixels,
        "aux_offsets": aux.offsets,
        "aux_sizes": aux.sizes,
        "plan": packed(plan.rows),
        "color": packed(plan.color),
        "mean": listed(mean),
        "std": listed(std),
        "size": sides_of(size),
        "channels_last": _is_channels_last(memory_format),
        "antialias": augmentation.antialias,
        "fill": listed(mean) if isinstance(fill, str) else fill,
        "noise_quantiles": augmentation.noise_quantiles if fill == "noise" else None,
    }
    out = _new_batch(target.pixels, (arguments["plan"], 2), arguments, dtype) if out is None else out
    if out is None:
        mixed: Tensor = _library.mix_plan(**arguments, dtype=dtype)
        return mixed
    _library.mix_plan_out(*arguments.values(), out)  # by position, as mix_out
    return out


def _new_batch(pixels: Any, samples: tuple[Any, int], arguments: dict[str, Any], dtype: Any) -> Tensor | None:
    """An empty batch for the result of a call, where torch allocates it. ``samples`` has a tensor with an element or a
    row for each, and how many dimensions it has to have."""
    size = arguments["size"]
    if not (torch_allocates(pixels) and is_packed(*samples) and is_batch(size, dtype)):
        return None
    batch = samples[0].shape[0]
    return empty_batch(batch, size, dtype, pixels.device, channels_last=arguments["channels_last"])


def _is_channels_last(memory_format: torch.memory_format) -> bool:
    if memory_format not in (torch.channels_last, torch.contiguous_format):
        raise ValueError(f"memory_format: expected torch.channels_last or torch.contiguous_format, got {memory_format}")
    return memory_format == torch.channels_last


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
    size: int | Sequence[int],
    flip: bool = True,
    box: bool = False,
    augmentation: Augmentation | None = None,
    target_means: Tensor | None = None,
    aux_means: Tensor | None = None,
    aux_labels: Tensor | None = None,
    partner: Tensor | None = None,
    mixed: Tensor | None = None,
    one_lam: bool = False,
) -> MixPlan:
    """Draws all that is random in a batch of mixed images: the plan that :func:`mix_plan` renders.

    Apart from the tables, a sample's random numbers depend on the seed, its ``sample`` and its ``epoch`` alone. They
    have the same bits in any batch and order, in any process and on any device. Random words of 32 bits come from
    Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405), whose key is the seed and whose counter is the
    sample, the epoch and the purpose of the words. A whole number below n is ``word * n >> 32``, whose probabilities
    are uneven by less than ``n / 2**32``. A uniform number u is a word's upper 24 bits, divided by ``2**24``; a table
    of Q + 1 quantiles is interpolated linearly at ``u * Q``. All tensors are on one device, with any strides.

    **Second image.** With ``members``, an image of the sample's class. With ``partner``, the target image of another
    sample, with its window, flip, colours and erased rectangle. With neither, the target image again.

    **Windows** have the output's size and a random place. With ``augmentation.scale``, area and aspect ratio are
    random as in torchvision's ``RandomResizedCrop``: the first of ten tries that fits into the image, or else the
    largest window in the middle whose aspect ratio is allowed.

    **Colours** are changed as by torchvision's ``ColorJitter``, in the order that a word tells among the 24 orders of
    brightness, contrast, saturation and hue; a step whose setting is 0 is left out. The four factors are a word each.
    Nothing is clamped between the steps. Contrast is about the mean grey that the 8 x 8 mean colours of the image tell
    of the window. Hue turns colours about the grey axis.

    **Erased rectangles** lie in the output. They are drawn as by torchvision's ``RandomErasing``, in ten tries.

    **Weights** are quantiles of ``lam_quantiles`` at random places. With ``box``, a box of the auxiliary image is
    pasted (CutMix, arXiv 1905.04899): its sides are ``sqrt(1 - lam)`` of the output's, rounded, its middle is anywhere
    in the output, where it is cut off at the edges, and the plan's ``lam`` is the share that it leaves visible.

    Args:
        seed: seed of the run, ``-2**63`` to ``2**63 - 1``.
        sample: int64[B], any numbers that identify the training images.
        epoch: int64[B], 0 to 2**32 - 1.
        label: int64[B], target class of each sample, 0 to K - 1; ignored without members and partners.
        target_index: int64[B], position of each sample's image in ``target_sizes``.
        target_sizes: int32[n, 2], height and width of the target images, in pixels.
        offsets: int64[K + 1], where each target class begins in ``members``, rising from 0 to M.
        members: int64[M], positions of the auxiliary images of each target class, which are equally likely; M is at
            most 2**31.
        aux_sizes: int32[m, 2], height and width of the auxiliary images, in pixels.
        lam_quantiles: float32[Q + 1] in 0..1, quantiles of the distribution of ``lam`` at 0, 1/Q, ... 1, with Q from 1
            to 2**24. :func:`xmixup_fast.ops.lam.beta_quantiles` makes the table of a Beta distribution.
        size: height and width of the output, in pixels; or an integer for both.
        flip: mirror half of the images left to right.
        box: paste a box of the auxiliary image; else both images are blended.
        augmentation: what else happens to the images; its tables are on the device of the tensors.
        target_means: uint8[n, 8, 8, 3], mean R, G, B in a grid over each target image, which contrast needs.
        aux_means: uint8[m, 8, 8, 3], likewise of the auxiliary images.
        aux_labels: int64[m], labels of the auxiliary images, for the plan's ``aux_label``, which otherwise is -1.
        partner: int64[B], positions in the batch; not with members. The plan's ``aux_label`` is the partner's label.
        mixed: bool[B], ``lam`` is 1 where false; all samples are mixed if not given.
        one_lam: the first sample's ``lam`` is that of all samples.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or holds a wrong value: a number out of range, a
            label without members, an image smaller than its window, contrast without means. Only those parts of the
            tables are checked that the samples use. With ``scale`` or contrast, an image has at most 2**24 pixels a
            side; with erasing, the output.
        torch.OutOfMemoryError: a GPU has no memory for the plan; in compiled code, a RuntimeError.
        TypeError: ``augmentation`` is something else.
    """
    arguments = {
        "seed": seed,
        "sample": packed(sample),
        "epoch": packed(epoch),
        "label": packed(label),
        "target_index": packed(target_index),
        "target_sizes": packed(target_sizes),
        "target_means": packed(target_means),
        "offsets": packed(offsets),
        "members": packed(members),
        "aux_sizes": packed(aux_sizes),
        "aux_means": packed(aux_means),
        "aux_labels": packed(aux_labels),
        "partner": packed(partner),
        "mixed": packed(mixed),
        "lam_quantiles": packed(lam_quantiles),
        "size": sides_of(size),
        "flip": flip,
        "box": box,
        "one_lam": one_lam,
        **as_augmentation(augmentation).draw_arguments(),
    }
    if not (torch_allocates(sample) and is_packed(arguments["sample"], 1)):
        return MixPlan(*_library.draw(**arguments))
    plan = MixPlan(*empty_plan(sample.shape[0], sample.device, colored=len(arguments["jitter"]) > 0))
    _library.draw_out(**arguments, plan=plan.rows, color=plan.color)
    return plan


def dual_head_cross_entropy(
    target_logits: Tensor,
    source_logits: Tensor,
    target_labels: Tensor | NDArray[Any] | Sequence[int],
    source_labels: Tensor | NDArray[Any] | Sequence[int],
    lam: Tensor | NDArray[Any] | Sequence[float],
    *,
    source_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """XMixup's loss: the mean over b of ``lam[b] * CE(target) + source_weight * (1 - lam[b]) * CE(source)``.

    CE is the cross entropy of row b of a head's logits, with labels smoothed as in
    ``torch.nn.functional.cross_entropy``. One pass over the logits computes the loss and the gradients of both heads,
    in float32 for every dtype of logits. Backward scales these gradients, and then rounds them to the logits' dtype.

    Where ``lam[b]`` is 1, row b of the source logits is not read, its gradient is zero, and its label may be any
    number. All tensors are on one device, with any strides: those that are not contiguous are copied, up to 2**28
    elements each. ``lam`` gets no gradient.

    Args:
        target_logits: [B, K_t], float32, bfloat16, float16 or float64.
        source_logits: [B, K_s] of the same dtype.
        target_labels: int64[B], 0 to K_t - 1; other integers, NumPy's and lists are converted. There is no label to
            have a sample ignored, as -100 in torch's cross entropy: leave such samples out.
        source_labels: int64[B], 0 to K_s - 1 where ``lam`` is less than 1.
        lam: float32[B] in 0..1, the weight of the target image; an array of this dtype, or a list, is converted.
        source_weight: factor of the source head's term, 0 or greater.
        label_smoothing: 0 to 1.

    Returns:
        float32 scalar; NaN for an empty batch, as for every mean in torch.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or a value outside of its range.
        torch.OutOfMemoryError: a GPU has no memory for loss and gradients; in compiled code, a RuntimeError.
        TypeError, ValueError: a list or an array does not hold numbers, or integers beyond int64.
        NotImplementedError: backward is asked for second derivatives.
    """
    both = (target_logits, source_logits)
    if all(can_copy(logits) and logits.dtype == torch.float64 for logits in both):
        target_logits, source_logits = (logits.float() for logits in both)  # the gradients become float64 again
    target_labels = as_labels("target_labels", target_labels, target_logits)
    source_labels = as_labels("source_labels", source_labels, target_logits)
    target_logits, source_logits = packed(target_logits), packed(source_logits)
    lam = packed(moved_to("lam", lam, target_logits))
    is_allocated = torch_allocates(target_logits) and is_packed(target_logits, 2) and is_packed(source_logits, 2)
    operator = _DualHeadCrossEntropy.apply if is_allocated else _library.dual_head_cross_entropy
    loss: Tensor = operator(
        target_logits, source_logits, target_labels, source_labels, lam, source_weight, label_smoothing
    )[0]
    return loss


class _DualHeadCrossEntropy(torch.autograd.Function):
    """The operator with results that torch allocates, and with its gradients."""

    @staticmethod
    def forward(target_logits: Tensor, source_logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, sample_loss, target_grad, source_grad = empty_losses(target_logits, source_logits)
        _library.dual_head_cross_entropy_out(
            target_logits, source_logits, *others, loss, sample_loss, target_grad, source_grad
        )
        return loss, target_grad, source_grad

    setup_context = staticmethod(registrations.setup_context)
    backward = staticmethod(registrations.backward)
