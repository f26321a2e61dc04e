"""Random calls of `depthwise_conv2d_weight_grad`, for fuzz.py."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from xmixup_fast.ops import reference

PAIRS = ("kernel_size", "stride", "padding", "dilation")


def depthwise_arguments(rng: random.Random) -> dict[str, Any]:
    """Valid arguments: kernels of 1 to 7 taps, with every remainder of a vector, also mostly in the padding."""
    pairs = [(rng.randint(least, most), rng.randint(least, most)) for least, most in ((1, 7), (1, 3), (0, 8), (1, 3))]
    settings = dict(zip(PAIRS, pairs, strict=True))
    batch, channels = rng.choice([0, 1, 2, 3]), rng.randint(1, 70)
    size, output = [], []
    for k, s, p, d in zip(*pairs, strict=True):
        size.append(max(1, d * (k - 1) + 1 - 2 * p) + rng.randint(0, 12))
        output.append((size[-1] + 2 * p - d * (k - 1) - 1) // s + 1)
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    input, grad_output = (
        torch.randn((batch, channels, *sizes), generator=generator).contiguous(memory_format=torch.channels_last)
        for sizes in (size, output)
    )
    return {"input": input, "grad_output": grad_output, **settings}


def check_depthwise(result: Tensor, given: dict[str, Any]) -> None:
    kernel = _pairs(given)["kernel_size"]
    assert (result.dtype, result.shape) == (torch.float32, (given["input"].shape[1], 1, *kernel))


def compare_depthwise(result: Tensor, given: dict[str, Any]) -> None:
    """Within the bound that the operator documents, where no sum of products overflows."""
    inputs = given["input"].double(), given["grad_output"].double()
    expected = reference.depthwise_conv2d_weight_grad(*inputs, **_pairs(given))
    size = reference.depthwise_conv2d_weight_grad(*(t.abs() for t in inputs), **_pairs(given))
    batch, _, height, width = given["grad_output"].shape
    bound = (batch * height + width + 2) * (2.0**-24 * size + 2.0**-149)  # products may be too small for all digits
    fits = size < torch.finfo(torch.float32).max  # false for NaN
    assert (~fits | ((result.double() - expected).abs() <= bound)).all(), "other numbers than the reference's"


def _pairs(given: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """The settings, each of which may be one number for both axes."""
    pairs = {}
    for name in PAIRS:
        numbers = given[name] if isinstance(given[name], (tuple, list)) else [given[name]]
        pairs[name] = int(numbers[0]), int(numbers[-1])
    return pairs
