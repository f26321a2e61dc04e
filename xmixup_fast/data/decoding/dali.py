"""The decoder that uses DALI, NVIDIA's library for loading data.

On a GPU, DALI decodes on streams of its own. Its results are bound to the current stream of the thread that asks for
them, and are copied into torch's memory on that stream. So the copy comes after the decoding, DALI's memory is free
after the copy, and whoever uses the pixels waits for that one stream. Nothing is exported by DLPack: for an exported
image of a GPU, DALI waits for the whole device before it frees the memory.
"""

from __future__ import annotations

import ctypes
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain, islice
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ...runtime.side_stream import side_stream, threads_on
from ..dataset import BadFile, Image
from .decoder import Decoder, ordered_map
from .notes import Notes
from .pillow import DEFAULT_READING
from .reading import Reading
from .steps import Encoded, Steps, Windows, kept_size, window_bytes, window_views

BATCH_IMAGES = 16
BATCH_BYTES = 2**25
"""No batch has more bytes of pixels, unless it is a single image. Three batches are in memory at a time."""


class DaliDecoder(Decoder):
    """Decodes batches of JPEG files with DALI, on the GPU if ``device`` is one.

    If images are not resized, a CPU decodes nothing but the windows of each. A GPU decodes whole images, because
    DALI's decoder of regions is reported to fail there.
    """

    def __init__(
        self,
        short_side: int | None,
        threads: int,
        device: torch.device,
        log: Callable[[str], object] | None = None,
        reading: Reading = DEFAULT_READING,
    ) -> None:
        super().__init__(short_side, threads, log, reading)
        # DALI wants a number, and its threads have a current device of their own.
        self.device = torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
        self.name = "dali" if device.type == "cpu" else f"dali {device.type}"

    def _decode(self, images: Iterable[Image], steps: Steps) -> Iterator[Tensor | BadFile]:
        stream = side_stream(self.device)
        with threads_on(stream, self.threads) as workers, threads_on(stream, 1) as dali:
            pipeline = _Pipeline(self.device, self.threads, windows=False)
            batches = into_batches(ordered_map(workers, steps.read, images, BATCH_IMAGES))
            decoded = ordered_map(dali, partial(_decode_batch, workers, pipeline, steps), batches, 1)
            yield from ordered_map(workers, steps.finish, chain.from_iterable(decoded), 4 * self.threads)

    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        regions = self.short_side is None and self.device.type == "cpu"
        pipeline = _Pipeline(self.device, self.threads, windows=regions)
        return partial(self._crop_regions if regions else self._crop_whole, workers, pipeline)

    def _crop_regions(
        self, workers: Executor, pipeline: _Pipeline, images: Sequence[Image], windows: Windows
    ) -> Tensor:
        """Decodes nothing but the windows. A batch of JPEG files is not copied out of DALI's memory."""
        steps = self._steps(Notes())
        encoded = list(workers.map(steps.read, images))
        data = {i: image.data for i, image in enumerate(encoded) if _is_whole_jpeg(image)}
        if not data:
            return steps.crop_each(workers, encoded, windows)
        try:
            regions = pipeline.run(list(data.values()), windows=[windows[i] for i in data])
        except RuntimeError as error:
            batch = steps.crop_each(workers, encoded, windows)
            _warn(len(data), error)
            return batch
        if len(data) == len(images) and regions.is_dense_tensor():
            return from_dlpack(regions.as_tensor()).flatten()
        pixels = torch.empty(window_bytes(windows), dtype=torch.uint8)
        places = window_views(pixels, windows)
        for i, region in zip(data, regions, strict=True):
            places[i].copy_(from_dlpack(region))
        others = [i for i in range(len(images)) if i not in data]
        if others:
            rest = [windows[i] for i in others]
            cropped = window_views(steps.crop_each(workers, [encoded[i] for i in others], rest), rest)
            for i, crop in zip(others, cropped, strict=True):
                places[i].copy_(crop)
        return pixels

    def _crop_whole(self, workers: Executor, pipeline: _Pipeline, images: Sequence[Image], windows: Windows) -> Tensor:
        """Decodes whole images, a few at a time, and copies their windows."""
        steps = self._steps(Notes())
        rest = iter(windows)
        parts = [
            steps.crop_each(
                workers,
                _decode_batch(workers, pipeline, steps, batch),
                list(islice(rest, len(batch))),
                self.device,
            )
            for batch in into_batches(ordered_map(workers, steps.read, images, BATCH_IMAGES))
        ]
        return torch.cat(parts)


