"""Starts of the program that make a pool of some images, and count what they decode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.decoding.notes import Notes
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.ops.image_pool import ImagePool


class Counted(PillowDecoder):
    """A decoder that counts the images that it decodes."""

    count = 0

    def noting(self, images: Any, notes: Notes) -> Any:
        images = list(images)
        self.count += len(images)
        return super().noting(images, notes)


class Start:
    """What one start of the program does: it makes a pool."""

    def __init__(
        self, samples: Sequence[Sample], cache: Path | None, *, short_side: int = 8, budget: int | None = None
    ) -> None:
        self.messages: list[str] = []
        decoder = Counted(short_side, 2)
        store = ImageStore(decoder, cache, budget, self.messages.append)
        self.pool = store.build(samples, "images")
        self.bad = store.bad
        self.decoded = decoder.count


def write_images(folder: Path, count: int = 5) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    for i in range(count):
        path = folder / f"{i:02d}.png"
        PIL.Image.fromarray(random.integers(0, 256, (10, 9 + i, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(FileImage(path), i % 3))
    return samples


def equal(first: ImagePool, second: ImagePool) -> bool:
    same = len(first) == len(second) and torch.equal(first.labels, second.labels)
    return same and all(torch.equal(first[i], second[i]) for i in range(len(first)))


def pools(cache: Path) -> list[Path]:
    return sorted((cache / "pools").glob("*.pixels"))
