"""Empty tensors for the operators' results.

Where a GPU's memory is full, ``torch.empty`` raises torch.OutOfMemoryError, which callers catch by its type; an
operator that allocates its results itself can only raise a RuntimeError. So on a GPU the functions of
:mod:`.operators` allocate them here. Where an argument that tells their shapes is not what it has to be, nothing is
allocated: the operator then refuses that argument by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import MAX_SIDE
from .mix_plan import WORDS

ALLOCATED_ON = "cuda"
"""The type of the devices on which torch allocates results."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What :func:`xmixup_fast.mix` writes."""


def torch_allocates(tensor: Any) -> bool:
    """Whether the results of a call with this tensor are allocated here.

    Compiled code and transforms such as torch.vmap take the operators that allocate their results themselves.
    """
    if not isinstance(tensor, Tensor) or tensor.device.type != ALLOCATED_ON:
        return False
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def is_packed(tensor: Any, dimensions: int) -> bool:
    """Whether a value is a tensor of so many dimensions, without gaps between its elements."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return False
    return tensor.dim() == dimensions and tensor.is_contiguous()


def is_batch(size: Any, dtype: Any) -> bool:
    """Whether a batch of images may have this height and width, and this dtype."""
    if not isinstance(size, list | tuple) or len(size) != 2 or dtype not in DTYPES:
        return False
    return all(_is_int(side) and 1 <= side <= MAX_SIDE for side in size)


def empty_batch(
    batch: int, size: Sequence[int], dtype: torch.dtype, device: torch.device, *, channels_last: bool
) -> Tensor:
    """A batch of images, [batch, 3, height, width]."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((batch, 3, *size), dtype=dtype, device=device, memory_format=memory_format)


def empty_plan(batch: int, device: torch.device, *, colored: bool) -> tuple[Tensor, Tensor]:
    """The rows of a plan, int32[batch, 32], and its colours, float32[batch or 0, 2, 3, 4]."""
    rows = torch.empty((batch, WORDS), dtype=torch.int32, device=device)
    return rows, torch.empty((batch if colored else 0, 2, 3, 4), dtype=torch.float32, device=device)


def empty_losses(target_logits: Tensor, source_logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, float32[], each sample's loss, float32[batch], and the gradients of both heads' logits, float32."""
    shapes = ((), target_logits.shape[:1], target_logits.shape, source_logits.shape)
    loss, sample_loss, target_grad, source_grad = (
        torch.empty(shape, dtype=torch.float32, device=target_logits.device) for shape in shapes
    )
    return loss, sample_loss, target_grad, source_grad


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