class _Pipeline:
    """DALI's pipeline for JPEG files: it decodes whole images or, with ``windows``, one window of each image.

    It is built for the largest batch so far, and again after an error, which makes a pipeline unusable.
    """

    def __init__(self, device: torch.device, threads: int, *, windows: bool) -> None:
        self.device = device
        self.threads = threads
        self.windows = windows
        self._pipeline: Pipeline | None = None

    def decode(self, jpegs: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Decodes whole images: uint8[H, W, 3] each, on the GPU ready for the thread's current stream.

        Raises RuntimeError where an image fails.
        """
        if self.device.type == "cpu":
            return [from_dlpack(image) for image in self.run(jpegs)]
        stream = torch.cuda.current_stream(self.device)
        images = self.run(jpegs, stream)
        shapes = images.shape()
        counts = [math.prod(shape) for shape in shapes]
        pixels = torch.empty(sum(counts), dtype=torch.uint8, device=self.device)
        pointer, handle = ctypes.c_void_p(pixels.data_ptr()), ctypes.c_void_p(stream.cuda_stream)
        images.copy_to_external(pointer, handle, non_blocking=True)
        return [part.view(shape) for part, shape in zip(pixels.split(counts), shapes, strict=True)]

    def run(
        self,
        jpegs: Sequence[NDArray[np.uint8]],
        stream: torch.cuda.Stream | None = None,
        windows: Windows | None = None,
    ) -> Any:
        """Decodes a batch into DALI's list of tensors, uint8[H, W, 3], bound to ``stream`` on a GPU.

        Raises RuntimeError where an image fails.
        """
        if self._pipeline is None or self._pipeline.max_batch_size < len(jpegs):
            self._pipeline = self._build(max(len(jpegs), BATCH_IMAGES))
        inputs: dict[str, Any] = {"encoded": list(jpegs)}
        if windows is not None:
            corners = np.array(windows, dtype=np.int32)
            inputs |= {"anchor": list(corners[:, :2]), "shape": list(corners[:, 2:])}
        try:
            (images,) = self._pipeline.run(stream, **inputs)
        except RuntimeError:
            self._pipeline = None
            raise
        return images

    def _build(self, batch_size: int) -> Pipeline:
        on_gpu = self.device.type != "cpu"
        pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=self.threads,
            device_id=self.device.index if on_gpu else None,
            prefetch_queue_depth=1,  # DALI demands it where run() is given the batch
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            options = {"device": "mixed" if on_gpu else "cpu", "output_type": types.RGB}
            if self.windows:
                anchor, shape = (
                    fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("anchor", "shape")
                )
                images = fn.decoders.image_slice(encoded, anchor, shape, axes=[0, 1], **options)
            else:
                images = fn.decoders.image(encoded, **options)
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _decode_batch(
    workers: Executor, pipeline: _Pipeline, steps: Steps, batch: list[Encoded | BadFile]
) -> Sequence[Tensor | Encoded | BadFile]:
    """Decodes the plain JPEG files of a batch, and leaves its other items as they are.

    Where DALI fails, Pillow decodes the whole batch: DALI does not reliably name the image that it failed at.
    """
    data = [image.data for image in batch if _is_jpeg(image)]
    if not data:
        return batch
    try:
        pixels = iter(pipeline.decode(data))
    except RuntimeError as error:
        results = list(workers.map(lambda image: steps.decode(image) if _is_jpeg(image) else image, batch))
        pairs = zip(results, batch, strict=True)
        if not any(isinstance(after, BadFile) for after, before in pairs if _is_jpeg(before)):
            _warn(len(data), error)
        return results
    return [next(pixels) if _is_jpeg(image) else image for image in batch]


def _warn(count: int, error: RuntimeError) -> None:
    warnings.warn(f"DALI could not decode {count} images that Pillow could: {error}", stacklevel=3)


def _is_jpeg(image: Any) -> TypeGuard[Encoded]:
    return isinstance(image, Encoded) and image.header.plain_jpeg


def _is_whole_jpeg(image: Any) -> TypeGuard[Encoded]:
    """Whether DALI may decode a window alone: a window of a cropped image begins elsewhere in the whole one."""
    size = image.header[1:] if _is_jpeg(image) else None
    return size is not None and kept_size(*size) == size


def into_batches(images: Iterable[Encoded | BadFile]) -> Iterator[list[Encoded | BadFile]]:
    """Groups images into lists of at most BATCH_IMAGES images and BATCH_BYTES of pixels, or one larger image."""
    batch: list[Encoded | BadFile] = []
    total = 0
    for image in images:
        size = 3 * image.header.height * image.header.width if isinstance(image, Encoded) else 0
        if batch and (len(batch) == BATCH_IMAGES or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(image)
        total += size
    if batch:
        yield batch
