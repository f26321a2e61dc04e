"""Ranges of bytes: joined into blocks, so that few requests are made, and as a file that can be read anywhere."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LARGEST_BLOCK = 8 * 2**20
"""Bytes of one request, at most."""
LARGEST_GAP = 64_000
"""Bytes between two ranges that are read and dropped rather than asked for in two requests, at most."""
GAP_SHARE = 0.05
"""Share of a block that may be such gaps."""
SMALL_GAP = 1024
"""Gaps below this, which take no more than the headers of a request, are joined whatever their share: tar's padding."""


class Range(NamedTuple):
    """Bytes of a remote file, from ``begin`` up to and without ``end``."""

    path: str
    begin: int
    end: int


@dataclass
class Block:
    """Bytes that one request fetches, and which ranges, or parts of one, lie in them."""

    path: str
    begin: int
    end: int
    parts: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each: the position of the range among all; the first byte of it that is here, and the byte after the last."""
    gaps: int = 0
    """Bytes that no range asks for, without small gaps."""


def blocks(ranges: Sequence[Range]) -> list[Block]:
    """Joins ranges to blocks of at most LARGEST_BLOCK bytes; larger ranges are divided.

    Ranges of one path are joined over gaps of at most LARGEST_GAP bytes each and GAP_SHARE of the block together, and
    over gaps below SMALL_GAP. Ranges without bytes are in no block. Blocks are in the order of the first range in them.
    """
    parts = [
        (one.path, begin, min(begin + LARGEST_BLOCK, one.end), i)
        for i, one in enumerate(ranges)
        for begin in range(one.begin, one.end, LARGEST_BLOCK)
    ]
    found: list[Block] = []
    for path, begin, end, i in sorted(parts):
        if not found or not _fits(found[-1], path, begin, end):
            found.append(Block(path, begin, begin))
        block = found[-1]
        block.gaps += _gap(block, begin)
        block.end = max(block.end, end)
        block.parts.append((i, begin, end))
    return sorted(found, key=lambda block: min(block.parts))


def _fits(block: Block, path: str, begin: int, end: int) -> bool:
    """Whether a range that begins no earlier than the block can join it."""
    size = max(block.end, end) - block.begin
    gap = _gap(block, begin)
    is_near = gap == 0 or (gap <= LARGEST_GAP and block.gaps + gap <= GAP_SHARE * size)
    return path == block.path and size <= LARGEST_BLOCK and is_near


def _gap(block: Block, begin: int) -> int:
    """Bytes between a block and what begins at ``begin``; 0 where they are few."""
    gap = begin - block.end
    return gap if gap >= SMALL_GAP else 0


class RangeFile(io.RawIOBase):
    """A file to read and to seek in, whose bytes come in ranges: for tarfile and pyarrow.

    It keeps the last range, and of that only what lies at and after the place that is read, so that what is read in
    order is fetched once.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, read_ahead: int = 2**16) -> None:
        """
        Args:
            read: gives the bytes from ``begin`` up to and without ``end``; raises OSError.
            size: of the file, in bytes.
            read_ahead: fetches at least so many bytes, as far as the file has them. It may be changed at any time.
        """
        super().__init__()
        self.read_ahead = read_ahead
        self._read, self._size = read, size
        self._at = self._begin = 0
        self._kept = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Reads ``size`` bytes, or all that follow; fewer only at the end of the file. Raises OSError."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        kept_end = self._begin + len(self._kept)
        if not self._begin <= self._at <= kept_end:
            self._begin, self._kept, kept_end = self._at, b"", self._at
        if end > kept_end:
            until = min(max(end, kept_end + self.read_ahead), self._size)
            # The byte before stays, since tarfile reads it again: see 513 in :mod:`.class_tars`.
            drop = max(self._at - self._begin - 1, 0)
            self._kept = self._kept[drop:] + self._read(kept_end, until)
            self._begin += drop
        start = self._at - self._begin
        data = self._kept[start : start + end - self._at]
        self._at = end
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
