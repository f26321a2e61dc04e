"""Machines without a usable GPU: no driver, one that is too old or shows no GPU, a torch without CUDA; and wrong GPUs.

The package is imported there, operators work on CPU tensors, and a GPU that is asked for is refused with the reason.
Drivers are libraries of the tests' own, which a new process finds in place of the machine's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xmixup_fast import _C, build_info
from xmixup_fast.runtime import gpu
from xmixup_fast.runtime.device import usable_device

ROOT = Path(__file__).resolve().parents[2]
FAKE_DRIVER = ROOT / "tests" / "support" / "fake_driver.cpp"
TORCH_CUDA = torch.version.cuda
NO_KERNELS = build_info()["cuda"] is None

SCRIPT = """
import json, sys
import xmixup_fast
assert "torch" not in sys.modules
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from xmixup_fast import _C
from xmixup_fast.commands import info
from xmixup_fast.runtime.device import usable_device

def error_of(call, *arguments):
    try:
        return f"no error, but {call(*arguments)}"
    except (RuntimeError, ValueError) as error:
        return str(error)

def inputs(device):
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    logits = [torch.zeros(2, classes, device=device) for classes in (3, 4)]
    return (*logits, labels, labels, torch.ones(2, device=device))

loss = torch.ops.xmixup_fast.dual_head_cross_entropy.default
on_a_gpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
found = {
    "info": info.collect(),
    "loss": xmixup_fast.dual_head_cross_entropy(*inputs("cpu")).item(),
    "meta": str(xmixup_fast.dual_head_cross_entropy(*inputs("meta")).device),
    "auto": usable_device("auto"),
    "cuda": error_of(usable_device, "cuda"),
    "stream": error_of(_C.current_cuda_stream, 0),
    "kernel": _C.cuda_kernel_error(),
    "kernel of CPU tensors": error_of(lambda: loss.redispatch(on_a_gpu, *inputs("cpu"), 1.0, 0.0)),
}
with FakeTensorMode():
    found["fake"] = str(xmixup_fast.dual_head_cross_entropy(*inputs("cuda")).device)
print(json.dumps(found))
"""


def no_driver(folder: Path) -> None:
    (folder / "libcuda.so.1").touch()  # which cannot be loaded, and hides a driver that the machine has


def driver(version: int) -> Callable[[Path], None]:
    def compile_driver(folder: Path) -> None:
        flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-DDRIVER_VERSION={version}"]
        subprocess.run(["c++", *flags, FAKE_DRIVER, "-o", folder / "libcuda.so.1"], check=True)

    return compile_driver


def found_with(make_driver: Callable[[Path], None], folder: Path) -> dict[str, Any]:
    """What the script above finds in a process that finds this driver."""
    make_driver(folder)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    environment = {**os.environ, "LD_LIBRARY_PATH": path}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("make_driver", "driver_line", "reason"),
    [
        (no_driver, "none", r"there is no NVIDIA driver \(libcuda.so.1\); torch .* needs a driver .*: install"),
        (driver(10020), "for CUDA 10.2", "the NVIDIA driver is for CUDA 10.2; torch .* needs a driver .*: update it"),
        (driver(99010), "for CUDA 99.1", "the NVIDIA driver shows none$"),
    ],
    ids=["no driver", "old driver", "no GPU"],
)
def test_without_a_gpu_the_cpu_works_and_a_gpu_is_refused_with_the_reason(
    tmp_path: Path, make_driver: Callable[[Path], None], driver_line: str, reason: str
) -> None:
    found = found_with(make_driver, tmp_path)
    if TORCH_CUDA is None:
        reason = "torch .* is built without CUDA; install one that is built with it$"
    assert found["info"]["GPU driver"] == driver_line
    assert re.match(f"none: {reason}", found["info"]["GPUs"])
    assert found["loss"] == pytest.approx(1.0986, abs=1e-4)  # ln 3
    assert (found["meta"], found["fake"], found["auto"]) == ("meta", "cuda:0", "cpu")
    assert re.match(f"device: cuda is not there; PyTorch sees 0 CUDA devices: {reason}", found["cuda"])
    if TORCH_CUDA is None:
        assert found["stream"].startswith("xmixup_fast: expected a torch with CUDA, got one without: libtorch_cuda.so")
    else:
        assert found["stream"].startswith("xmixup_fast: torch cannot tell the current stream of cuda:0")
    if NO_KERNELS:
        assert found["kernel"] == ["none", "this build has no CUDA kernels"]
        assert "expected tensors on the CPU, as this build has no CUDA kernels" in found["kernel of CPU tensors"]
    else:
        assert found["kernel"][0] in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"), found["kernel"]
        assert not found["kernel of CPU tensors"].startswith("no error")


WITHOUT_LIBTORCH_CUDA = """
import ctypes, importlib.util, sys
ctypes.CDLL(sys.argv[1])
spec = importlib.util.spec_from_file_location("xmixup_fast._C", sys.argv[2])
extension = importlib.util.module_from_spec(spec)
spec.loader.exec_module(extension)
assert "libtorch_cuda" not in open("/proc/self/maps").read()
extension.current_cuda_stream(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_extension_loads_without_libtorch_cuda_and_says_what_is_missing() -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    command = [sys.executable, "-c", WITHOUT_LIBTORCH_CUDA, library, _C.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "RuntimeError: xmixup_fast: expected a torch with CUDA, got one without: libtorch_cuda.so is not loaded, or "
        "has no aoti_torch_get_current_cuda_stream\n"
    )


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU that torch sees, of compute capability 7.0, with a driver for CUDA 12.4, and a build with kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: index)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: index)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(gpu, "driver_cuda_version", lambda: (12, 4))
    monkeypatch.setattr(gpu, "build_info", lambda: {"cuda": "13.0.88", "cuda_architectures": "75-real, 120"})
    monkeypatch.setattr(gpu, "cuda_kernel_error", lambda: ("", ""))
    return monkeypatch


