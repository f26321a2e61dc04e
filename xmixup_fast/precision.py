"""Precision: what of a step is computed in 16 bits."""

from __future__ import annotations

import torch

DTYPES = {None: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the settings' ``amp`` stands for. Batches have this dtype, and autocast computes in it."""


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which what 16 bits suffice for is computed in ``dtype``; without effect for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def float32(device: torch.device) -> torch.autocast:
    """A context within :func:`autocast` in which operators compute in the dtype of what they are given."""
    return torch.autocast(device.type, enabled=False)
