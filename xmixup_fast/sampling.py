"""Sampling: the order of the training images, and every random number of a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from .pool import Crops
from .settings import Settings

TABLE_SIZE = 4096
"""Intervals of the quantile table of the mixing weights."""

_EPOCH, _STEP = 0, 1  # what a seed is for


class Auxiliary(NamedTuple):
    """The auxiliary images, and which of them each target class may be mixed with."""

    labels: Tensor
    """int64[n]: source class of each image."""
    sizes: Tensor
    """int32[n, 2]: height and width."""
    offsets: Tensor
    """int64[K_t + 1]: where each target class begins in ``members``."""
    members: Tensor
    """int64[M]: images of each target class."""


@dataclass(frozen=True, eq=False)
class Draw:
    """All that is random in one step of B samples, on the pools' device."""

    label: Tensor
    """int64[B]: target classes."""
    crops: Crops
    """Target images and their windows."""
    lam: Tensor
    """float32[B] in 0..1: weight of the target image; 1 where a sample is not mixed."""
    partner: Tensor
    """int64[B]: a permutation of the batch, for mixing within it."""
    aux_label: Tensor | None = None
    """int64[B]: source classes; None without auxiliary images."""
    aux_crops: Crops | None = None
    """Auxiliary images and their windows."""

    def to(self, device: torch.device) -> Draw:
        """The draw on another device."""
        return Draw(
            self.label.to(device),
            Crops(*(tensor.to(device) for tensor in self.crops)),
            self.lam.to(device),
            self.partner.to(device),
            None if self.aux_label is None else self.aux_label.to(device),
            None if self.aux_crops is None else Crops(*(tensor.to(device) for tensor in self.aux_crops)),
        )


class Sampler:
    """Draws the steps of a run; a step depends on the seed and its number alone, whatever was drawn before.

    The order is one permutation of the images per epoch, one after the other, cut into full batches: every image comes
    once per epoch, and all batches have the same size. The settings' ``steps``, or else ``epochs``, tell the length.
    What only auxiliary images need is drawn last, so that all methods see the same order, crops and weights.

    Args:
        pool_labels: int64[n], target class of each training image.
        pool_sizes: int32[n, 2], their heights and widths.
        aux: the auxiliary images, for methods that use them.
        settings: batch size, length, seed, crop and mixing.

    Raises ValueError for an image that is smaller than a crop.
    """

    def __init__(self, pool_labels: Tensor, pool_sizes: Tensor, aux: Auxiliary | None, settings: Settings) -> None:
        self.device = pool_labels.device
        self.labels, self.sizes = pool_labels.cpu(), pool_sizes.cpu()
        self.aux = Auxiliary(*(tensor.cpu() for tensor in aux)) if aux else None
        self.settings = settings
        for sizes in (self.sizes, *([self.aux.sizes] if self.aux else [])):
            if sizes.min() < settings.image_size:
                smallest = "x".join(map(str, sizes[sizes.amin(1).argmin()].tolist()))
                raise ValueError(f"image_size: {settings.image_size} is more than an image has, {smallest}")
        images = len(self.labels)
        self.steps = settings.steps or -(-settings.epochs * images // settings.batch_size)
        self.mixed_samples = self.steps * settings.batch_size - settings.unmixed_epochs * images
        """How many samples come before the unmixed epochs at the end."""
        self.quantiles = beta_quantiles(settings.alpha, settings.fold)
        self.permutation = lru_cache(maxsize=2)(self._permutation)

    def draw(self, step: int) -> Draw:
        """What is random in a step, counted from 0."""
        batch = self.settings.batch_size
        generator = torch.Generator().manual_seed(hash_integers(self.settings.seed, _STEP, step))
        position = torch.arange(step * batch, (step + 1) * batch)
        index = self._order(position)
        crops = self._random_crops(self.sizes, index, generator)
        lam = self._lam(position, generator)
        partner = torch.randperm(batch, generator=generator)
        label = self.labels[index]
        aux_label = aux_crops = None
        if self.aux is not None:
            first, last = self.aux.offsets[label], self.aux.offsets[label + 1]
            aux_index = self.aux.members[first + _below(last - first, generator)]
            aux_label = self.aux.labels[aux_index]
            aux_crops = self._random_crops(self.aux.sizes, aux_index, generator)
        return Draw(label, crops, lam, partner, aux_label, aux_crops).to(self.device)

    def epoch_ends(self) -> dict[int, int]:
        """The steps after which an epoch is complete, counted from 1, with its number; the last step is always one."""
        batch, images = self.settings.batch_size, len(self.labels)
        ends = {-(-epoch * images // batch): epoch for epoch in range(1, self.steps * batch // images + 1)}
        ends.setdefault(self.steps, -(-self.steps * batch // images))
        return ends

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash_integers(self.settings.seed, _EPOCH, epoch))
        return torch.randperm(len(self.labels), generator=generator)

    def _order(self, position: Tensor) -> Tensor:
        """The images at some consecutive positions of the run's order."""
        images = len(self.labels)
        epochs, place = position // images, position % images
        parts = [self.permutation(epoch)[place[epochs == epoch]] for epoch in epochs.unique().tolist()]
        return torch.cat(parts)

    def _random_crops(self, sizes: Tensor, index: Tensor, generator: torch.Generator) -> Crops:
        size = self.settings.image_size
        corner = _below(sizes[index] - size + 1, generator)
        window = torch.cat([corner, torch.full_like(corner, size)], dim=1).int()
        mirrored = torch.rand(len(index), generator=generator) < 0.5
        return Crops(index, window, mirrored & self.settings.flip)

    def _lam(self, position: Tensor, generator: torch.Generator) -> Tensor:
        quantile, mixing = torch.rand(2, len(position), dtype=torch.float64, generator=generator)
        if self.settings.lam_per == "batch":
            quantile, mixing = quantile[:1].expand_as(quantile), mixing[:1].expand_as(mixing)
        place = quantile * TABLE_SIZE
        below = place.long()
        lam = torch.lerp(self.quantiles[below], self.quantiles[below + 1], place - below).float()
        mixed = (mixing < self.settings.mix_probability) & (position < self.mixed_samples)
        return lam.where(mixed, 1.0)


def center_crops(sizes: Tensor, size: int, index: Tensor) -> Crops:
    """The middle ``size`` x ``size`` pixels of images, not mirrored: sizes int32[n, 2] of the pool, index int64[B]."""
    corner = (sizes[index] - size) // 2
    window = torch.cat([corner, torch.full_like(corner, size)], dim=1).int()
    return Crops(index, window, torch.zeros_like(index, dtype=torch.bool))


def beta_quantiles(alpha: float, fold: bool) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at 0, 1/TABLE_SIZE, ... 1: float64[TABLE_SIZE + 1], rising.

    Folded, they are those of max(lam, 1 - lam): by symmetry the upper half of the distribution.
    """
    p = np.linspace(0.5 if fold else 0.0, 1.0, TABLE_SIZE + 1)
    return torch.from_numpy(betaincinv(alpha, alpha, p))


def hash_integers(*words: int) -> int:
    """A 64-bit hash of integers: each is added to the state, which then goes through splitmix64 (Steele et al. 2014).

    Seeds that differ by one, as those of consecutive steps, so become unrelated.
    """
    mask = 2**64 - 1
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def _below(limit: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to less than ``limit``, elementwise, int64."""
    return (torch.rand(limit.shape, dtype=torch.float64, generator=generator) * limit).long()
