"""The CUDA kernels on the CPU: their sources compiled with csrc/cuda_emulation/shim.h."""

from __future__ import annotations

from pathlib import Path

import native
import torch

from xmixup_fast.ops import registrations


def load() -> Path:
    """Builds the emulation, registers it as torch.ops.xmixup_fast_cuda_emulation, and returns its library."""
    (library,) = native.build("cuda_emulation").glob("libcuda_emulation.*")
    torch.ops.load_library(library)
    loss = "xmixup_fast_cuda_emulation::dual_head_cross_entropy"
    torch.library.register_autograd(loss, registrations.backward, setup_context=registrations.setup_context)
    return library
