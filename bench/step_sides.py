"""The sides whose training steps are compared: our methods, and mixup as users write it, on made images.

`torchvision` and `timm` make mixup's batches out of the same decoded images, held in memory, with torchvision's
transforms for each image and v2.MixUp or timm's Mixup for the batch; network, optimiser and batch are the methods'. On
a CPU they transform in the step itself, on a GPU in the processes of a DataLoader, and mix there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import timm.data
import torch
import torch.nn.functional as F
from samples import make_pool
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from xmixup_fast import Settings
from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS, REGULARIZERS
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.ops.image_pool import Crops, ImagePool
from xmixup_fast.ops.mix_plan import MixPlan
from xmixup_fast.training.trainer import StepParts, Trainer

TARGET_CLASSES, SOURCE_CLASSES, IMAGES, STEPS = 10, 100, 200, 10**6
USER_SIDES = ["torchvision", "timm"]

Batch = tuple[Tensor, Tensor]
Mix = Callable[[Tensor, Tensor], Batch]
"""Makes mixed images and soft targets of images and labels."""

CPU = torch.device("cpu")


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Decoded images, transformed one by one as users do."""

    def __init__(self, pool: ImagePool, network: Network, size: int) -> None:
        self.pictures = [pool[i].permute(2, 0, 1).contiguous() for i in range(len(pool))]
        self.labels = pool.labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(size),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(network.mean, network.std, inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.pictures[i]), self.labels[i]


class UserMixup:
    """Mixup as users write it, in the places of the trainer's images, sampler and method."""

    steps = STEPS
    takes_steps = True
    has_unused_parameters = False
    augmentation = None

    def __init__(self, pictures: Pictures, settings: Settings, mix: Mix) -> None:
        self.pictures = pictures
        self.labels = pictures.labels
        self.epoch_length = len(pictures)
        self.batch_size = settings.batch_size
        self.mix = mix

    def source_phase_steps(self, steps: int) -> int:
        return 0

    def __len__(self) -> int:
        return len(self.pictures)

    def plan(self, sampler: UserMixup, step: int) -> StepPlan:
        index = torch.randint(0, len(self.pictures), (self.batch_size,))
        window = torch.zeros((self.batch_size, 4), dtype=torch.int32)
        crops = Crops(index, window, torch.zeros(self.batch_size, dtype=torch.bool))
        lam = torch.ones(self.batch_size)
        return StepPlan(sample=index, label=self.labels[index], mix=MixPlan.of(crops, crops, lam), lam=lam)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[None, Crops]]:
        return ((None, batch) for batch in crops)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        return

    def images(self, plan: StepPlan, pools: Any, form: ImageFormat, buffers: OutputBuffers) -> Batch:
        images = torch.stack([self.pictures[i][0] for i in plan.sample.tolist()])
        images, targets = self.mix(images, plan.label)
        return images.contiguous(memory_format=torch.channels_last), targets

    def loss(self, network: Network, batch: Batch, plan: StepPlan) -> Tensor:
        images, targets = batch
        return F.cross_entropy(network(images), targets)


class LoadedMixup(UserMixup):
    """The same for a GPU: a DataLoader's processes transform, and batches are mixed on the device.

    Args:
        pictures: the images.
        settings: the batch size counts.
        mix: of a batch on the device.
        device: where batches are mixed.
        workers: number of processes.
    """

    def __init__(self, pictures: Pictures, settings: Settings, mix: Mix, *, device: torch.device, workers: int) -> None:
        super().__init__(pictures, settings, mix)
        self.labels = pictures.labels.to(device)
        self.device = device
        sampler = RandomSampler(pictures, replacement=True, num_samples=STEPS * self.batch_size)
        pinned = device.type == "cuda"
        self.batches = iter(
            DataLoader(pictures, self.batch_size, sampler=sampler, num_workers=workers, pin_memory=pinned)
        )
        index = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        window = torch.zeros((self.batch_size, 4), dtype=torch.int32, device=device)
        crops, lam = Crops(index, window, index.bool()), torch.ones(self.batch_size, device=device)
        self.fixed = StepPlan(sample=index, label=index, mix=MixPlan.of(crops, crops, lam), lam=lam)

    def plan(self, sampler: UserMixup, step: int) -> StepPlan:
        """Always the same, which nothing is read of: the loader chooses the images."""
        return self.fixed

    def images(self, plan: StepPlan, pools: Any, form: ImageFormat, buffers: OutputBuffers) -> Batch:
        loaded = next(self.batches)
        images, targets = self.mix(*(tensor.to(self.device, non_blocking=True) for tensor in loaded))
        return images.contiguous(memory_format=torch.channels_last), targets


def make_trainer(
    side: str, model: str, size: int, batch: int, *, device: torch.device = CPU, workers: int = 0, **more: Any
) -> Trainer:
    """A trainer of a method or a user's side on made images, whose network counts as pretrained; always the same.

    Args:
        side: a method, or one of USER_SIDES.
        model: the network's timm name.
        size: height and width of the images, in pixels.
        batch: images per step.
        device: where it trains.
        workers: processes that a user's side loads images in; 0 for none, where the step itself does.
        more: settings.
    """
    settings = Settings(
        target="made",
        source="made",
        model=model,
        method=side if side in METHODS else "mixup",
        image_size=size,
        batch_size=batch,
        steps=STEPS,
        **more,
    )
    generator = torch.Generator().manual_seed(0)
    sizes = [(settings.short_side, settings.short_side * 4 // 3)] * IMAGES
    target, aux = make_pool(sizes, generator), make_pool(sizes, generator)
    target.labels.copy_(torch.arange(IMAGES) % TARGET_CLASSES)
    aux.labels.copy_(torch.arange(IMAGES) % SOURCE_CLASSES)
    target_names, source_names = [f"t{i}" for i in range(TARGET_CLASSES)], [f"s{i}" for i in range(SOURCE_CLASSES)]
    network = build(settings.model, "none", target_names, source_classes=source_names)
    network = network.to(memory_format=torch.channels_last).to(device)
    pictures = Pictures(target, network, settings.crop_size)
    target, aux = target.to(device), aux.to(device)
    images: Any = target
    if side in METHODS:
        network.source_matched = torch.ones(SOURCE_CLASSES, dtype=torch.bool)  # as if it were pretrained
        offsets = torch.arange(TARGET_CLASSES + 1) * (IMAGES // TARGET_CLASSES)
        source = AuxiliaryIndex(aux.labels, aux.sizes, offsets, torch.arange(IMAGES))
        method: Any = METHODS[side](settings, network)
        sampler: Any = Sampler(target, source, settings)
    else:
        mix = {
            "torchvision": v2.MixUp(alpha=settings.alpha, num_classes=TARGET_CLASSES),
            "timm": timm.data.Mixup(settings.alpha, label_smoothing=0, num_classes=TARGET_CLASSES),
        }[side]
        if workers:
            method = sampler = LoadedMixup(pictures, settings, mix, device=device, workers=workers)
        else:
            method = sampler = images = UserMixup(pictures, settings, mix)
    kind = REGULARIZERS.get(settings.regularizer)
    parts = StepParts(
        network=network,
        method=method,
        regularizer=kind(settings, network) if kind else None,
        sampler=sampler,
        images=images,
        auxiliary=aux,
    )
    return Trainer(parts, settings)
