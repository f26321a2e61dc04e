"""Images in memory: ImagePool holds RGB images of any size in one buffer, Crops says which windows of them to take."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.tensor_files import write_tensors
from .arguments import as_int64, describe
from .mean_colors import mean_colors

TENSORS = ("pixels", "offsets", "sizes", "labels")
"""The tensors of a pool."""


class Crops(NamedTuple):
    """Which window of which image each of B samples shows. All tensors are on the pool's device."""

    index: Tensor  # type: ignore[assignment]  # hides the method tuple.index, which nobody needs here
    """int64[B]: the image's position in its pool."""
    window: Tensor
    """int32[B, 4]: top, left, height and width of the window in pixels. It lies inside the image."""
    flip: Tensor
    """bool[B]: whether the window is mirrored left to right."""


def center_corners(sizes: Tensor, size: Tensor | int) -> Tensor:
    """Top and left of the windows in the middle of images: int32[B, 2].

    Half pixels are rounded to even numbers, as torchvision's CenterCrop does, so that other programs see the same crop.

    Args:
        sizes: int32[B, 2], heights and widths of the images.
        size: of the windows, int32[B, 2], or one number for all.
    """
    return ((sizes - size) / 2).round().int()


class Images(Protocol):
    """Labelled images that are either in memory (:class:`ImagePool`) or decoded each time they are needed."""

    @property
    def sizes(self) -> Tensor:
        """int32[n, 2]: height and width of each image, in pixels."""

    @property
    def labels(self) -> Tensor:
        """int64[n]: the class of each image."""

    @property
    def means(self) -> Tensor:
        """uint8[n, 8, 8, 3]: the mean colour of each of 8 x 8 equal parts of each image."""

    def __len__(self) -> int: ...

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """Yields, for each batch of crops of these images, a pool and crops of that pool that show the same windows."""


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Images of any size in one buffer, each stored row by row as R, G, B bytes.

    The four tensors are contiguous and on one device. :meth:`from_dense` makes a pool of a dense batch without a copy.

    Raises TypeError for what is no tensor, and ValueError for a tensor of another dtype, shape or device, or that is
    not contiguous.
    """

    pixels: Tensor
    """uint8[bytes]: all images, one after the other."""
    offsets: Tensor
    """int64[n]: where each image begins in ``pixels``, in bytes."""
    sizes: Tensor
    """int32[n, 2]: height and width of each image, in pixels."""
    labels: Tensor
    """int64[n]: the class of each image; -1 where none was given."""
    classes: tuple[str, ...] = ()
    """The names of the classes, of which labels are positions; empty where none were given."""
    is_part: bool = False
    """Whether ``pixels`` may hold images of other pools, too: a copy on another device or in a file leaves them out."""

    def __post_init__(self) -> None:
        for name in TENSORS:
            if not isinstance(value := getattr(self, name), Tensor):
                advice = "ImagePool.from_images copies arrays"
                raise TypeError(f"{name}: expected a tensor, got {describe(value)}; {advice}")
        count = self.offsets.numel()
        for name, dtype, shape in (
            ("pixels", torch.uint8, (self.pixels.numel(),)),
            ("offsets", torch.int64, (count,)),
            ("sizes", torch.int32, (count, 2)),
            ("labels", torch.int64, (count,)),
        ):
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != shape or not value.is_contiguous():
                raise ValueError(f"{name}: expected a contiguous {_type_name(dtype, shape)}, got {describe(value)}")
            if value.device != self.pixels.device:
                raise ValueError(f"{name}: expected a tensor on {self.pixels.device}, as pixels, got {value.device}")

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        resize: int | Literal["full"] = 256,
        classes: Iterable[str] | None = None,
        split: Literal["train", "val", "test", "all"] = "train",
        bad_files: Literal["error", "skip"] = "error",
        decoder: Literal["auto", "dali", "torchcodec", "torchvision", "pillow"] = "auto",
        log: Callable[[str], object] = print,
    ) -> ImagePool:
        """Decodes the images of a folder of class folders, or of any other dataset that ``fit`` takes, on the CPU.

        Args:
            folder: the dataset; a run's ``manifest.csv`` stands for the run's images in their splits.
            resize: short side of the decoded images, in pixels; ``full`` for images of their own size.
            classes: names of the classes whose images are taken. A label is a position in this list; all classes,
                sorted, if not given.
            split: which images. A folder that has no splits holds training images alone.
            bad_files: what to do about images that cannot be decoded: raise, or leave them out and say how many.
            decoder: what decodes JPEG files; auto takes the first of these that is installed.
            log: gets lines for the user.

        Raises TypeError for a folder that is no path; ValueError, FileNotFoundError or OSError, with a message for the
        user, for a dataset, classes or images that cannot be used, and for a class of which no image is left.
        """
        from ..data.folder_pool import folder_pool
        from ..settings.values import expanded

        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder: expected a path or the name of a dataset, got {folder!r}")

        name = expanded("folder", os.fspath(folder))
        return folder_pool(name, resize, classes, split=split, bad_files=bad_files, decoder=decoder, log=log)

    @classmethod
    def from_images(
        cls,
        images: Iterable[NDArray[np.uint8] | Tensor],
        labels: Sequence[int] | NDArray[Any] | Tensor | None = None,
    ) -> ImagePool:
        """Copies images, each a NumPy array or tensor uint8[H, W, 3] with any strides, into one buffer on the CPU.

        Raises ValueError for an image of another dtype or shape, and for another number of labels than of images;
        TypeError for an image that is neither, and for labels that are not integers.
        """
        images = list(images)
        for i, image in enumerate(images):
            if not isinstance(image, Tensor | np.ndarray):
                advice = '; numpy.asarray(image.convert("RGB")) makes an array of a Pillow image'
                raise TypeError(f"images[{i}]: expected a uint8[height, width, 3], got {describe(image)}{advice}")
            if str(image.dtype).removeprefix("torch.") != "uint8" or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"images[{i}]: expected a uint8[height, width, 3], got {describe(image)}")
            if 0 in image.shape:
                raise ValueError(f"images[{i}]: expected a uint8[height, width, 3] with pixels, got {describe(image)}")
        shapes = [tuple(image.shape) for image in images]
        ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
        pixels = np.empty(int(ends[-1]), dtype=np.uint8)
        for begin, end, image in zip(ends, ends[1:], images, strict=False):
            # NumPy takes what torch does not: arrays that are read-only, or run backwards as img[..., ::-1] does.
            pixels[begin:end].reshape(image.shape)[...] = image.cpu().numpy() if isinstance(image, Tensor) else image
        sizes = torch.tensor([shape[:2] for shape in shapes], dtype=torch.int32, device="cpu").reshape(-1, 2)
        offsets = torch.tensor(ends[: len(images)], dtype=torch.int64, device="cpu")
        return cls(torch.from_numpy(pixels), offsets, sizes, _as_labels(labels, len(images), sizes.device))

    @classmethod
    def from_dense(cls, batch: Tensor, labels: Sequence[int] | NDArray[Any] | Tensor | None = None) -> ImagePool:
        """Makes a pool of a batch of n images of one size, contiguous uint8[n, H, W, 3], without copying it.

        Raises ValueError for a batch of another dtype or shape, and for another number of labels than of images;
        TypeError for a batch that is no tensor, and for labels that are not integers.
        """
        if not isinstance(batch, Tensor):
            advice = "; torch.from_numpy makes one of an array" if isinstance(batch, np.ndarray) else ""
            raise TypeError(f"batch: expected a tensor uint8[n, height, width, 3], got {describe(batch)}{advice}")
        if batch.dtype != torch.uint8 or batch.dim() != 4 or batch.shape[3] != 3 or not batch.is_contiguous():
            raise ValueError(f"batch: expected a contiguous uint8[n, height, width, 3], got {describe(batch)}")
        count, height, width, channels = batch.shape
        if count and not height * width:
            raise ValueError(f"batch: expected images with pixels, got {describe(batch)}")
        offsets = torch.arange(count, device=batch.device) * (height * width * channels)
        sizes = torch.tensor([height, width], dtype=torch.int32, device=batch.device).repeat(count, 1)
        return cls(batch.view(-1), offsets, sizes, _as_labels(labels, count, batch.device))

    @classmethod
    def collect(cls, images: Iterable[tuple[Tensor, int]], size: int) -> ImagePool:
        """Copies images, uint8[H, W, 3] on the CPU with labels, one at a time into a buffer on the CPU.

        ``size`` is the expected number of bytes of all images. The buffer grows where it is too small.
        """
        pixels = np.empty(size, dtype=np.uint8)
        index = _Index()
        for image, label in images:
            begin, end = index.end, index.end + image.numel()
            if end > pixels.size:
                pixels.resize(end + end // 8, refcheck=False)
            # NumPy copies in this thread. torch's threads would spin, and take the cores from the decoder.
            pixels[begin:end] = image.numpy().ravel()
            index.add(image, label)
        return cls(torch.from_numpy(pixels)[: index.end], *index.tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImagePool:
        """Maps a file of :meth:`save` into memory. Its pages are read when they are first used.

        Raises FileNotFoundError where there is no such file, and ValueError for a file that does not hold a pool.
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            with safe_open(path, "pt") as file:
                classes = json.loads((file.metadata() or {}).get("classes", "[]"))
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)}: not a safetensors file ({error})") from error
        if tensors.keys() != set(TENSORS):
            raise ValueError(f"{os.fspath(path)}: expected an image pool, found tensors {sorted(tensors)}")
        pixels, offsets, sizes, labels = (tensors[name] for name in TENSORS)
        return cls(pixels, offsets, sizes, labels, tuple(classes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the pool as a safetensors file, which appears under its name only when it is complete."""
        metadata = {"classes": json.dumps(self.classes)} if self.classes else {}
        compact = self._compact()
        write_tensors(Path(path), {name: getattr(compact, name) for name in TENSORS}, metadata)

    def to(self, device: torch.device | str) -> ImagePool:
        """A copy of the pool on another device, or the pool itself where it is there already."""
        if self.device == torch.device(device):
            return self
        compact = self._compact()
        moved = replace(compact, **{name: getattr(compact, name).to(device) for name in TENSORS})
        if "means" in vars(self):
            vars(moved)["means"] = self.means.to(device)
        return moved

    def _compact(self) -> ImagePool:
        """The pool itself or, of a part of another one, a copy of its images alone."""
        if not self.is_part:
            return self
        lengths = 3 * self.sizes.long().prod(1)
        ends = (self.offsets + lengths).tolist()
        parts = [self.pixels[begin:end] for begin, end in zip(self.offsets.tolist(), ends, strict=True)]
        pixels = torch.cat(parts) if parts else self.pixels[:0]
        return replace(self, pixels=pixels, offsets=lengths.cumsum(0) - lengths, is_part=False)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images' pixels. ``pixels`` may have more, where a pool shows some of a larger one's images."""
        return int(3 * self.sizes.long().prod(1).sum())

    @cached_property
    def means(self) -> Tensor:
        """uint8[n, 8, 8, 3]: the mean colour of each of 8 x 8 equal parts of each image, computed when first asked for.

        A pixel on the border of two parts counts in both, by the share of it that lies in each.
        """
        return mean_colors(self.pixels, self.offsets, self.sizes)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """Yields the pool itself with each batch of crops, as :class:`Images` describes."""
        return ((self, batch) for batch in crops)

    @property
    def device(self) -> torch.device:
        """The device of all four tensors."""
        return self.pixels.device

    def __len__(self) -> int:
        return self.offsets.numel()

    def __getitem__(self, i: int) -> Tensor:
        """A view of image ``i``, uint8[H, W, 3]."""
        height, width = self.sizes[i].tolist()
        begin = int(self.offsets[i])
        return self.pixels[begin : begin + height * width * 3].view(height, width, 3)

    def __repr__(self) -> str:
        classes = f"{len(self.classes)} classes, " if self.classes else ""
        return f"ImagePool({len(self)} images, {classes}{self.pixels.numel() / 2**20:.1f} MiB, {self.device})"


torch.serialization.add_safe_globals([Crops, ImagePool])  # for torch.load, which takes no other classes by default


class _Index:
    """Offsets, sizes and labels of the images of a pool, collected while the images are written to it."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.sizes: list[Sequence[int]] = []
        self.labels: list[int] = []
        self.end = 0
        """Number of bytes of all images so far."""

    def add(self, image: Tensor, label: int) -> None:
        """Adds the next image, uint8[H, W, 3]."""
        self.offsets.append(self.end)
        self.sizes.append(image.shape[:2])
        self.labels.append(label)
        self.end += image.numel()

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets int64[n], sizes int32[n, 2], labels int64[n]."""
        return (
            torch.tensor(self.offsets, dtype=torch.int64),
            torch.tensor(self.sizes, dtype=torch.int32).reshape(-1, 2),
            torch.tensor(self.labels, dtype=torch.int64),
        )


def _as_labels(labels: Any, count: int, device: torch.device) -> Tensor:
    if labels is None:
        return torch.full((count,), -1, dtype=torch.int64, device=device)
    if isinstance(labels, Tensor):
        labels = labels.to(device)
    return as_int64("labels", labels, [count], device, ", one label for each image")


def _type_name(dtype: torch.dtype, shape: Sequence[int]) -> str:
    """A tensor's type as documentation writes it, such as "int32[4, 2]"."""
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
