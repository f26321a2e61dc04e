"""Times of short pieces of work on a device: what the host takes to ask for it, and what the device takes to do it.

A GPU that waits for the host measures the host. So the device's time is taken twice: of calls that are queued behind a
kernel that waits, each between two events, and of a CUDA graph that holds many calls. On a CPU there is one time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch

Work = Callable[[int], object]
"""Does the work for the n-th time; n tells which inputs and outputs it takes, so that no cache holds them."""

CLOCK = 2.0e9
"""Cycles a second of the kernel that waits, at most; a slower clock makes it wait longer."""


@dataclass(frozen=True)
class Timer:
    """Times of work, in seconds; medians."""

    device: torch.device
    warm_up: int = 20
    calls: int = 100
    in_graph: int = 20
    """Calls that one graph holds."""

    def seconds(self, work: Work, graph: bool = False) -> dict[str, float]:
        """``host`` and, on a GPU, ``device``; with ``graph`` also what a call takes in a graph."""
        numbers = count()
        for _ in range(self.warm_up):
            work(next(numbers))
        self.synchronize()
        times = {"host": self._host(work, numbers)}
        if self.device.type == "cuda":
            times["device"] = self._device(work, numbers, times["host"])
            if graph:
                times["graph"] = self._graph(work, numbers)
        return times

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _host(self, work: Work, numbers: count[int]) -> float:
        times = []
        for _ in range(self.calls):
            started = time.perf_counter()
            work(next(numbers))
            times.append(time.perf_counter() - started)
        self.synchronize()
        return statistics.median(times)

    def _device(self, work: Work, numbers: count[int], host: float) -> float:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.calls)]
        torch.cuda._sleep(int(CLOCK * (0.01 + 2 * self.calls * host)))  # until the host has asked for all calls
        for before, after in events:
            before.record()
            work(next(numbers))
            after.record()
        self.synchronize()
        return statistics.median(before.elapsed_time(after) for before, after in events) / 1e3

    def _graph(self, work: Work, numbers: count[int]) -> float:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # torch asks for a first run on a side stream
            work(next(numbers))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.in_graph):
                work(next(numbers))
        graph.replay()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.calls // 5)]
        for before, after in events:
            before.record()
            graph.replay()
            after.record()
        self.synchronize()
        return statistics.median(before.elapsed_time(after) for before, after in events) / 1e3 / self.in_graph
