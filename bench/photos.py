"""JPEG files of about 500 x 375 pixels with natural detail, for the benchmarks that decode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
from conftest import CORES

SIZES = ((375, 500), (333, 500), (500, 375))


def natural(height: int, width: int, random: np.random.Generator) -> PIL.Image.Image:
    """Smooth noise at eight scales, the finer the weaker: 2.8 bits per pixel as JPEG, as photographs have."""
    pixels = np.zeros((height, width, 3), np.float32)
    for scale in 2 ** np.arange(1, 9):
        for channel in range(3):
            noise = PIL.Image.fromarray(random.normal(size=(scale, scale)).astype(np.float32))
            pixels[..., channel] += np.asarray(noise.resize((width, height), PIL.Image.Resampling.BICUBIC)) / scale**0.3
    return PIL.Image.fromarray((120 + 55 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


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
