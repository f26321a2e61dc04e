"""Where the time of a fresh output goes: page faults. `mix-crop-f32` into memory that is new, and in other ways.

Also in a loop that keeps each batch through a backward pass, as training does.

python -m pytest bench/bench_alloc.py --benchmark-only -s
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CORES, THREADS, evict_caches, median_seconds_in_turn
from mix_sides import Side, fresh_output, fused, fused_alloc, fused_fresh, make_inputs
from samples import MixInputs
from torch import Tensor

from xmixup_fast import ops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux and glibc about memory")

PAGE, HUGE_PAGE, MADV_HUGEPAGE = 4096, 2 << 20, 14
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
"""Environment with which glibc keeps freed memory of any size for the next allocation."""


def touch(inputs: MixInputs) -> None:
    """Writes to each page of fresh memory, and nothing else."""
    fresh_output(inputs).permute(0, 2, 3, 1).view(-1)[:: PAGE // 4].fill_(0)


def in_huge_pages(inputs: MixInputs) -> Tensor:
    """A fresh output for which the kernel was asked for pages of 2 MiB; without its first and last part of a page."""
    out = fresh_output(inputs)
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
        "fused_alloc": fused_alloc(inputs),
        "fused": fused(inputs),
        "fused_fresh": fused_fresh(inputs),
        "touch": lambda: touch(inputs),
        "huge_pages": lambda: inputs.call(ops.mix, out=in_huge_pages(inputs)),
    }
    sides = {name: sides[name] for name in names}
    seconds = median_seconds_in_turn(sides, rounds, evict_caches)
    return {name: {"seconds": seconds[name], "faults": faults_of(sides[name])} for name in names}


@pytest.mark.benchmark(group="alloc")
def test_fresh_output(benchmark: Any, rounds: int) -> None:
    names = ["fused_alloc", "fused", "fused_fresh", "touch", "huge_pages"]
    results = benchmark.pedantic(measure, args=(names, rounds), rounds=1)
    command = [sys.executable, __file__, str(rounds)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, **KEEP_MEMORY, "PYTHONPATH": path}

    def on_all_cores() -> None:  # this thread is bound to one
        os.sched_setaffinity(0, CORES)

    done = subprocess.run(command, env=environment, preexec_fn=on_all_cores, capture_output=True, text=True, check=True)
    results["kept_memory"] = json.loads(done.stdout.splitlines()[-1])["fused_fresh"]
    benchmark.extra_info.update(results)
    print()
    for name, result in results.items():
        print(f"alloc: {name} {1e3 * result['seconds']:.2f} ms, {result['faults']} page faults")
    assert results["fused"]["faults"] < 100 and results["fused_alloc"]["faults"] < 100


class Loop:
    """A training loop of one convolution, whose names and graph hold a batch until the next one is there."""

    def __init__(self, make: Side) -> None:
        self.make = make
        self.network = torch.nn.Conv2d(3, 16, 3, stride=4).to(memory_format=torch.channels_last)
        self.mix_seconds: list[float] = []
        self.step_seconds: list[float] = []
        self.faults = 0
        self.image = self.loss = torch.empty(0)

    def step(self) -> None:
        evict_caches()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        self.image = self.make()
        self.mix_seconds.append(time.perf_counter() - started)
        self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        self.loss = self.network(self.image).square().mean()
        self.loss.backward()
        self.step_seconds.append(time.perf_counter() - started)

    def result(self) -> dict[str, float]:
        """Median seconds of the call of `mix` and of a step, and page faults of the last call; without two steps."""
        mix, step = (statistics.median(seconds[2:]) for seconds in (self.mix_seconds, self.step_seconds))
        return {"mix": mix, "step": step, "faults": self.faults}


def steps_in_turn(rounds: int) -> dict[str, dict[str, float]]:
    inputs = make_inputs()
    makers = {"fused_alloc": fused_alloc, "fused": fused, "fused_fresh": fused_fresh}
    loops = {name: Loop(maker(inputs)) for name, maker in makers.items()}
    for _ in range(rounds + 2):
        for loop in loops.values():
            loop.step()
    return {name: loop.result() for name, loop in loops.items()}


@pytest.mark.benchmark(group="loop")
def test_training_loop(benchmark: Any, rounds: int) -> None:
    results = benchmark.pedantic(steps_in_turn, args=(rounds,), rounds=1)
    benchmark.extra_info.update(results)
    print()
    for name, result in results.items():
        mix, step = 1e3 * result["mix"], 1e3 * result["step"]
        print(f"loop: {name} {mix:.2f} ms of a step of {step:.2f} ms, {result['faults']} page faults")
    assert results["fused"]["faults"] < 100 and results["fused_alloc"]["faults"] < 100


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(json.dumps(measure(["fused_fresh"], int(sys.argv[1]))))
