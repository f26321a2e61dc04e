"""How much memory there is, and how amounts of it are written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

_NAMES = {10: "KiB", 20: "MiB", 30: "GiB"}


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as 4GiB, 500MB or 1.5G. Raises ValueError for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?)B?\s*", text.upper())
    if not match:
        raise ValueError(f"expected an amount such as 4GiB or 500MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(count: int) -> str:
    """An amount in KiB, in MiB from one on, or in GiB from one on."""
    unit = next((unit for unit in (30, 20) if count >= 2**unit), 10)
    return f"{count / 2**unit:.1f} {_NAMES[unit]}"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on a CPU, what its control group's limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(_available(), _left_to_control_group()))


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_to_control_group() -> float:
    """What version 2 control groups allow; without a limit infinity."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(limit - int((folder / "memory.current").read_text()) + int(statistics["inactive_file"]), 0)
    except (OSError, ValueError, KeyError):
        return float("inf")
