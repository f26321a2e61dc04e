"""Stream: images that are decoded each time they are needed, ahead of those who use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..ops.image_pool import Crops, ImagePool
from .dataset import Sample
from .decoding.decoder import Decoder, ordered_map

AHEAD = 2
"""Batches that are decoded, or are being decoded, beyond the one in use."""


class StreamedImages:
    """Images that stay encoded, for datasets that do not fit into memory; used as an ImagePool of the same images is.

    Args:
        samples: the images, all of which can be decoded, and their labels.
        sizes: int32[n, 2], height and width of each once it is decoded and resized.
        decoder: what decodes them; its short side is the sizes'.
        device: of labels, sizes and batches.
    """

    def __init__(
        self, samples: Sequence[Sample], sizes: Tensor, decoder: Decoder, device: torch.device | str = "cpu"
    ) -> None:
        self.samples = samples
        self.sizes = sizes.to(device)
        self.labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64, device=device)
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The stream with labels, sizes and batches on another device."""
        return StreamedImages(self.samples, self.sizes, self.decoder, device)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """For each of ``crops`` a pool of its windows, decoded ahead, and crops of that pool which show the same.

        The windows of one batch have one size. Each is a copy of its own: an image that comes twice is decoded twice.

        Raises ValueError, which names the images, where some can no longer be decoded.
        """
        with ThreadPoolExecutor(self.decoder.threads) as workers, ThreadPoolExecutor(1) as conductor:
            crop = self.decoder.window_decoder(workers)

            def decode(batch: Crops) -> tuple[ImagePool, Crops]:
                images = [self.samples[i].image for i in batch.index.tolist()]
                windows = crop(images, batch.window.tolist()).to(self.labels.device)
                pool = ImagePool.from_dense(windows, self.labels[batch.index])
                whole = batch.window.clone()
                whole[:, :2] = 0
                return pool, Crops(torch.arange(len(images), device=whole.device), whole, batch.flip)

            yield from ordered_map(conductor, decode, crops, AHEAD)
