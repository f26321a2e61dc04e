"""What all benchmarks share: the number of threads, and sides that are timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from xmixup_fast import build_info, cpu_level

THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("step", "bench_step.py")
    group.addoption("--step-model", default="test_resnet", help="network, by its timm name")
    group.addoption("--step-size", type=int, default=64, help="height and width of its images")
    group.addoption("--step-batch", type=int, default=32, help="images per step")
    group.addoption("--step-rounds", type=int, default=15, help="steps of each method, taken in turn")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["torch"] = str(torch.__version__)
    machine_info["threads"] = THREADS
    machine_info["xmixup_fast"] = {**build_info(), "cpu_level": cpu_level()}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def median_seconds_in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each side, all of them once per round, so that a slow spell of the machine hits them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        sides[name]()
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}
