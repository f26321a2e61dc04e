"""What a batch of images looks like to a network, and memory for such batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ImageFormat(NamedTuple):
    """Size, normalisation and dtype of a batch of images, [B, 3, size, size] in channels_last."""

    size: int
    """Height and width, in pixels."""
    mean: Sequence[float]
    """Mean of each channel, for images in 0..1."""
    std: Sequence[float]
    """Standard deviation of each channel, for images in 0..1."""
    dtype: torch.dtype = torch.float32


class OutputBuffers:
    """Batches that are written again and again, one for each content: fresh memory costs more than mixing into it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, content: str, batch: int, form: ImageFormat, device: torch.device) -> Tensor:
        """Room for a batch of this content, [batch, 3, size, size] in channels_last, with any values.

        The same memory each time, as long as no larger batch of this content is asked for.
        """
        buffer = self._buffers.get(content)
        if buffer is None or len(buffer) < batch or buffer.device != device:
            shape = (batch, 3, form.size, form.size)
            buffer = torch.empty(shape, dtype=form.dtype, device=device, memory_format=torch.channels_last)
            self._buffers[content] = buffer
        return buffer[:batch]
