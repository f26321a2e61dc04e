"""Writes safetensors files that are either complete or absent, even if the process is killed.

Equal tensors and metadata give equal bytes. The library's own writer puts the metadata in another order in each call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import atomic_write

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of dtypes in the format."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors, on any device and with any strides, and metadata to a safetensors file, one after the other.

    The format is the header's length (8 bytes, little-endian), the header (JSON, here filled up with spaces to a
    multiple of 8 bytes), and the tensors' bytes without gaps. Tensors are sorted by the size of their elements, the
    largest first so that each is aligned, and then by name.

    Raises ValueError for a tensor that the format cannot hold, and OSError where the file cannot be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES or name == "__metadata__":
            raise ValueError(f"{name}: cannot be kept in a safetensors file: {tensor.dtype}, {tensor.layout}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as aside, aside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            if tensors[name].numel():
                flat = tensors[name].detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
