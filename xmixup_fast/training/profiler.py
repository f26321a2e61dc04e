"""Profiling: a trace of some training steps, and a table that tells where their time goes.

The trainer names the parts of a step with ``trainer.span``. Where nothing is profiled that is :func:`no_span`, which
does nothing; :func:`profiled` puts ranges of the profiler there for the length of a run.
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
"""Steps that are not profiled, at most: kernels are chosen and memory is taken in the first ones."""
STEPS = 15
"""Steps that are profiled, at most."""
PARTS = ("data", "plan", "mix", "forward", "backward", "update")
"""The parts of a step. A part excludes parts inside of it: planning lies in data, the wait for the next batch."""
STEP = "step"
"""All of a step, with the wait for its end."""

Span = Callable[[str], AbstractContextManager[object]]
"""Gives a context for a part of a step, by its name."""

_NO_SPAN = nullcontext()


def no_span(name: str) -> AbstractContextManager[object]:
    """No range at all."""
    return _NO_SPAN


class Steps(Protocol):
    """What is profiled: a trainer."""

    steps: int
    steps_done: int
    span: Span


@contextmanager
def profiled(trainer: Steps, folder: Path, log: Callable[[str], object]) -> Iterator[None]:
    """Profiles the trainer's next steps, after a few, while the context lasts.

    Writes them to trace.json.gz in the run folder, for chrome://tracing or ui.perfetto.dev; ``log`` gets the table.
    """
    left = trainer.steps - trainer.steps_done
    if left == 0:
        yield
        return
    before = min(WARM_UP_STEPS, left // 2)
    warm_up = min(before, 1)  # the profiler itself needs one
    schedule = torch.profiler.schedule(
        wait=before - warm_up, warmup=warm_up, active=min(STEPS, left - before), repeat=1
    )

    def finish(profiler: torch.profiler.profile) -> None:
        path = folder / "trace.json.gz"
        with atomic_write(path) as aside:
            profiler.export_chrome_trace(str(aside))
            trace = aside.read_bytes()
            aside.write_bytes(gzip.compress(trace))
        for line in table(json.loads(trace)["traceEvents"]):
            log(line)
        log(f"the profiler's trace: {path}")

    with torch.profiler.profile(schedule=schedule, on_trace_ready=finish) as profiler:

        @contextmanager
        def span(name: str) -> Iterator[None]:
            with torch.profiler.record_function(name):
                yield
            if name == STEP:
                profiler.step()

        trainer.span = span
        try:
            yield
        finally:
            trainer.span = no_span


def table(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that tell the time of each part of a step, out of the events of a chrome trace; without steps, one line.

    With GPU work there is a column for it: the time of the kernels and copies that each part has launched.
    """
    steps = [event for event in events if event.get("cat") == "user_annotation" and event["name"] == STEP]
    if not steps:
        return ["profile: no step was profiled"]
    marks = _marks(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"] in (*PARTS, STEP) and event["tid"] == steps[0]["tid"]
    )
    host: dict[str, float] = defaultdict(float)
    for (begin, name), (end, _) in pairwise(marks):
        host[name] += end - begin
    device = _device_time(events, marks)

    total = sum(event["dur"] for event in steps)
    heading = f"{f'mean of {len(steps)} steps':16s} {'ms':>10s} {'share':>8s}"
    lines = [heading + (f" {'GPU ms':>10s} {'share':>8s}" if device else "")]
    rows = [(name, host[name], device.get(name, 0.0)) for name in PARTS]
    rows += [("other", host[STEP], device.get(STEP, 0.0)), (STEP, total, sum(device.values()))]
    for name, *times in rows:
        spent = times if device else times[:1]
        lines.append(f"  {name:14s}" + "".join(f" {us / len(steps) / 1000:10.3f} {us / total:8.1%}" for us in spent))
    return lines


def _marks(ranges: Iterable[tuple[float, float, str]]) -> list[tuple[float, str]]:
    """When the innermost range changes, and to which; ``""`` is none. Ranges have a begin, an end and a name."""
    marks: list[tuple[float, str]] = []
    open_ranges: list[tuple[float, str]] = []

    def close(until: float) -> None:
        while open_ranges and open_ranges[-1][0] <= until:
            end, _ = open_ranges.pop()
            marks.append((end, open_ranges[-1][1] if open_ranges else ""))

    for begin, end, name in sorted(ranges, key=lambda item: (item[0], -item[1])):
        close(begin)
        open_ranges.append((end, name))
        marks.append((begin, name))
    close(float("inf"))
    return marks


def _device_time(events: Iterable[Mapping[str, Any]], marks: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Microseconds of GPU work by the part that launched it, from whatever thread: backward has one of its own."""
    begins = [begin for begin, _ in marks]
    launched: dict[int, float] = {}
    work: list[tuple[int, float]] = []
    for event in events:
        category = event.get("cat")
        if category in ("cuda_runtime", "cuda_driver"):
            launched[event["args"]["correlation"]] = event["ts"]
        elif category in ("kernel", "gpu_memcpy", "gpu_memset"):
            work.append((event["args"]["correlation"], event["dur"]))
    spent: dict[str, float] = defaultdict(float)
    for correlation, length in work:
        place = bisect_right(begins, launched.get(correlation, 0.0)) - 1
        if place >= 0 and marks[place][1]:
            spent[marks[place][1]] += length
    return spent
