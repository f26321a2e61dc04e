"""An epoch of mixed batches, 224 x 224, without a network: out of decoded pools, and by loaders that decode each time.

| side | what it is |
| --- | --- |
| resident | `Sampler.plan` and `render`, out of pools in memory |
| stream | the same batches, but the target images are decoded anew |
| dataloader | a DataLoader: its workers decode both images of each pair to uint8 crops, the main process mixes |
| timm | timm's `create_loader`, which decodes one image of each sample, and its `FastCollateMixup` within the batch |

Both loaders have two workers, which persist, and read the files out of the page cache. They cut each image's window
before they resize it, which is faster than to resize the image and crop it.

python -m pytest bench/bench_epoch.py --benchmark-only -s
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import timm.data
import torch
from conftest import THREADS, median_seconds_in_turn
from photos import all_cores, write_photos
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional

from xmixup_fast.batches.render import fetch, render
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.ops import reference
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.settings.fields import Settings

CLASSES, FILES, IMAGES, BATCH = 8, 64, 256, 32
"""Of the target and of the source each; the images of an epoch, ``IMAGES``, are ``FILES`` different ones."""
SHORT_SIDE, SIZE = 256, 224
ALPHA, SEED, ROUNDS = 0.2, 0, 5
MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD

Batch = tuple[Tensor, ...]
"""Normalised images float32[B, 3, H, W], and what labels them."""


@pytest.fixture(autouse=True)
def workers_on_all_cores() -> Iterator[None]:
    with all_cores():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Class folders of the target and of the source."""
    root = tmp_path_factory.mktemp("epoch")
    photos = write_photos(root, 2 * FILES)
    parts = {"target": photos[:FILES], "source": photos[FILES:]}
    for name, files in parts.items():
        for i in range(IMAGES):
            path = root / name / f"class{i % CLASSES}" / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(files[i // CLASSES % (FILES // CLASSES) * CLASSES + i % CLASSES], path)
    return {name: root / name for name in parts}


def listed(folder: Path) -> list[tuple[Path, int]]:
    """The files of class folders, with their labels."""
    return [(path, int(path.parent.name[-1])) for path in sorted(folder.glob("*/*.jpg"))]


class Resident:
    """The package's own way, with source class j for target class j."""

    def __init__(self, target: Path, source: Path) -> None:
        decoder = make_decoder("auto", SHORT_SIDE, torch.device("cpu"), THREADS, print)
        builder = ImageStore(decoder, None, None, lambda line: None)
        self.target, self.source = (
            builder.build([Sample(FileImage(path), label) for path, label in listed(folder)], folder.name)
            for folder in (target, source)
        )
        settings = Settings(
            target=str(target), model="none", epochs=1, batch_size=BATCH, image_size=SIZE, alpha=ALPHA, seed=SEED
        )
        self.stream = builder.stream([Sample(FileImage(path), label) for path, label in listed(target)], "stream")
        self.aux = AuxiliaryIndex.of(self.source, [[label] for label in range(CLASSES)])
        self.sampler = Sampler(self.target, self.aux, settings)
        self.form = ImageFormat(SIZE, MEAN, STD)
        self.buffers = {False: OutputBuffers(), True: OutputBuffers()}

    def epoch(self, streamed: bool = False) -> Iterator[Batch]:
        images = self.stream if streamed else self.target
        plans = (self.sampler.plan(step, second="auxiliary") for step in range(self.sampler.steps))
        for plan, pools in fetch(images, self.source, plans):
            out = self.buffers[streamed].get("mixed", len(plan), self.form, plan.lam.device)
            yield render(plan, pools, self.form, out), plan.label, plan.second_classes, plan.lam

    def check(self) -> None:
        for step, (images, *_), (streamed, *_) in zip(count(), self.epoch(), self.epoch(streamed=True)):
            plan = self.sampler.plan(step, second="auxiliary")
            assert torch.equal(images, streamed)
            expected = reference.mix(
                self.target,
                plan.mix.target_crops,
                self.source,
                plan.mix.aux_crops,
                plan.lam,
                mean=MEAN,
                std=STD,
                size=(SIZE, SIZE),
            )
            torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


class RandomWindow(torch.nn.Module):
    """A crop of SIZE of an image with its short side at SHORT_SIDE, with antialiasing; half of them mirrored."""

    def forward(self, image: Any) -> Any:
        height, width = functional.get_size(image)
        side = min(height, width) * SIZE // SHORT_SIDE
        top, left = (int(torch.randint(extent - side + 1, ())) for extent in (height, width))
        crop = functional.resized_crop(image, top, left, side, side, [SIZE, SIZE], antialias=True)
        return functional.horizontal_flip(crop) if torch.rand(()) < 0.5 else crop


class Pairs(Dataset[tuple[Tensor, Tensor, int, int]]):
    """Each target image with a random source image of the same class, both decoded, cropped and mirrored: uint8."""

    def __init__(self, target: Path, source: Path) -> None:
        self.target = listed(target)
        self.source: list[list[tuple[Path, int]]] = [[] for _ in range(CLASSES)]
        for path, label in listed(source):
            self.source[label].append((path, label))
        self.transform = RandomWindow()

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int, int]:
        path, label = self.target[i]
        candidates = self.source[label]
        aux_path, aux_label = candidates[int(torch.randint(len(candidates), ()))]
        return self._image(path), self._image(aux_path), label, aux_label

    def _image(self, path: Path) -> Tensor:
        return self.transform(decode_jpeg(read_file(str(path)), ImageReadMode.RGB))


class PlainLoader:
    """What one writes with PyTorch and torchvision alone."""

    def __init__(self, target: Path, source: Path) -> None:
        self.loader = DataLoader(
            Pairs(target, source), BATCH, shuffle=True, num_workers=THREADS, persistent_workers=True, prefetch_factor=4
        )
        self.beta = torch.distributions.Beta(ALPHA, ALPHA)
        self.scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
        self.bias = -(torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
        self.mixed, self.other = torch.empty(2, BATCH, 3, SIZE, SIZE)
        """Reused: fresh memory takes longer than the mixing."""

    def epoch(self) -> Iterator[Batch]:
        for target, aux, label, aux_label in self.loader:
            lam = self.beta.sample((BATCH,))
            lam = torch.maximum(lam, 1 - lam)
            weight = lam.view(-1, 1, 1, 1)
            torch.mul(target, weight * self.scale, out=self.mixed)
            torch.mul(aux, (1 - weight) * self.scale, out=self.other)
            yield self.mixed.add_(self.other).add_(self.bias), label, aux_label, lam


class TimmLoader:
    """timm's loader at its fastest, which mixes bytes, with a transform that is equal in effect to the other sides'."""

    def __init__(self, target: Path) -> None:
        self.loader = timm.data.create_loader(
            timm.data.create_dataset("", target),
            input_size=(3, SIZE, SIZE),
            batch_size=BATCH,
            is_training=True,
            num_workers=THREADS,
            device=torch.device("cpu"),
            # One weight for each batch, which is its default and fastest.
            collate_fn=timm.data.FastCollateMixup(ALPHA, label_smoothing=0, num_classes=CLASSES),
        )
        self.loader.dataset.transform = transforms.Compose([RandomWindow(), timm.data.transforms.ToNumpy()])

    def epoch(self) -> Iterator[Batch]:
        yield from self.loader


def run(epoch: Callable[[], Iterator[Batch]]) -> int:
    """The number of images of an epoch, each batch made and dropped."""
    return sum(len(images) for images, *_ in epoch())


def check(epoch: Callable[[], Iterator[Batch]]) -> None:
    """Every image comes once; batches have the right shape and the range and mean of normalised images."""
    batches = [tuple(tensor.clone() for tensor in batch) for batch in epoch()]
    images, labels = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
    assert images.shape == (IMAGES, 3, SIZE, SIZE) and images.dtype == torch.float32
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    levels = images * std + mean
    assert -1e-5 <= levels.min() < 0.1 and 0.9 < levels.max() <= 1 + 1e-5
    assert abs(levels.mean() - 0.47) < 0.03
    per_class = labels.sum(0) if labels.dim() == 2 else labels.bincount()
    assert torch.allclose(per_class.float(), torch.tensor(IMAGES / CLASSES).expand(CLASSES), atol=1e-3)


@pytest.mark.benchmark(group="epoch")
def test_epoch(benchmark: Any, folders: dict[str, Path]) -> None:
    resident, plain, timm_loader = Resident(**folders), PlainLoader(**folders), TimmLoader(folders["target"])
    resident.check()
    for side in (resident, plain, timm_loader):
        check(side.epoch)
    sides = {
        "resident": lambda: run(resident.epoch),
        "stream": lambda: run(partial(resident.epoch, streamed=True)),
        "dataloader": lambda: run(plain.epoch),
        "timm": lambda: run(timm_loader.epoch),
    }
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    over = {name: seconds / medians["resident"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_resident=over)
    print("\nepoch, images/s: " + ", ".join(f"{name} {IMAGES / seconds:.0f}" for name, seconds in medians.items()))
    print("times as long as resident: " + ", ".join(f"{name} {over[name]:.1f}" for name in list(sides)[1:]))
