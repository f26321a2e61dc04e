"""Decoders turn encoded images into uint8 RGB tensors: whole images, or one window of each.

On a CPU all decoders give the same pixels of every sound file. They may differ on a damaged JPEG file that libjpeg can
still read. On a GPU DALI decodes with nvJPEG, whose pixels differ; that path has never run on a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..dataset import BadFile, Image, Sample
from .notes import Notes
from .pillow import DEFAULT_READING, Header, read_header
from .reading import Reading
from .steps import Steps, Windows

T = TypeVar("T")
R = TypeVar("R")


class Decoder(ABC):
    """Decodes images to RGB, turns them upright as their EXIF data say, and resizes their short side, antialiased.

    Transparent images are composed on a background. The first page or frame is taken, and the upper byte of 16-bit
    samples, or of the range that they use. Of images longer than 16 short sides the middle is kept.

    Args:
        short_side: short side of decoded images, in pixels; None where images keep their own size.
        threads: number of threads that decode.
        log: called with a line of text for each kind of change that was made to images.
        reading: what images become where their files leave it open, and how large they may be.
    """

    name: str
    """Decoders with the same name, short side and reading give the same pixels."""

    decode_jpeg: Callable[[NDArray[np.uint8]], Tensor] | None = None
    """Decodes one JPEG file on the CPU, see :class:`Steps`."""

    device = torch.device("cpu")
    """Where JPEG files are decoded, and where :meth:`window_decoder` leaves the pixels."""

    def __init__(
        self,
        short_side: int | None,
        threads: int,
        log: Callable[[str], object] | None = None,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        self.short_side = short_side
        self.threads = threads
        self.log = log
        self.reading = reading

    @property
    def key(self) -> str:
        """Decoders with the same key give the same pixels of all images."""
        return f"{self.name} {self.short_side} {self.reading}"

    def read_header(self, stream: BinaryIO, name: str) -> Header:
        """What the first bytes of an encoded image tell. Raises as :func:`.pillow.read_header` does."""
        return read_header(stream, name, self.reading, self.short_side)

    def decode(self, images: Iterable[Image], log: Callable[[str], object] | None = None) -> Iterator[Tensor | BadFile]:
        """Yields each image in turn as a contiguous uint8[H, W, 3] on the CPU, or as a BadFile with the reason.

        ``log``, or the decoder's own, is called at the end.
        """
        notes, say = Notes(), log or self.log
        try:
            yield from self.noting(images, notes)
        finally:  # callers who count their images do not ask for the end
            if say is not None:
                for line in notes.lines():
                    say(line)

    def noting(self, images: Iterable[Image], notes: Notes) -> Iterator[Tensor | BadFile]:
        """Yields what :meth:`decode` does; ``notes`` has what was changed in an image once the image has come."""
        return self._decode(images, self._steps(notes))

    @abstractmethod
    def _decode(self, images: Iterable[Image], steps: Steps) -> Iterator[Tensor | BadFile]: ...

    @abstractmethod
    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        """Makes a function that decodes one window of each image, one after the other: uint8[bytes], as in a pool.

        Its pixels are equal to the same pixels of :meth:`decode`. The function takes B >= 1 images and their windows,
        which lie inside their images, and is called by one thread at a time. It raises ValueError with the names of all
        images that cannot be decoded. ``workers`` decode, with as many threads as the decoder has. On a GPU, all these
        threads have one stream of it as their current one, on which the pixels are made.
        """

    def all_unreadable(self, samples: Sequence[Sample], bad: Sequence[BadFile]) -> bool:
        """Decodes the samples' bad images again, and tells whether all of them are still bad."""
        names = {item.name for item in bad}
        again = [sample.image for sample in samples if sample.image.name in names]
        return not again or not any(isinstance(result, Tensor) for result in self.decode(again, lambda line: None))

    def _steps(self, notes: Notes) -> Steps:
        return Steps(self.short_side, self.decode_jpeg, notes, self.reading)


class PillowDecoder(Decoder):
    """Decodes everything with Pillow, in several threads."""

    name = "pillow"

    def _decode(self, images: Iterable[Image], steps: Steps) -> Iterator[Tensor | BadFile]:
        with ThreadPoolExecutor(self.threads) as workers:
            yield from ordered_map(workers, steps.finish, images, 4 * self.threads)

    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        # Windows are of images that decode() has seen, so that their notes would say nothing new.
        return partial(self._steps(Notes()).crop_each, workers)


class TorchvisionDecoder(PillowDecoder):
    """Decodes JPEG files with torchvision, whose decoders are deprecated since 0.29, in several threads."""

    name = "torchvision"

    @staticmethod
    def decode_jpeg(data: NDArray[np.uint8]) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg

        pixels: Tensor = decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB, apply_exif_orientation=True)
        return pixels.permute(1, 2, 0)


class TorchcodecDecoder(PillowDecoder):
    """Decodes JPEG files with torchcodec, in several threads."""

    name = "torchcodec"

    @staticmethod
    def decode_jpeg(data: NDArray[np.uint8]) -> Tensor:
        from torchcodec.decoders import decode_jpeg

        pixels: Tensor = decode_jpeg(torch.from_numpy(data), mode="RGB")
        return pixels.permute(1, 2, 0)


def ordered_map(workers: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yields ``function(item)`` for each item, in order.

    The workers compute the results of at most ``ahead`` items beyond the one that the caller has.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(workers.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
