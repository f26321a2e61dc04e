"""Makes the images of a run ready for use: decoded in memory, within a budget, or streamed.

Headers tell how large a pool will be, so a pool that exceeds the memory budget is refused before anything is decoded.
With a cache, images that it lacks are written to it one by one, which takes little memory, and a pool is mapped. A
stream decodes all images once at the start, which finds bad files and the images' sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import Tensor

from ..ops.image_pool import ImagePool
from ..runtime.distributed import local_rank_zero_first
from ..runtime.files import writing_to_cache
from ..runtime.progress import progress
from ..settings.values import format_bytes
from .bad_files import without
from .cache_entries import POOLS, CacheUse
from .contents import Contents, Unchanged, read_contents
from .dataset import BadFile, Dataset, Image, Sample
from .decoding.decoder import Decoder, ordered_map
from .decoding.notes import Notes
from .decoding.pillow import Header
from .decoding.steps import Opened, resized_bytes
from .formats import NO_CAMERA_RAW, is_raw
from .image_cache import ImageCache, Made, Pack, Place
from .streamed import StreamedImages

HEADERS_AT_A_TIME = 64
"""How many headers a thread reads in one go."""


class OverBudget(ValueError):
    """A pool does not fit the memory budget."""


@dataclass
class Remarks:
    """What decoding found."""

    bad: list[BadFile] = field(default_factory=list)
    """The images that could not be decoded."""
    notes: Notes = field(default_factory=Notes)
    """What was changed in images."""


class ImageStore:
    """Makes the pools and streams of a run, one after the other.

    In all methods ``name`` says which images these are, such as "train images", and appears in messages.

    Args:
        decoder: decodes all images.
        cache: the cache, or its folder; None to make pools in memory.
        budget: bytes that all pools together may have; None for no limit.
        log: called with a line of text about each pool or stream.
        smallest: the least height and width that images need, in pixels.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: CacheUse | Path | None,
        budget: int | None,
        log: Callable[[str], object],
        smallest: int = 1,
    ) -> None:
        self.decoder = decoder
        self.cache = CacheUse(cache) if isinstance(cache, Path) else cache
        self.packs = ImageCache(self.cache.folder / POOLS, decoder) if self.cache else None
        self.budget = budget
        self.log = log
        self.smallest = smallest
        self.bytes = 0
        """Bytes of pixels in all pools so far."""
        self.streamed: list[str] = []
        """Names of the images that are streamed."""
        self.bad: list[BadFile] = []
        """All images so far that could not be decoded."""
        self._known: list[Contents] = []

    def know(self, contents: Contents) -> None:
        """Takes the contents of a dataset's images, which the cache then keeps together; others are read for theirs."""
        self._known.append(contents)

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
        if self.packs is None:
            pool, remarks = self._decoded_pool(samples, name)
        else:
            with local_rank_zero_first():
                pool, remarks = self._cached_pool(self.packs, samples, name)
        self.bytes += pool.image_bytes
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
        self.bytes -= pool.image_bytes
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
        for line in remarks.notes.lines():
            self.log(f"{name}: {line}")

    def _decoded_pool(self, samples: Sequence[Sample], name: str) -> tuple[ImagePool, Remarks]:
        """Makes a pool in memory."""
        remarks = Remarks()
        headers = self._headers(samples)
        size = self._expected_bytes(headers)
        self._check_budget(size, name)
        images = self._decode(samples, name, remarks, headers)
        return ImagePool.collect(((pixels, sample.label) for sample, pixels in images), size), remarks

    def _cached_pool(self, packs: ImageCache, samples: Sequence[Sample], name: str) -> tuple[ImagePool, Remarks]:
        """Maps a pool of the cache, to which the images that it lacks are added."""
        while True:
            pack, found, remarks = self._in_cache(packs, samples, name, with_pixels=True)
            with suppress(FileNotFoundError):  # another process has just removed the pack
                return pack.pool([place for _, place in found], [sample.label for sample, _ in found]), remarks

    def _sizes(self, samples: Sequence[Sample], name: str) -> tuple[list[list[int]], Remarks]:
        """Height and width of each image that can be decoded, from the cache as far as it has them."""
        if self.packs is not None:
            _, found, remarks = self._in_cache(self.packs, samples, name, with_pixels=False)
            return [[place.height, place.width] for _, place in found], remarks
        remarks = Remarks()
        headers = self._headers(samples) if self.decoder.short_side is None else repeat(None)
        return [list(pixels.shape[:2]) for _, pixels in self._decode(samples, name, remarks, headers)], remarks

    def _in_cache(
        self, packs: ImageCache, samples: Sequence[Sample], name: str, *, with_pixels: bool
    ) -> tuple[Pack, list[tuple[Sample, Place]], Remarks]:
        """The images that can be decoded, with their places in a pack, to which those that it lacks are added."""
        remarks = Remarks()
        digests, together = self._digests(samples, remarks)
        images = [(sample, digests[sample.image.name]) for sample in samples if sample.image.name in digests]
        pack, wanted = packs.pack(together), set(digests.values())
        found, is_added = pack.find(wanted, sizes=not with_pixels), False
        if len(found) < len(wanted):
            with writing_to_cache(packs.folder), pack.appending(self.log):
                found = pack.find(wanted, sizes=not with_pixels)  # others may have added to it
                is_added = len(found) < len(wanted)
                if is_added:
                    self._add(pack, images, found, name, remarks, with_pixels=with_pixels)
                    packs.describe(pack, [sample.image.name for sample in samples])
                    found = pack.find(wanted, sizes=not with_pixels)
        if not is_added:
            self._check_places([(sample, found[digest]) for sample, digest in images], 0, name, with_pixels=with_pixels)
            what, file = ("", pack.pixels) if with_pixels else ("image sizes read ", pack.index)
            self.log(f"{name}: {len(images)} {what}from the cache, {file}")
        pack.touch()
        said: dict[bytes, list[str]] = {}
        for digest, kind in pack.said(wanted):
            said.setdefault(digest, []).append(kind)
        for sample, digest in images:
            for kind in said.get(digest, ()):
                remarks.notes.add(kind, sample.image.name)
        order = {sample.image.name: position for position, sample in enumerate(samples)}
        remarks.bad.sort(key=lambda bad: order[bad.name])
        return pack, [(sample, found[digest]) for sample, digest in images if digest in found], remarks

    def _digests(self, samples: Sequence[Sample], remarks: Remarks) -> tuple[dict[str, bytes], set[bytes]]:
        """The digest of each image that can be read, by its name, and those of all images that are kept together."""
        names = {sample.image.name for sample in samples}
        contents = next((known for known in self._known if names <= known.keys()), None)
        if contents is None:
            contents, unreadable = read_contents(Dataset([], [], [], []), samples, None, self.decoder.threads)
            remarks.bad += unreadable
        # Decoding looks at the name alone to tell camera RAW, whatever bytes it has.
        raw = {name for name in names & contents.keys() if is_raw(name)}
        remarks.bad += (BadFile(name, NO_CAMERA_RAW) for name in raw)
        digests = {name: bytes.fromhex(contents[name].digest) for name in names & contents.keys() - raw}
        return digests, {bytes.fromhex(content.digest) for content in contents.values()}

    def _add(
        self,
        pack: Pack,
        images: Sequence[tuple[Sample, bytes]],
        found: Mapping[bytes, Place],
        name: str,
        remarks: Remarks,
        *,
        with_pixels: bool,
    ) -> None:
        """Decodes what was not found in a pack, of equal images the first, and adds it or its sizes to the pack."""
        assert self.cache is not None
        missing: dict[bytes, Sample] = {}
        for sample, digest in images:
            if digest not in found:
                missing.setdefault(digest, sample)
        there = [(sample, found[digest]) for sample, digest in images if digest in found]
        others = f"; {len(there)} of {len(images)} from the cache, {pack.pixels}" if there else ""
        reads = with_pixels or self.decoder.short_side is None
        headers = self._headers(list(missing.values())) if reads else [None] * len(missing)
        size = self._expected_bytes(headers) if with_pixels else 0
        self._check_places(there, size, name, with_pixels=with_pixels)
        self.cache.make_room(size, self.log)
        decoded = Remarks()
        digests = {sample.image.name: digest for digest, sample in missing.items()}
        unchanged = [one._replace(image=Unchanged(one.image, key.hex())) for key, one in missing.items()]
        pack.append(
            (
                Made(digests[sample.image.name], pixels, decoded.notes.of(sample.image.name))
                for sample, pixels in self._decode(unchanged, name, decoded, headers, others)
            ),
            with_pixels=with_pixels,
        )
        failed = {digests[bad.name]: bad for bad in decoded.bad}
        for sample, digest in images:
            if digest in failed:
                remarks.bad.append(BadFile(sample.image.name, failed[digest].reason))
                for kind in decoded.notes.of(failed[digest].name):
                    remarks.notes.add(kind, sample.image.name)

    def _check_places(self, places: Sequence[tuple[Sample, Place]], more: int, name: str, *, with_pixels: bool) -> None:
        """Checks images of the cache, and the budget with ``more`` bytes beside. Raises OverBudget and ValueError."""
        for sample, place in places:
            self._check_size(sample, place.height, place.width)
        if with_pixels:
            self._check_budget(more + sum(place.bytes for _, place in places), name)

    def _decode(
        self,
        samples: Sequence[Sample],
        name: str,
        remarks: Remarks,
        headers: Iterable[Header | None],
        others: str = "",
    ) -> Iterator[tuple[Sample, Tensor]]:
        """Yields the images that can be decoded, and adds to ``remarks``; ``others`` ends the line for the user."""
        started = time.perf_counter()
        images = (
            Opened(sample.image, header) if header else sample.image
            for sample, header in zip(samples, headers, strict=False)
        )
        results = self.decoder.noting(images, remarks.notes)
        pairs = zip(samples, results, strict=True)
        for sample, result in progress(pairs, len(samples), f"decoding {name}"):
            if isinstance(result, BadFile):
                remarks.bad.append(result)
            else:
                yield sample, result
        seconds = time.perf_counter() - started
        self.log(f"{name}: {len(samples)} decoded in {seconds:.1f} s, {len(samples) / seconds:.0f} images/s{others}")

    def _headers(self, samples: Sequence[Sample]) -> list[Header | None]:
        """Reads all headers. A header that cannot be read is None; decoding then says what is wrong with the file.

        Raises ValueError for an image that is not resized and smaller than ``smallest``.
        """
        with ThreadPoolExecutor(self.decoder.threads) as workers:
            headers = list(
                chain.from_iterable(ordered_map(workers, partial(_read_headers, self.decoder), _chunks(samples), 8))
            )
        for sample, header in zip(samples, headers, strict=True):
            if header:
                self._check_size(sample, header.height, header.width)
        return headers

    def _check_size(self, sample: Sample, height: int, width: int) -> None:
        """Raises ValueError for an image that is not resized and smaller than ``smallest``."""
        if self.decoder.short_side is None and min(height, width) < self.smallest:
            raise ValueError(
                f"image_size: {self.smallest} is more than an image has, {height}x{width}: "
                f"{sample.image.name}; have all images resized, as with --resize {round(self.smallest * 8 / 7)}, "
                "or leave this one out"
            )

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
