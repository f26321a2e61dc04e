"""A training step on a CPU with the memory that the step before has freed, and with new memory, in turn.

python -m pytest bench/bench_heap.py --benchmark-only -s
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import torch
from bench_step import make_trainer

from xmixup_fast.runtime import heap

MODEL, SIZE, BATCH = "tf_efficientnet_lite0", 224, 16
SIDES = {"kept": heap.KEEP, "given back": heap.USUAL}
TURNS, STEPS = 6, 2
"""A turn of a side begins with a step that is not timed: in it, kept memory is new, too."""


@pytest.mark.benchmark(group="step-heap")
@pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")
def test_in_turn(benchmark: Any) -> None:
    trainer = make_trainer("finetune", MODEL, SIZE, BATCH)
    library = heap._glibc()
    assert library is not None
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}

    def turn(name: str) -> None:
        heap._set(library, SIDES[name])
        library.malloc_trim(0)
        for step in range(1 + STEPS):
            began = time.perf_counter()
            trainer.step()
            if step:
                seconds[name].append(time.perf_counter() - began)

    def turns() -> None:
        for _ in range(TURNS):
            for name in SIDES:
                turn(name)

    benchmark.pedantic(turns, rounds=1)
    heap._set(library, heap.USUAL)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    over = {name: time / medians["kept"] for name, time in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_kept=over, model=MODEL, size=SIZE, batch=BATCH)
    print(f"\nstep of {MODEL}: {1e3 * medians['kept']:.0f} ms; with new memory {over['given back']:.3f} times that")
    assert torch.isfinite(trainer.step())
