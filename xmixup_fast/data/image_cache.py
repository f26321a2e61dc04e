"""The cache of decoded images: for a list of images, a pool or the images' sizes, and remarks on the images.

An entry's name is a hash of the decoder's settings and of every image's name, stamp and label, so that any change makes
a new entry. Old entries are never removed; the whole folder may be deleted at any time. Processes may write the same
entry at once: each writes to a file of its own, which it then renames.

An entry is not used where an image that was bad can be decoded now: a stamp does not change when a file becomes
readable.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ops.image_pool import ImagePool
from ..runtime.files import write_text, writing_to_cache
from .dataset import BadFile, Sample, stamp_or_reason
from .decoding.decoder import Decoder

FORMAT = 4
"""Version of the cache. Raise it whenever a decoder's pixels change, and so all cached pools and selections."""
STALE_SECONDS = 3600
"""Unfinished files that no process has written to for so long were left by killed processes, and are removed."""


@dataclass
class Remarks:
    """What decoding found."""

    bad: list[BadFile] = field(default_factory=list)
    """The images that could not be decoded."""
    notes: list[str] = field(default_factory=list)
    """Lines of text about what was changed in images."""

    @staticmethod
    def of(found: dict[str, Any]) -> Remarks:
        """The remarks of what ``asdict`` and JSON made of them."""
        return Remarks([BadFile(*item) for item in found["bad"]], found["notes"])


class CacheEntry:
    """What the cache keeps of some images.

    Args:
        folder: of the cache.
        decoder: the decoder of the images.
        samples: the images and their labels.
    """

    def __init__(self, folder: Path, decoder: Decoder, samples: Sequence[Sample]) -> None:
        self.folder = folder
        self.decoder = decoder
        self.samples = samples
        digest = hashlib.sha256(json.dumps([FORMAT, decoder.key]).encode())
        for sample in samples:
            line = json.dumps([sample.image.name, stamp_or_reason(sample.image), sample.label])
            digest.update(line.encode() + b"\n")
        key = digest.hexdigest()[:40]
        self.pool_path = folder / f"{key}.safetensors"
        self.remarks_path = folder / f"{key}.remarks.json"
        self.sizes_path = folder / f"{key}.sizes.json"

    def read_pool(self) -> tuple[ImagePool, Remarks] | None:
        """Maps the cached pool and reads the remarks; None where either is missing, damaged or outdated."""
        try:
            pool = ImagePool.load(self.pool_path)
            remarks = Remarks.of(json.loads(self.remarks_path.read_text()))
        except (OSError, ValueError):
            return None
        return (pool, remarks) if self.decoder.all_unreadable(self.samples, remarks.bad) else None

    def write_pool(self, images: Iterable[tuple[Tensor, int]], remarks: Remarks) -> ImagePool:
        """Writes images with their labels, and then the remarks; returns the pool, mapped into memory.

        ``remarks`` may grow while ``images`` are made.

        Raises OSError where the cache cannot be written.
        """
        with writing_to_cache(self.folder):
            _remove_stale(self.folder)
            ImagePool.write(self.pool_path, images)
            # Written last, so that a pool without remarks is an unfinished entry.
            write_text(self.remarks_path, json.dumps(asdict(remarks)))
        return ImagePool.load(self.pool_path)

    def read_sizes(self) -> tuple[list[list[int]], Remarks] | None:
        """Reads heights and widths of the images, and the remarks; None where they are missing or outdated."""
        try:
            found = json.loads(self.sizes_path.read_text())
        except (OSError, ValueError):
            return None
        remarks = Remarks.of(found)
        return (found["sizes"], remarks) if self.decoder.all_unreadable(self.samples, remarks.bad) else None

    def write_sizes(self, sizes: Sequence[Sequence[int]], remarks: Remarks) -> None:
        """Writes heights and widths of the images, and the remarks. Raises OSError where that fails."""
        with writing_to_cache(self.folder):
            write_text(self.sizes_path, json.dumps({"sizes": sizes, **asdict(remarks)}))


def _remove_stale(folder: Path) -> None:
    """Removes unfinished files of killed processes. A living process writes to its file all the time."""
    for path in folder.glob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:  # its process has finished it, or another one has removed it
            continue
