"""Makes the images of a run ready for use: decoded in memory, within a budget, or streamed.

Headers tell how large a pool will be, so a pool that exceeds the memory budget is refused before anything is decoded.
With a cache, a pool is written to a file image by image, which takes little memory, and then mapped. A stream decodes
all images once at the start, which finds bad files and the images' sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import Tensor

from ..ops.image_pool import ImagePool
from ..runtime.distributed import local_rank_zero_first
from ..runtime.progress import progress
from ..settings.values import format_bytes
from .bad_files import without
from .dataset import BadFile, Image, Sample
from .decoding.decoder import Decoder, ordered_map
from .decoding.pillow import Header
from .decoding.steps import Opened, resized_bytes
from .image_cache import CacheEntry, Remarks
from .streamed import StreamedImages

HEADERS_AT_A_TIME = 64
"""How many headers a thread reads in one go."""


class OverBudget(ValueError):
    """A pool does not fit the memory budget."""


class ImageStore:
    """Makes the pools and streams of a run, one after the other.

    In all methods ``name`` says which images these are, such as "train images", and appears in messages.

    Args:
        decoder: decodes all images.
        cache: folder of cached pools; None to make pools in memory.
        budget: bytes that all pools together may have; None for no limit.
        log: called with a line of text about each pool or stream.
        smallest: the least height and width that images need, in pixels.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: Path | None,
        budget: int | None,
        log: Callable[[str], object],
        smallest: int = 1,
    ) -> None:
        self.decoder = decoder
        self.cache = cache / "pools" if cache else None
        self.budget = budget
        self.log = log
        self.smallest = smallest
        self.bytes = 0
        """Bytes of pixels in all pools so far."""
        self.streamed: list[str] = []
        """Names of the images that are streamed."""
        self.bad: list[BadFile] = []
        """All images so far that could not be decoded."""

    def images(self, samples: Sequence[Sample], name: str, storage: str) -> ImagePool | StreamedImages:
        """Makes a pool or a stream: ``storage`` is "resident", "stream", or "auto" for a pool if it fits the budget.

        Raises what :meth:`build` and :meth:`stream` raise.
        """
        if storage != "stream":
            try:
                return self.build(samples, name)
            except OverBudget:
                if storage != "auto":
                    raise
        return self.stream(samples, name)

    def build(self, samples: Sequence[Sample], name: str) -> ImagePool:
        """Makes a pool on the CPU of all images that can be decoded, in order, with their labels.

        A cached pool is mapped into memory. Progress is shown on a terminal.

        Raises OverBudget where the pool does not fit the budget, ValueError for an image that is too small, and OSError
        where the cache cannot be written.
        """
        if self.cache is None:
            pool, remarks = self._decoded_pool(samples, name)
        else:
            with local_rank_zero_first():
                pool, remarks = self._cached_pool(CacheEntry(self.cache, self.decoder, samples), name)
        self.bytes += pool.pixels.numel()
        self._take(remarks, name)
        return pool

    def stream(self, samples: Sequence[Sample], name: str) -> StreamedImages:
        """Makes a stream on the CPU of all images that can be decoded, in order, with their labels.

        All images are decoded once, unless the cache holds their sizes. Progress is shown on a terminal.

        Raises ValueError for an image that is too small, and OSError where the cache cannot be written.
        """
        with local_rank_zero_first():
            sizes, remarks = self._sizes(samples, name)
        self._take(remarks, name)
        self.streamed.append(name)
        table = torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2)
        return StreamedImages(without(samples, self.bad), table, self.decoder)

    def release(self, pool: ImagePool, samples: Sequence[Sample], name: str) -> StreamedImages:
        """Makes a stream of the images of a pool, which no longer counts towards the budget.

        ``pool`` is what :meth:`build` returned for these samples.
        """
        self.bytes -= pool.pixels.numel()
        self.streamed.append(name)
        return StreamedImages(without(samples, self.bad), pool.sizes.cpu(), self.decoder)

    def storage(self) -> str:
        """A line of text that says which images are streamed, and how much memory the pools take."""
        names = ", ".join(name.removesuffix(" images") for name in self.streamed)
        parts = [f"{names} images streamed"] if self.streamed else []
        if self.bytes:
            budget = f" of a memory budget of {format_bytes(self.budget)}" if self.budget is not None else ""
            parts.append(f"{format_bytes(self.bytes)}{budget} resident")
        return "storage: " + ", ".join(parts)

    def _take(self, remarks: Remarks, name: str) -> None:
        self.bad += remarks.bad
        for line in remarks.notes:
            self.log(f"{name}: {line}")

    def _decoded_pool(self, samples: Sequence[Sample], name: str) -> tuple[ImagePool, Remarks]:
        """Makes a pool in memory."""
        remarks = Remarks()
        headers = self._headers(samples)
        size = self._expected_bytes(headers)
        self._check_budget(size, name)
        return ImagePool.collect(self._decode(samples, name, remarks, headers), size), remarks

    def _cached_pool(self, entry: CacheEntry, name: str) -> tuple[ImagePool, Remarks]:
        """Reads a pool from the cache, or makes it there."""
        found = entry.read_pool()
        if found:
            self._check_budget(found[0].pixels.numel(), name)
            self.log(f"{name}: {len(found[0])} from the cache, {entry.pool_path}")
            return found
        headers = self._headers(entry.samples)
        self._check_budget(self._expected_bytes(headers), name)
        remarks = Remarks()
        return entry.write_pool(self._decode(entry.samples, name, remarks, headers), remarks), remarks

    def _sizes(self, samples: Sequence[Sample], name: str) -> tuple[list[list[int]], Remarks]:
        """Height and width of each image that can be decoded, from the cache if they are there."""
        entry = CacheEntry(self.cache, self.decoder, samples) if self.cache else None
        found = entry.read_sizes() if entry else None
        if entry and found:
            self.log(f"{name}: {len(found[0])} image sizes read from the cache, {entry.sizes_path}")
            return found
        remarks = Remarks()
        headers = self._headers(samples) if self.decoder.short_side is None else repeat(None)
        sizes = [list(image.shape[:2]) for image, _ in self._decode(samples, name, remarks, headers)]
        if entry:
            entry.write_sizes(sizes, remarks)
        return sizes, remarks

    def _decode(
        self, samples: Sequence[Sample], name: str, remarks: Remarks, headers: Iterable[Header | None]
    ) -> Iterator[tuple[Tensor, int]]:
        """Yields the images that can be decoded, with their labels, and adds to ``remarks``."""
        started = time.perf_counter()
        images = (
            Opened(sample.image, header) if header else sample.image
            for sample, header in zip(samples, headers, strict=False)
        )
        results = self.decoder.decode(images, remarks.notes.append)
        pairs = zip(samples, results, strict=True)
        for sample, result in progress(pairs, len(samples), f"decoding {name}"):
            if isinstance(result, BadFile):
                remarks.bad.append(result)
            else:
                yield result, sample.label
        seconds = time.perf_counter() - started
        self.log(f"{name}: {len(samples)} decoded in {seconds:.1f} s, {len(samples) / seconds:.0f} images/s")

    def _headers(self, samples: Sequence[Sample]) -> list[Header | None]:
        """Reads all headers. A header that cannot be read is None; decoding then says what is wrong with the file.

        Raises ValueError for an image that is not resized and smaller than ``smallest``.
        """
        with ThreadPoolExecutor(self.decoder.threads) as workers:
            headers = list(
                chain.from_iterable(ordered_map(workers, partial(_read_headers, self.decoder), _chunks(samples), 8))
            )
        for sample, header in zip(samples, headers, strict=True):
            if header and self.decoder.short_side is None and min(header.height, header.width) < self.smallest:
                raise ValueError(
                    f"image_size: {self.smallest} is more than an image has, {header.height}x{header.width}: "
                    f"{sample.image.name}; have all images resized, as with --resize {round(self.smallest * 8 / 7)}, "
                    "or leave this one out"
                )
        return headers

    def _expected_bytes(self, headers: Sequence[Header | None]) -> int:
        return sum(resized_bytes(header, self.decoder.short_side) for header in headers if header)

    def _check_budget(self, size: int, name: str) -> None:
        """Raises OverBudget where a further pool of ``size`` bytes does not fit the budget."""
        if self.budget is not None and self.bytes + size > self.budget:
            total = f", with those before them {format_bytes(self.bytes + size)}" if self.bytes else ""
            raise OverBudget(
                f"memory_budget: {name} need {format_bytes(size)}{total}, and the budget is "
                f"{format_bytes(self.budget)}; use fewer or smaller images (--shots, --top-k, --resize), a larger "
                "--memory-budget, --storage stream, which keeps auxiliary images alone in memory, or --storage "
                "resident, which keeps all there regardless"
            )


def _read_headers(decoder: Decoder, samples: Sequence[Sample]) -> list[Header | None]:
    return [_read_header(decoder, sample.image) for sample in samples]


def _read_header(decoder: Decoder, image: Image) -> Header | None:
    try:
        with image.open() as stream:
            return decoder.read_header(stream, image.name)
    except Exception:  # parsers of damaged bytes raise almost anything
        return None


def _chunks(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while chunk := list(islice(rest, HEADERS_AT_A_TIME)):
        yield chunk
