"""XMixup for a training loop of your own. The trainer's method of this name is in methods/xmixup.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .auxiliary_index import AuxiliaryIndex
from .image_pool import Crops, ImagePool
from .lam import beta_quantiles, cutmix_boxes
from .operators import DrawOutput, draw, mix


class MixedLabels(NamedTuple):
    """What :func:`xmixup_fast.dual_head_cross_entropy` takes after the logits of both heads."""

    target: Tensor
    """int64[B]: target classes, as they were given."""
    source: Tensor
    """int64[B]: the auxiliary images' labels."""
    lam: Tensor
    """float32[B] in 0..1: weight of the target image and of its label."""


def joint_labels(mixed: MixedLabels, target_classes: int, source_classes: int, source_weight: float = 1.0) -> Tensor:
    """Soft labels for a network with one head, whose outputs are the target's classes and then the source's.

    The cross entropy with them is the loss of two heads that share one softmax. The first ``target_classes`` outputs
    alone are the network's answer for a target image.

    Args:
        mixed: labels and weights of B samples.
        target_classes: how many outputs the head has for the target's classes.
        source_classes: how many for the source's.
        source_weight: factor of the source labels' weights.

    Returns:
        float32[B, target_classes + source_classes]: ``lam`` at the target's class, ``source_weight * (1 - lam)`` at the
        source's, 0 elsewhere.

    Raises:
        RuntimeError: a label is outside of its part of the head; on a GPU, as a device-side assert.
    """
    lam = mixed.lam.unsqueeze(1)
    parts = ((mixed.target, lam, target_classes), (mixed.source, source_weight * (1 - lam), source_classes))
    return torch.cat([lam.new_zeros(len(lam), k).scatter_(1, label[:, None], w) for label, w, k in parts], dim=1)


