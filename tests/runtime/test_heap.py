"""What is freed while a run computes is used again, without the kernel, and goes back at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import xmixup_fast
from xmixup_fast.runtime import heap
from xmixup_fast.runtime.device import reproducible

resource = pytest.importorskip("resource", reason="Linux alone")
pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")

SIZES = [64 << 20, 48 << 20]
"""Bytes of blocks above the 32 MiB from which glibc always asks the kernel."""
PAGES = sum(SIZES) // resource.getpagesize()
UNTOLD = {name: value for name, value in os.environ.items() if name not in (*heap.VARIABLES, "GLIBC_TUNABLES")}


def faults() -> int:
    """The fewest pages that the kernel has to make for blocks that are written and freed again and again.

    Small blocks lie in the way of the first ones, until there are as many as glibc keeps aside for a thread: seven.
    """
    counts = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for size in SIZES:
            torch.empty(size, dtype=torch.uint8).numpy().fill(1)  # by this thread alone
        counts.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    return min(counts)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def blocks_of_any_size_are_used_again_in_a_run_and_not_afterwards() -> None:
    with reproducible(seed=0, threads=1):
        assert faults() < PAGES // 50
    assert faults() >= PAGES * 9 // 10


def what_a_run_has_kept_goes_back_at_its_end_also_where_it_fails() -> None:
    before = resident()
    with pytest.raises(ValueError, match="not finite"), heap.kept_heap():
        faults()
        assert resident() > before + SIZES[0] // resource.getpagesize() // 2
        raise ValueError("not finite")
    assert resident() < before + PAGES // 10


def nothing_is_kept() -> None:
    with heap.kept_heap():
        assert faults() >= PAGES * 9 // 10


def another_c_library_is_left_alone() -> None:
    heap._glibc.cache_clear()
    heap.ctypes.CDLL = lambda name: object()  # type: ignore[assignment, misc]
    assert heap._glibc() is None
    nothing_is_kept()


def told_to_trim() -> None:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.trim_threshold=1"
    nothing_is_kept()


def told_to_map() -> None:
    os.environ[heap.VARIABLES[0]] = "65536"
    nothing_is_kept()


@pytest.mark.parametrize(
    "check",
    [
        blocks_of_any_size_are_used_again_in_a_run_and_not_afterwards,
        what_a_run_has_kept_goes_back_at_its_end_also_where_it_fails,
        told_to_trim,
        told_to_map,
        another_c_library_is_left_alone,
    ],
)
def test_heap(check: Callable[[], None]) -> None:
    """In a process of its own: what others have left of a heap would serve large blocks without the kernel."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(xmixup_fast.__file__).parents[1])])
    code = f"import test_heap; test_heap.{check.__name__}()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**UNTOLD, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
