"""Decoding with DALI."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from .dataset import BadFile, Image
from .decode import Decoder, Encoded, decode_pixels, finish, in_order, read

BATCH_IMAGES = 16
BATCH_BYTES = 2**25
"""A batch ends where its images, decoded, need more; three batches are in memory at a time."""


class DaliDecoder(Decoder):
    """Decodes batches of JPEG files with DALI, on a GPU where the device is one.

    Images are resized as :class:`TorchvisionDecoder` does: on a CPU DALI's resize took four times longer, and differed
    by up to 2 levels. So on a CPU both decoders give the same pixels.
    """

    def __init__(self, short_side: int, threads: int, device: torch.device) -> None:
        super().__init__(short_side, threads)
        self.device = device
        self.name = "dali" if device.type == "cpu" else f"dali {device.type}"

    def decode(self, images: Iterable[Image]) -> Iterator[Tensor | BadFile]:
        with ThreadPoolExecutor(self.threads) as workers, ThreadPoolExecutor(1) as dali:
            self._build()
            batches = _batches(in_order(workers, read, images, BATCH_IMAGES))
            decoded = in_order(dali, partial(self._decode_batch, workers), batches, 1)
            finishing = partial(finish, short_side=self.short_side)
            yield from in_order(workers, finishing, chain.from_iterable(decoded), 4 * self.threads)

    def _build(self) -> None:
        on_gpu = self.device.type != "cpu"
        self._pipeline = Pipeline(
            batch_size=BATCH_IMAGES,
            num_threads=self.threads,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,  # needed to give batches to run()
        )
        with self._pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            decoded = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
            self._pipeline.set_outputs(decoded)
        self._pipeline.build()

    def _decode_batch(self, workers: Executor, batch: list[Encoded | BadFile]) -> Sequence[Tensor | Encoded | BadFile]:
        """The batch with its JPEG files decoded; others are left as they are."""
        jpegs = [image.data for image in batch if isinstance(image, Encoded) and image.header.is_jpeg]
        if not jpegs:
            return batch
        try:
            (output,) = self._pipeline.run(encoded=jpegs)
        except RuntimeError as error:
            return self._one_by_one(workers, batch, error)
        pixels = iter([from_dlpack(image) for image in output])
        return [next(pixels) if _is_jpeg(image) else image for image in batch]

    def _one_by_one(
        self, workers: Executor, batch: list[Encoded | BadFile], error: RuntimeError
    ) -> list[Tensor | BadFile]:
        """The batch without DALI, which does not tell for certain which image it failed at."""
        self._build()  # an error ends a pipeline
        results = list(workers.map(lambda image: decode_pixels(image) if isinstance(image, Encoded) else image, batch))
        if not any(
            isinstance(after, BadFile) for after, before in zip(results, batch, strict=True) if _is_jpeg(before)
        ):
            warnings.warn(f"DALI could not decode {len(batch)} images that torchvision could: {error}", stacklevel=2)
        return results


def _is_jpeg(image: Any) -> bool:
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
