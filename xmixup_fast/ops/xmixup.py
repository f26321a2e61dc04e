"""XMixup for a training loop of your own. The trainer's method of this name is in methods/xmixup.py."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from .arguments import as_channels, as_flag, as_int64, as_integer, as_number, as_size, describe, is_integer
from .augmentation import Augmentation
from .auxiliary_index import AuxiliaryIndex, Relatives
from .image_pool import Crops, ImagePool, center_corners
from .lam import beta_quantiles
from .mean_colors import dense_mean_colors
from .mix_plan import MixPlan
from .mixed_labels import MixedLabels
from .operators import draw, mix, mix_plan

Integers = Tensor | NDArray[Any] | Sequence[int]
"""One integer for each image of a batch."""


class XMixup:
    """Mixes each image of a batch with an auxiliary one, after random crops and flips: two operators.

    The two images are blended, as in the paper; or a box of the auxiliary image is pasted into the target image.

    What is drawn for a sample depends on ``seed``, its id and the epoch alone, so that it is the same in any batch
    order, on any device and in any process, and after a resume.

    Args:
        aux: auxiliary images, labelled with source classes from 0 to the source head's last output. Its device is
            where everything happens.
        source_classes: for each target class, the labels of the auxiliary images with which it may be mixed, all of
            these images equally likely. K rows, or a mapping from the target classes 0 to K - 1 to rows.
        size: height and width of the mixed images; or an integer for both.
        mean: of each channel, for images in 0..1: the network's own.
        std: of each channel, likewise.
        target: the images that indices refer to, where batches are given as indices.
        cutmix: paste a box of the auxiliary image, as CutMix does, whose area gives the weights; else blend.
        alpha: the weights are drawn from Beta(alpha, alpha).
        fold: take max(lam, 1 - lam), so that the target image leads.
        crop: windows of ``size`` at random places (random), or of random size, resized to it (resized).
        scale: least and greatest area of a resized crop, as a share of its image's; 0.08 and 1 if not given.
        ratio: least and greatest width over height of a resized crop; 3/4 and 4/3 if not given.
        flip: mirror images left to right, half of the time.
        color_jitter: brightness, contrast, saturation and perhaps hue; one number stands for the first three.
        color_jitter_prob: the probability that an image's colours are changed.
        erase: the probability that a rectangle of an image is erased.
        erase_fill: what it is filled with: the mean colour, or noise.
        antialias: filter resized crops that are larger than ``size``.
        seed: of all draws.
        dtype: of the images: float32, bfloat16 or float16.
        memory_format: of the images: ``torch.channels_last`` or ``torch.contiguous_format``.

    ``pickle``, ``copy.deepcopy``, ``torch.save`` and, once this class is imported, ``torch.load`` work, and with them
    a DataLoader's workers.

    Raises:
        ValueError, TypeError: an argument is not what it has to be; auxiliary images without labels; a row that names
            no label of theirs, or one twice; images that are smaller than random crops, or not where ``aux`` is.
    """

    def __init__(
        self,
        aux: ImagePool,
        source_classes: Relatives,
        *,
        size: int | Sequence[int],
        mean: Sequence[float] | Tensor,
        std: Sequence[float] | Tensor,
        target: ImagePool | None = None,
        cutmix: bool = False,
        alpha: float = 0.2,
        fold: bool = True,
        crop: Literal["random", "resized"] = "random",
        scale: Sequence[float] | None = None,
        ratio: Sequence[float] | None = None,
        flip: bool = True,
        color_jitter: float | Sequence[float] | None = None,
        color_jitter_prob: float = 1.0,
        erase: float = 0.0,
        erase_fill: Literal["mean", "noise"] = "mean",
        antialias: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.aux, self.target = aux, target
        self.size = as_size("size", size)
        self.mean, self.std = as_channels(mean, std)
        self.cutmix, self.flip = as_flag("cutmix", cutmix), as_flag("flip", flip)
        self.seed = as_integer("seed", seed, -(2**63), 2**63 - 1)
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype: expected torch.float32, torch.bfloat16 or torch.float16, got {dtype}")
        self.dtype = dtype
        if memory_format not in (torch.channels_last, torch.contiguous_format):
            expected = "torch.channels_last or torch.contiguous_format"
            raise ValueError(f"memory_format: expected {expected}, got {memory_format}")
        self._channels_last = memory_format == torch.channels_last  # torch.save cannot keep a torch.memory_format
        alpha, fold = as_number("alpha", alpha, positive=True), as_flag("fold", fold)
        _check_pool("aux", aux)
        self.augmentation = Augmentation.of(
            crop=crop,
            scale=scale,
            ratio=ratio,
            color_jitter=color_jitter,
            color_jitter_prob=color_jitter_prob,
            erase=erase,
            erase_fill=erase_fill,
            antialias=antialias,
        ).to(aux.device)
        self._index = AuxiliaryIndex.of(aux, source_classes)
        if self.augmentation.needs_means:
            self._index = self._index._replace(means=aux.means)
        self._check_sizes("aux", aux, self._index.members.unique())
        if target is not None:
            _check_pool("target", target)
            if target.device != aux.device:
                raise ValueError(f"target: expected a pool on {aux.device}, where aux is, got one on {target.device}")
            self._check_sizes("target", target, torch.arange(len(target), device=aux.device))
            if self.augmentation.needs_means:
                target.means  # noqa: B018  (computed now, as a compiled call cannot)
        self._quantiles = beta_quantiles(alpha, fold).to(aux.device)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of the images."""
        return torch.channels_last if self._channels_last else torch.contiguous_format

    def __call__(
        self,
        images: Tensor,
        labels: Integers,
        sample: Integers | None = None,
        epoch: int | Integers | None = None,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, MixedLabels]:
        """Crops, flips, mixes and normalises a batch.

        Args:
            images: uint8[B, H, W, 3] or uint8[B, 3, H, W], with random crops no smaller than ``size``; or int64[B],
                positions in ``target``. Images whose channels do not come last in memory are copied first.
            labels: int64[B], target classes; here and below, other integers and NumPy's are converted.
            sample: int64[B], a number for each training image, the same in every epoch. Where the loader tells none:
                drawn from torch's generator, so that ``torch.manual_seed`` makes them the same again.
            epoch: from 0 on; or int64[B], of each sample. Must be given with ``sample``, as an image would otherwise
                get the same crop, weight and auxiliary image each time.
            out: where to write, as for :func:`xmixup_fast.mix`; a new tensor otherwise.

        Returns:
            The mixed images, [B, 3, height, width], and their labels.

        Raises:
            ValueError, TypeError: ``images`` is neither of the two, or they are indices and there is no ``target``;
                ``labels``, ``sample`` or ``epoch`` are not B integers where ``aux`` is; no epoch for given samples.
            RuntimeError: a class, epoch or index is out of range, an image smaller than a random crop, or ``out`` of a
                wrong dtype, shape or device, as for :func:`xmixup_fast.draw` and :func:`xmixup_fast.mix`.
        """
        pool, plan, mixed = self._draw(images, labels, sample, epoch, box=self.cutmix)
        return self._render(pool, self.aux, plan, out), mixed

    def pairs(
        self,
        images: Tensor,
        labels: Integers,
        sample: Integers | None = None,
        epoch: int | Integers | None = None,
    ) -> tuple[Tensor, Tensor, MixedLabels]:
        """The two images of each pair that a call of the same arguments mixes, for blending inside the network.

        Returns:
            Target images and auxiliary images, cropped, flipped and normalised, each [B, 3, height, width], and the
            labels, whose ``lam`` weighs both: with ``w = lam.view(-1, 1, 1, 1)``, feature maps are blended as
            ``w * target_maps + (1 - w) * aux_maps``.
        """
        pool, plan, mixed = self._draw(images, labels, sample, epoch, box=False)
        target, aux = plan.target_alone(), plan.aux_alone(self.size)
        return self._render(pool, self.aux, target), self._render(pool, self.aux, aux), mixed

    def plain(self, images: Tensor) -> Tensor:
        """The centre crops of a batch, normalised as mixed images are: what to validate on.

        ``images`` are as for a call, but never smaller than ``size``; the result is [B, 3, height, width]. Raises as a
        call does, and ValueError for smaller images.
        """
        pool, index = self._pool(images)
        self._check_holds_output(images, pool)
        size = torch.tensor(self.size, dtype=torch.int32, device=index.device).expand(len(index), 2)
        window = torch.cat([center_corners(pool.sizes[index], size), size], dim=1)
        crops = Crops(index, window, torch.zeros_like(index, dtype=torch.bool))
        alone = torch.ones(len(index), device=index.device)
        return mix(
            pool,
            crops,
            pool,
            crops,
            alone,
            mean=self.mean,
            std=self.std,
            size=self.size,
            dtype=self.dtype,
            memory_format=self.memory_format,
        )

    def to(self, device: torch.device | str) -> XMixup:
        """The same draws with images on another device, or itself where they are there already."""
        if self.aux.device == torch.device(device):
            return self
        moved = copy.copy(self)
        moved.aux = self.aux.to(device)
        moved.target = None if self.target is None else self.target.to(device)
        moved._index = self._index.to(moved.aux.device)
        moved._quantiles = self._quantiles.to(device)
        moved.augmentation = self.augmentation.to(device)
        return moved

    def _draw(
        self, images: Tensor, labels: Integers, sample: Integers | None, epoch: int | Integers | None, *, box: bool
    ) -> tuple[ImagePool, MixPlan, MixedLabels]:
        pool, index = self._pool(images)
        shape, device = index.shape, self.aux.device
        labels = as_int64("labels", labels, shape, device, ", a target class for each image")
        if sample is None:
            sample = torch.randint(2**62, shape, device=device)
        elif epoch is None:
            raise TypeError(
                "epoch: expected the epoch, as sample is given: without it, an image gets the same crop, weight and "
                "auxiliary image each time; pass epoch, from 0 on, or leave out sample"
            )
        sample = as_int64("sample", sample, shape, device, ", a number for each image")
        if epoch is None or (is_integer(epoch) and not isinstance(epoch, Tensor)):
            number: Any = epoch or 0
            epoch = torch.full_like(sample, int(number))
        elif isinstance(epoch, Tensor) and epoch.dim() == 0:
            epoch = epoch.expand(shape)
        epoch = as_int64("epoch", epoch, shape, device, ", an epoch for each image, or an integer")
        plan = draw(
            self.seed,
            sample=sample,
            epoch=epoch,
            label=labels,
            target_index=index,
            target_sizes=pool.sizes,
            target_means=self._means(images, pool),
            offsets=self._index.offsets,
            members=self._index.members,
            aux_sizes=self.aux.sizes,
            aux_means=self._index.means,
            aux_labels=self.aux.labels,
            lam_quantiles=self._quantiles,
            size=self.size,
            flip=self.flip,
            box=box,
            augmentation=self.augmentation,
        )
        return pool, plan, MixedLabels(labels, plan.aux_label.contiguous(), plan.lam.contiguous())

    def _means(self, images: Tensor, pool: ImagePool) -> Tensor | None:
        """Mean colours of a pool that stands for a call's images, uint8[n, 8, 8, 3]; None where none are needed."""
        if not self.augmentation.needs_means:
            return None
        if images.dim() == 1:
            return pool.means
        return dense_mean_colors(pool.pixels.view(_channels_last(images).shape))

    def _render(self, pool: ImagePool, aux: ImagePool, plan: MixPlan, out: Tensor | None = None) -> Tensor:
        return mix_plan(
            pool,
            aux,
            plan,
            mean=self.mean,
            std=self.std,
            size=self.size,
            augmentation=self.augmentation,
            dtype=self.dtype,
            memory_format=self.memory_format,
            out=out,
        )

    def _check_sizes(self, name: str, pool: ImagePool, which: Tensor) -> None:
        """Raises ValueError where one of these images of the pool, int64[n], is smaller than the crops.

        Resized crops fit into any image.
        """
        if self.augmentation.scale is not None:
            return
        if small := self._first_small(pool, which):
            image, height, width = small[1:]
            raise ValueError(
                f"size: expected crops that fit into the images, got {self.size[0]} x {self.size[1]}; image "
                f"{image} of {name} has {height} x {width}"
            )

    def _first_small(self, pool: ImagePool, which: Tensor) -> tuple[int, int, int, int] | None:
        """The first of these images of the pool, int64[n], that is smaller than ``size``: its position in ``which``,
        its position in the pool, height and width; or None."""
        sizes = pool.sizes[which]
        small = (sizes < torch.tensor(self.size, device=sizes.device)).any(1).nonzero().flatten().tolist()
        if not small:
            return None
        height, width = sizes[small[0]].tolist()
        return small[0], int(which[small[0]]), height, width

    def _check_holds_output(self, images: Tensor, pool: ImagePool) -> None:
        """Raises ValueError for images, or indices into ``target``, of which one is smaller than the output."""
        least = f"at least {self.size[0]} x {self.size[1]}, which the output has"
        if images.dim() == 4:
            height, width = _channels_last(images).shape[1:3]
            if height < self.size[0] or width < self.size[1]:
                raise ValueError(f"images: expected images of {least}, got {height} x {width}")
            return
        # With random crops, the images of ``target`` were checked at construction.
        small = None if self.augmentation.scale is None else self._first_small(pool, images.long())
        if small:
            b, image, height, width = small
            raise ValueError(
                f"images[{b}]: expected an image of {least}, got image {image} of target, of {height} x {width}"
            )

    def _pool(self, images: Tensor) -> tuple[ImagePool, Tensor]:
        if not isinstance(images, Tensor):
            listed = isinstance(images, list | tuple) and bool(images) and all(isinstance(i, Tensor) for i in images)
            got = f"a {type(images).__name__} of {len(images)} tensors" if listed else describe(images)
            way = "torch.stack makes one of images of one size" if listed else "torch.as_tensor makes one of an array"
            raise TypeError(f"images: expected a tensor, got {got}; {way}")
        if images.device != self.aux.device:
            raise ValueError(
                f"images: expected a tensor on {self.aux.device}, where aux is, got one on {images.device}"
            )
        if images.dtype in (torch.int64, torch.int32) and images.dim() == 1:
            if self.target is None:
                raise ValueError("images: indices need XMixup(target=...), the pool that they refer to")
            return self.target, images.to(torch.int64).contiguous()
        channels_last = _channels_last(images)
        if images.dtype != torch.uint8 or images.dim() != 4 or channels_last.shape[3] != 3:
            raise ValueError(
                "images: expected uint8[batch, height, width, 3], uint8[batch, 3, height, width] or indices "
                f"int64[batch], got {describe(images)}"
            )
        return ImagePool.from_dense(channels_last.contiguous()), torch.arange(len(images), device=images.device)


# For torch.load, which takes no other classes by default.
torch.serialization.add_safe_globals([AuxiliaryIndex, XMixup])


def _channels_last(images: Tensor) -> Tensor:
    """A batch of images whose planes come first, as a view [B, H, W, 3]; others as they are."""
    if images.dim() == 4 and images.shape[1] == 3 != images.shape[3]:
        return images.permute(0, 2, 3, 1)
    return images


def _check_pool(name: str, pool: object) -> None:
    """Raises TypeError for what is no pool."""
    if not isinstance(pool, ImagePool):
        raise TypeError(f"{name}: expected an ImagePool, got {describe(pool)}; ImagePool.from_images makes one")
