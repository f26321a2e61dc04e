"""Making ImagePools and Streams of datasets: decoding, the memory budget, and the cache of what was decoded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import Tensor

from ..ops.image_pool import ImagePool
from ..runtime.distributed import first_of_machine_first
from ..runtime.files import write_text, writing_to_cache
from ..settings.values import format_bytes
from .bad_files import without
from .dataset import BadFile, Image, Sample, stamp_or_reason
from .decoding.decoder import Decoder, Header, Opened, ordered_map, read_header, resized_bytes
from .streamed import StreamedImages

FORMAT = 1
"""To be raised whenever cached pools are no longer what a decoder would give."""
STALE_SECONDS = 3600
"""Unfinished files that nobody has written to for so long are removed."""


class OverBudget(ValueError):
    """A pool does not fit the memory budget."""


class ImageStore:
    """Makes the pools and streams of a run, one after the other.

    ``cache`` is a folder of pools, each named by a hash of its images' names, stamps and labels and of the decoder's
    settings; with None, pools are made in memory. ``budget`` is the number of bytes that all pools may have together;
    with None, it is not checked. ``log`` gets a line about each pool. ``smallest`` is the least height and width, in
    pixels, that images need.
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
        """Of all pools so far."""
        self.streamed: list[str] = []
        """What is not in pools."""
        self.bad: list[BadFile] = []
        """The images that could not be decoded so far."""

    def images(self, samples: Sequence[Sample], what: str, storage: str) -> ImagePool | StreamedImages:
        """A pool of the images, or for ``storage`` "stream" a stream, or for "auto" a pool if it fits the budget."""
        if storage != "stream":
            try:
                return self.build(samples, what)
            except OverBudget:
                if storage != "auto":
                    raise
        return self.stream(samples, what)

    def release(self, pool: ImagePool, samples: Sequence[Sample], what: str) -> StreamedImages:
        """A stream instead of a pool that was built of these samples, which no longer counts."""
        self.bytes -= pool.pixels.numel()
        self.streamed.append(what)
        return StreamedImages(without(samples, self.bad), pool.sizes.cpu(), self.decoder)

    def storage(self) -> str:
        """A line that tells where the images are."""
        names = ", ".join(what.removesuffix(" images") for what in self.streamed)
        parts = [f"{names} images streamed"] if self.streamed else []
        if self.bytes:
            of = f" of a memory budget of {format_bytes(self.budget)}" if self.budget is not None else ""
            parts.append(f"{format_bytes(self.bytes)}{of} resident")
        return "storage: " + ", ".join(parts)

    def build(self, samples: Sequence[Sample], what: str) -> ImagePool:
        """A pool of those images that can be decoded, in order, with their labels, on the CPU; cached ones are mapped.

        ``what`` names the images in messages. Shows progress on a terminal.

        Raises OverBudget where the pool does not fit the budget, and OSError where the cache cannot be written.
        """
        if self.cache is None:
            pool, bad = self._decoded(samples, what)
        else:
            with first_of_machine_first():
                pool, bad = self._cached(samples, what, self.cache)
        self.bytes += pool.pixels.numel()
        self.bad += bad
        return pool

    def stream(self, samples: Sequence[Sample], what: str) -> StreamedImages:
        """A stream of those images that can be decoded, in order, on the CPU.

        All are decoded once, which finds the bad ones and the sizes; the cache keeps what was found.

        Raises OSError where the cache cannot be written.
        """
        with first_of_machine_first():
            sizes, bad = self._sizes(samples, what)
        self.bad += bad
        self.streamed.append(what)
        table = torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2)
        return StreamedImages(without(samples, self.bad), table, self.decoder)

    def _sizes(self, samples: Sequence[Sample], what: str) -> tuple[list[list[int]], list[BadFile]]:
        """Heights and widths of the images that can be decoded, and the others; out of the cache if they are there."""
        path = self.cache and self.cache / f"{self._key(samples)}.sizes.json"
        found = self._find_sizes(path, samples) if path else None
        if found:
            self.log(f"{what}: {len(found[0])} known from the cache, {path}")
            return found
        bad: list[BadFile] = []
        headers = self._headers(samples) if self.decoder.short_side is None else repeat(None)
        sizes = [list(image.shape[:2]) for image, _ in self._decode(samples, what, bad, headers)]
        if path:
            with writing_to_cache(path.parent):
                write_text(path, json.dumps({"sizes": sizes, "bad": bad}))
        return sizes, bad

    def _decoded(self, samples: Sequence[Sample], what: str) -> tuple[ImagePool, list[BadFile]]:
        """The pool, made in memory."""
        bad: list[BadFile] = []
        headers = self._headers(samples)
        size = self._check_size(headers, what)
        return ImagePool.collect(self._decode(samples, what, bad, headers), size), bad

    def _cached(self, samples: Sequence[Sample], what: str, cache: Path) -> tuple[ImagePool, list[BadFile]]:
        """The pool, out of the cache if it is there."""
        path = cache / f"{self._key(samples)}.safetensors"
        found = self._find(path, samples)
        if found:
            self._check(found[0].pixels.numel(), what)
            self.log(f"{what}: {len(found[0])} from the cache, {path}")
            return found
        headers = self._headers(samples)
        self._check_size(headers, what)
        bad: list[BadFile] = []
        with writing_to_cache(cache):
            _remove_stale(cache)
            ImagePool.write(path, self._decode(samples, what, bad, headers))
            # Written last: a pool without its list is not taken for whole.
            write_text(_list_of_bad(path), json.dumps(bad))
        return ImagePool.load(path), bad

    def _key(self, samples: Sequence[Sample]) -> str:
        digest = hashlib.sha256(json.dumps([FORMAT, self.decoder.name, self.decoder.short_side]).encode())
        for image, label in samples:
            digest.update(json.dumps([image.name, stamp_or_reason(image), label]).encode() + b"\n")
        return digest.hexdigest()[:40]

    def _find(self, path: Path, samples: Sequence[Sample]) -> tuple[ImagePool, list[BadFile]] | None:
        """A cached pool; None where there is none, or where an image that was bad no longer is."""
        try:
            pool = ImagePool.load(path)
            bad = [BadFile(*item) for item in json.loads(_list_of_bad(path).read_text())]
        except (OSError, ValueError):
            return None
        return (pool, bad) if self.decoder.all_unreadable(samples, bad) else None

    def _find_sizes(self, path: Path, samples: Sequence[Sample]) -> tuple[list[list[int]], list[BadFile]] | None:
        """What the cache knows for a stream; None where that is nothing, or an image that was bad no longer is."""
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        bad = [BadFile(*item) for item in found["bad"]]
        return (found["sizes"], bad) if self.decoder.all_unreadable(samples, bad) else None

    def _decode(
        self,
        samples: Sequence[Sample],
        what: str,
        bad: list[BadFile],
        headers: Iterable[Header | None] = repeat(None),
    ) -> Iterator[tuple[Tensor, int]]:
        """The images that can be decoded, with their labels; the others are added to ``bad``."""
        from tqdm import tqdm

        started = time.perf_counter()
        results = self.decoder.decode(
            Opened(sample.image, header) if header else sample.image
            for sample, header in zip(samples, headers, strict=False)
        )
        # disable=None: no bar where stderr is not a terminal.
        for sample, result in tqdm(
            zip(samples, results, strict=True),
            f"decoding {what}",
            len(samples),
            unit=" images",
            leave=False,
            disable=None,
        ):
            if isinstance(result, BadFile):
                bad.append(result)
            else:
                yield result, sample.label
        seconds = time.perf_counter() - started
        self.log(f"{what}: {len(samples)} decoded in {seconds:.1f} s, {len(samples) / seconds:.0f} images/s")

    def _headers(self, samples: Sequence[Sample]) -> list[Header | None]:
        """The images' headers; None for those that cannot be read: bad files are named when they are decoded.

        Raises ValueError for an image that is not resized and too small.
        """
        with ThreadPoolExecutor(self.decoder.threads) as workers:
            headers = list(chain.from_iterable(ordered_map(workers, _headers_of, _lists(samples, 64), 8)))
        for (image, _), header in zip(samples, headers, strict=True):
            if header and self.decoder.short_side is None and min(header.height, header.width) < self.smallest:
                size = f"{header.height}x{header.width}"
                raise ValueError(f"image_size: {self.smallest} is more than an image has, {size}: {image.name}")
        return headers

    def _check_size(self, headers: Sequence[Header | None], what: str) -> int:
        """Bytes of the images, as their headers tell, once they are found to fit the budget."""
        size = sum(resized_bytes(header, self.decoder.short_side) for header in headers if header)
        self._check(size, what)
        return size

    def _check(self, size: int, what: str) -> None:
        if self.budget is not None and self.bytes + size > self.budget:
            others = f", with those before them {format_bytes(self.bytes + size)}" if self.bytes else ""
            raise OverBudget(
                f"memory_budget: {what} need {format_bytes(size)}{others}, and the budget is "
                f"{format_bytes(self.budget)}; use fewer or smaller images (--shots, --top-k, --resize), a larger "
                "--memory-budget, --storage stream, which keeps auxiliary images alone in memory, or --storage "
                "resident, which keeps all there regardless"
            )


def _headers_of(samples: Sequence[Sample]) -> list[Header | None]:
    return [_header_of(sample.image) for sample in samples]


def _header_of(image: Image) -> Header | None:
    try:
        with image.open() as stream:
            return read_header(stream)
    except Exception:  # on damaged bytes parsers raise almost anything
        return None


def _list_of_bad(pool: Path) -> Path:
    """The file that lists the images which a cached pool lacks."""
    return pool.with_suffix(".bad.json")


def _remove_stale(folder: Path) -> None:
    """Removes what killed builds left. Builds under way are younger, as they write all the time."""
    for path in folder.glob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:  # it was finished, or removed by another process
            continue


def _lists(samples: Sequence[Sample], length: int) -> Iterator[list[Sample]]:
    """The samples in lists."""
    rest = iter(samples)
    while part := list(islice(rest, length)):
        yield part
