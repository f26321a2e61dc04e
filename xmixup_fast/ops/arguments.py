"""What people pass, as plain Python numbers and int64 tensors; or an error that names the argument.

NumPy's and torch's integers count as integers, booleans never do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_SIDE = 16384
"""The largest height and width that :func:`xmixup_fast.mix` writes, in pixels."""

MAX_INT64 = 2**63 - 1


def describe(value: object) -> str:
    """What a value is, for an error: a tensor's or array's dtype and shape, the value itself, or else its type."""
    if isinstance(value, Tensor | np.ndarray):
        text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return text + (" that is not contiguous" if isinstance(value, Tensor) and not value.is_contiguous() else "")
    shown = value is None or isinstance(
        value, str | bytes | bool | int | float | list | tuple | set | dict | np.generic
    )
    text = repr(value) if shown else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_integer(value: object) -> bool:
    """Whether a value is one integer: Python's, NumPy's, or a tensor or array of no dimension."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and _holds_integers(value)
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iu"
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def as_integer(name: str, value: Any, least: int, most: int) -> int:
    """The value as an int. Raises TypeError for no integer, and ValueError outside of ``least`` to ``most``."""
    if not is_integer(value):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}")
    number = int(value)
    if not least <= number <= most:
        raise ValueError(f"{name}: expected an integer from {least} to {most}, got {number}")
    return number


def as_number(name: str, value: Any, *, positive: bool = False) -> float:
    """The value as a finite float. Raises TypeError for no number, and ValueError for any other number."""
    expected = "a positive number" if positive else "a finite number"
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}") from error
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{name}: expected {expected}, got {number:g}")
    return number


def as_flag(name: str, value: Any) -> bool:
    """The value as a bool. Raises TypeError for a value that is neither Python's nor NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def as_size(name: str, value: Any) -> tuple[int, int]:
    """Height and width: the value's two integers, or an integer for both.

    Raises TypeError or ValueError where it is neither, or where a side has other than 1 to 16384 pixels.
    """
    sides = [value] * 2 if is_integer(value) else as_list(name, value, "an integer, or height and width")
    if len(sides) != 2:
        raise ValueError(f"{name}: expected an integer, or height and width, got {describe(value)}")
    height, width = (as_integer(name, side, 1, MAX_SIDE) for side in sides)
    return height, width


def as_channels(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the three channels, whose scale and offset have to fit float32.

    Raises TypeError or ValueError where they are not three finite numbers each, a mean is outside of 0..1, as it is for
    images in 0..255, or a deviation is outside of 0..1 or 0.
    """
    both = []
    for name, values in (("mean", mean), ("std", std)):
        channels = as_list(name, values, "3 numbers, one a channel")
        if len(channels) != 3:
            raise ValueError(f"{name}: expected 3 numbers, one a channel, got {len(channels)}")
        numbers = (as_number(f"{name}[{i}]", value, positive=name == "std") for i, value in enumerate(channels))
        both.append(tuple(numbers))
        for i, number in enumerate(both[-1]):
            if not 0 <= number <= 1:
                raise ValueError(
                    f"{name}[{i}]: expected a number from 0 to 1, for images in 0..1, got {number:g}; divide mean and "
                    "std for images in 0..255 by 255"
                )
    largest = float(torch.finfo(torch.float32).max)
    for i, (m, s) in enumerate(zip(*both, strict=True)):
        if max(1 / 255, abs(m)) / s > largest:
            raise ValueError(f"std[{i}]: expected a number that images can be divided by in float32, got {s:g}")
    return both[0], both[1]


def as_int64(name: str, values: Any, shape: Sequence[int], device: torch.device, what: str = "") -> Tensor:
    """The values as a contiguous tensor int64 of this shape and device; what is no tensor is moved to the device.

    ``what`` follows the shape in messages. Raises TypeError for values that are not integers, and ValueError for
    another shape or a tensor on another device.
    """
    tensor = values if isinstance(values, Tensor) else tensor_of(name, values)
    if not _holds_integers(tensor) and tensor.numel():
        raise TypeError(f"{name}: expected int64{list(shape)}{what}, got {describe(tensor)}")
    if list(tensor.shape) != list(shape):
        raise ValueError(f"{name}: expected int64{list(shape)}{what}, got {describe(tensor)}")
    if not isinstance(values, Tensor):
        tensor = tensor.to(device)
    if tensor.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {tensor.device}")
    converted = tensor.to(torch.int64).contiguous()
    if tensor.dtype == torch.uint64 and bool((converted < 0).any()):
        got = f"{describe(tensor)} above it; take them modulo 2**63"
        raise ValueError(f"{name}: expected integers that int64 holds, up to {MAX_INT64}, got {got}")
    return converted


def check_tensor(name: str, value: Any, dtype: torch.dtype, shape: Sequence[int], device: torch.device) -> None:
    """Raises TypeError for what is no tensor of this dtype, and ValueError for another shape or device."""
    expected = f"{name}: expected {str(dtype).removeprefix('torch.')}{list(shape)}"
    if not isinstance(value, Tensor) or value.dtype != dtype:
        raise TypeError(f"{expected}, got {describe(value)}")
    if list(value.shape) != list(shape):
        raise ValueError(f"{expected}, got {describe(value)}")
    if value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")


def as_list(name: str, values: Any, expected: str) -> list[Any]:
    """What the values hold, where they are a sequence, a set, an array or a tensor. Raises TypeError for others."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim:
        return list(values.tolist())
    if isinstance(values, Sequence | set | frozenset) and not isinstance(values, str | bytes):
        return list(values)
    raise TypeError(f"{name}: expected {expected}, got {describe(values)}")


def _holds_integers(tensor: Tensor) -> bool:
    return tensor.dtype != torch.bool and not tensor.is_floating_point() and not tensor.is_complex()


def tensor_of(name: str, values: Any, expected: str = "integers") -> Tensor:
    """A tensor on the CPU, of its own memory, from an array or a sequence of numbers of any kind.

    Raises TypeError for what holds no numbers, and ValueError for integers that int64 cannot hold.
    """
    try:
        array = values if isinstance(values, np.ndarray) else _array(list(values))
        if array.dtype.kind in "iu":
            if array.dtype == np.uint64 and array.size and int(array.max()) > MAX_INT64:
                raise OverflowError
            array = array.astype(np.int64)
        return torch.tensor(array, device="cpu")
    except OverflowError as error:
        got = f"{describe(values)}; take them modulo 2**63"
        raise ValueError(f"{name}: expected integers that int64 holds, up to {MAX_INT64}, got {got}") from error
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected {expected}, got {describe(values)}") from error


def _array(values: list[Any]) -> Any:
    """An array of integers, bools or other numbers. Raises OverflowError for integers that int64 cannot hold."""
    if any(isinstance(value, bool) for value in values):
        return np.array(values).astype(bool)
    if all(map(is_integer, values)):
        return np.array([int(value) for value in values], np.int64)
    return np.array([int(value) if is_integer(value) else value for value in values])
