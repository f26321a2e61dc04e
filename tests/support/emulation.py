"""The CUDA kernels on the CPU: their sources compiled with csrc/cuda_emulation/shim.h."""

from __future__ import annotations

from pathlib import Path

import native
import pytest
import torch

from xmixup_fast.ops import operators, outputs, registrations


def load() -> Path:
    """Builds the emulation, registers it as torch.ops.xmixup_fast_cuda_emulation, and returns its library."""
    (library,) = native.build("cuda_emulation").glob("libcuda_emulation.*")
    torch.ops.load_library(library)
    loss = "xmixup_fast_cuda_emulation::dual_head_cross_entropy"
    torch.library.register_autograd(loss, registrations.backward, setup_context=registrations.setup_context)
    return library


def use(patch: pytest.MonkeyPatch) -> None:
    """Has the package call the emulation for tensors on the CPU as it calls the kernels for those on a GPU."""
    patch.setattr(operators, "_library", torch.ops.xmixup_fast_cuda_emulation)
    patch.setattr(outputs, "ALLOCATED_ON", "cpu")
