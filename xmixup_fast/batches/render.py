"""Rendering: from what was drawn to the normalised images that the network sees, with one call of ops.mix each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee

import torch
from torch import Tensor

from .. import ops
from ..data.center_crops import center_windows
from ..ops.image_pool import Crops, ImagePool, Images
from .plan import Draw


class Renderer:
    """Turns crops of the training images into batches, [B, 3, size, size] in channels_last.

    The batches of each method are written to one buffer, again and again: a batch lasts until the next call of the
    same method.

    Args:
        target: the training images.
        aux: the auxiliary images, for methods that use them.
        mean, std: of each channel, for images in 0..1: the network's own.
        size: height and width of a batch's images.
        dtype: of the batches that the network learns from. What a pass over images looks at is float32.
    """

    def __init__(
        self,
        target: Images,
        aux: ImagePool | None,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.images = target
        self.target_pool = target if isinstance(target, ImagePool) else ImagePool.from_images([])
        """What target crops are of; of a stream, the images of the step at hand."""
        self.aux_pool = aux
        self.mean = mean
        self.std = std
        self.size = size
        self.dtype = dtype
        self._buffers: dict[str, Tensor] = {}

    def feed(self, draws: Iterable[Draw]) -> Iterator[Draw]:
        """The draws of one step after the other; each can be rendered until the next is asked for."""
        draws, again = tee(draws)
        # Streamed images are asked for ahead of their step.
        batches = self.images.feed(later.all_crops for later in again)
        for draw, (pool, crops) in zip(draws, batches, strict=True):
            self.target_pool = pool
            yield replace(draw, all_crops=crops)

    def target(self, crops: Crops) -> Tensor:
        """Target images alone."""
        return self._plain(self.target_pool, crops, "target")

    def aux(self, crops: Crops | None) -> Tensor:
        """Auxiliary images alone. Raises ValueError where there are none."""
        pool, crops = self._auxiliary(crops)
        return self._plain(pool, crops, "aux")

    def xmixup(self, draw: Draw) -> Tensor:
        """Each target image with its auxiliary image. Raises ValueError where there are none."""
        pool, crops = self._auxiliary(draw.aux_crops)
        return self._mix(self.target_pool, draw.crops, pool, crops, draw.lam, "xmixup")

    def mixup(self, draw: Draw) -> Tensor:
        """Each target image with its partner in the batch, as cropped and mirrored there."""
        return self._mix(self.target_pool, draw.crops, self.target_pool, _partners(draw), draw.lam, "mixup")

    def cutmix(self, draw: Draw) -> Tensor:
        """Each target image with a rectangle of its partner in the batch."""
        box, lam = draw.rectangles(self.size)
        return self._mix(self.target_pool, draw.crops, self.target_pool, _partners(draw), lam, "cutmix", box)

    def xcutmix(self, draw: Draw) -> Tensor:
        """Each target image with a rectangle of its auxiliary image. Raises ValueError where there are none."""
        pool, crops = self._auxiliary(draw.aux_crops)
        box, lam = draw.rectangles(self.size)
        return self._mix(self.target_pool, draw.crops, pool, crops, lam, "xcutmix", box)

    def plain(self, pool: ImagePool, crops: Crops) -> Tensor:
        """Images of any pool, unmixed, in float32."""
        return self._plain(pool, crops, "plain")

    def batches(
        self, images: Images, batch_size: int, positions: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over any images: unmixed centre crops, float32[B, 3, H, W], and labels int64[B].

        The images are those at some positions, int64[n] on their device; all in their order, if not given.
        """
        if positions is None:
            positions = torch.arange(len(images), device=images.labels.device)
        indices = torch.split(positions.contiguous(), batch_size) if len(positions) else ()
        feed = images.feed(center_windows(images.sizes, self.size, index) for index in indices)
        for index, (pool, crops) in zip(indices, feed, strict=True):
            yield self.plain(pool, crops), images.labels[index]

    def _plain(self, pool: ImagePool, crops: Crops, buffer: str) -> Tensor:
        lam = torch.ones(len(crops.index), device=pool.device)
        return self._mix(pool, crops, pool, crops, lam, buffer)

    def _auxiliary(self, crops: Crops | None) -> tuple[ImagePool, Crops]:
        if self.aux_pool is None or crops is None:
            raise ValueError("aux: this run has no auxiliary images; the method needs uses_source = True")
        return self.aux_pool, crops

    def _mix(
        self,
        target: ImagePool,
        target_crops: Crops,
        aux: ImagePool,
        aux_crops: Crops,
        lam: Tensor,
        buffer: str,
        box: Tensor | None = None,
    ) -> Tensor:
        batch = len(lam)
        out = self._buffers.get(buffer)
        if out is None or len(out) < batch or out.device != target.device:
            shape = (batch, 3, self.size, self.size)
            dtype = torch.float32 if buffer == "plain" else self.dtype
            out = torch.empty(shape, dtype=dtype, device=target.device, memory_format=torch.channels_last)
            self._buffers[buffer] = out
        return ops.mix(
            *(target, target_crops, aux, aux_crops, lam),
            mean=self.mean,
            std=self.std,
            size=(self.size, self.size),
            box=box,
            memory_format=torch.channels_last,
            out=out[:batch],
        )


def _partners(draw: Draw) -> Crops:
    """The crops of each sample's partner. Raises ValueError where none were drawn."""
    if draw.partner is None:
        raise ValueError("draw: has no partners; the method's draw must ask the sampler for them")
    return Crops(*(tensor[draw.partner] for tensor in draw.all_crops))
