"""The cache of decoded images: packs of pixels, in which an image is known by its content.

A pack holds images that belong together, such as all of a target's, decoded in one way. What a run needs of them is a
view of the one mapped file, in whichever splits and with whichever labels: so all seeds, splits and copies of a dataset
share a pack, and other bytes are never old pixels. What is missing is appended.

pools/NAME.pixels   the images' pixels, one image after the other
pools/NAME.index    a RECORD for each image, written when its pixels are on the disk
pools/NAME.notes    a JSON line for each thing that decoding changed: the image's digest, and what
pools/NAME.json     how the images were decoded, and what they are of
pools/NAME.lock     locked by the process that appends

A process that is killed while it appends leaves some pixels without records. A file of pixels is never made shorter, as
other processes have it mapped. Images that cannot be decoded are not kept: each run tries them again, as the libraries
may have learnt to.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.image_pool import ImagePool
from ..runtime.claims import locked
from ..runtime.files import atomic_write, write_json
from .cache_entries import RECORD_BYTES
from .decoding.decoder import Decoder

FORMAT = 5
"""Version of the cache. Raise it whenever a decoder's pixels change, and so all cached pools and selections."""
FLUSH_BYTES = 2**24
"""After so many bytes, pixels are synced to the disk and recorded, while the next images are decoded."""
RECORD = np.dtype([("digest", "<u8", 2), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""An image of a pack: the 16 bytes of its digest, where its pixels begin or NO_PIXELS, and its size."""
assert RECORD.itemsize == RECORD_BYTES
NO_PIXELS = -1
"""In place of an offset: only the size is known, as of images that are streamed."""


class Place(NamedTuple):
    """Where an image is in a pack."""

    offset: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        """How many bytes of pixels the image has."""
        return 3 * self.height * self.width


class Made(NamedTuple):
    """An image that was decoded for a pack."""

    digest: bytes
    pixels: Tensor
    """uint8[H, W, 3], contiguous and on the CPU."""
    notes: Sequence[str]
    """What decoding changed in it."""


class Pack:
    """A pack of the cache; ``path`` is that of its files, without what follows the first dot."""

    def __init__(self, path: Path) -> None:
        self.pixels, self.index, self.notes, self.about, self.lock = (
            path.with_name(f"{path.name}.{end}") for end in ("pixels", "index", "notes", "json", "lock")
        )

    def find(self, digests: Collection[bytes], *, sizes: bool = False) -> dict[bytes, Place]:
        """Where the images with these digests are; with ``sizes``, also those whose sizes alone are known."""
        if not digests:
            return {}
        records = self._records()
        first = np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8")
        near = records[np.isin(records["digest"][:, 0], first)]
        keys = near["digest"].tobytes()
        columns = (near[name].tolist() for name in ("offset", "height", "width"))
        found: dict[bytes, Place] = {}
        for at, place in enumerate(map(Place, *columns)):
            key = keys[16 * at : 16 * at + 16]
            is_better = place.offset != NO_PIXELS or (sizes and key not in found)
            if is_better and key in digests:
                found[key] = place
        return found

    def said(self, digests: Collection[bytes]) -> Iterator[tuple[bytes, str]]:
        """The digest of each image, and what decoding changed in it, each once."""
        lines = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []
        for digest, kind in dict.fromkeys(map(_note, lines)):
            if digest in digests:
                yield digest, kind

    def pool(self, places: Sequence[Place], labels: Sequence[int]) -> ImagePool:
        """Images as a pool that is mapped into memory. Raises FileNotFoundError where they have been removed."""
        size = max((place.offset + place.bytes for place in places), default=0)
        mapped = np.memmap(self.pixels, np.uint8, "c", shape=(size,)) if size else np.empty(0, np.uint8)
        return ImagePool(
            torch.from_numpy(mapped.view(np.ndarray)),
            torch.tensor([place.offset for place in places], dtype=torch.int64),
            torch.tensor([place[1:] for place in places], dtype=torch.int32).reshape(-1, 2),
            torch.tensor(labels, dtype=torch.int64),
            is_part=True,
        )

    def touch(self) -> None:
        """Notes that the pack was used now."""
        with suppress(OSError):  # of a cache that can only be read
            os.utime(self.index)

    @contextmanager
    def appending(self, log: Callable[[str], object]) -> Iterator[None]:
        """Context in which this process alone appends; waits for another one, and logs it. Raises OSError."""
        try:
            with locked(self.lock, wait=False):
                yield
            return
        except BlockingIOError:
            log(f"cache: another process is decoding the same images: waiting for it ({self.lock})")
        with locked(self.lock, wait=True):
            yield

    def append(self, images: Iterable[Made], *, with_pixels: bool) -> None:
        """Writes images, or their sizes alone, while they are made. Raises OSError where that fails."""
        self._mend()
        commits: list[Future[None]] = []
        batch: list[tuple[bytes, Sequence[str], Place]] = []
        with self.pixels.open("ab") as pixels, ThreadPoolExecutor(1) as disk:
            end = recorded = pixels.tell()
            for made in images:
                height, width = made.pixels.shape[:2]
                batch.append((made.digest, made.notes, Place(end if with_pixels else NO_PIXELS, height, width)))
                if with_pixels:
                    # NumPy writes in this thread. torch's threads would spin, and take the cores from the decoder.
                    pixels.write(made.pixels.numpy().data)
                    end += made.pixels.numel()
                if end - recorded >= FLUSH_BYTES:
                    pixels.flush()
                    commits.append(disk.submit(self._commit, pixels, batch))
                    batch, recorded = [], end
            pixels.flush()
            commits.append(disk.submit(self._commit, pixels, batch))
            for commit in commits:
                commit.result()

    def _mend(self) -> None:
        """Removes records that are damaged, and pixels of which there is no record at all."""
        records = self._records()
        if not len(records):
            self.pixels.unlink(missing_ok=True)
        if self.index.exists() and self.index.stat().st_size != records.nbytes:
            with atomic_write(self.index) as aside:
                aside.write_bytes(records.tobytes())

    def _commit(self, pixels: BinaryIO, batch: Sequence[tuple[bytes, Sequence[str], Place]]) -> None:
        """Syncs the pixels so far to the disk, then what was changed in the images of a batch, then their records."""
        if not batch:
            return
        os.fsync(pixels.fileno())
        # A line of its own begins behind what a killed process left.
        notes = [f"\n{json.dumps([digest.hex(), kind])}" for digest, kinds, _ in batch for kind in kinds]
        records = np.zeros(len(batch), RECORD)
        records["digest"] = np.frombuffer(b"".join(digest for digest, *_ in batch), "<u8").reshape(-1, 2)
        for name in Place._fields:
            records[name] = [getattr(place, name) for *_, place in batch]
        for file, data in ((self.notes, "".join(notes).encode()), (self.index, records.tobytes())):
            with file.open("ab") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())

    def _records(self) -> NDArray[Any]:
        """The records of the images that are there, whole; none where there is no such pack."""
        try:
            data = self.index.read_bytes()
            size = self.pixels.stat().st_size  # after the index, which may grow meanwhile
        except (FileNotFoundError, NotADirectoryError):
            return np.zeros(0, RECORD)
        records = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
        ends = records["offset"] + 3 * records["height"].astype(np.int64) * records["width"]
        whole: NDArray[Any] = records[(records["offset"] == NO_PIXELS) | ((records["offset"] >= 0) & (ends <= size))]
        return whole


def _note(line: str) -> tuple[bytes, str]:
    try:
        digest, kind = json.loads(line)
        return bytes.fromhex(digest), kind
    except ValueError:  # the end of what a killed process wrote, before any record of it
        return b"", ""


class ImageCache:
    """The packs of one decoder.

    Args:
        folder: of all packs.
        decoder: what decodes the images.
    """

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        self.folder = folder
        self._how = {"decoder": decoder.name, "short_side": decoder.short_side}
        self._prefix = _hash(json.dumps([FORMAT, decoder.key]).encode(), 4)

    def pack(self, together: Collection[bytes]) -> Pack:
        """The pack that has the most of the images that belong together, given by digest; a new one where none has."""
        names = sorted(path.name for path in self.folder.glob(f"{self._prefix}-*.index"))
        packs = [Pack(self.folder / name.removesuffix(".index")) for name in names]
        counted = [(len(pack.find(together, sizes=True)), pack) for pack in packs]
        count, best = max(counted, key=lambda pair: pair[0], default=(0, None))
        if count and best is not None:
            return best
        return Pack(self.folder / f"{self._prefix}-{_hash(b''.join(sorted(together)), 8)}")

    def describe(self, pack: Pack, names: Sequence[str]) -> None:
        """Notes what a new pack is of: the folder that the images' names have in common."""
        if names and not pack.about.exists():
            columns = zip(*(name.split("/")[:-1] for name in names), strict=False)
            common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
            write_json(pack.about, {**self._how, "of": "/".join(common) or names[0]})


def _hash(data: bytes, size: int) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()
