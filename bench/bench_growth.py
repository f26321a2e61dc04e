"""How `mix` grows with the batch, the pool and the threads, against the fastest alternative (`compiled`).

Float32 crops in channels_last. The pool is measured with images of 72 x 72 and batches of 256 crops of 64 x 64, so that
10^5 images take 1.6 GB; crops are drawn anew for each call, so that a large pool is not in the caches.

python -m pytest bench/bench_growth.py --benchmark-only -s
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CORES, evict_caches, median_seconds_in_turn
from mix_sides import compiled, fused, make_inputs
from samples import MixInputs, make_crops

from xmixup_fast import ImagePool
from xmixup_fast.ops import reference

BATCHES = (1, 4, 16, 64, 256, 512)
POOLS = (10**2, 10**3, 10**4, 10**5)
POOL_IMAGE, POOL_CROP, POOL_BATCH = (72, 72), (64, 64), 256
DRAWS = 16
"""Sets of crops that the calls on a pool take one after the other."""


def thread_counts() -> list[int]:
    """1, 2, 4, ... and all cores."""
    cores = len(CORES)
    return sorted({*itertools.takewhile(lambda n: n < cores, (2**k for k in itertools.count())), cores})


def measure(benchmark: Any, at: int, sides: dict[str, Callable[[], Any]], rounds: int, before: Any) -> None:
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, rounds, before), rounds=1)
    benchmark.extra_info.update(at=at, seconds=medians)
    print(f"\n{benchmark.group} {at}: fused {1e3 * medians['fused']:.3f} ms, ", end="")
    print(f"compiled {medians['compiled'] / medians['fused']:.2f} times that")


def checked(inputs: MixInputs) -> dict[str, Callable[[], Any]]:
    sides = {"fused": fused(inputs), "compiled": compiled(inputs)}
    for run in sides.values():
        torch.testing.assert_close(run(), inputs.call(reference.mix), rtol=0, atol=4e-6)
    return sides


@pytest.mark.benchmark(group="growth-batch")
@pytest.mark.parametrize("batch", BATCHES)
def test_batch(benchmark: Any, rounds: int, batch: int) -> None:
    measure(benchmark, batch, checked(make_inputs(batch)), rounds, evict_caches)


@pytest.mark.benchmark(group="growth-threads")
@pytest.mark.parametrize("threads", thread_counts())
def test_threads(benchmark: Any, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    measure(benchmark, threads, checked(make_inputs()), rounds, evict_caches)


@pytest.mark.benchmark(group="growth-pool")
@pytest.mark.parametrize("images", POOLS)
def test_pool(benchmark: Any, rounds: int, images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(0, 256, (100, *POOL_IMAGE, 3), dtype=torch.uint8, generator=generator)
    pool = ImagePool.from_dense(some.repeat(images // len(some), 1, 1, 1))
    crops = [make_crops(pool, POOL_BATCH, POOL_CROP, generator) for _ in range(2 * DRAWS)]
    lam = torch.rand(POOL_BATCH, generator=generator)
    inputs = MixInputs(pool, crops[0], pool, crops[1], lam, POOL_CROP)
    pairs = itertools.cycle(zip(crops[::2], crops[1::2], strict=True))

    def draw_anew() -> None:
        inputs.target_crops, inputs.aux_crops = next(pairs)

    measure(benchmark, images, checked(inputs), max(rounds, DRAWS), draw_anew)
