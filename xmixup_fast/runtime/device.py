"""The device of a run: its choice, seeds and threads, copies to it, free memory, and 16-bit arithmetic.

With the setting ``amp``, the forward pass of a training step runs under autocast, and ``mix`` writes batches of the
16-bit dtype: for a network that begins with a convolution, these are the bits that autocast would make of float32
batches. Losses are float32, and so is everything that is not a training step: selection, what methods measure before
training, validation and test. Accuracies are therefore those of the weights that are saved. On every device ``amp`` is
off by default, so that the same settings mean the same arithmetic on a CPU and a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from . import distributed
from .control_group import memory_left
from .gpu import kernel_fault, why_no_gpu
from .heap import kept_heap
from .openmp import threads_under_quota


def usable_device(name: str) -> str:
    """Chooses the device for ``auto``, and checks any other: "cpu", "cuda" or "cuda:N". Returns its name.

    Of several processes that use the GPUs of a machine, each gets a GPU of its own.

    Raises ValueError for another name, a GPU that is not there, or one that this build's kernels do not run on.
    """
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
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            reason = "" if count else f": {why_no_gpu()}"
            raise ValueError(f"device: {device} is not there; PyTorch sees {count} CUDA devices{reason}")
        if fault := kernel_fault(device):
            raise ValueError(f"device: expected cpu, got {device}: {fault}")
    return str(device)


def current_device(device: torch.device | str) -> AbstractContextManager[object]:
    """A context in which a GPU is this thread's current device; then it is the caller's again. For a CPU: nothing.

    Streams, events and graphs belong to the current device, and so does memory that is asked for without a device: the
    processes of a machine would otherwise all use its first GPU besides their own.
    """
    device = torch.device(device)
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def reproducible(
    seed: int,
    threads: int | None,
    *,
    deterministic: bool = True,
    tf32: Literal["convolutions", "all", "none"] = "convolutions",
) -> Iterator[None]:
    """Seeds PyTorch's random number generators, and lets cuDNN use deterministic kernels only.

    Without ``deterministic``, cuDNN measures its kernels for each shape that it sees, and takes the fastest. ``tf32``
    tells what is computed in TF32 where it would be in float32: by default convolutions, and for matrix products what
    the caller has set, which is not to, unless changed.

    Also sets PyTorch's number of CPU threads, to :func:`default_threads` if not given, takes float32 as the default
    dtype and the CPU as the default device, and turns gradients on and autocast off, whatever the caller has set.
    Memory that is freed is kept for what is allocated next. Afterwards, all of it is as it was before.
    """
    threads_before, dtype_before = torch.get_num_threads(), torch.get_default_dtype()
    devices = range(torch.cuda.device_count())
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=not deterministic, deterministic=deterministic, allow_tf32=tf32 != "none"
        ),
        _matrix_products(tf32),
        own_defaults(),
        torch.inference_mode(False),
        torch.enable_grad(),
        kept_heap(),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or default_threads())
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.set_default_dtype(dtype_before)


@contextmanager
def own_defaults() -> Iterator[None]:
    """A context in which the caller's default device and autocast have no effect."""
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _matrix_products(tf32: str) -> Iterator[None]:
    """A context in which GPUs compute matrix products of float32 in TF32 for "all", and do not for "none"."""
    if tf32 == "convolutions":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.backends.cuda.matmul.allow_tf32 = tf32 == "all"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, or itself where it is there already; the host does not wait for the copy to a GPU.

    A copy from memory that is not pinned would have the host wait. PyTorch keeps a pinned buffer until the copies from
    it are done, and then uses it again, so steps that are alike allocate none after the first few.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)  # to the CPU, a copy that nobody waits for could be read before it is done


def default_threads() -> int:
    """PyTorch's number of CPU threads, or those that a CPU quota feeds, if these are fewer.

    PyTorch itself starts a thread for each core of the machine, however little of them a container may use. Where
    OMP_NUM_THREADS or MKL_NUM_THREADS is set, PyTorch's number holds.
    """
    return threads_under_quota(torch.get_num_threads())


def free_memory(device: torch.device) -> int:
    """How many bytes can still be allocated on a device; on a CPU, within the limits of control groups."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(_available(), memory_left()))


def _available() -> int:
    """How many bytes of main memory the operating system can give to new processes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # systems other than Linux: all memory, free or not
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


DTYPES = {None: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of batches, in which autocast computes too, for each value of the setting ``amp``."""


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which torch computes the operators that 16 bits suffice for in ``dtype``; no effect for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def float32(device: torch.device) -> torch.autocast:
    """A context inside of :func:`autocast` in which operators compute in the dtype of their arguments again."""
    return torch.autocast(device.type, enabled=False)
