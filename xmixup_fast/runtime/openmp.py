"""What the commands ask of OpenMP before torch loads it: a short spin, and no more threads than a CPU quota feeds.

At the end of a parallel loop, threads of GNU OpenMP (libgomp), which torch brings on Linux, spin until the last one is
there, 300,000 rounds or about 7 ms, before they sleep. Where other processes want the cores, they hold the very core
that the last thread waits for. Threads that never spin have to be woken after each loop, which costs time on an idle
machine. A short spin is between the two: bench/busy.py measures them all.

A CPU quota stops all threads of a container once they have used it up, until its next period. One of OpenMP's threads
that is stopped stops all at the end of the loop, so that the quota is rounded down.

OpenMP reads the environment once, when torch loads it. Importing xmixup_fast changes nothing: the environment belongs
to the program that imports it. Nothing here needs torch.
"""

from __future__ import annotations

import math
import os
import sys

from .control_group import cpu_quota

SPIN_COUNT = 10_000
"""Rounds that threads of libgomp spin, of about 24 ns each."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Environment variables that say how threads wait."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that say how many threads torch has."""

_chosen: dict[str, str] = {}
"""The variables that :func:`set_environment` has set, and why."""


def set_environment() -> None:
    """Sets variables that neither the user nor a parent has set: GOMP_SPINCOUNT, and OMP_NUM_THREADS under a CPU quota.

    For the main function of a command, before anything imports torch; without effect afterwards. Processes that the
    command starts inherit both.
    """
    if "torch" in sys.modules:
        return
    if sys.platform == "linux" and not any(name in os.environ for name in WAITING):
        _choose("GOMP_SPINCOUNT", SPIN_COUNT, "a short spin, then sleep")
    cpus = cpu_count()
    threads = threads_under_quota(cpus)
    if threads < cpus:
        _choose("OMP_NUM_THREADS", threads, "what the quota feeds")


def _choose(name: str, value: int, why: str) -> None:
    _chosen[name] = why
    os.environ[name] = str(value)


def cpu_count() -> int:
    """How many CPUs the process may run on. With OMP_PROC_BIND, the import of torch leaves the first thread one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_under_quota(threads: int) -> int:
    """So many threads, or those that the CPU quota feeds, if these are fewer and no variable of THREADS is set."""
    if any(name in os.environ for name in THREADS):
        return threads
    quota = cpu_quota()
    return threads if math.isinf(quota) else min(threads, max(1, math.floor(quota)))


def describe_threads(threads: int, cpus: int) -> str:
    """A line on a number of threads, of a process with so many CPUs: where it comes from."""
    quota = cpu_quota()
    limit = "no quota" if math.isinf(quota) else f"quota of {quota:g} CPUs"
    return f"{threads} (of {cpus} CPUs; {limit}{''.join(f'; {given}' for given in _given(THREADS))})"


def describe_waiting() -> str:
    """A line on how OpenMP's threads wait for each other."""
    return ", ".join(_given(WAITING)) or "OpenMP's default"


def _given(names: tuple[str, ...]) -> list[str]:
    """Those of the variables that are set, with who has set them."""
    return [
        f"{name}={os.environ[name]} (set by {f'xmixup: {_chosen[name]}' if name in _chosen else 'you'})"
        for name in names
        if name in os.environ
    ]
