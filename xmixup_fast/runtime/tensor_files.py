"""Writing safetensors files that are whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .files import atomic_write


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file in one piece; tensors may be anywhere, and of any strides."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic_write(path) as aside:
        aside.write_bytes(content)  # save_file would let the owner alone read it
