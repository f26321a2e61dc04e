"""Random inputs of the operators, which tests and benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from xmixup_fast import Crops, ImagePool
from xmixup_fast.ops import reference

Numbers = tuple[float, float, float]

FORMATS = [torch.channels_last, torch.contiguous_format]
IMAGENET: dict[str, Numbers] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def make_pool(sizes: list[tuple[int, int]], generator: torch.Generator) -> ImagePool:
    """A pool of images with these heights and widths and random pixels."""
    return ImagePool.from_images(
        [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in sizes]
    )


def unchecked_pool(pixels: torch.Tensor, offsets: torch.Tensor, sizes: torch.Tensor) -> ImagePool:
    """A pool of any tensors, which ImagePool itself would refuse."""
    pool = object.__new__(ImagePool)
    for name, tensor in (("pixels", pixels), ("offsets", offsets), ("sizes", sizes)):
        object.__setattr__(pool, name, tensor)
    return pool


def make_crops(pool: ImagePool, batch: int, size: tuple[int, int] | None, generator: torch.Generator) -> Crops:
    """Random crops: images, windows of ``size`` (height, width), or of any size for None, and flips."""
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


def exact_views(pool: ImagePool, crops: Crops, size: tuple[int, int], antialias: bool) -> torch.Tensor:
    """Windows, resampled to ``size`` and mirrored, by their definition: float64[batch, 3, height, width] in 0..255."""
    views = []
    for index, (top, left, height, width), flip in zip(*(t.tolist() for t in crops), strict=True):
        view = pool[index][top : top + height, left : left + width]
        for dim, extent in enumerate(size):
            filtered = antialias and view.shape[dim] > extent
            view = (filter_axis if filtered else interpolate_axis)(view, dim, extent)
        views.append((view.flip(1) if flip else view).permute(2, 0, 1))
    return torch.stack(views) if views else torch.empty(0, 3, *size, dtype=torch.float64, device=pool.device)


def interpolate_axis(image: torch.Tensor, dim: int, extent: int) -> torch.Tensor:
    """Bilinear resampling of one axis of an image [height, width, 3], with pixel centres at half-integers: float64."""
    last = image.shape[dim] - 1
    position = (torch.arange(extent, dtype=torch.float64) + 0.5) * (last + 1) / extent - 0.5
    position = position.clamp(0, last).to(image.device)
    before = position.long()
    weight = (position - before).view(-1, *[1] * (2 - dim))
    first, second = (image.index_select(dim, i).double() for i in (before, (before + 1).clamp(max=last)))
    return first + weight * (second - first)


def filter_axis(image: torch.Tensor, dim: int, extent: int) -> torch.Tensor:
    """Resampling of one axis to a smaller ``extent`` by a triangle two pixels of the output wide: float64."""
    scale = image.shape[dim] / extent
    centre = scale * (torch.arange(extent, dtype=torch.float64) + 0.5)
    rows = []
    for middle in centre.tolist():
        begin, end = max(int(middle - scale), 0), min(int(middle + scale) + 1, image.shape[dim])
        centres = torch.arange(begin, end, dtype=torch.float64, device=image.device) + 0.5
        weights = (1 - (centres - middle).abs() / scale).clamp(min=0)
        pixels = image.narrow(dim, begin, end - begin).double()
        rows.append(torch.tensordot(weights / weights.sum(), pixels, ([0], [dim])))
    return torch.stack(rows, dim)


def view_error(crops: Crops, size: tuple[int, int], antialias: bool) -> torch.Tensor:
    """The bound that `mix` documents on the error of a resampled window, in levels of 0..255: float64[batch]."""
    extent, out = crops.window[:, 2:], torch.tensor(size, device=crops.window.device)
    sides = extent.double().sum(1)
    interpolated = torch.where((extent != out).any(1), (sides + 1) / 20000, 0)
    return torch.where((extent > out).any(1) & antialias, (sides + 10) / 5400, interpolated)


@dataclass
class MixInputs:
    """The arguments of one call of `mix`."""

    target: ImagePool
    target_crops: Crops
    aux: ImagePool
    aux_crops: Crops
    lam: torch.Tensor
    size: tuple[int, int]
    memory_format: torch.memory_format = torch.channels_last
    dtype: torch.dtype = torch.float32
    box: torch.Tensor | None = None
    antialias: bool = False

    @classmethod
    def make(
        cls,
        batch: int = 3,
        size: tuple[int, int] = (5, 7),
        sizes: list[tuple[int, int]] | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        resampled: tuple[bool, bool] = (False, False),
        boxes: bool = False,
        antialias: bool = False,
    ) -> MixInputs:
        """Random arguments.

        Args:
            batch: number of samples.
            size: height and width of the output.
            sizes: heights and widths of the target images and, in reverse order, of the auxiliary images.
            memory_format: of the output.
            seed: of the random numbers.
            dtype: of the output.
            resampled: whether target windows and auxiliary windows have other sizes than the output.
            boxes: paste auxiliary images into boxes instead of blending.
            antialias: filter axes along which windows are larger than the output.
        """
        generator = torch.Generator().manual_seed(seed)
        sizes = sizes or [size, (size[0] + 3, size[1] + 1), (size[0], size[1] + 9)]
        target, aux = make_pool(sizes, generator), make_pool(sizes[::-1], generator)
        crops = [
            make_crops(pool, batch, None if other else size, generator)
            for pool, other in zip((target, aux), resampled, strict=True)
        ]
        lam = torch.rand(batch, generator=generator)
        box = make_boxes(batch, size, generator) if boxes else None
        return cls(
            target=target,
            target_crops=crops[0],
            aux=aux,
            aux_crops=crops[1],
            lam=lam,
            size=size,
            memory_format=memory_format,
            dtype=dtype,
            box=box,
            antialias=antialias,
        )

    def swapped(self) -> MixInputs:
        """The same call with the target images and the auxiliary images in each other's place."""
        return replace(
            self,
            target=self.aux,
            target_crops=self.aux_crops,
            aux=self.target,
            aux_crops=self.target_crops,
        )

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
        """A tensor for ``out``, filled with NaN."""
        shape = (len(self.lam), 3, *self.size)
        out = torch.full(shape, float("nan"), dtype=self.dtype, device=self.lam.device)
        return out.to(memory_format=self.memory_format)

    def call(self, mix: Any, **more: Any) -> torch.Tensor:
        """Calls `mix` of `ops` or `reference` with these arguments; ``more`` adds arguments or replaces them."""
        options = {"size": self.size, "box": self.box, "dtype": self.dtype, "memory_format": self.memory_format}
        options |= {"antialias": self.antialias} | IMAGENET | more
        return mix(self.target, self.target_crops, self.aux, self.aux_crops, self.lam, **options)

    def exact(self, mean: Numbers = IMAGENET["mean"], std: Numbers = IMAGENET["std"]) -> torch.Tensor:
        """The exact result of `mix`, computed by its definition: float64[batch, 3, height, width]."""
        target = exact_views(self.target, self.target_crops, self.size, self.antialias)
        aux = exact_views(self.aux, self.aux_crops, self.size, self.antialias)
        lam = self.lam.double().view(-1, 1, 1, 1)
        if self.box is not None:
            lam = 1 - reference.inside(self.box, self.size).unsqueeze(1).double()
        means, deviations = (torch.tensor(v, dtype=torch.float64, device=lam.device).view(3, 1, 1) for v in (mean, std))
        return ((lam * target + (1 - lam) * aux) / 255 - means) / deviations

    def error(self, mean: Numbers = IMAGENET["mean"], std: Numbers = IMAGENET["std"]) -> torch.Tensor:
        """The bound that `mix` documents on the error of its float32 result: float64[batch, 3, 1, 1]."""
        sides = [view_error(crops, self.size, self.antialias) for crops in (self.target_crops, self.aux_crops)]
        levels = torch.maximum(*sides)
        means, deviations = (torch.tensor(v, dtype=torch.float64, device=levels.device) for v in (mean, std))
        return ((levels[:, None] / 255 + 6 * 2**-24 * (1 + means.abs())) / deviations)[:, :, None, None]

    def raw(self) -> tuple[Any, ...]:
        """The arguments of torch.ops.xmixup_fast.mix in the schema's order, up to ``size``."""
        target = (self.target.pixels, self.target.offsets, self.target.sizes, *self.target_crops)
        aux = (self.aux.pixels, self.aux.offsets, self.aux.sizes, *self.aux_crops)
        return (*target, *aux, self.lam, self.box, IMAGENET["mean"], IMAGENET["std"], self.size)


