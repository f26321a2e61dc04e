"""What the control groups of Linux, in which containers run, let a process have: CPU time and memory.

A process is in a group of version 2's one hierarchy and, where version 1 is mounted, in a group of each controller's
own. A limit of any group from the process's own up to the root holds. Where there are no control groups, there is no
limit; nor is one seen that lies above what is mounted in a container.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/")
INFINITY = float("inf")


def cpu_quota(root: Path = ROOT) -> float:
    """How many CPUs' time the process's groups may take together, the least of their quotas; infinity without one.

    ``root`` is the folder that holds ``proc`` and what is mounted.
    """
    return min(map(_quota, _folders("cpu", root)), default=INFINITY)


def memory_left(root: Path = ROOT) -> float:
    """How many bytes the memory limits of the process's groups leave, the least of them; infinity without a limit.

    Pages of files that have not been used lately count as free, because the kernel drops them first. ``root`` is the
    folder that holds ``proc`` and what is mounted.
    """
    return min(map(_left, _folders("memory", root)), default=INFINITY)


def _quota(folder: Path) -> float:
    """The CPUs of a group's own quota: version 2's cpu.max, or version 1's two files, with -1 for none."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except FileNotFoundError:
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return INFINITY  # the root, or a group without this controller
    except OSError:
        return INFINITY
    return INFINITY if quota == "max" or int(quota) < 0 else int(quota) / int(period)


def _left(folder: Path) -> float:
    """The bytes that a group's own limit leaves. Version 1 writes a limit of about 2^63 where there is none."""
    for limit, usage, unused in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((folder / limit).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(most - int((folder / usage).read_text()) + int(statistics[unused]), 0)
        except (OSError, ValueError, KeyError):  # of the other version, or "max"
            continue
    return INFINITY


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the process's groups with this controller, of both versions, each up to where it is mounted."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # systems other than Linux
        return
    for group in groups:  # such as 0::/user.slice, or 4:cpu,cpuacct:/docker/1f2e with version 1
        _, controllers, path = group.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for shown, mounted_at in _mounts(controller if controllers else None, mounts):
            # A container may be shown its own group as the root of what is mounted.
            inside = os.path.relpath(path, shown)
            top = root / mounted_at.lstrip("/")
            folder = top if inside.startswith("..") else top / inside
            yield folder
            while folder != top:
                folder = folder.parent
                yield folder


def _mounts(controller: str | None, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Which group is shown where, by lines of mountinfo; None is version 2.

    A line is such as ``31 23 0:28 /docker/1f2e /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu``.
    """
    for line in lines:
        place, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2" if controller is None else kind == "cgroup" and controller in options.split(","):
            shown, mounted_at = place.split()[3:5]
            yield shown, mounted_at
