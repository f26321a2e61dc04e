"""Every CUDA kernel gives the CPU's results, emulated and on a GPU.

On a GPU it passes compute-sanitizer, and stops at a wrong value with one message that names it. test_device_asserts.py
shows the latter on the emulation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import emulation
import pytest
import torch
from kernel_calls import FAULTS, MAKERS, call, results_of_all_kernels

TESTS = Path(__file__).resolve().parents[1]
DEVICES = ["cuda_emulation", pytest.param("cuda", marks=pytest.mark.gpu)]
SANITIZER = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


@contextmanager
def on(kind: str) -> Iterator[torch.device]:
    """Where kernels of this kind of device run, and their library is called."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "cuda_emulation":
            emulation.use(patch)
        yield torch.device("cuda" if kind == "cuda" else "cpu")


def run_child(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of this Python that calls kernels on a GPU."""
    paths = os.pathsep.join([str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", DEVICES)
def test_every_kernel_gives_the_cpus_results(kind: str, cuda_emulation: Path) -> None:
    expected = list(results_of_all_kernels(torch.device("cpu")))
    with on(kind) as device:
        results = [result.cpu() for result in results_of_all_kernels(device)]
    assert all(bool(result.isfinite().all()) for result in results)
    torch.testing.assert_close(results, expected)


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("name", MAKERS)
def test_valid_values_pass(kind: str, name: str, cuda_emulation: Path) -> None:
    with on(kind) as device:
        call(name, device)
        if device.type == "cuda":
            torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "change", "message", "sample"), FAULTS)
def test_a_wrong_value_is_a_device_side_assert(name: str, change: str, message: str, sample: int | None) -> None:
    program = f"""
import torch
from kernel_calls import call
from xmixup_fast.cli import exit_status

def work():
    call({name!r}, torch.device("cuda"), {change!r})
    torch.cuda.synchronize()

raise SystemExit(exit_status(work))
"""
    done = run_child(sys.executable, "-c", program)
    assert done.returncode != 0, done.stderr
    printed = [line for line in (done.stdout + done.stderr).splitlines() if "Assertion" in line]
    assert len(printed) == 1 and f"xmixup_fast.{message}" in printed[0], printed
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: xmixup_fast.{message}"), error
    assert error.endswith(" of the batch)" if sample is None else f" (sample {sample} of the batch)"), error


ALL_KERNELS = """
import torch
from kernel_calls import results_of_all_kernels

for _ in results_of_all_kernels(torch.device("cuda")):
    pass
torch.cuda.synchronize()
print("done")
"""


@pytest.mark.gpu
@pytest.mark.skipif(SANITIZER is None, reason="needs compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_kernels_pass_compute_sanitizer(tool: str) -> None:
    assert SANITIZER is not None
    # What torch tries and gets refused at its start is no error of the kernels.
    options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9"]
    # Without torch's cache, each tensor is an allocation of its own, whose ends are checked.
    done = run_child(SANITIZER, *options, sys.executable, "-c", ALL_KERNELS, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert done.returncode == 0 and "done" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
