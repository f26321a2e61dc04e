"""Decoding with DALI."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
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

from ..dataset import BadFile, Image
from .decoder import Decoder, Encoded, Windows, crop_each, decode_and_resize, decode_pixels, ordered_map, read

BATCH_IMAGES = 16
BATCH_BYTES = 2**25
"""A batch ends where its images, decoded, need more; three batches are in memory at a time."""


class DaliDecoder(Decoder):
    """Decodes batches of JPEG files with DALI, on a GPU where the device is one.

    Images are resized as :class:`TorchvisionDecoder` does: on a CPU DALI's resize took four times longer, and differed
    by up to 2 levels. So on a CPU both decoders give the same pixels. Of images that are not resized, the CPU decodes
    nothing but the windows asked for; a GPU decodes them whole, as DALI's decoder of regions there is reported to fail.
    """

    def __init__(self, short_side: int | None, threads: int, device: torch.device) -> None:
        super().__init__(short_side, threads)
        self.device = device
        self.name = "dali" if device.type == "cpu" else f"dali {device.type}"

    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        with ThreadPoolExecutor(self.threads) as workers, ThreadPoolExecutor(1) as dali:
            jpegs = _Pipeline(self.device, self.threads, windows=False)
            batches = _batches(ordered_map(workers, read, images, BATCH_IMAGES))
            decoded = ordered_map(dali, partial(_decode_batch, workers, jpegs), batches, 1)
            finishing = partial(decode_and_resize, short_side=self.short_side)
            yield from ordered_map(workers, finishing, chain.from_iterable(decoded), 4 * self.threads)

    def window_decoder(self, workers: Executor) -> Callable[[Sequence[Image], Windows], Tensor]:
        regions = self.short_side is None and self.device.type == "cpu"
        jpegs = _Pipeline(self.device, self.threads, windows=regions)
        return partial(self._crop_regions if regions else self._crop_whole, workers, jpegs)

    def _crop_regions(self, workers: Executor, jpegs: _Pipeline, images: Sequence[Image], windows: Windows) -> Tensor:
        """Decodes windows alone. A batch of JPEG files stays in the memory that DALI wrote it to."""
        encoded = list(workers.map(read, images))
        data = {i: image.data for i, image in enumerate(encoded) if _is_jpeg(image)}
        if not data:
            return crop_each(workers, encoded, windows, None)
        try:
            regions = jpegs.run(list(data.values()), [windows[i] for i in data])
        except RuntimeError as error:
            batch = crop_each(workers, encoded, windows, None)
            _warn(len(data), error)
            return batch
        if len(data) == len(images):
            return from_dlpack(regions.as_tensor())
        mixed: dict[int, Tensor | Encoded | BadFile] = dict(enumerate(encoded))
        places = list(windows)
        for i, region in zip(data, regions, strict=True):
            mixed[i], places[i] = from_dlpack(region), [0, 0, *windows[i][2:]]
        return crop_each(workers, list(mixed.values()), places, None)

    def _crop_whole(self, workers: Executor, jpegs: _Pipeline, images: Sequence[Image], windows: Windows) -> Tensor:
        """Decodes whole images, a few at a time, and keeps their windows."""
        rest = iter(windows)
        parts = [
            crop_each(
                workers,
                _decode_batch(workers, jpegs, batch),
                list(islice(rest, len(batch))),
                self.short_side,
                self.device,
            )
            for batch in _batches(ordered_map(workers, read, images, BATCH_IMAGES))
        ]
        return torch.cat(parts)


class _Pipeline:
    """Decodes JPEG files with DALI: whole, or one window of each."""

    def __init__(self, device: torch.device, threads: int, *, windows: bool) -> None:
        self.device = device
        self.threads = threads
        self.windows = windows
        self._pipeline: Pipeline | None = None

    def run(self, jpegs: Sequence[NDArray[np.uint8]], windows: Windows | None = None) -> Any:
        """The images as DALI's list of tensors. Raises RuntimeError where one cannot be decoded."""
        if self._pipeline is None or self._pipeline.max_batch_size < len(jpegs):
            self._pipeline = self._build(max(len(jpegs), BATCH_IMAGES))
        inputs: dict[str, Any] = {"encoded": list(jpegs)}
        if windows is not None:
            corners = np.array(windows, dtype=np.int32)
            inputs |= {"anchor": list(corners[:, :2]), "shape": list(corners[:, 2:])}
        try:
            (images,) = self._pipeline.run(**inputs)
        except RuntimeError:
            self._pipeline = None  # an error ends a pipeline
            raise
        return images

    def _build(self, batch_size: int) -> Pipeline:
        on_gpu = self.device.type != "cpu"
        pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=self.threads,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,  # needed to give batches to run()
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
    workers: Executor, jpegs: _Pipeline, batch: list[Encoded | BadFile]
) -> Sequence[Tensor | Encoded | BadFile]:
    """The batch with its JPEG files decoded; others are left as they are.

    Where DALI fails, torchvision decodes: DALI does not tell for certain which image it failed at.
    """
    data = [image.data for image in batch if _is_jpeg(image)]
    if not data:
        return batch
    try:
        output = jpegs.run(data)
    except RuntimeError as error:
        results = list(workers.map(lambda image: decode_pixels(image) if isinstance(image, Encoded) else image, batch))
        pairs = zip(results, batch, strict=True)
        if not any(isinstance(after, BadFile) for after, before in pairs if _is_jpeg(before)):
            _warn(len(data), error)
        return results
    pixels = iter([from_dlpack(image) for image in output])
    return [next(pixels) if _is_jpeg(image) else image for image in batch]


def _warn(count: int, error: RuntimeError) -> None:
    warnings.warn(f"DALI could not decode {count} images that torchvision could: {error}", stacklevel=3)


def _is_jpeg(image: Any) -> TypeGuard[Encoded]:
    return isinstance(image, Encoded) and image.header.is_jpeg


def _batches(images: Iterable[Encoded | BadFile]) -> Iterator[list[Encoded | BadFile]]:
    """Images in lists of at most BATCH_IMAGES and, but for single large ones, BATCH_BYTES of pixels."""
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
