"""What all benchmarks share: options, the number of threads, sides timed in turn, and the library of the ceiling."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import native
import pytest

CORES = os.sched_getaffinity(0)
# Unbound threads may end up on one core, where each spins until the scheduler lets the other run: every call then takes
# 8 ms and more, in one process out of several. Read when torch loads OpenMP.
os.environ.setdefault("OMP_PROC_BIND", "true")

import torch  # noqa: E402

from xmixup_fast import build_info, cpu_level  # noqa: E402

THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=20, help="calls of each side, where sides are timed in turn")
    group = parser.getgroup("step", "bench_step.py")
    group.addoption("--step-model", default="test_resnet", help="network, by its timm name")
    group.addoption("--step-size", type=int, default=64, help="height and width of its images")
    group.addoption("--step-batch", type=int, default=32, help="images per step")
    group.addoption("--step-methods", default="finetune,xmixup,cotrain", help="finetune and others, or all")
    group.addoption("--step-rounds", type=int, default=15, help="steps of each method, taken in turn")
    parser.addoption("--start-images", type=int, default=20_000, help="images of bench_start.py")
    parser.addoption("--select-model", default="resnet18", help="network of bench_select.py, by its timm name")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is left of a heap that was kept would serve the benchmarks after it: new memory, without its page faults."""
    items.sort(key=lambda item: item.path.name == "bench_heap.py")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["threads"] = THREADS
    machine_info["cores"] = len(CORES)
    machine_info["xmixup_fast"] = {**build_info(), "cpu_level": cpu_level()}
    packages = ("torch", "torchvision", "kornia", "timm", "nvidia-dali-cuda130", "pillow")
    machine_info["versions"] = {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--rounds")


@pytest.fixture(scope="session")
def ceiling_library() -> None:
    """Compiles ceiling.cpp and registers it as torch.ops.xmixup_fast_bench."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("ceiling.cpp is written for x86-64")
    (library,) = native.build("bench_ceiling").glob("libbench_ceiling.*")
    torch.ops.load_library(library)


_filler = torch.zeros(0)


def evict_caches() -> None:
    """Leaves other data in the caches, as a network's forward and backward do between two batches."""
    global _filler
    if not len(_filler):
        _filler = torch.zeros(2**24)  # 64 MiB
    _filler.add_(1)


def median_seconds_in_turn(
    sides: dict[str, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] = lambda: None,
    slow: float = float("inf"),
) -> dict[str, float]:
    """Median time of each side, all of them once per round, so that a slow spell of the machine hits them alike.

    ``before`` is called before each side and not timed. Sides of ``slow`` seconds and more take part in every fourth
    round only.
    """

    def seconds_of(name: str) -> float:
        before()
        started = time.perf_counter()
        sides[name]()
        return time.perf_counter() - started

    for run in sides.values():
        run()
    every = {name: 4 if seconds_of(name) >= slow else 1 for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sides:
            if turn % every[name] == 0:
                seconds[name].append(seconds_of(name))
    return {name: statistics.median(values) for name, values in seconds.items()}
