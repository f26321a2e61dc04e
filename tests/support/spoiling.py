"""Changes valid arguments of operators at random into values that may be wrong, for fuzz.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
]
INTEGERS = [0, 1, -1, 2, 2**24, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 5e-324, 1e-45, 1e-38, 1e-8, 1e8, 1e38, 1e39, 1e308]
FLOATS += [float("nan"), float("inf"), -float("inf")]
OTHERS = [None, 3, -1, 2.5, "text", True, [1, 2], (), torch.float32, torch.tensor(2)]
"""Values that may stand for an argument of any type."""


def with_extreme_element(t: Tensor, rng: random.Random) -> Tensor:
    """A copy in which one element is an extreme number, or one more or less than before."""
    changed = t.clone()
    if t.numel() == 0:
        return changed
    position = rng.randrange(t.numel())
    flat = changed.view(-1)
    if t.dtype == torch.bool:
        flat[position] = ~flat[position]
    elif t.is_floating_point():
        flat[position] = rng.choice(FLOATS)
    else:
        limits = torch.iinfo(t.dtype)
        number = rng.choice([*INTEGERS, int(flat[position]) - 1, int(flat[position]) + 1])
        flat[position] = min(max(number, limits.min), limits.max)
    return changed


def with_other_shape(t: Tensor, rng: random.Random) -> Tensor:
    """The tensor's elements, or none, or one of them expanded, in another shape."""
    shapes: list[Callable[[], Tensor]] = [
        lambda: t[:0],
        lambda: t[:-1],
        lambda: torch.cat([t, t]),
        lambda: t.unsqueeze(0),
        lambda: t.unsqueeze(-1),
        lambda: t.flatten()[:1].reshape(()),
        lambda: t.flatten(),
        lambda: t.new_empty((0, 2**40)),
        lambda: t.new_zeros(()).expand(2**40),
        lambda: t.new_zeros(()).expand(t.shape[0], 2**40),
    ]
    return rng.choice(shapes)()


def with_other_strides(t: Tensor, rng: random.Random) -> Tensor:
    """A tensor of the same shape and dtype with other strides, or at an unaligned address."""
    strides: list[Callable[[], Tensor]] = [
        lambda: torch.stack([t, t], -1)[..., 0],
        lambda: torch.cat([t, t])[::2],
        lambda: t[:1].expand_as(t),
        lambda: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: torch.cat([t[:1], t])[1:],  # contiguous, but not aligned
    ]
    return rng.choice(strides)()


def spoil_tensor(t: Tensor, rng: random.Random) -> Any:
    """Another tensor, of other values, dtype, shape, strides or device, or a value that is no tensor."""
    kinds: list[Callable[[], Any]] = [
        *[lambda: with_extreme_element(t, rng)] * 4,
        *[lambda: t.to(rng.choice(DTYPES))] * 2,
        *[lambda: with_other_shape(t, rng)] * 2,
        *[lambda: with_other_strides(t, rng)] * 2,
        lambda: t.to("meta"),
        lambda: t.to_sparse(),
        lambda: t.detach().clone().requires_grad_(t.is_floating_point()),
        lambda: rng.choice(OTHERS),
    ]
    try:
        return rng.choice(kinds)()
    except (RuntimeError, IndexError, TypeError):  # this tensor cannot be changed in this way
        return rng.choice(OTHERS)


def spoil_numbers(values: tuple[Any, ...], rng: random.Random) -> Any:
    """A tuple in which one number is another, or is missing, or is one too many; or a value that is no tuple."""
    extremes = [*INTEGERS, 7, 16384, 16385] if isinstance(values[0], int) else FLOATS
    alone = [number for number in extremes if number != 16384]  # for both sides, that is 3 GiB an image
    position = rng.randrange(len(values))
    kinds: list[Callable[[], Any]] = [
        lambda: (*values[:position], rng.choice(extremes), *values[position + 1 :]),
        lambda: (*values[:position], rng.choice(OTHERS), *values[position + 1 :]),
        lambda: values[:position],
        lambda: (*values, values[0]),
        lambda: rng.choice([*alone, *OTHERS]),
    ]
    return rng.choice(kinds)()


def spoil(name: str, value: Any, rng: random.Random) -> Any:
    """A value to use instead of an operator's argument ``name``, which may be right or wrong."""
    if isinstance(value, Tensor):
        return spoil_tensor(value, rng)
    if isinstance(value, tuple):
        return spoil_numbers(value, rng)
    if name == "dtype":
        return rng.choice([*DTYPES, *OTHERS])
    if name == "memory_format":
        return rng.choice([torch.channels_last, torch.contiguous_format, torch.preserve_format, *OTHERS])
    if name == "seed":
        return rng.choice([*INTEGERS, 2**63, -(2**63) - 1, 2**64, *OTHERS])
    return rng.choice([*FLOATS, *OTHERS])