class XMixup:
    """Mixes each image of a batch with an auxiliary one, after random crops and flips: two operators.

    The two images are blended, as in the paper; or a box of the auxiliary image is pasted into the target image.

    What is drawn for a sample depends on ``seed``, its id and the epoch alone, so that it is the same in any batch
    order, on any device and in any process, and after a resume.

    Args:
        aux: auxiliary images, labelled with source classes from 0 to the source head's last output. Its device is
            where everything happens.
        source_classes: for each target class, those source classes with whose images it may be mixed, all of them
            equally likely image by image.
        size: height and width of the crops that are taken, at random places.
        mean: of each channel, for images in 0..1: the network's own.
        std: of each channel, likewise.
        target: the images that indices refer to, where batches are given as indices.
        cutmix: paste a box of the auxiliary image, as CutMix does, whose area gives the weights; else blend.
        alpha: the weights are drawn from Beta(alpha, alpha).
        fold: take max(lam, 1 - lam), so that the target image leads.
        flip: mirror images left to right, half of the time.
        seed: of all draws.
        dtype: of the images: float32, bfloat16 or float16.
        memory_format: of the images: ``torch.channels_last`` or ``torch.contiguous_format``.

    Raises:
        ValueError: a target class is left without an auxiliary image, or ``alpha`` is not positive.
    """

    def __init__(
        self,
        aux: ImagePool,
        source_classes: Sequence[Sequence[int]] | Tensor,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        target: ImagePool | None = None,
        cutmix: bool = False,
        alpha: float = 0.2,
        fold: bool = True,
        flip: bool = True,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        if not alpha > 0:
            raise ValueError(f"alpha: expected a positive number, got {alpha}")
        self.aux, self.target = aux, target
        self.size, self.mean, self.std = size, mean, std
        self.cutmix, self.flip, self.seed = cutmix, flip, seed
        self.dtype, self.memory_format = dtype, memory_format
        self._index = AuxiliaryIndex.of(aux, source_classes)
        self._quantiles = beta_quantiles(alpha, fold).to(aux.device)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        sample: Tensor | None = None,
        epoch: int | Tensor = 0,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, MixedLabels]:
        """Crops, flips, mixes and normalises a batch.

        Args:
            images: uint8[B, H, W, 3] or uint8[B, 3, H, W], no smaller than the crops; or int64[B], positions in
                ``target``. Images whose channels do not come last in memory are copied first.
            labels: int64[B], target classes.
            sample: int64[B], a number for each training image, the same in every epoch. Where the loader tells none:
                drawn from torch's generator, so that ``torch.manual_seed`` makes them the same again.
            epoch: from 0 on; or int64[B], of each sample.
            out: where to write, as for :func:`xmixup_fast.mix`; fresh memory otherwise.

        Returns:
            The mixed images, [B, 3, height, width], and their labels.

        Raises:
            ValueError: ``images`` is neither of the two, or they are indices and there is no ``target``.
            RuntimeError: an argument has a wrong dtype, shape, device or value, as for :func:`xmixup_fast.draw` and
                :func:`xmixup_fast.mix`.
        """
        pool, drawn, mixed = self._draw(images, labels, sample, epoch)
        box, lam = cutmix_boxes(drawn.lam, drawn.center, self.size) if self.cutmix else (None, drawn.lam)
        image = self._mix(pool, drawn.target_crops, drawn.aux_crops, lam, box=box, out=out)
        return image, mixed._replace(lam=lam)

    def pairs(
        self, images: Tensor, labels: Tensor, sample: Tensor | None = None, epoch: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, MixedLabels]:
        """The two images of each pair that a call of the same arguments mixes, for blending inside the network.

        Returns:
            Target images and auxiliary images, cropped, flipped and normalised, each [B, 3, height, width], and the
            labels, with ``lam`` as :func:`xmixup_fast.mix_features` takes it.
        """
        pool, drawn, mixed = self._draw(images, labels, sample, epoch)
        alone = torch.ones_like(drawn.lam)
        target = self._mix(pool, drawn.target_crops, drawn.aux_crops, alone)
        return target, self._mix(self.aux, drawn.aux_crops, drawn.aux_crops, alone), mixed

    def _draw(
        self, images: Tensor, labels: Tensor, sample: Tensor | None, epoch: int | Tensor
    ) -> tuple[ImagePool, DrawOutput, MixedLabels]:
        pool, index = self._pool(images)
        if sample is None:
            sample = torch.randint(2**62, labels.shape, device=labels.device)
        if isinstance(epoch, int):
            epoch = torch.full_like(sample, epoch)
        drawn = draw(
            self.seed,
            sample=sample,
            epoch=epoch,
            label=labels,
            target_index=index,
            target_sizes=pool.sizes,
            offsets=self._index.offsets,
            members=self._index.members,
            aux_sizes=self.aux.sizes,
            lam_quantiles=self._quantiles,
            size=self.size,
            flip=self.flip,
        )
        return pool, drawn, MixedLabels(labels, self.aux.labels[drawn.aux_crops.index], drawn.lam)

    def _mix(
        self,
        pool: ImagePool,
        crops: Crops,
        aux_crops: Crops,
        lam: Tensor,
        *,
        box: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        return mix(
            pool,
            crops,
            self.aux,
            aux_crops,
            lam,
            mean=self.mean,
            std=self.std,
            size=self.size,
            box=box,
            dtype=self.dtype,
            memory_format=self.memory_format,
            out=out,
        )

    def _pool(self, images: Tensor) -> tuple[ImagePool, Tensor]:
        if images.dtype == torch.int64 and images.dim() == 1:
            if self.target is None:
                raise ValueError("images: indices need XMixup(target=...), the pool that they refer to")
            return self.target, images
        shape = list(images.shape)
        if images.dim() == 4 and shape[1] == 3 != shape[3]:
            images = images.permute(0, 2, 3, 1)
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
            raise ValueError(
                "images: expected uint8[batch, height, width, 3], uint8[batch, 3, height, width] or indices "
                f"int64[batch], got {str(images.dtype).removeprefix('torch.')}{shape}"
            )
        return ImagePool.from_dense(images.contiguous()), torch.arange(len(images), device=images.device)
