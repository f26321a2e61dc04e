"""Decoders turn encoded images into uint8 RGB tensors: whole images, or one window of each.

DALI or torchvision decodes JPEG files. Pillow reads all headers, where it refuses images with too many pixels, and
decodes PNG and WebP files, because torchvision 0.29 crashes on some damaged PNG files. torchvision resizes for both
decoders: on a CPU DALI's resize takes four times as long, and its results differ by up to 2 of 255 levels.

So on a CPU both decoders give the same pixels of every sound file. They may differ on a damaged JPEG file that libjpeg
can still read. On a GPU DALI decodes with nvJPEG, whose pixels differ; that path has never run on a GPU.
"""

from __future__ import annotations

import io
import re
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from ..dataset import BadFile, Image, Sample

FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow's names of the formats that are decoded. The bytes of a file tell its format, not its name."""

# Pillow warns of images above half of its limit on pixels, but reads them. A filter holds for all threads, so it is
# set once, here.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)

Windows = Sequence[Sequence[int]]
"""Top, left, height and width of one window of each image, in pixels."""

T = TypeVar("T")
R = TypeVar("R")


class Header(NamedTuple):
    """The format and size of an encoded image, found in its first bytes."""

    is_jpeg: bool
    height: int
    """In pixels, before the image is turned upright; so is the width."""
    width: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image that has been read but not decoded: its bytes, uint8[n], and their header."""

    name: str
    data: NDArray[np.uint8]
    header: Header


@dataclass(frozen=True, eq=False)
class Opened(Image):
    """An image whose header is known, so that its decoder need not read the header again."""

    image: Image
    header: Header

    @property
    def name(self) -> str:
        return self.image.name

    def read(self) -> bytes:
        return self.image.read()

    def stamp(self) -> str:
        return self.image.stamp()


class Decoder(ABC):
    """Decodes images to RGB, turns them upright as their EXIF data say, and resizes their short side, antialiased.

    Transparency is dropped. The first picture of an animation is taken, and the upper byte of 16-bit samples.

    Args:
        short_side: short side of decoded images, in pixels; None where images keep their own size.
        threads: number of threads that decode.
    """

    name: str
    """Decoders with the same name give the same pixels."""

    def __init__(self, short_side: int | None, threads: int) -> None:
        self.short_side = short_side
        self.threads = threads

    @abstractmethod
    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        """Yields each image in turn as a contiguous uint8[H, W, 3] on the CPU, or as a BadFile with the reason."""

    @abstractmethod
    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        """Makes a function that decodes one window of each image, uint8[B, height, width, 3].

        Its pixels are equal to the same pixels of :meth:`decode`. The function takes B images and their windows, which
        all have one size and lie inside their images, and is called by one thread at a time. It raises ValueError with
        the names of all images that cannot be decoded. ``workers`` decode, with as many threads as the decoder has.
        """

    def all_unreadable(self, samples: Sequence[Sample], bad: Sequence[BadFile]) -> bool:
        """Decodes the samples' bad images again, and tells whether all of them are still bad."""
        names = {item.name for item in bad}
        again = [sample.image for sample in samples if sample.image.name in names]
        return not again or not any(isinstance(result, Tensor) for result in self.decode(again))


class TorchvisionDecoder(Decoder):
    """Decodes JPEG files with torchvision, in several threads."""

    name = "torchvision"

    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        with ThreadPoolExecutor(self.threads) as workers:
            yield from ordered_map(
                workers, lambda image: decode_and_resize(image, self.short_side), images, 4 * self.threads
            )

    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        return lambda images, windows: crop_each(workers, images, windows, self.short_side)


def read_image(image: Image) -> Encoded | BadFile:
    """Reads an image's bytes and header; a BadFile where that fails, or the format or the size is not supported."""
    try:
        data = bytearray(image.read())
        header = image.header if isinstance(image, Opened) else read_header(io.BytesIO(data))
        return Encoded(image.name, np.frombuffer(data, dtype=np.uint8), header)
    except Exception as error:  # parsers of damaged bytes raise almost anything
        return BadFile(image.name, _reason(error))


