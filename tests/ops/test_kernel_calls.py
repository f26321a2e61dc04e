"""Every CUDA kernel gives the CPU's results, and stops at a wrong value with one message that names it.

Both are shown on the emulation and on a GPU, where the kernels pass compute-sanitizer as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import emulation
import forked_calls
import pytest
import torch
from kernel_calls import FAULTS, MAKERS, call, results_of_all_kernels

TESTS = Path(__file__).resolve().parents[1]
DEVICES = ["cuda_emulation", pytest.param("cuda", marks=pytest.mark.gpu)]
SANITIZER = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


@contextmanager
def on(kind: str, request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where kernels of this kind of device run, and their library is called."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "cuda_emulation":
            request.getfixturevalue("cuda_emulation")  # not on a GPU, where nothing has to be compiled
            emulation.use(patch)
        yield torch.device("cuda" if kind == "cuda" else "cpu")


def run_child(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of this Python that calls kernels. A package that is installed comes before the sources'."""
    paths = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", ""), str(TESTS.parent)])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", DEVICES)
def test_every_kernel_gives_the_cpus_results(kind: str, request: pytest.FixtureRequest) -> None:
    expected = list(results_of_all_kernels(torch.device("cpu")))
    with on(kind, request) as device:
        results = [result.cpu() for result in results_of_all_kernels(device)]
    assert all(bool(result.isfinite().all()) for result in results)
    torch.testing.assert_close(results, expected)


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("name", MAKERS)
def test_valid_values_pass(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    with on(kind, request) as device:
        call(name, device)
        if device.type == "cuda":
            torch.cuda.synchronize()


@pytest.fixture(scope="module", params=DEVICES)
def printed(request: pytest.FixtureRequest) -> dict[tuple[Any, ...], tuple[int, str]]:
    """Of each of FAULTS: the exit status of a process that makes the call, and what it printed."""
    if request.param == "cuda_emulation":
        request.getfixturevalue("cuda_emulation")
    done = run_child(sys.executable, "-m", "forked_calls", request.param)
    assert done.returncode == 0, done.stderr
    return {fault: (status, text) for fault, status, text in forked_calls.read(done.stdout)}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]}: {fault[1]}")
def test_a_wrong_value_ends_a_process_with_one_message(
    fault: tuple[Any, ...], printed: dict[tuple[Any, ...], tuple[int, str]], request: pytest.FixtureRequest
) -> None:
    status, text = printed[fault]
    _, _, message, sample = fault
    assert status == 2, text
    if request.node.callspec.params["printed"] == "cuda":  # which prints the message of an assertion itself
        (assertion,) = (line for line in text.splitlines() if "Assertion" in line)
        assert f"xmixup_fast.{message}" in assertion
    (error,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: xmixup_fast.{message}"), error
    assert error.endswith(" of the batch)" if sample is None else f" (sample {sample} of the batch)"), error


NOT_SUPPORTED = "Device not supported"
"""What compute-sanitizer says in a virtual machine that keeps the GPU's debugging interface to itself."""

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
    if NOT_SUPPORTED in done.stdout + done.stderr:
        pytest.skip(f"compute-sanitizer: {NOT_SUPPORTED}")
    assert done.returncode == 0 and "done" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
