"""What people pass to the operators, as the tensors and lists that they take.

What cannot be converted stays as it is, so that the operator refuses it by its argument's name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import tensor_of

MAX_COPY = 2**28
"""Tensors of more elements are not copied: with gaps they are refused, as are views that repeat a number so often."""


def can_copy(value: Any) -> bool:
    """Whether a value is a tensor that :func:`packed` may copy."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return torch.compiler.is_compiling() or value.numel() <= MAX_COPY  # a compiled graph serves batches of any size


def packed(tensor: Any) -> Any:
    """A tensor without gaps between its elements; what cannot be copied as it is, to be refused by name."""
    return tensor.contiguous() if can_copy(tensor) else tensor


def moved_to(name: str, values: Any, logits: Any) -> Any:
    """An array or a list of numbers as a tensor where the logits are; anything else as it is."""
    if not isinstance(values, (np.ndarray, list, tuple)) or not isinstance(logits, Tensor):
        return values
    tensor = tensor_of(name, values, "numbers" if name == "lam" else "integers").to(logits.device)
    is_list = not isinstance(values, np.ndarray)
    return tensor.float() if is_list and tensor.is_floating_point() else tensor


def as_labels(name: str, labels: Any, logits: Any) -> Any:
    """Integers of any kind as a packed tensor int64; other labels as they are, to be refused by name."""
    labels = moved_to(name, labels, logits)
    if can_copy(labels) and labels.dtype in _INTEGERS:
        labels = labels.to(torch.int64)
    return packed(labels)


_SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
_INTEGERS = (*_SIGNED, torch.uint64, torch.uint32, torch.uint16, torch.uint8)


def sides_of(size: Any) -> Any:
    """Height and width of an integer; other sizes as they are, NumPy's and torch's as Python's integers."""
    if isinstance(size, int | np.integer) and not isinstance(size, bool):
        return [int(size)] * 2
    return listed(size)


def listed(values: Any) -> Any:
    """The numbers of an array or tensor as a list; what is neither as it is."""
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else values
