"""Sampler: the order of the training images, and the plan of every step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..ops.arguments import as_int64
from ..ops.augmentation import Augmentation
from ..ops.auxiliary_index import NO_AUXILIARY, AuxiliaryIndex
from ..ops.image_pool import ImagePool, Images
from ..ops.lam import mixing_quantiles
from ..ops.mix_plan import MixPlan
from ..runtime.device import upload
from ..settings.fields import Settings
from .plan import Second, StepPlan, part_bounds
from .seeds import SeedUse, hash_integers


def run_steps(settings: Settings, images: int) -> int:
    """The steps of fine-tuning that the settings ask for, with a number of training images, counted by weight."""
    return settings.steps or -(-settings.epochs * images // settings.batch_size)


class Order(NamedTuple):
    """Samples in the order of the run."""

    sample: Tensor
    """int64[n]: positions among the training images."""
    number: Tensor
    """int64[n]: numbers of the samples in :func:`xmixup_fast.draw`: the repetition is their upper half."""
    label: Tensor
    """int64[n]: target classes."""
    epoch: Tensor
    """int64[n]"""

    def part(self, begin: int, end: int) -> Order:
        """Samples ``begin`` to ``end``."""
        return Order(*(tensor[begin:end] for tensor in self))


class Sampler:
    """Plans the steps of a run. A step depends on the seed and its number alone, whatever was planned before.

    The order is one permutation of the images per epoch, one after the other, cut into full batches: every image comes
    once per epoch, or as often as its weight says, all batches have the same size, and a run of E epochs over N images,
    counted by weight, has ceil(E N / B) steps. The repetitions of an image in an epoch are numbered from 0, and each
    has draws of its own: their number is the upper half of the image's number in :func:`xmixup_fast.draw`. Crops,
    flips, weights and auxiliary images come from :func:`xmixup_fast.draw`: they depend on the seed, the image and the
    epoch alone. Partners and whether a sample is mixed depend on the seed and the step. So all methods see the same
    order, crops and weights, and a run that is resumed or shared by several processes plans the same steps.

    With the setting ``sampler`` "balanced", an epoch is as long, but its samples are dealt to the K classes in turn:
    each comes N / K times, or one more or less where K does not divide N. A class deals its images in one order, drawn
    from the seed, again and again from epoch to epoch: so the images of a class come equally often over the run, those
    of a small class several times in an epoch.

    Args:
        images: the training images; their sizes and labels alone are used.
        auxiliary: the auxiliary images of each target class, for methods that use them.
        settings: batch size, length, seed, crop and mixing.
        rank, world_size: which of how many processes this is. Together they plan what one process would: each takes
            its part of every batch.
        weights: how often each image comes in an epoch, positive integers [n]; once if not given.

    Raises ValueError for an image that is smaller than a crop, for fewer samples in a batch than processes, and for
    weights that are not positive or not as many as images; TypeError for weights that are not integers.
    """

    def __init__(
        self,
        images: Images,
        auxiliary: AuxiliaryIndex | None,
        settings: Settings,
        *,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[int] | Tensor | None = None,
    ) -> None:
        # The host decodes the windows of streamed images: it draws them itself, to the bits that a GPU would draw.
        self.device = images.labels.device if isinstance(images, ImagePool) else torch.device("cpu")
        """Where plans are drawn."""
        self.labels, self.sizes = images.labels.to(self.device), images.sizes.to(self.device)
        self.has_auxiliary = auxiliary is not None
        self.auxiliary = (auxiliary or NO_AUXILIARY).to(self.device)
        self.settings = settings
        batch_size = settings.batch_size
        if batch_size < world_size:
            raise ValueError(f"batch_size: expected at least {world_size}, the processes, got {batch_size}")
        self.share = part_bounds(batch_size, rank, world_size)
        """Where this process's part of a batch begins and ends."""
        self.augmentation = Augmentation.of(**settings.augmentation).to(images.labels.device)
        """What happens to images besides their place and mirroring, as :func:`.render.render` needs it."""
        self.drawn_augmentation = self.augmentation.to(self.device)
        """The same where plans are drawn."""
        self.means = images.means.to(self.device) if self.augmentation.needs_means else None
        """uint8[n, 8, 8, 3]: mean colours of parts of the images, which contrast is changed about."""
        for sizes in (self.sizes, self.auxiliary.sizes):
            if self.augmentation.scale is None and (sizes < settings.crop_size).any():
                height, width = sizes[sizes.amin(1).argmin()].tolist()
                raise ValueError(f"image_size: {settings.crop_size} is more than an image has, {height}x{width}")
        self.weight = self._weight(weights)
        """int64[n]: how often each image comes in an epoch, before classes are balanced."""
        image = torch.arange(len(self.labels), device=self.device)
        self.appearances = image if weights is None else image.repeat_interleave(self.weight)
        """int64[N]: the images of an epoch in their order, each as often as its weight says."""
        first = self.weight.cumsum(0) - self.weight
        self.repetitions = torch.arange(len(self.appearances), device=self.device) - first[self.appearances]
        """int64[N]: which of the appearances of its image each of these is, from 0."""
        self.epoch_length = len(self.appearances)
        """N, the number of samples in an epoch: of images, counted by weight."""
        self.steps = run_steps(settings, self.epoch_length)
        """The steps of fine-tuning."""
        self.mixed_samples = round((1 - settings.unmixed_share) * self.steps * batch_size)
        """How many samples come before the unmixed share at the end."""
        self.quantiles = mixing_quantiles(settings.alpha, settings.fold, settings.lam).to(self.device)
        self.unmixed = torch.ones(2, dtype=torch.float32, device=self.device)
        """The quantiles of weights that are always 1."""
        self.no_auxiliary = NO_AUXILIARY.to(self.device)
        self.any_class = self.auxiliary.as_one_class()
        """The auxiliary images of all target classes, as if there were a single one."""
        self.balanced = self._by_class() if settings.sampler == "balanced" else None
        """Where classes are balanced: the positions in ``appearances`` class by class, int64[N]; where each class
        begins there, int64[K], and how many it has, int64[K]."""
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def plan(self, step: int, *, second: Second | None = None, box: bool = False, any_class: bool = False) -> StepPlan:
        """The plan of this process's part of a step, counted from 0.

        Args:
            step: number of the step.
            second: what each image is mixed with: its partner, another image of the whole batch; or its auxiliary
                image. Nothing is mixed if not given.
            box: the second image is pasted as a box, whose area then gives the weights (CutMix); else it is blended.
            any_class: auxiliary images are drawn from those of all target classes, all equally likely, and not from
                those of the sample's class.
        """
        settings, batch_size = self.settings, self.settings.batch_size
        order = self._order(step * batch_size, (step + 1) * batch_size)
        partner, mixed = self._pairing(step, second)
        draws_auxiliary = self.has_auxiliary and second != "partner"
        auxiliary = self.any_class if any_class else self.auxiliary if draws_auxiliary else self.no_auxiliary
        plan = ops.draw(
            settings.seed,
            sample=order.number,
            epoch=order.epoch,
            label=torch.zeros_like(order.label) if any_class else order.label,
            target_index=order.sample,
            target_sizes=self.sizes,
            target_means=self.means,
            offsets=auxiliary.offsets,
            members=auxiliary.members,
            aux_sizes=auxiliary.sizes,
            aux_means=auxiliary.means,
            aux_labels=auxiliary.labels,
            partner=partner,
            mixed=mixed,
            lam_quantiles=self.unmixed if second is None else self.quantiles,
            one_lam=settings.lam_per == "batch",
            size=(settings.crop_size, settings.crop_size),
            flip=settings.flip,
            box=box and second is not None,
            augmentation=self.drawn_augmentation,
        )
        return self._as_step(plan, order, "auxiliary" if draws_auxiliary else second).part(*self.share)

    def _as_step(self, plan: MixPlan, order: Order, second: Second | None) -> StepPlan:
        return StepPlan(
            sample=order.sample,
            label=order.label,
            mix=plan,
            lam=plan.lam.contiguous(),
            second=second,
            second_label=None if second is None else plan.aux_label.contiguous(),
        )

    @property
    def class_counts(self) -> Tensor:
        """float64[K]: how often an epoch shows each class, on average."""
        counts = self.labels[self.appearances].bincount().double()
        return counts if self.balanced is None else torch.full_like(counts, self.epoch_length / len(counts))

    def epoch_ends(self) -> dict[int, int]:
        """The steps after which an epoch is complete, counted from 1, with its number; the last step is always one."""
        batch, images = self.settings.batch_size, self.epoch_length
        ends = {-(-epoch * images // batch): epoch for epoch in range(1, self.steps * batch // images + 1)}
        ends.setdefault(self.steps, -(-self.steps * batch // images))
        return ends

    def _weight(self, weights: Sequence[int] | Tensor | None) -> Tensor:
        """The weights as int64[n] on the sampler's device, ones if not given."""
        if weights is None:
            return torch.ones_like(self.labels)
        if isinstance(weights, Tensor):
            weights = weights.to(self.device)
        weight = as_int64("weights", weights, self.labels.shape, self.device, ", one for each training image")
        if len(weight) and int(weight.min()) < 1:
            worst = int(weight.argmin())
            raise ValueError(f"weights[{worst}]: expected a positive integer, got {int(weight[worst])}")
        return weight

    def _pairing(self, step: int, second: Second | None) -> tuple[Tensor | None, Tensor | None]:
        """The partners of a step's samples, int64[B], and which of these are mixed, bool[B]; None for no partners, and
        where all are mixed. Both depend on the seed and the step alone."""
        settings, batch_size = self.settings, self.settings.batch_size
        by_chance = second is not None and settings.mix_probability < 1
        partner = mixed = None
        if second == "partner" or by_chance:
            generator = torch.Generator().manual_seed(hash_integers(settings.seed, SeedUse.STEP, step))
            # Drawn in this order whether needed or not, so that all methods see the same partners and weights.
            permutation = torch.randperm(batch_size, generator=generator)
            partner = upload(permutation, self.device) if second == "partner" else None
            if by_chance:
                chance = torch.rand(batch_size, generator=generator, dtype=torch.float32)
                chance = chance[:1].expand(batch_size) if settings.lam_per == "batch" else chance
                mixed = upload(chance < settings.mix_probability, self.device)
        begin = step * batch_size
        if second is not None and begin + batch_size > self.mixed_samples:
            early = torch.arange(begin, begin + batch_size, device=self.device) < self.mixed_samples
            mixed = early if mixed is None else mixed & early
        return partner, mixed

    def _epoch(self, epoch: int) -> Order:
        """The samples of an epoch in their order."""
        generator = torch.Generator().manual_seed(hash_integers(self.settings.seed, SeedUse.EPOCH, epoch))
        order = upload(torch.randperm(self.epoch_length, generator=generator), self.device)
        if self.balanced is not None:
            sample, repetition = self._dealt(epoch, order)
        else:
            # index_select refuses an order that was left on the CPU, as [order] would not.
            sample, repetition = (each.index_select(0, order) for each in (self.appearances, self.repetitions))
        return Order(sample, sample + (repetition << 32), self.labels[sample], torch.full_like(sample, epoch))

    def _dealt(self, epoch: int, order: Tensor) -> tuple[Tensor, Tensor]:
        """Deals the samples of an epoch to the classes in turn, and returns them in this order.

        Over the run, sample s goes to class s mod K as its sample number s // K.
        """
        assert self.balanced is not None
        members, starts, counts = self.balanced
        classes, begin = len(counts), epoch * self.epoch_length
        number = order + begin
        of_class, number = number % classes, number // classes
        first = (begin - of_class + classes - 1) // classes  # number of the class's first sample in this epoch
        size = counts.index_select(0, of_class)
        appearance = members[starts[of_class] + number % size]
        sample = self.appearances[appearance]
        return sample, (number - first) // size * self.weight[sample] + self.repetitions[appearance]

    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """What ``balanced`` holds. The order of a class's appearances is drawn from the seed."""
        generator = torch.Generator().manual_seed(hash_integers(self.settings.seed, SeedUse.CLASSES))
        shuffled = upload(torch.randperm(self.epoch_length, generator=generator), self.device)
        label = self.labels[self.appearances.index_select(0, shuffled)]
        counts = label.unique(return_counts=True)[1]
        return shuffled[label.argsort(stable=True)], counts.cumsum(0) - counts, counts

    def _order(self, begin: int, end: int) -> Order:
        """The samples at positions ``begin`` to ``end`` of the run's order."""
        images = self.epoch_length
        epochs = range(begin // images, -(-end // images))
        parts = [self.epoch(e).part(max(begin - e * images, 0), end - e * images) for e in epochs]
        return parts[0] if len(parts) == 1 else Order(*map(torch.cat, zip(*parts, strict=True)))
