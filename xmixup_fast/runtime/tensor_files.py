"""Writes safetensors files that are either complete or absent, even if the process is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .files import atomic_write


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors, on any device and with any strides, and metadata to a safetensors file."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic_write(path) as aside:
        aside.write_bytes(content)  # safetensors' save_file makes files that only their owner can read
