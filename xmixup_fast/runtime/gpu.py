"""Which CUDA GPUs there are, and why one cannot be used: what is there, what is needed, and what to do.

torch and this package have a CUDA runtime each, which may be of different releases. Each needs a driver that is made
for its release or a later one; the number before the dot decides, such as 13 in 13.0.
"""

from __future__ import annotations

import ctypes
import os

import torch

from .extension import build_info, cuda_kernel_error

_NO_CODE_FOR_THE_GPU = (
    "cudaErrorNoKernelImageForDevice",
    "cudaErrorInvalidDeviceFunction",
    "cudaErrorUnsupportedPtxVersion",
)


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA release that the NVIDIA driver is made for, such as (13, 0); None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def why_no_gpu() -> str:
    """Why torch sees no CUDA GPU."""
    name, release = f"torch {torch.__version__}", torch.version.cuda
    if release is None:
        return f"{name} is built without CUDA; install one that is built with it"
    driver = driver_cuda_version()
    if driver is None or driver[0] < _major(release):
        return _driver_fault(name, release, "install a torch that is built with the driver's CUDA")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "the NVIDIA driver shows none" + ("" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}")


def kernel_fault(device: torch.device) -> str:
    """Why this build's kernels do not run on a GPU that torch sees; empty where they do.

    Makes a CUDA context on that GPU.
    """
    build = build_info()
    if build["cuda"] is None:
        return "this build of xmixup_fast has no CUDA kernels; one that is made where nvcc is found has them"
    with torch.cuda.device(device):
        error, meaning = cuda_kernel_error()
    if not error:
        return ""
    if error == "cudaErrorInsufficientDriver":
        return _driver_fault("xmixup_fast", build["cuda"], "build xmixup_fast with an nvcc of the driver's CUDA")
    if error in _NO_CODE_FOR_THE_GPU:
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return (
            f"it has compute capability {capability}, this build of xmixup_fast has kernels for "
            f"{build['cuda_architectures']}; build it with TORCH_CUDA_ARCH_LIST={capability}"
        )
    return f"CUDA cannot load kernels there: {meaning} ({error})"


def describe(index: int) -> str:
    """The GPU of this index, which torch sees, in a line: its name, and why it cannot be used, if so."""
    device = torch.device("cuda", index)
    try:
        name = torch.cuda.get_device_name(device)
        fault = kernel_fault(device)
    except RuntimeError as error:  # such as a GPU that another process has for itself
        name, fault = str(device), str(error).splitlines()[0]
    return f"{name}, which cannot be used: {fault}" if fault else name


def _driver_fault(name: str, release: str, otherwise: str) -> str:
    """What is wrong with the driver for a program that is built with a release of CUDA, and what to do."""
    driver = driver_cuda_version()
    needed = f"{name} is built with CUDA {release} and needs a driver for CUDA {_major(release)} or later"
    if driver is None:
        return f"there is no NVIDIA driver (libcuda.so.1); {needed}: install it"
    return f"the NVIDIA driver is for CUDA {driver[0]}.{driver[1]}; {needed}: update it, or {otherwise}"


def _major(release: str) -> int:
    return int(release.split(".")[0])
