"""Print what a report of a bug should hold: versions, build and devices.

xmixup info
    a line for each
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata

from ..cli import Parser, exit_status
from ..runtime.openmp import cpu_count, describe_threads, describe_waiting

_DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")


def _version(*packages: str) -> str:
    """Of the first of these packages that is installed."""
    for name in packages:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def collect() -> dict[str, str]:
    """Versions, build and devices, a printable line each."""
    cpus = cpu_count()  # before torch, which may bind the thread to one

    import torch

    from ..runtime import gpu
    from ..runtime.device import default_threads
    from ..runtime.extension import build_info, cpu_level

    build = build_info()
    driver = gpu.driver_cuda_version()
    cuda = f"{build['cuda']} for {build['cuda_architectures']}" if build["cuda"] else "none in this build"
    return {
        "xmixup_fast": build["version"],
        "built with": f"{build['compiler']}, torch {build['torch']}",
        "CUDA kernels": cuda,
        "CPU level": f"{cpu_level()} (of {', '.join(build['cpu_levels'])})",
        "torch": str(torch.__version__),
        "torchvision": _version("torchvision"),
        "timm": _version("timm"),
        "DALI": _version(*_DALI),
        "torchcodec": _version("torchcodec"),
        "Pillow": _version("pillow"),
        "pillow-heif": _version("pillow-heif"),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "threads": describe_threads(default_threads(), cpus),
        "waiting": describe_waiting(),
        "GPU driver": f"for CUDA {driver[0]}.{driver[1]}" if driver else "none",
        "GPUs": ", ".join(map(gpu.describe, range(torch.cuda.device_count()))) or f"none: {gpu.why_no_gpu()}",
    }


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup info") -> int:
    """Runs the command; returns its exit status."""

    def work() -> None:
        Parser(prog, __doc__).values(sys.argv[1:] if arguments is None else arguments)
        lines = collect()
        width = max(map(len, lines))
        for name, value in lines.items():
            print(f"{name:{width}}  {value}")

    return exit_status(work)
