"""Which auxiliary images each target class may be mixed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .image_pool import ImagePool


class AuxiliaryIndex(NamedTuple):
    """The auxiliary images, and which of them each target class may be mixed with."""

    labels: Tensor
    """int64[n]: source class of each image."""
    sizes: Tensor
    """int32[n, 2]: height and width."""
    offsets: Tensor
    """int64[K_t + 1]: where each target class begins in ``members``."""
    members: Tensor
    """int64[M]: images of each target class."""

    @classmethod
    def of(cls, pool: ImagePool, source_classes: Sequence[Sequence[int]] | Tensor) -> AuxiliaryIndex:
        """The images of a labelled pool: target class j may be mixed with those of ``source_classes[j]``.

        Raises ValueError for a target class without an image.
        """
        rows = [torch.isin(pool.labels, torch.as_tensor(row, device=pool.device)) for row in source_classes]
        images = [row.nonzero().flatten() for row in rows]
        for target, (row, chosen) in enumerate(zip(images, source_classes, strict=True)):
            if not len(row):
                raise ValueError(
                    f"source_classes[{target}]: no auxiliary image has a label among {list(map(int, chosen))}"
                )
        return cls.of_images(pool, images)

    @classmethod
    def of_images(cls, pool: ImagePool, images: Sequence[Sequence[int] | Tensor]) -> AuxiliaryIndex:
        """Target class j may be mixed with the images at the positions ``images[j]`` of a labelled pool."""
        lengths = torch.tensor([0, *map(len, images)], device=pool.device)
        rows = [torch.as_tensor(row, dtype=torch.int64, device=pool.device) for row in images]
        members = torch.cat(rows) if rows else lengths[:0]
        return cls(pool.labels, pool.sizes, lengths.cumsum(0), members)

    def to(self, device: torch.device) -> AuxiliaryIndex:
        """The index on another device."""
        labels, sizes, offsets, members = (tensor.to(device) for tensor in self)
        return AuxiliaryIndex(labels, sizes, offsets, members)

    def as_one_class(self) -> AuxiliaryIndex:
        """The images of all target classes, each once, as those of a single class."""
        members = self.members.unique()
        return self._replace(offsets=torch.tensor([0, len(members)], device=members.device), members=members)


NO_AUXILIARY = AuxiliaryIndex(
    torch.empty(0, dtype=torch.int64),
    torch.empty((0, 2), dtype=torch.int32),
    torch.zeros(1, dtype=torch.int64),
    torch.empty(0, dtype=torch.int64),
)
"""The index of methods that use no auxiliary images."""
