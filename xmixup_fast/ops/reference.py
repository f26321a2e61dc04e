"""The operators in plain PyTorch: the definition of what they compute, which tests and benchmarks compare them with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .augmentation import Augmentation
from .image_pool import Crops, ImagePool
from .mix_plan import MixPlan
from .reference_draw import cutmix_boxes, draw, philox

__all__ = [
    "cutmix_boxes",
    "depthwise_conv2d_weight_grad",
    "draw",
    "dual_head_cross_entropy",
    "mix",
    "mix_plan",
    "philox",
]


def gather(pool: ImagePool, crops: Crops, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Cuts windows out, resamples them to ``size`` and flips them: float32[B, height, width, 3] in 0..255.

    With ``antialias``, each axis along which a window is larger is filtered by a triangle as wide as two pixels of the
    output.
    """
    views = []
    for index, window, flip in zip(crops.index.tolist(), crops.window.tolist(), crops.flip.tolist(), strict=True):
        top, left, height, width = window
        view = pool[index][top : top + height, left : left + width].float()
        if (height, width) != tuple(size):
            # A copy: torch's filter (2.14.1) is wrong for outputs of one column in layouts other than channels_last.
            planes = view.permute(2, 0, 1).unsqueeze(0).clone(memory_format=torch.channels_last)
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=antialias)
            view = planes[0].permute(1, 2, 0)
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
    antialias: bool = False,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """normalise(lam * target + (1 - lam) * aux), equal to :func:`xmixup_fast.mix` but for rounding.

    For pixels t and a in 0..255, ``((lam t + (1 - lam) a) / 255 - mean) / std`` is ``t lam s + (a (1 - lam) s + b)``
    with ``s = 1 / (255 std)`` and ``b = -mean / std``: two fused multiply-adds for each channel.

    The bound on the operator's error, with u = 2**-24, the rounding error of float32:

    - A position between two pixels is rounded three times, so it is off by less than 3u times the window's height or
      width. Neighbouring pixels differ by 255 levels at most, so a window of h x w pixels is off by less than
      255 * 3u (h + w) < (h + w) / 21900 levels. Interpolation rounds three numbers below 256, one vertically and two
      horizontally, which adds 3 * 2**-17 levels. Both together are less than (h + w + 1) / 20000 levels.
    - The triangle filter of an axis of n pixels, which becomes m, reaches s = n / m pixels to both sides. Its centre is
      off by less than 3u n. So 2s + 1 weights, which lie in 0..1 and whose sum is at least 3s / 4, are off by less than
      3u m + 4u each, and the levels by less than 255 * 4 * (3u m + 4u) for that. 2s + 1 products are added for the sum
      of levels and as many weights for theirs, which adds less than 255u (4s + 4) levels. As m <= n and s <= n, and
      m s = n, all this is less than 255u (12 n + 40), and for both axes less than (h + w + 10) / 5400 levels.
    - Blending adds less than 6u (1 + |mean|) / std: at most 3u / std by the weights, u |mean| / std by the bias, and
      2u (1 + |mean|) / std by the two sums.
    """
    lam = lam.view(-1, 1, 1, 1) if box is None else 1 - inside(box, size).unsqueeze(-1).float()
    t, a = gather(target, target_crops, size, antialias), gather(aux, aux_crops, size, antialias)
    return blend(t, a, lam, mean, std).to(dtype).contiguous(memory_format=memory_format)


