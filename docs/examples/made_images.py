"""Small images for the examples, in place of photos: classes differ in colour, and relatives have like colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from xmixup_fast import ImagePool

TARGET = [(220, 40, 30), (30, 200, 60), (40, 60, 220)]
SOURCE = [(200, 20, 60), (240, 90, 40), (60, 180, 40), (90, 120, 250), (20, 40, 160)]
RELATIVES = [[0, 1], [2], [3, 4]]
"""For each target class, the source classes that look like it."""
SIZE = (32, 32)
NORMALISE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def photos(per_class: int = 32) -> tuple[Tensor, Tensor]:
    """Target images and their classes: uint8[n, 40, 44, 3] and int64[n]."""
    return _images(TARGET, per_class, (40, 44))


def auxiliary() -> ImagePool:
    """Source images of several sizes, labelled with their classes."""
    batches = [_images(SOURCE, 4, size) for size in ((36, 40), (50, 34))]
    labels = torch.cat([classes for _, classes in batches])
    return ImagePool.from_images([image for images, _ in batches for image in images], labels)


class Photos(Dataset):
    """The target images as a folder of photos gives them: PIL images through a transform, with their classes."""

    def __init__(self, transform=None) -> None:
        self.images, self.labels = photos()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i].numpy())), int(self.labels[i])


def _images(colours: Sequence[tuple[int, int, int]], per_class: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(colours)).repeat_interleave(per_class)
    noise = torch.randint(-40, 41, (len(labels), *size, 3), generator=generator)
    return (torch.tensor(colours)[labels, None, None] + noise).clamp(0, 255).to(torch.uint8), labels
