"""Runs a command, and measures its time, its processors' time and the memory of all its processes. Linux alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
INTERVAL = 2.0
"""Seconds from one look at the memory to the next: each takes a tenth of a second of a core,
as the kernel walks all pages."""


@dataclass(frozen=True)
class Measured:
    """What a command took, with all processes that it started."""

    began: float
    """When it was started, by the monotonic clock, in seconds."""
    ended: float
    cpu_seconds: float
    """Of the processes that it waited for, and of itself."""
    pss_mib: float
    """The most memory at a time: the sum of proportional shares, in which what processes share counts once."""
    rss_mib: float
    """The same as a sum of resident sets, in which it counts in each process."""


def run(command: Sequence[str], log: Path, timeout: float, environment: dict[str, str] | None = None) -> Measured:
    """Runs a command in a session of its own; stdout and stderr go to ``log``.

    Raises RuntimeError, with the end of the log, where the command fails, or takes more than ``timeout`` seconds: then
    its processes are killed.
    """
    done = threading.Event()
    with log.open("wb") as file:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    peaks = Peaks(process.pid)
    watch = threading.Thread(target=peaks.watch, args=(done,))
    alarm = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    alarm.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        ended = time.monotonic()
        alarm.cancel()
        done.set()
        watch.join()
        if process.returncode is None:  # this process was interrupted
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{log}: the command ended with {process.returncode} after {ended - began:.0f} s:\n{end}")
    return Measured(began, ended, usage.ru_utime + usage.ru_stime, peaks.pss / MIB, peaks.rss / MIB)


class Peaks:
    """The most memory that the processes of a session had at a time, in bytes."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.pss = self.rss = 0

    def watch(self, done: threading.Event) -> None:
        while not done.wait(INTERVAL):
            shares = [memory(process) for process in members(self.session)]
            self.pss = max(self.pss, sum(pss for pss, _ in shares))
            self.rss = max(self.rss, sum(rss for _, rss in shares))


def members(session: int) -> list[int]:
    """The processes of a session, which processes belong to unless they leave it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if int(fields[3]) == session:
            found.append(int(path.parent.name))
    return found


def memory(process: int) -> tuple[int, int]:
    """Proportional share and resident set of a process, in bytes; zeros where it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    values = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.M))
    return 1024 * int(values.get("Pss", 0)), 1024 * int(values.get("Rss", 0))
