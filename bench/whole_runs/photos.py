"""Made photographs of classes that overlap, in folders: what whole runs learn, validate on, test on and mix with.

A photograph is natural noise behind a striped ellipse. Its class sets the hue of the ellipse and the width of the
stripes, both around which each photograph varies: neighbouring classes share photographs, so that no network can be
right about all of them. Place, size, tilt and opacity say nothing of the class, and no class changes in a mirror.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from natural import natural

HEIGHT, WIDTH = 375, 500
CLASSES = 10
SPLITS = {"train": 600, "val": 200, "test": 1000}
"""Photographs of each split, of all classes together, in a full run."""
SOURCE_CLASSES = 20
SOURCE_PHOTOS = 600
HUE_SPREAD = 0.06
"""Standard deviation of a photograph's hue around that of its class, in turns of the colour wheel."""
WAVELENGTHS = 12.0, 28.0
"""Distance from stripe to stripe, in pixels of the file."""
WAVELENGTH_SPREAD = 0.35
"""Standard deviation of its binary logarithm within a class."""


@dataclass(frozen=True)
class Photo:
    """A file to be made. The same fields make the same bytes with the same versions of NumPy and Pillow."""

    path: Path
    hue: float
    """Of its class, in turns of the colour wheel."""
    wavelength: float
    """Of its class, in pixels."""
    seed: tuple[int, ...]


def write_all(folder: Path, counts: dict[str, int], source: int, threads: int = 1) -> None:
    """Writes target/train, target/val, test and source: folders of class folders of JPEG files.

    ``counts`` is the number of photographs of each of ``SPLITS``, ``source`` that of the source. Files that are there
    are written anew.

    Raises ValueError where a number is not a multiple of the number of classes.
    """
    photos = [photo for split, count in counts.items() for photo in target_photos(folder, split, count)]
    photos += source_photos(folder, source)
    for parent in {photo.path.parent for photo in photos}:
        parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, photos))  # raises what a thread raised


def target_photos(folder: Path, split: str, count: int) -> Iterator[Photo]:
    """The photographs of a split of the target: five hues by two widths of stripes."""
    place = folder / "test" if split == "test" else folder / "target" / split
    for label, number in numbered(split, count, CLASSES):
        path = place / f"class{label:02d}" / f"{number:04d}.jpg"
        seed = list(SPLITS).index(split), label, number
        yield Photo(path, label % 5 / 5, WAVELENGTHS[label // 5], seed)


def source_photos(folder: Path, count: int) -> Iterator[Photo]:
    """The photographs of the source: ten hues by two widths, half of which are the target's."""
    for label, number in numbered("source", count, SOURCE_CLASSES):
        path = folder / "source" / f"kind{label:02d}" / f"{number:04d}.jpg"
        yield Photo(path, label % 10 / 10, WAVELENGTHS[label // 10], (len(SPLITS), label, number))


def numbered(what: str, count: int, classes: int) -> Iterator[tuple[int, int]]:
    """Label and number of each of ``count`` photographs, as many in each class."""
    if count < classes or count % classes:
        raise ValueError(f"photographs of {what}: expected a multiple of its {classes} classes, got {count}")
    yield from ((label, number) for label in range(classes) for number in range(count // classes))


def write(photo: Photo) -> None:
    random = np.random.default_rng(photo.seed)
    picture(photo.hue, photo.wavelength, random).save(photo.path, quality=90)


def picture(hue: float, wavelength: float, random: np.random.Generator) -> PIL.Image.Image:
    """A photograph of the class with this hue and wavelength."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x -= WIDTH * random.uniform(0.35, 0.65)
    y -= HEIGHT * random.uniform(0.35, 0.65)
    outside = (x / random.uniform(90, 170)) ** 2 + (y / random.uniform(90, 150)) ** 2
    opacity = random.uniform(0.3, 0.6) / (1 + np.exp(12 * (outside.clip(max=3) - 1)))  # soft at the edge
    tilt, phase = random.uniform(0, 2 * np.pi, size=2)
    wavelength *= 2 ** random.normal(0, WAVELENGTH_SPREAD)
    stripes = np.sin(2 * np.pi * (x * np.cos(tilt) + y * np.sin(tilt)) / wavelength + phase)
    colour = 255 * np.array(colorsys.hsv_to_rgb((hue + random.normal(0, HUE_SPREAD)) % 1, 0.6, 0.75))
    ellipse = colour * (1 + 0.4 * stripes[..., None])
    background = np.asarray(natural(HEIGHT, WIDTH, random), np.float32)
    pixels = background + opacity[..., None] * (ellipse - background)
    return PIL.Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
