"""What is freed while a run computes is used again, without the kernel, and goes back at the end."""

from __future__ import annotations

import pytest
import torch

from xmixup_fast.runtime import heap
from xmixup_fast.runtime.device import reproducible

resource = pytest.importorskip("resource", reason="Linux alone")
pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")

SIZES = [64 << 20, 48 << 20]
"""Bytes of blocks above the 32 MiB from which glibc always asks the kernel."""
PAGES = sum(SIZES) // resource.getpagesize()


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*heap.VARIABLES, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


def faults() -> int:
    """The fewest pages that the kernel has to make for blocks that are written and freed again and again.

    Other blocks, such as Python's, may lie in the way of the first ones.
    """
    counts = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for size in SIZES:
            torch.empty(size, dtype=torch.uint8).numpy().fill(1)  # by this thread alone
        counts.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    return min(counts)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def test_blocks_of_any_size_are_used_again_in_a_run_and_not_afterwards() -> None:
    with reproducible(seed=0, threads=1):
        assert faults() < PAGES // 50
    assert faults() >= PAGES * 9 // 10


def test_what_a_run_has_kept_goes_back_at_its_end_also_where_it_fails() -> None:
    before = resident()
    with pytest.raises(ValueError, match="not finite"), heap.kept_heap():
        faults()
        assert resident() > before + SIZES[0] // resource.getpagesize() // 2
        raise ValueError("not finite")
    assert resident() < before + PAGES // 10


@pytest.mark.parametrize("told", [(heap.VARIABLES[0], "65536"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")])
def test_what_the_user_has_told_glibc_holds(monkeypatch: pytest.MonkeyPatch, told: tuple[str, str]) -> None:
    monkeypatch.setenv(*told)
    with heap.kept_heap():
        assert faults() >= PAGES * 9 // 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.kept_heap():
        assert faults() >= PAGES * 9 // 10
