"""Images that are decoded each time they are needed, ahead of their use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..ops.image_pool import Crops, ImagePool
from .dataset import Sample
from .decoding.decoder import Decoder, ordered_map

AHEAD = 2
"""How many batches beyond the one in use are decoded or being decoded."""


class StreamedImages:
    """Images that stay encoded, for datasets that do not fit into memory. Takes the place of an ImagePool.

    Args:
        samples: the images, all of which can be decoded, and their labels.
        sizes: int32[n, 2], height and width of each image in pixels, once it is decoded and resized.
        decoder: decodes the images and resizes them to these sizes.
        device: where labels, sizes and batches are.
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
        """The same images, with labels, sizes and batches on another device."""
        return StreamedImages(self.samples, self.sizes, self.decoder, device)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """Yields a pool of windows for each batch of crops, and crops that show all of them. Decodes batches ahead.

        All windows of a batch have the same size. An image that appears twice in a batch is decoded twice.

        Raises ValueError with the names of all images that can no longer be decoded.
        """
        with ThreadPoolExecutor(self.decoder.threads) as workers, ThreadPoolExecutor(1) as conductor:
            decode_windows = self.decoder.window_decoder(workers)

            def decode(batch: Crops) -> tuple[ImagePool, Crops]:
                images = [self.samples[i].image for i in batch.index.tolist()]
                windows = decode_windows(images, batch.window.tolist()).to(self.labels.device)
                pool = ImagePool.from_dense(windows, self.labels[batch.index])
                whole = batch.window.clone()
                whole[:, :2] = 0
                return pool, Crops(torch.arange(len(images), device=whole.device), whole, batch.flip)

            yield from ordered_map(conductor, decode, crops, AHEAD)
