"""Where the time of a fresh output goes: page faults. `mix-crop-f32` into memory that is new, and in other ways.

python -m pytest bench/bench_alloc.py --benchmark-only -s
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CORES, THREADS, evict_caches, median_seconds_in_turn
from mix_sides import fused, make_inputs
from torch import Tensor

from xmixup_fast import ops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux and glibc about memory")

PAGE, HUGE_PAGE, MADV_HUGEPAGE = 4096, 2 << 20, 14
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
"""Environment with which glibc keeps freed memory of any size for the next allocation."""


def fresh_output() -> Tensor:
    return torch.empty((64, 3, 224, 224), memory_format=torch.channels_last)


def touch() -> None:
    """Writes to each page of fresh memory, and nothing else."""
    fresh_output().permute(0, 2, 3, 1).view(-1)[:: PAGE // 4].fill_(0)


def in_huge_pages() -> Tensor:
    """A fresh output for which the kernel was asked for pages of 2 MiB; without its first and last part of a page."""
    out = fresh_output()
    begin, end = out.data_ptr(), out.data_ptr() + out.nbytes
    begin, end = -(-begin // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if madvise(begin, end - begin, MADV_HUGEPAGE) != 0:
        raise OSError(ctypes.get_errno(), "madvise(MADV_HUGEPAGE)")
    return out


def faults_of(run: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def measure(names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds and page faults of a call of each side."""
    inputs = make_inputs()
    sides: dict[str, Callable[[], object]] = {
        "fused": fused(inputs),
        "fused_alloc": lambda: inputs.call(ops.mix),
        "touch": touch,
        "huge_pages": lambda: inputs.call(ops.mix, out=in_huge_pages()),
    }
    sides = {name: sides[name] for name in names}
    seconds = median_seconds_in_turn(sides, rounds, evict_caches)
    return {name: {"seconds": seconds[name], "faults": faults_of(sides[name])} for name in names}


@pytest.mark.benchmark(group="alloc")
def test_fresh_output(benchmark: Any, rounds: int) -> None:
    names = ["fused", "fused_alloc", "touch", "huge_pages"]
    results = benchmark.pedantic(measure, args=(names, rounds), rounds=1)
    command = [sys.executable, __file__, str(rounds)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, **KEEP_MEMORY, "PYTHONPATH": path}

    def on_all_cores() -> None:  # this thread is bound to one
        os.sched_setaffinity(0, CORES)

    done = subprocess.run(command, env=environment, preexec_fn=on_all_cores, capture_output=True, text=True, check=True)
    results["kept_memory"] = json.loads(done.stdout.splitlines()[-1])["fused_alloc"]
    benchmark.extra_info.update(results)
    print()
    for name, result in results.items():
        print(f"alloc: {name} {1e3 * result['seconds']:.2f} ms, {result['faults']} page faults")
    assert results["fused"]["faults"] < 100


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(json.dumps(measure(["fused_alloc"], int(sys.argv[1]))))
