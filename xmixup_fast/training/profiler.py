"""Profiling: a trace of some training steps, and a table of the time that each part of a step takes.

The trainer enters ``trainer.span(NAME)`` around each part. Without profiling that is :func:`no_span`, one shared
context that costs nothing; :func:`profiled` puts ranges of torch's profiler in its place. The table is made from the
trace, so both agree. GPU work counts for the part during which it was launched, whatever the thread: autograd launches
backward's kernels from a thread of its own.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from ..runtime.files import atomic_write

WARM_UP_STEPS = 5
"""Largest number of steps before profiling begins: in the first ones, kernels are chosen and memory is allocated."""
STEPS = 15
"""Largest number of steps that are profiled."""
PARTS = ("data", "plan", "mix", "forward", "backward", "update")
"""The parts of a step. A part's time excludes that of parts inside it: plan lies inside data, the wait for a batch."""
STEP = "step"
"""The name of the range of a whole step. A step that is profiled waits for the device at its end."""

Span = Callable[[str], AbstractContextManager[object]]
"""Function from the name of a part to a context in which that part of a step runs."""

_NO_SPAN = nullcontext()


def no_span(name: str) -> AbstractContextManager[object]:
    """A context that does nothing."""
    return _NO_SPAN


class Profiled(Protocol):
    """The attributes of a trainer that profiling needs."""

    steps: int
    steps_done: int
    span: Span


@contextmanager
def profiled(trainer: Profiled, folder: Path, log: Callable[[str], object]) -> Iterator[None]:
    """Context in which the trainer's next steps, after a warm-up, are profiled.

    Writes the trace to trace.json.gz in ``folder``, for chrome://tracing or ui.perfetto.dev. ``log`` gets the lines of
    :func:`table`.
    """
    left = trainer.steps - trainer.steps_done
    if left == 0:
        yield
        return
    skipped = min(WARM_UP_STEPS, left // 2)
    warm_up = min(skipped, 1)  # the step in which the profiler itself starts
    schedule = torch.profiler.schedule(
        wait=skipped - warm_up, warmup=warm_up, active=min(STEPS, left - skipped), repeat=1
    )

    def write_trace(profiler: torch.profiler.profile) -> None:
        path = folder / "trace.json.gz"
        with atomic_write(path) as aside:
            profiler.export_chrome_trace(str(aside))
            trace = aside.read_bytes()
            aside.write_bytes(gzip.compress(trace))
        for line in table(json.loads(trace)["traceEvents"]):
            log(line)
        log(f"the profiler's trace: {path}")

    with torch.profiler.profile(schedule=schedule, on_trace_ready=write_trace) as profiler:

        @contextmanager
        def span(name: str) -> Iterator[None]:
            with torch.profiler.record_function(name):
                yield
                if name == STEP and torch.cuda.is_initialized():
                    torch.cuda.synchronize()
            if name == STEP:
                profiler.step()

        trainer.span = span
        try:
            yield
        finally:
            trainer.span = no_span


def table(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the mean time of each part of a step, from the events of a Chrome trace; its lines of text.

    Where the trace has GPU work, the table has columns for the time of the kernels and copies that each part launched.
    A trace without steps gives one line that says so.
    """
    steps = [event for event in events if event.get("cat") == "user_annotation" and event["name"] == STEP]
    if not steps:
        return ["profile: no step was profiled"]
    changes = _range_changes(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"] in (*PARTS, STEP) and event["tid"] == steps[0]["tid"]
    )
    host: dict[str, float] = defaultdict(float)
    for (begin, name), (end, _) in pairwise(changes):
        host[name] += end - begin
    device = _device_time(events, changes)

    total = sum(event["dur"] for event in steps)
    heading = f"{f'mean of {len(steps)} steps':16s} {'ms':>10s} {'share':>8s}"
    lines = [heading + (f" {'GPU ms':>10s} {'share':>8s}" if device else "")]
    rows = [(name, host[name], device.get(name, 0.0)) for name in PARTS]
    rows += [("other", host[STEP], device.get(STEP, 0.0)), (STEP, total, sum(device.values()))]
    for name, *times in rows:
        shown = times if device else times[:1]
        lines.append(f"  {name:14s}" + "".join(f" {us / len(steps) / 1000:10.3f} {us / total:8.1%}" for us in shown))
    return lines


def _range_changes(ranges: Iterable[tuple[float, float, str]]) -> list[tuple[float, str]]:
    """The times at which the innermost range changes, each with the name of the new one, ``""`` outside of all ranges.

    A range is its begin, its end and its name. Ranges are nested or apart, as contexts of one thread are.
    """
    changes: list[tuple[float, str]] = []
    open_ranges: list[tuple[float, str]] = []

    def close(until: float) -> None:
        while open_ranges and open_ranges[-1][0] <= until:
            end, _ = open_ranges.pop()
            changes.append((end, open_ranges[-1][1] if open_ranges else ""))

    for begin, end, name in sorted(ranges, key=lambda item: (item[0], -item[1])):
        close(begin)
        open_ranges.append((end, name))
        changes.append((begin, name))
    close(float("inf"))
    return changes


def _device_time(events: Iterable[Mapping[str, Any]], changes: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Microseconds of GPU work for each part of a step; work counts for the part in which it was launched."""
    begins = [begin for begin, _ in changes]
    launched: dict[int, float] = {}  # time of the launch, by correlation id
    work: list[tuple[int, float]] = []  # correlation id and duration of each kernel, copy or fill
    for event in events:
        category = event.get("cat")
        if category in ("cuda_runtime", "cuda_driver"):
            launched[event["args"]["correlation"]] = event["ts"]
        elif category in ("kernel", "gpu_memcpy", "gpu_memset"):
            work.append((event["args"]["correlation"], event["dur"]))
    times: dict[str, float] = defaultdict(float)
    for correlation, duration in work:
        position = bisect_right(begins, launched.get(correlation, 0.0)) - 1
        if position >= 0 and changes[position][1]:
            times[changes[position][1]] += duration
    return times
