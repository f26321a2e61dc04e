"""The device of a run: which one, its seed and threads, its free memory, 16-bit arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from . import distributed
from .extension import build_info


def usable_device(name: str) -> str:
    """The name of a usable device; of several processes on a machine's GPUs, each has its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {name}")
    if device.type == "cuda" and distributed.world_size() > 1:
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {device} is not there; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and build_info()["cuda"] is None:
        raise ValueError(
            f"device: expected cpu, got {device}: this build of xmixup_fast has no CUDA kernels; "
            "one that is made where nvcc is found has them"
        )
    return str(device)


@contextmanager
def reproducible(seed: int, threads: int | None) -> Iterator[None]:
    """Seeds PyTorch, sets its CPU threads where they are given, and has cuDNN choose the same kernels each time.

    Random number generators and threads are as they were afterwards.
    """
    threads_before = torch.get_num_threads()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or threads_before)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on a CPU, what its control group's limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(_available(), _left_to_control_group()))


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_to_control_group() -> float:
    """What version 2 control groups allow; without a limit infinity."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(limit - int((folder / "memory.current").read_text()) + int(statistics["inactive_file"]), 0)
    except (OSError, ValueError, KeyError):
        return float("inf")


DTYPES = {None: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the settings' ``amp`` stands for. Batches have this dtype, and autocast computes in it."""


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which what 16 bits suffice for is computed in ``dtype``; without effect for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def float32(device: torch.device) -> torch.autocast:
    """A context within :func:`autocast` in which operators compute in the dtype of what they are given."""
    return torch.autocast(device.type, enabled=False)
