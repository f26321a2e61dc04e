"""JPEG files of about 500 x 375 pixels with natural detail, for the benchmarks that decode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from conftest import CORES
from natural import natural

SIZES = ((375, 500), (333, 500), (500, 375))


def write_photos(folder: Path, count: int) -> list[Path]:
    """Writes as many different files; the same ones each time."""
    random = np.random.default_rng(0)
    paths = [folder / f"{i:03d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        natural(*SIZES[i % len(SIZES)], random).save(path, quality=90)
    return paths


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets threads and processes started in it run on every core; OMP_PROC_BIND binds the main thread to one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
