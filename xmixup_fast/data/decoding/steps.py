"""The steps by which one image becomes pixels: it is read, decoded, cropped where it is very long, and resized.

Pillow reads all headers. A decoder's own library decodes JPEG files that all libraries read alike, and Pillow all other
files. torchvision resizes for all decoders: on a CPU DALI's resize takes four times as long, and its results differ by
up to 2 of 255 levels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ...runtime.device import upload
from ..dataset import BadFile, Image
from .notes import PILLOW, Notes
from .pillow import DEFAULT_READING, Header, NeedsExtra, decode, read_header, reason
from .reading import Reading

Windows = Sequence[Sequence[int]]
"""Top, left, height and width of one window of each image, in pixels."""

LONGEST = 16
"""Of longer images, in short sides, the middle is kept: a pool of one image of 1 x 12000 would take 2.2 GiB."""

CROPPED = f"images longer than {LONGEST} short sides, cropped to the middle"


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


Item: TypeAlias = Tensor | Encoded | Image | BadFile
"""An image on its way, or why it cannot be used. A tensor is a whole image, uint8[H, W, 3] on any device."""


@dataclass(frozen=True)
class Steps:
    """What a decoder does with single images, in any thread.

    Args:
        short_side: short side of decoded images, in pixels; None where images keep their own size.
        decode_jpeg: decodes a plain JPEG file, uint8[n], to uint8[H, W, 3]; None where Pillow does.
        notes: count what is changed in images.
        reading: what images become where their files leave it open.
    """

    short_side: int | None
    decode_jpeg: Callable[[NDArray[np.uint8]], Tensor] | None
    notes: Notes
    reading: Reading = DEFAULT_READING

    def read(self, image: Image) -> Encoded | BadFile:
        """Reads bytes and header; a BadFile where that fails, or the format or the size is not supported."""
        try:
            data = bytearray(image.read())
            known = image.header if isinstance(image, Opened) else None
            header = known or read_header(io.BytesIO(data), image.name, self.reading, self.short_side)
        except Exception as error:  # parsers of damaged bytes raise almost anything
            if isinstance(error, NeedsExtra):
                self.notes.add(str(error), image.name)
            return BadFile(image.name, reason(error))
        if kept_size(header.height, header.width) != (header.height, header.width):
            self.notes.add(CROPPED, image.name)
        return Encoded(image.name, np.frombuffer(data, dtype=np.uint8), header)

    def decode(self, encoded: Encoded) -> Tensor | BadFile:
        """Decodes a whole image, and turns it upright: uint8[H, W, 3]. Pillow has the last word on what is bad."""
        failed = False
        if self.decode_jpeg and encoded.header.plain_jpeg:
            try:
                return self.decode_jpeg(encoded.data)
            except RuntimeError:
                failed = True
        try:
            pixels = torch.from_numpy(decode(encoded.data, encoded.name, self.notes, self.reading, self.short_side))
        except Exception as error:  # parsers of damaged bytes raise almost anything
            return BadFile(encoded.name, reason(error))
        if failed:
            self.notes.add(PILLOW, encoded.name)
        return pixels

    def finish(self, item: Item) -> Tensor | BadFile:
        """Takes all steps that have not been taken: contiguous uint8[H, W, 3] on the CPU."""
        resized = self._resized(item)
        return resized if isinstance(resized, BadFile) else resized.contiguous().cpu()

    def crop_each(
        self, workers: Executor, items: Sequence[Item], windows: Windows, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Copies one window of each image to ``device``, one after the other: uint8[bytes], as a pool has them.

        Images that have not been read or decoded are, by ``workers``.

        Raises ValueError with the names of all images that cannot be decoded.
        """
        pixels = torch.empty(window_bytes(windows), dtype=torch.uint8, device=device)

        def crop(item: Item, window: Sequence[int], place: Tensor) -> BadFile | None:
            resized = self._resized(item)
            if isinstance(resized, BadFile):
                return resized
            top, left, height, width = window
            place.copy_(upload(resized[top : top + height, left : left + width], place.device))
            return None

        bad = [result for result in workers.map(crop, items, windows, window_views(pixels, windows)) if result]
        if bad:
            lines = "".join(f"\n  {item.name}: {item.reason}" for item in bad)
            raise ValueError(f"images that could be decoded before no longer can:{lines}")
        return pixels

    def _resized(self, item: Item) -> Tensor | BadFile:
        """Takes all steps that have not been taken: uint8[H, W, 3] on any device."""
        if isinstance(item, Image):
            item = self.read(item)
        if isinstance(item, Encoded):
            item = self.decode(item)
        if isinstance(item, BadFile):
            return item
        height, width = kept_size(*item.shape[:2])
        top, left = (item.shape[0] - height) // 2, (item.shape[1] - width) // 2
        item = item[top : top + height, left : left + width]
        if self.short_side is None:
            return item
        resized: Tensor = resize(item.permute(2, 0, 1), [self.short_side], antialias=True)
        return resized.permute(1, 2, 0)


def window_bytes(windows: Windows) -> int:
    """The bytes of the pixels of windows."""
    return sum(3 * height * width for _, _, height, width in windows)


def window_views(pixels: Tensor, windows: Windows) -> list[Tensor]:
    """Each of some windows that lie one after the other in uint8[bytes]: uint8[height, width, 3]."""
    sizes = [3 * height * width for _, _, height, width in windows]
    parts = zip(pixels.split(sizes), windows, strict=True)
    return [part.view(height, width, 3) for part, (_, _, height, width) in parts]


def kept_size(height: int, width: int) -> tuple[int, int]:
    """Height and width, in pixels, of the part of an image that is kept: no more than LONGEST short sides."""
    longest = LONGEST * min(height, width)
    return min(height, longest), min(width, longest)


def resized_bytes(header: Header, short_side: int | None) -> int:
    """How many bytes of pixels an image has once it is cropped and its short side is resized."""
    short, long = sorted(kept_size(header.height, header.width))
    if short_side is None:
        return 3 * short * long
    return 3 * short_side * int(short_side * long / short)
