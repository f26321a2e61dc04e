"""The CUDA kernels on the CPU: their sources compiled with csrc/host_grid/shim.h."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import torch

from xmixup_fast import features, ops

ROOT = Path(__file__).resolve().parent.parent


def load() -> Path:
    """Builds the emulation, registers it as torch.ops.xmixup_fast_host_grid, and returns its library."""
    build = ROOT / "build" / f"host_grid-{sys.implementation.cache_tag}"
    configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "--fresh", f"-DPython_EXECUTABLE={sys.executable}"]
    build.parent.mkdir(exist_ok=True)
    with open(f"{build}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        for command in (configure, ["cmake", "--build", build, "--target", "host_grid"]):
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XMIXUP_CUDA": "OFF"})
            if done.returncode != 0:
                raise RuntimeError(done.stdout + done.stderr)
    (library,) = build.glob("libhost_grid.*")
    torch.ops.load_library(library)
    for op, module in (("dual_head_cross_entropy", ops), ("mix_features", features)):
        name = f"xmixup_fast_host_grid::{op}"
        torch.library.register_autograd(name, module._backward, setup_context=module._setup_context)
    return library