def test_a_gpu_that_runs_the_kernels_is_used(one_gpu: pytest.MonkeyPatch) -> None:
    assert usable_device("auto") == "cuda" and usable_device("cuda:0") == "cuda:0"
    assert gpu.describe(0) == "Old GPU"


def test_a_gpu_is_refused_by_a_build_without_kernels(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.setattr(gpu, "build_info", lambda: {"cuda": None})
    with pytest.raises(
        ValueError, match="device: expected cpu, got cuda: this build of xmixup_fast has no CUDA kernels"
    ):
        usable_device("auto")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
            "the NVIDIA driver is for CUDA 12.4; xmixup_fast is built with CUDA 13.0.88 and needs a driver for CUDA 13 "
            "or later: update it, or build xmixup_fast with an nvcc of the driver's CUDA",
        ),
        (
            ("cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"),
            "it has compute capability 7.0, this build of xmixup_fast has kernels for 75-real, 120; build it with "
            "TORCH_CUDA_ARCH_LIST=7.0",
        ),
        (
            ("cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"),
            "CUDA cannot load kernels there: CUDA-capable device(s) is/are busy or unavailable "
            "(cudaErrorDevicesUnavailable)",
        ),
    ],
    ids=["old driver", "no code for it", "another error"],
)
def test_a_gpu_that_does_not_run_the_kernels_is_refused_with_the_reason(
    one_gpu: pytest.MonkeyPatch, error: tuple[str, str], reason: str
) -> None:
    one_gpu.setattr(gpu, "cuda_kernel_error", lambda: error)
    for name, device in (("auto", "cuda"), ("cuda:0", "cuda:0")):
        with pytest.raises(ValueError, match=re.escape(f"device: expected cpu, got {device}: {reason}") + "$"):
            usable_device(name)
    assert gpu.describe(0) == f"Old GPU, which cannot be used: {reason}"


def test_info_describes_a_gpu_that_torch_cannot_use(one_gpu: pytest.MonkeyPatch) -> None:
    def unavailable() -> tuple[str, str]:
        raise RuntimeError("CUDA error: the device is busy\nCompile with TORCH_USE_CUDA_DSA")

    one_gpu.setattr(gpu, "cuda_kernel_error", unavailable)
    assert gpu.describe(0) == "cuda:0, which cannot be used: CUDA error: the device is busy"


def test_a_number_that_no_gpu_has_is_refused_without_a_reason(one_gpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"device: cuda:1 is not there; PyTorch sees 1 CUDA devices$"):
        usable_device("cuda:1")


def test_gpus_that_are_hidden_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu, "driver_cuda_version", lambda: (13, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.why_no_gpu() == "the NVIDIA driver shows none; CUDA_VISIBLE_DEVICES is ''"


@pytest.mark.gpu
def test_a_gpu_runs_the_kernels_and_its_streams_are_torchs() -> None:
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        assert gpu.kernel_fault(device) == ""
        assert _C.current_cuda_stream(index) == torch.cuda.current_stream(device).cuda_stream
        with torch.cuda.stream(torch.cuda.Stream(device)) as _:
            side = torch.cuda.current_stream(device).cuda_stream
            assert side != 0 and _C.current_cuda_stream(index) == side
    assert gpu.driver_cuda_version() is not None