def blend(target: Tensor, aux: Tensor, lam: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Blends and normalises images, float32[B, height, width, 3] in 0..255: float32[B, 3, height, width]."""
    scale, bias = (
        torch.tensor(values, dtype=torch.float32, device=lam.device) for values in channel_constants(mean, std)
    )
    return (target * (lam * scale) + (aux * ((1 - lam) * scale) + bias)).permute(0, 3, 1, 2)


def mix_plan(
    target: ImagePool,
    aux: ImagePool,
    plan: MixPlan,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int],
    augmentation: Augmentation | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Renders a plan, equal to :func:`xmixup_fast.mix_plan` but for rounding.

    Each window is resampled and mirrored, then its colours are changed and clamped, then its rectangle is filled; then
    both are mixed as by :func:`mix`.
    """
    augmentation = augmentation or Augmentation()
    sides = []
    for side, (pool, crops, erased) in enumerate(
        ((target, plan.target_crops, plan.target_erased), (aux, plan.aux_crops, plan.aux_erased))
    ):
        view = gather(pool, crops, size, augmentation.antialias)
        if len(plan.color):
            matrix, shift = plan.color[:, side, :, :3], plan.color[:, side, :, 3]
            view = (torch.einsum("bij,bhwj->bhwi", matrix, view) + shift[:, None, None]).clamp(0, 255)
        filling = filled(plan.noise, side, augmentation, mean=mean, std=std, size=size)
        sides.append(filling.where(inside(erased, size).unsqueeze(-1), view))
    lam = plan.lam.view(-1, 1, 1, 1)
    lam = (1 - inside(plan.box, size).unsqueeze(-1).float()).where(plan.boxed.view(-1, 1, 1, 1), lam)
    return blend(sides[0], sides[1], lam, mean, std).to(dtype).contiguous(memory_format=memory_format)


NOISE_PIXELS = 5
"""Pixels that the 16 random bytes of a Philox call give noise to."""


def filled(
    noise: Tensor,
    side: int,
    augmentation: Augmentation,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int],
) -> Tensor:
    """What the erased pixels of target (side 0) or auxiliary images (1) are filled with: float32[B, H, W, 3] in 0..255.

    Noise of channel c of pixel (y, x) is ``255 (mean[c] + std[c] quantile)``, for the quantile that byte
    ``3 (x % 5) + c`` of four random words names, lowest byte first. The words are Philox's for the counter
    ``(x // 5, y, side, 0)``, whose key is the sample's.
    """
    device, batch = noise.device, len(noise)
    constant = mean if isinstance(augmentation.fill, str) else augmentation.fill
    fill = 255 * torch.tensor(constant, dtype=torch.float32, device=device).expand(batch, *size, 3)
    if augmentation.fill != "noise":
        return fill
    height, width = size
    groups = -(-width // NOISE_PIXELS)
    y, group = torch.meshgrid(torch.arange(height), torch.arange(groups), indexing="ij")
    counter = torch.stack([group, y, torch.full_like(y, side), torch.zeros_like(y)], dim=-1).view(-1, 4).to(device)
    levels = []
    for key in noise.tolist():
        words = philox(counter, key)
        octets = (words.unsqueeze(-1) >> torch.arange(0, 32, 8, device=device) & 255).view(height, groups, 16)
        levels.append(octets[..., : 3 * NOISE_PIXELS].reshape(height, groups * NOISE_PIXELS, 3)[:, :width])
    scale = 255 * torch.tensor(std, dtype=torch.float32, device=device)
    return fill + augmentation.noise_quantiles[torch.stack(levels)] * scale if levels else fill


def inside(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels of the output are inside of the boxes: bool[B, height, width] for boxes int32[B, 4]."""
    top, left, height, width = box.view(-1, 4, 1, 1).unbind(1)
    y = torch.arange(size[0], device=box.device).view(-1, 1)
    x = torch.arange(size[1], device=box.device)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def channel_constants(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each channel, a scale and a bias with ``byte * scale + bias == (byte / 255 - mean) / std``."""
    scale = [1 / (255 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return scale, bias


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
    """mean(lam * CE(target) + source_weight * (1 - lam) * CE(source)), as :func:`xmixup_fast.dual_head_cross_entropy`.

    16-bit logits are converted to float32 first; float64 is accepted too. Where lam is 1, the source logits are masked
    before anything is computed: a weight of zero would not stop their NaN and infinity.
    """
    unmixed = lam == 1
    source_logits = source_logits.masked_fill(unmixed[:, None], 0)
    source_labels = source_labels.masked_fill(unmixed, 0)
    dtype = torch.promote_types(target_logits.dtype, torch.float32)
    target, source = (
        F.cross_entropy(logits.to(dtype), labels, reduction="none", label_smoothing=label_smoothing)
        for logits, labels in ((target_logits, target_labels), (source_logits, source_labels))
    )
    return (lam * target + source_weight * (1 - lam) * source).mean()


def depthwise_conv2d_weight_grad(
    input: Tensor,
    grad_output: Tensor,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """As :func:`xmixup_fast.ops.depthwise.depthwise_conv2d_weight_grad`, in any float dtype and memory format.

    The bound on the operator's error, with u = 2**-24, the rounding error of float32: a product is rounded once. It is
    added to those of its row, at most W_out - 1 roundings, then to the rows before, at most N * H_out - 1 of them.
    What several tasks give is added in float64, and rounded once. So each product is off by a factor of
    ``(1 + u)**(N * H_out + W_out)`` at most, which is less than ``1 + (N * H_out + W_out + 2) * u`` as long as that is
    below 1 / 1000.
    """
    (top, left), (height, width) = padding, grad_output.shape[2:]
    padded = F.pad(input, (left, left, top, top))
    taps = []
    for y in range(0, kernel_size[0] * dilation[0], dilation[0]):
        for x in range(0, kernel_size[1] * dilation[1], dilation[1]):
            met = padded[:, :, y :: stride[0], x :: stride[1]][:, :, :height, :width]
            taps.append((grad_output * met).sum((0, 2, 3)))
    return torch.stack(taps, dim=1).view(-1, 1, *kernel_size)
