"""Made inputs of `mix`, shared by tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from xmixup_fast import Crops, ImagePool

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def make_pool(sizes: list[tuple[int, int]], generator: torch.Generator) -> ImagePool:
    """Images of the given heights and widths, of random bytes."""
    return ImagePool.from_images(
        [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in sizes]
    )


def make_crops(pool: ImagePool, batch: int, size: tuple[int, int] | None, generator: torch.Generator) -> Crops:
    """Random images, windows of the given size (any, for None) inside them, and flips."""
    index = torch.randint(0, len(pool), (batch,), generator=generator)
    extent = (torch.rand((batch, 2), generator=generator) * pool.sizes[index]).floor() + 1
    if size is not None:
        extent = torch.tensor(size).expand(batch, 2)
    corner = (torch.rand((batch, 2), generator=generator) * (pool.sizes[index] - extent + 1)).floor()
    window = torch.cat([corner, extent], dim=1).int()
    return Crops(index, window, torch.rand(batch, generator=generator) < 0.5)


def make_boxes(batch: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Random rectangles in the output, some of them empty: int32[batch, 4]."""
    limit = torch.tensor(size)
    extent = (torch.rand((batch, 2), generator=generator) * (limit + 1)).floor()
    corner = (torch.rand((batch, 2), generator=generator) * (limit - extent + 1)).floor()
    return torch.cat([corner, extent], dim=1).int()


@dataclass
class MixInputs:
    """All arguments of one call of `mix`."""

    target: ImagePool
    target_crops: Crops
    aux: ImagePool
    aux_crops: Crops
    lam: torch.Tensor
    size: tuple[int, int]
    memory_format: torch.memory_format = torch.channels_last
    dtype: torch.dtype = torch.float32
    box: torch.Tensor | None = None

    @classmethod
    def make(
        cls,
        batch: int = 3,
        size: tuple[int, int] = (5, 7),
        sizes: list[tuple[int, int]] | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        resampled: tuple[bool, bool] = (False, False),
        boxes: bool = False,
    ) -> MixInputs:
        """``resampled``: whether target and auxiliary windows have other sizes than the output."""
        generator = torch.Generator().manual_seed(seed)
        sizes = sizes or [size, (size[0] + 3, size[1] + 1), (size[0], size[1] + 9)]
        target, aux = make_pool(sizes, generator), make_pool(sizes[::-1], generator)
        crops = [
            make_crops(pool, batch, None if other else size, generator)
            for pool, other in zip((target, aux), resampled, strict=True)
        ]
        lam = torch.rand(batch, generator=generator)
        box = make_boxes(batch, size, generator) if boxes else None
        return cls(target, crops[0], aux, crops[1], lam, size, memory_format, dtype, box)

    def to(self, device: torch.device) -> MixInputs:
        return replace(
            self,
            target=self.target.to(device),
            aux=self.aux.to(device),
            target_crops=Crops(*(t.to(device) for t in self.target_crops)),
            aux_crops=Crops(*(t.to(device) for t in self.aux_crops)),
            lam=self.lam.to(device),
            box=None if self.box is None else self.box.to(device),
        )

    def empty_out(self) -> torch.Tensor:
        shape = (len(self.lam), 3, *self.size)
        out = torch.full(shape, float("nan"), dtype=self.dtype, device=self.lam.device)
        return out.to(memory_format=self.memory_format)

    def call(self, mix: Any, **more: Any) -> torch.Tensor:
        """mix(...) of `ops` or `reference` on these arguments."""
        images = (self.target, self.target_crops, self.aux, self.aux_crops, self.lam)
        settings = {"size": self.size, "box": self.box, "dtype": self.dtype, "memory_format": self.memory_format}
        return mix(*images, **{**settings, **IMAGENET, **more})

    def raw(self) -> tuple[Any, ...]:
        """The arguments of torch.ops.xmixup_fast.mix."""
        return (
            *(self.target.pixels, self.target.offsets, self.target.sizes, *self.target_crops),
            *(self.aux.pixels, self.aux.offsets, self.aux.sizes, *self.aux_crops),
            *(self.lam, self.box, IMAGENET["mean"], IMAGENET["std"], self.size),
        )
