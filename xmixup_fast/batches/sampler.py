"""Sampler: the order of the training images, and every random number of a step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from .. import ops
from ..ops.auxiliary_index import NO_AUXILIARY, AuxiliaryIndex
from ..ops.lam import beta_quantiles
from ..settings.fields import Settings
from .plan import Draw
from .seeds import SeedUse, hash_integers


def run_steps(settings: Settings, images: int) -> int:
    """The steps of fine-tuning that the settings ask for, with a number of training images."""
    return settings.steps or -(-settings.epochs * images // settings.batch_size)


class Sampler:
    """Draws the steps of a run; a step depends on the seed and its number alone, whatever was drawn before.

    The order is one permutation of the images per epoch, one after the other, cut into full batches: every image comes
    once per epoch, and all batches have the same size. The settings' ``steps``, or else ``epochs``, tell the length.
    Crops, weights and auxiliary images come from :func:`xmixup_fast.ops.draw`: an image's depend on the seed, the image
    and the epoch alone, so that all methods see the same order, crops and weights.

    Args:
        pool_labels: int64[n], target class of each training image.
        pool_sizes: int32[n, 2], their heights and widths.
        aux: the auxiliary images, for methods that use them.
        settings: batch size, length, seed, crop and mixing.
        rank, world_size: which of how many processes this is. Together they draw what one process would: each takes
            its part of every batch.

    Raises ValueError for an image that is smaller than a crop, and for fewer samples in a batch than processes.
    """

    def __init__(
        self,
        pool_labels: Tensor,
        pool_sizes: Tensor,
        aux: AuxiliaryIndex | None,
        settings: Settings,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = pool_labels.device
        self.labels, self.sizes = pool_labels, pool_sizes
        self.has_aux = aux is not None
        self.aux = AuxiliaryIndex(*(tensor.to(self.device) for tensor in aux or NO_AUXILIARY))
        self.settings = settings
        if settings.batch_size < world_size:
            raise ValueError(f"batch_size: expected at least {world_size}, the processes, got {settings.batch_size}")
        self.share = slice(*(settings.batch_size * part // world_size for part in (rank, rank + 1)))
        """This process's part of a batch."""
        for sizes in (self.sizes, self.aux.sizes):
            if (sizes < settings.image_size).any():
                smallest = "x".join(map(str, sizes[sizes.amin(1).argmin()].tolist()))
                raise ValueError(f"image_size: {settings.image_size} is more than an image has, {smallest}")
        images = len(self.labels)
        self.steps = run_steps(settings, images)
        self.mixed_samples = round((1 - settings.unmixed_share) * self.steps * settings.batch_size)
        """How many samples come before the unmixed share at the end."""
        self.quantiles = beta_quantiles(settings.alpha, settings.fold).to(self.device)
        members = self.aux.members.unique()
        offsets = torch.tensor([0, len(members)], device=self.device)
        self.union = self.aux._replace(offsets=offsets, members=members)
        """The auxiliary images as those of a single class."""
        self.permutation = lru_cache(maxsize=2)(self._permutation)

    def draw(self, step: int, *, partners: bool = False, aux_of_any_class: bool = False) -> Draw:
        """What is random in a step, counted from 0, of this process's part of the batch.

        Partners, for mixing within the whole batch, are there if asked for. Auxiliary images are those of a sample's
        class or, of any class, one of all images that some class has, all equally likely.
        """
        settings = self.settings
        begin, end = step * settings.batch_size, (step + 1) * settings.batch_size
        position = torch.arange(begin, end, device=self.device)
        index = self._order(begin, end)
        label = self.labels[index]
        aux = self.union if aux_of_any_class else self.aux
        drawn = ops.draw(
            settings.seed,
            sample=index,
            epoch=position // len(self.labels),
            label=torch.zeros_like(label) if aux_of_any_class else label,
            target_index=index,
            target_sizes=self.sizes,
            offsets=aux.offsets,
            members=aux.members,
            aux_sizes=self.aux.sizes,
            lam_quantiles=self.quantiles,
            size=(settings.image_size, settings.image_size),
            flip=settings.flip,
        )
        generator = torch.Generator().manual_seed(hash_integers(settings.seed, SeedUse.STEP, step))
        partner = self._moved(torch.randperm(len(index), generator=generator))
        lam = self._lam(drawn.lam, position, generator)
        chance = settings.rectangle_probability
        rectangle = chance > 0 and float(torch.rand((), generator=generator)) < chance
        draw = Draw(label, drawn.target_crops, lam, drawn.center, rectangle=rectangle)
        if partners:
            draw = replace(draw, partner=partner, partner_label=label[partner])
        if self.has_aux:
            draw = replace(draw, aux_label=self.aux.labels[drawn.aux_crops.index], aux_crops=drawn.aux_crops)
        return draw.part(self.share.start, self.share.stop)

    def epoch_ends(self) -> dict[int, int]:
        """The steps after which an epoch is complete, counted from 1, with its number; the last step is always one."""
        batch, images = self.settings.batch_size, len(self.labels)
        ends = {-(-epoch * images // batch): epoch for epoch in range(1, self.steps * batch // images + 1)}
        ends.setdefault(self.steps, -(-self.steps * batch // images))
        return ends

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash_integers(self.settings.seed, SeedUse.EPOCH, epoch))
        return self._moved(torch.randperm(len(self.labels), generator=generator))

    def _moved(self, drawn: Tensor) -> Tensor:
        """What was drawn on the CPU, on the device; nothing waits for the device."""
        return drawn.to(self.device, non_blocking=True)

    def _order(self, begin: int, end: int) -> Tensor:
        """The images at these positions of the run's order, up to ``end``."""
        images = len(self.labels)
        epochs = range(begin // images, -(-end // images))
        return torch.cat([self.permutation(e)[max(begin - e * images, 0) : end - e * images] for e in epochs])

    def _lam(self, drawn: Tensor, position: Tensor, generator: torch.Generator) -> Tensor:
        """The weights that were drawn, or the first of them for the whole batch; 1 where a sample is not mixed."""
        chance = self._moved(torch.rand(len(drawn), generator=generator))
        if self.settings.lam_per == "batch":
            drawn, chance = drawn[:1].expand_as(drawn), chance[:1].expand_as(chance)
        mixed = (chance < self.settings.mix_probability) & (position < self.mixed_samples)
        return drawn.where(mixed, 1.0)
