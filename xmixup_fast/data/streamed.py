"""Images that are decoded each time they are needed, ahead of their use.

On a GPU, the decoding threads have a stream of their own. So a batch reaches the device while steps that use earlier
ones are still queued on the caller's stream; the step that uses it waits for its event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..ops.image_pool import Crops, ImagePool
from ..ops.mean_colors import GRID, dense_mean_colors
from ..runtime.device import upload
from ..runtime.progress import progress
from ..runtime.side_stream import hand_over, side_stream, threads_on
from .dataset import BadFile, Sample
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

    @cached_property
    def means(self) -> Tensor:
        """uint8[n, 8, 8, 3]: mean colours of parts of each image, for which all images are decoded once, when asked.

        Raises ValueError for an image that can no longer be decoded.
        """
        decoded = self.decoder.decode(sample.image for sample in self.samples)
        means = torch.empty((len(self), GRID, GRID, 3), dtype=torch.uint8)
        for i, image in enumerate(progress(decoded, len(self), "reading mean colours of streamed images")):
            if isinstance(image, BadFile):
                raise ValueError(f"{image.name}: could be decoded before and no longer can: {image.reason}")
            means[i : i + 1] = dense_mean_colors(image.unsqueeze(0).contiguous())
        return means.to(self.labels.device)

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same images, with labels, sizes and batches on another device."""
        moved = StreamedImages(self.samples, self.sizes, self.decoder, device)
        if "means" in vars(self):
            vars(moved)["means"] = self.means.to(device)
        return moved

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        """Yields a pool of windows for each batch of crops, and crops that show all of them. Decodes batches ahead.

        A window that appears twice in a batch is decoded once. Pool and crops are on the device of these images, and
        ready for the stream that is current when they are asked for. Crops are best given on the CPU: a GPU's are read
        back, for which the host waits.

        Raises ValueError with the names of all images that can no longer be decoded.
        """
        device = self.labels.device
        stream = side_stream(device if device.type == "cuda" else self.decoder.device)
        with threads_on(stream, self.decoder.threads) as workers, threads_on(stream, 1) as conductor:
            decode_windows = self.decoder.window_decoder(workers)

            def decode(batch: Crops) -> tuple[list[Tensor], torch.cuda.Event | None]:
                asked = torch.cat([batch.index.unsqueeze(1), batch.window], dim=1)
                distinct, index = asked.unique(dim=0, return_inverse=True)
                rows = distinct.tolist()
                pixels = decode_windows([self.samples[row[0]].image for row in rows], [row[1:] for row in rows])
                sizes = distinct[:, 3:].int()
                ends = (3 * distinct[:, 3] * distinct[:, 4]).cumsum(0)
                offsets = torch.cat([ends.new_zeros(1), ends[:-1]])
                labels = torch.tensor([self.samples[row[0]].label for row in rows], dtype=torch.int64)
                whole = torch.cat([torch.zeros_like(batch.window[:, :2]), batch.window[:, 2:]], dim=1)
                made = (pixels, offsets, sizes.contiguous(), labels, index, whole, batch.flip)
                tensors = [upload(tensor, device) for tensor in made]
                ready = stream.record_event() if stream is not None and device.type == "cuda" else None
                return tensors, ready

            for tensors, ready in ordered_map(conductor, decode, map(_on_cpu, crops), AHEAD):
                if ready is not None:
                    hand_over(tensors, ready)
                pixels, offsets, sizes, labels, index, whole, flip = tensors
                yield ImagePool(pixels, offsets, sizes, labels), Crops(index, whole, flip)


def _on_cpu(crops: Crops) -> Crops:
    """The crops on the CPU, with one copy where they are on a GPU."""
    if crops.index.device.type == "cpu":
        return crops
    rows = torch.cat([crops.index.unsqueeze(1), crops.window, crops.flip.unsqueeze(1)], dim=1).cpu()
    return Crops(rows[:, 0], rows[:, 1:5].int(), rows[:, 5].bool())
