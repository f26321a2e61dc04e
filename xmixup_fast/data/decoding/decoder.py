"""Decoding: encoded images become uint8 RGB tensors, whole or windows of them, by DALI or by torchvision.

JPEG files are decoded by the chosen library, all others by Pillow: torchvision 0.29 crashes on some damaged PNG files.
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
"""What is decoded, by Pillow's names; the bytes decide, not the file's name."""


# Pillow warns of images above half of its limit, which are read. Such a filter cannot be set for one thread alone.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


Windows = Sequence[Sequence[int]]
"""Top, left, height and width of one window of each image."""


T = TypeVar("T")


R = TypeVar("R")


class Header(NamedTuple):
    """What an image's first bytes tell."""

    is_jpeg: bool
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image's bytes, and what their header tells."""

    name: str
    data: NDArray[np.uint8]
    header: Header


@dataclass(frozen=True, eq=False)
class Opened(Image):
    """An image whose header has been read."""

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
    """Decodes images to RGB, turned upright as their EXIF data say, with their short side resized with antialiasing.

    Transparency is dropped, of an animation the first picture is taken, and of 16-bit samples the upper byte.
    """

    name: str
    """Decoders of one name give the same pixels."""

    def __init__(self, short_side: int | None, threads: int) -> None:
        self.short_side = short_side
        """In pixels; None to leave images as they are."""
        self.threads = threads

    @abstractmethod
    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        """Each image in turn: a contiguous uint8[H, W, 3] on the CPU, or its name and what is wrong with it."""

    @abstractmethod
    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        """A function that gives one window of each image, uint8[B, height, width, 3], with pixels as of :meth:`decode`.

        Windows lie inside their images and are all of one size. ``workers`` decode; they have as many threads as the
        decoder. The function is called by one thread at a time, and raises ValueError, which names them, where images
        cannot be decoded.
        """

    def all_unreadable(self, samples: Sequence[Sample], bad: Sequence[BadFile]) -> bool:
        """Whether none of the images among the samples that were bad can be decoded now."""
        names = {item.name for item in bad}
        again = [sample.image for sample in samples if sample.image.name in names]
        return not again or not any(isinstance(result, Tensor) for result in self.decode(again))


class TorchvisionDecoder(Decoder):
    """Decodes in threads, with torchvision."""

    name = "torchvision"

    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        with ThreadPoolExecutor(self.threads) as workers:
            yield from ordered_map(
                workers, lambda image: decode_and_resize(image, self.short_side), images, 4 * self.threads
            )

    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        return lambda images, windows: crop_each(workers, images, windows, self.short_side)


def read(image: Image) -> Encoded | BadFile:
    """An image's bytes, if they are of a known format and not too large."""
    try:
        data = bytearray(image.read())
        header = image.header if isinstance(image, Opened) else read_header(io.BytesIO(data))
        return Encoded(image.name, np.frombuffer(data, dtype=np.uint8), header)
    except Exception as error:  # on damaged bytes parsers raise almost anything
        return BadFile(image.name, _reason(error))


def read_header(stream: BinaryIO) -> Header:
    """What an image's header tells. The pixels are not decoded.

    Raises OSError, ValueError for what is no JPEG, PNG or WebP image, and Pillow's DecompressionBombError for more
    pixels than it opens.
    """
    try:
        image = PIL.Image.open(stream, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise ValueError("not a JPEG, PNG or WebP image" if stream.seek(0, 2) else "empty") from None
    return Header(image.format in ("JPEG", "MPO"), image.height, image.width)


def decode_pixels(encoded: Encoded) -> Tensor | BadFile:
    """A read image in its full size, uint8[H, W, 3], upright, decoded by torchvision or Pillow."""
    try:
        if encoded.header.is_jpeg:
            pixels: Tensor = decode_jpeg(torch.from_numpy(encoded.data), ImageReadMode.RGB, apply_exif_orientation=True)
            return pixels.permute(1, 2, 0)
        return torch.from_numpy(_decode_with_pillow(encoded.data))
    except Exception as error:  # on damaged bytes parsers raise almost anything
        return BadFile(encoded.name, _reason(error))


def _decode_with_pillow(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data.data), formats=FORMATS) as opened:
        image: Any = PIL.ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16-bit grey, which convert would clip
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def decode_and_resize(image: Tensor | Encoded | Image | BadFile, short_side: int | None) -> Tensor | BadFile:
    """Reads and decodes an image as far as that is not done yet, resizes it, and brings it to the CPU."""
    resized = _resized(image, short_side)
    return resized if isinstance(resized, BadFile) else resized.contiguous().cpu()


def crop_each(
    workers: Executor,
    images: Sequence[Tensor | Encoded | Image | BadFile],
    windows: Windows,
    short_side: int | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """One window of each image, as the function of :meth:`Decoder.window_decoder` gives it, on a device.

    Images may be read or decoded already.
    """
    out = torch.empty(len(windows), *windows[0][2:], 3, dtype=torch.uint8, device=device)

    def one(image: Tensor | Encoded | Image | BadFile, window: Sequence[int], place: Tensor) -> BadFile | None:
        resized = _resized(image, short_side)
        if isinstance(resized, BadFile):
            return resized
        top, left, height, width = window
        place.copy_(resized[top : top + height, left : left + width])
        return None

    bad = [result for result in workers.map(one, images, windows, out) if result]
    if bad:
        lines = "".join(f"\n  {item.name}: {item.reason}" for item in bad)
        raise ValueError(f"images that could be decoded before no longer can:{lines}")
    return out


def _resized(image: Tensor | Encoded | Image | BadFile, short_side: int | None) -> Tensor | BadFile:
    """Reads and decodes an image as far as that is not done yet, and resizes it: uint8[H, W, 3]."""
    if isinstance(image, Image):
        image = read(image)
    if isinstance(image, Encoded):
        image = decode_pixels(image)
    if isinstance(image, BadFile) or short_side is None:
        return image
    resized: Tensor = resize(image.permute(2, 0, 1), [short_side], antialias=True)
    return resized.permute(1, 2, 0)


def resized_bytes(header: Header, short_side: int | None) -> int:
    """Bytes of an image once its short side is resized."""
    short, long = sorted((header.height, header.width))
    if short_side is None:
        return 3 * short * long
    return 3 * short_side * int(short_side * long / short)


def ordered_map(workers: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """The function of each item, in order; the workers are at most ``paired_table`` items ahead of the caller."""
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
    """An error's first line, without the place in torchvision's source that it begins with."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\w+, \S+:\d+, ", "", lines[0])