def is_within(mixed: torch.Tensor, expected: torch.Tensor, error: torch.Tensor) -> bool:
    """Whether ``mixed``, of any dtype, is a rounding of numbers that differ from ``expected`` by at most ``error``."""
    low, high = ((expected.double() + sign * error).to(mixed.dtype) for sign in (-1, 1))  # rounding keeps the order
    return bool(((mixed >= low) & (mixed <= high)).all())


@dataclass
class LossInputs:
    """The arguments of one call of `dual_head_cross_entropy`."""

    target_logits: torch.Tensor
    source_logits: torch.Tensor
    target_labels: torch.Tensor
    source_labels: torch.Tensor
    lam: torch.Tensor
    source_weight: float = 0.7
    label_smoothing: float = 0.1

    @classmethod
    def make(
        cls,
        batch: int = 3,
        classes: tuple[int, int] = (5, 40),
        dtype: torch.dtype = torch.float32,
        spread: float = 4.0,
        seed: int = 0,
    ) -> LossInputs:
        """Random arguments: logits of both heads, for ``classes`` (K_t, K_s), with standard deviation ``spread``."""
        generator = torch.Generator().manual_seed(seed)
        logits = [(spread * torch.randn(batch, k, generator=generator)).to(dtype) for k in classes]
        labels = [torch.randint(0, k, (batch,), generator=generator) for k in classes]
        return cls(*logits, *labels, torch.rand(batch, generator=generator))

    def to(self, device: torch.device) -> LossInputs:
        names = ("target_logits", "source_logits", "target_labels", "source_labels", "lam")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def double(self) -> LossInputs:
        """The same arguments in float64."""
        return replace(
            self,
            target_logits=self.target_logits.double(),
            source_logits=self.source_logits.double(),
            lam=self.lam.double(),
        )

    def call(self, loss: Any, **more: Any) -> torch.Tensor:
        """Calls `dual_head_cross_entropy` of `ops` or `reference` with these arguments; ``more`` replaces some."""
        options = {"source_weight": self.source_weight, "label_smoothing": self.label_smoothing} | more
        tensors = (self.target_logits, self.source_logits, self.target_labels, self.source_labels, self.lam)
        return loss(*tensors, **options)

    def with_gradients(self, loss: Any, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, and the gradients of ``scale`` times the loss for the target logits and for the source logits."""
        logits = [t.detach().requires_grad_() for t in (self.target_logits, self.source_logits)]
        value = replace(self, target_logits=logits[0], source_logits=logits[1]).call(loss)
        return (value.detach(), *torch.autograd.grad(scale * value, logits))

    def raw(self) -> tuple[Any, ...]:
        """The arguments of torch.ops.xmixup_fast.dual_head_cross_entropy, in the schema's order."""
        tensors = (self.target_logits, self.source_logits, self.target_labels, self.source_labels, self.lam)
        return (*tensors, self.source_weight, self.label_smoothing)
