"""While a run computes on a CPU, glibc keeps the memory that it frees, and gives it to what is allocated next.

A network's activations are tens of MiB each, allocated and freed in every step. By default glibc maps blocks of that
size anew each time, and the kernel fills each page with zeros when it is first written, which takes a good part of a
training step. What is kept is at most what the run has had at a time, and the gaps between; it goes back at the end.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Environment variables by which a user tells glibc when to give memory back; GLIBC_TUNABLES is another."""

KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
"""No blocks of their own for large allocations, and nothing cut off the end of the heap."""
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""What glibc itself has reached in a process that has freed blocks as large as activations are."""


@contextmanager
def kept_heap() -> Iterator[None]:
    """A context in which freed memory stays with the process; afterwards, what is free goes back to the system.

    Does nothing where the C library is not glibc, or where an environment variable has told glibc what to do.
    """
    library = _glibc()
    if library is None or _told():
        yield
        return
    _set(library, KEEP)
    try:
        yield
    finally:
        _set(library, USUAL)
        library.malloc_trim(0)


def _told() -> bool:
    """Whether the user has set when memory goes back."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in VARIABLES)


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The process's C library where it is glibc."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if hasattr(library, "gnu_get_libc_version") else None
