"""ImagePool: RGB images of any size in one uint8 buffer on one device; Crops: which windows of them to take."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..runtime.files import atomic_write

FLUSH_BYTES = 2**24
"""What :meth:`ImagePool.write` brings to the disk at a time, while the next images are made."""
PIXELS_BEGIN = 4096
"""Where the pixels begin in a file that :meth:`ImagePool.write` wrote; before them is safetensors' header."""


class Crops(NamedTuple):
    """One window of one image for each sample of a batch of size B, all on the pool's device."""

    index: Tensor  # type: ignore[assignment]  # instead of tuple.index, which means nothing here
    """int64[B]: the image's position in its pool."""
    window: Tensor
    """int32[B, 4]: top, left, height and width in pixels, inside the image."""
    flip: Tensor
    """bool[B]: mirror the window left to right."""


class Images(Protocol):
    """Labelled images, wherever they are: in an :class:`ImagePool`, or decoded as they are needed."""

    @property
    def sizes(self) -> Tensor:
        """int32[n, 2]: height and width of each image, in pixels."""

    @property
    def labels(self) -> Tensor:
        """int64[n]: the class of each image."""

    def __len__(self) -> int: ...

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """For each batch of crops of these images a pool, and crops of that pool which show the same."""


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Images of any size in one buffer, each stored row by row as R, G, B bytes.

    The four tensors are contiguous and on one device. A dense batch, as a decoder returns it, is a pool too
    (:meth:`from_dense`); it is used in place.
    """

    pixels: Tensor
    """uint8[bytes]: all images, one after the other."""
    offsets: Tensor
    """int64[n]: where each image begins in ``pixels``, in bytes."""
    sizes: Tensor
    """int32[n, 2]: height and width of each image, in pixels."""
    labels: Tensor
    """int64[n]: the class of each image; -1 where none was given."""

    def __post_init__(self) -> None:
        count = self.offsets.numel()
        for name, dtype, shape in (
            ("pixels", torch.uint8, (self.pixels.numel(),)),
            ("offsets", torch.int64, (count,)),
            ("sizes", torch.int32, (count, 2)),
            ("labels", torch.int64, (count,)),
        ):
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != shape or not value.is_contiguous():
                raise ValueError(f"{name}: expected a contiguous {_spell(dtype, shape)}, got {_describe(value)}")
            if value.device != self.pixels.device:
                raise ValueError(f"{name}: expected a tensor on {self.pixels.device}, as pixels, got {value.device}")

    @classmethod
    def from_images(
        cls, images: Sequence[np.ndarray[Any, Any] | Tensor], labels: Sequence[int] | Tensor | None = None
    ) -> ImagePool:
        """Copies images, each uint8[H, W, 3] (NumPy array or CPU tensor), into one buffer on the CPU.

        Raises ValueError for an image of another dtype or shape, or where labels and images differ in number.
        """
        tensors = [torch.as_tensor(image) for image in images]
        for i, image in enumerate(tensors):
            if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3 or image.numel() == 0:
                raise ValueError(f"images[{i}]: expected a uint8[height, width, 3], got {_describe(image)}")
        ends = torch.tensor([image.numel() for image in tensors], dtype=torch.int64).cumsum(0)
        pixels = torch.empty(int(ends[-1]) if tensors else 0, dtype=torch.uint8)
        offsets = torch.cat([ends.new_zeros(1), ends])[: len(tensors)]
        for begin, image in zip(offsets.tolist(), tensors, strict=True):
            pixels[begin : begin + image.numel()].view(image.shape).copy_(image)
        sizes = torch.tensor([image.shape[:2] for image in tensors], dtype=torch.int32).reshape(-1, 2)
        return cls(pixels, offsets, sizes, _as_labels(labels, len(tensors), pixels.device))

    @classmethod
    def from_dense(cls, batch: Tensor, labels: Sequence[int] | Tensor | None = None) -> ImagePool:
        """Uses a batch of equal images, contiguous uint8[n, H, W, 3], as a pool without copying it.

        Raises ValueError for another dtype or shape, or where labels and images differ in number.
        """
        if batch.dtype != torch.uint8 or batch.dim() != 4 or batch.shape[3] != 3 or not batch.is_contiguous():
            raise ValueError(f"batch: expected a contiguous uint8[n, height, width, 3], got {_describe(batch)}")
        count, height, width, channels = batch.shape
        offsets = torch.arange(count, device=batch.device) * (height * width * channels)
        sizes = torch.tensor([height, width], dtype=torch.int32, device=batch.device).repeat(count, 1)
        return cls(batch.view(-1), offsets, sizes, _as_labels(labels, count, batch.device))

    @classmethod
    def collect(cls, images: Iterable[tuple[Tensor, int]], size: int) -> ImagePool:
        """Copies images, uint8[H, W, 3] with labels, as they come, into a buffer on the CPU.

        ``size`` is what they need in all, in bytes; where it is too small, the buffer is made larger.
        """
        pixels = np.empty(size, dtype=np.uint8)
        offsets: list[int] = [0]
        sizes: list[Sequence[int]] = []
        labels: list[int] = []
        for image, label in images:
            begin, end = offsets[-1], offsets[-1] + image.numel()
            if end > pixels.size:
                pixels.resize(end + end // 8, refcheck=False)
            # NumPy copies in this thread; torch's threads would spin, and decoding be kept from the cores.
            pixels[begin:end] = image.numpy().ravel()
            offsets.append(end)
            sizes.append(image.shape[:2])
            labels.append(label)
        return cls(torch.from_numpy(pixels)[: offsets[-1]], *_tables(offsets[:-1], sizes, labels))

    @staticmethod
    def write(path: str | os.PathLike[str], images: Iterable[tuple[Tensor, int]]) -> None:
        """Writes images, uint8[H, W, 3] with labels, as they come, to a file for :meth:`load`.

        Only the image at hand is in memory. The file appears under its name only when it is whole.
        """
        offsets: list[int] = [0]
        sizes: list[Sequence[int]] = []
        labels: list[int] = []
        flushes: list[Future[None]] = []
        with atomic_write(Path(path)) as aside, aside.open("wb") as file, ThreadPoolExecutor(1) as disk:
            file.seek(PIXELS_BEGIN)
            for image, label in images:
                file.write(image.contiguous().numpy().data)
                offsets.append(offsets[-1] + image.numel())
                if offsets[-1] // FLUSH_BYTES > len(flushes):
                    flushes.append(disk.submit(os.fsync, file.fileno()))
                sizes.append(image.shape[:2])
                labels.append(label)
            padding = -offsets[-1] % 8  # so that the tables are aligned
            file.write(bytes(padding))
            end = offsets[-1] + padding
            header: dict[str, Any] = {"pixels": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}}
            tables = zip(
                ("offsets", "sizes", "labels"), ("I64", "I32", "I64"), _tables(offsets[:-1], sizes, labels), strict=True
            )
            for name, dtype, table in tables:
                begin, end = end, end + table.nbytes
                header[name] = {"dtype": dtype, "shape": list(table.shape), "data_offsets": [begin, end]}
                file.write(table.numpy().data)
            for flush in flushes:
                flush.result()
            file.seek(0)
            file.write((PIXELS_BEGIN - 8).to_bytes(8, "little"))
            file.write(json.dumps(header).encode().ljust(PIXELS_BEGIN - 8))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImagePool:
        """Maps a pool written by :meth:`save` into memory; pages are read when they are first used.

        Raises FileNotFoundError, and ValueError for a file that is no safetensors file or holds no pool.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)}: not a safetensors file ({error})") from error
        if tensors.keys() != {"pixels", "offsets", "sizes", "labels"}:
            raise ValueError(f"{os.fspath(path)}: expected an image pool, found tensors {sorted(tensors)}")
        return cls(**tensors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the pool as a safetensors file, which appears under its name only when it is whole."""
        from safetensors.torch import save_file

        tensors = {"pixels": self.pixels, "offsets": self.offsets, "sizes": self.sizes, "labels": self.labels}
        with atomic_write(Path(path)) as aside:
            save_file(tensors, aside)
            aside.chmod(0o666 & ~_umask())  # save_file lets the owner alone read it

    def to(self, device: torch.device | str) -> ImagePool:
        """The pool on another device; itself where it is there already."""
        if self.device == torch.device(device):
            return self
        return ImagePool(*(tensor.to(device) for tensor in (self.pixels, self.offsets, self.sizes, self.labels)))

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """The pool, again and again, with each of ``crops`` (see :class:`Images`)."""
        return ((self, batch) for batch in crops)

    @property
    def device(self) -> torch.device:
        """The device of all four tensors."""
        return self.pixels.device

    def __len__(self) -> int:
        return self.offsets.numel()

    def __getitem__(self, i: int) -> Tensor:
        """Image ``i`` as a view, uint8[H, W, 3]."""
        height, width = self.sizes[i].tolist()
        begin = int(self.offsets[i])
        return self.pixels[begin : begin + height * width * 3].view(height, width, 3)

    def __repr__(self) -> str:
        return f"ImagePool({len(self)} images, {self.pixels.numel() / 2**20:.1f} MiB, {self.device})"


def _tables(
    offsets: Sequence[int], sizes: Sequence[Sequence[int]], labels: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of these names."""
    return (
        torch.tensor(offsets, dtype=torch.int64),
        torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2),
        torch.tensor(labels, dtype=torch.int64),
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_labels(labels: Sequence[int] | Tensor | None, count: int, device: torch.device) -> Tensor:
    if labels is None:
        return torch.full((count,), -1, dtype=torch.int64, device=device)
    tensor = torch.as_tensor(labels, dtype=torch.int64, device=device)
    if tensor.shape != (count,):
        raise ValueError(f"labels: expected one label for each of {count} images, got {_describe(tensor)}")
    return tensor.contiguous()


def _spell(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"


def _describe(tensor: Tensor) -> str:
    return _spell(tensor.dtype, tensor.shape) + ("" if tensor.is_contiguous() else " that is not contiguous")