def read_header(stream: BinaryIO) -> Header:
    """Reads an image's header, and decodes no pixel.

    Raises OSError where bytes cannot be read, ValueError for anything but a JPEG, PNG or WebP image, and Pillow's
    DecompressionBombError for an image with more pixels than Pillow opens.
    """
    try:
        image = PIL.Image.open(stream, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise ValueError("not a JPEG, PNG or WebP image" if stream.seek(0, 2) else "empty") from None
    return Header(image.format in ("JPEG", "MPO"), image.height, image.width)


def decode_pixels(encoded: Encoded) -> Tensor | BadFile:
    """Decodes a whole image with torchvision or, if it is not JPEG, Pillow, and turns it upright: uint8[H, W, 3]."""
    try:
        if encoded.header.is_jpeg:
            pixels: Tensor = decode_jpeg(torch.from_numpy(encoded.data), ImageReadMode.RGB, apply_exif_orientation=True)
            return pixels.permute(1, 2, 0)
        return torch.from_numpy(_decode_with_pillow(encoded.data))
    except Exception as error:  # parsers of damaged bytes raise almost anything
        return BadFile(encoded.name, _reason(error))


def _decode_with_pillow(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data.data), formats=FORMATS) as opened:
        image: Any = PIL.ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16-bit grey, whose values convert("RGB") would clip at 255
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def decode_and_resize(image: Tensor | Encoded | Image | BadFile, short_side: int | None) -> Tensor | BadFile:
    """Reads, decodes and resizes an image, as far as that is not done yet: contiguous uint8[H, W, 3] on the CPU."""
    resized = _resized(image, short_side)
    return resized if isinstance(resized, BadFile) else resized.contiguous().cpu()


def crop_each(
    workers: Executor,
    images: Sequence[Tensor | Encoded | Image | BadFile],
    windows: Windows,
    short_side: int | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Copies one window of each image to a batch on ``device``, uint8[B, height, width, 3].

    Images that have not been read or decoded are, by ``workers``.

    Raises ValueError with the names of all images that cannot be decoded.
    """
    out = torch.empty(len(windows), *windows[0][2:], 3, dtype=torch.uint8, device=device)

    def crop(image: Tensor | Encoded | Image | BadFile, window: Sequence[int], row: Tensor) -> BadFile | None:
        resized = _resized(image, short_side)
        if isinstance(resized, BadFile):
            return resized
        top, left, height, width = window
        row.copy_(resized[top : top + height, left : left + width])
        return None

    bad = [result for result in workers.map(crop, images, windows, out) if result]
    if bad:
        lines = "".join(f"\n  {item.name}: {item.reason}" for item in bad)
        raise ValueError(f"images that could be decoded before no longer can:{lines}")
    return out


def _resized(image: Tensor | Encoded | Image | BadFile, short_side: int | None) -> Tensor | BadFile:
    """Reads, decodes and resizes an image, as far as that is not done yet: uint8[H, W, 3] on any device."""
    if isinstance(image, Image):
        image = read_image(image)
    if isinstance(image, Encoded):
        image = decode_pixels(image)
    if isinstance(image, BadFile) or short_side is None:
        return image
    resized: Tensor = resize(image.permute(2, 0, 1), [short_side], antialias=True)
    return resized.permute(1, 2, 0)


def resized_bytes(header: Header, short_side: int | None) -> int:
    """How many bytes of pixels an image has once its short side is resized."""
    short, long = sorted((header.height, header.width))
    if short_side is None:
        return 3 * short * long
    return 3 * short_side * int(short_side * long / short)


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


def _reason(error: Exception) -> str:
    """The first line of an error's message, without the file and line of torchvision's source before it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\w+, \S+:\d+, ", "", lines[0])
