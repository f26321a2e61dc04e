"""Antialiased resizing: `mix(antialias=True)` of windows that are larger than the output, against other means to it.

`mix` also normalises, as torchvision does to whole batches; `torchvision_bytes` and `pillow` stop at resized bytes.
Images are resized by these in as many threads as `mix` has.

python -m pytest bench/bench_resize.py --benchmark-only -s
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from augment_inputs import photo_pool
from conftest import evict_caches, median_seconds_in_turn
from mix_sides import MEAN, STD
from samples import MixInputs
from threads import image_threads
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from xmixup_fast import Crops, ops
from xmixup_fast.ops import reference

Window = tuple[int, int, int, int]


@dataclass
class Work:
    """Windows of images, which are to be reduced to squares."""

    images: int
    image: tuple[int, int]
    """Height and width."""
    batch: int
    window: tuple[int, int]
    """Least and greatest height and width of a window."""
    size: int

    def inputs(self) -> MixInputs:
        """The target images alone: with weights of 1, no other image is read."""
        generator = torch.Generator().manual_seed(0)
        pool = photo_pool([self.image] * self.images, np.random.default_rng(0), photos=2)
        low, high = self.window
        extent = torch.randint(low, high + 1, (self.batch, 2), generator=generator)
        corner = (torch.rand((self.batch, 2), generator=generator) * (torch.tensor(self.image) - extent + 1)).floor()
        flip = torch.zeros(self.batch, dtype=torch.bool)
        crops = Crops(torch.arange(self.batch) % self.images, torch.cat([corner, extent], dim=1).int(), flip)
        return MixInputs(pool, crops, pool, crops, torch.ones(self.batch), (self.size, self.size))


GROUPS = {
    "resize-antialias-2-to-4": Work(images=16, image=(900, 1200), batch=32, window=(448, 896), size=224),
    "resize-antialias-2.4": Work(images=64, image=(426, 426), batch=64, window=(426, 426), size=180),
    "resize-antialias-6.7": Work(images=64, image=(426, 426), batch=64, window=(426, 426), size=64),
}
SLOW = 0.05
"""Seconds of a call from which on fewer of them are timed."""


def fused(inputs: MixInputs) -> Callable[[], Tensor]:
    out = inputs.empty_out()
    return lambda: inputs.call(ops.mix, antialias=True, out=out)


def torchvision_bytes(inputs: MixInputs) -> Callable[[], Tensor]:
    """torchvision's kernel for bytes, which has vectors and one thread, in threads."""
    threads, pool, (index, windows, _) = image_threads(), inputs.target, inputs.target_crops
    jobs = [(pool[i].permute(2, 0, 1), window) for i, window in zip(index.tolist(), windows.tolist(), strict=True)]
    size = list(inputs.size)

    def resized(job: tuple[Tensor, Window]) -> Tensor:
        image, window = job
        return v2.resized_crop_image(image, *window, size, antialias=True)

    return lambda: torch.stack(list(threads.map(resized, jobs)))


def torchvision(inputs: MixInputs) -> Callable[[], Tensor]:
    """The same, then normalised in place as whole batches."""
    resized = torchvision_bytes(inputs)
    return lambda: v2.normalize_image(
        v2.to_dtype_image(resized(), torch.float32, scale=True).contiguous(memory_format=torch.channels_last),
        list(MEAN),
        list(STD),
        inplace=True,
    )


def pillow(inputs: MixInputs) -> Callable[[], Tensor]:
    """Pillow in threads; it first averages whole pixels where it reduces by four and more (`reducing_gap`)."""
    threads, pool, (index, windows, _) = image_threads(), inputs.target, inputs.target_crops
    pictures = {i: PIL.Image.fromarray(pool[i].numpy()) for i in set(index.tolist())}
    jobs = list(zip((pictures[i] for i in index.tolist()), windows.tolist(), strict=True))
    size = inputs.size[::-1]

    def resized(job: tuple[PIL.Image.Image, Window]) -> Tensor:
        picture, (top, left, height, width) = job
        box = (left, top, left + width, top + height)
        small = picture.resize(size, PIL.Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    return lambda: torch.stack(list(threads.map(resized, jobs)))


SIDES: dict[str, Callable[[MixInputs], Callable[[], Tensor]]] = {
    "fused": fused,
    "torchvision": torchvision,
    "torchvision_bytes": torchvision_bytes,
    "pillow": pillow,
}
LEVELS = {"fused": 0.2, "torchvision": 2.0, "torchvision_bytes": 2.0, "pillow": 8.0}
"""Greatest error of a side, in levels of 0..255: what is resampled in two passes of bytes is rounded twice, and
averages of whole pixels are another filter."""


def check(inputs: MixInputs, name: str, result: Tensor) -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = 255 * (inputs.call(reference.mix, antialias=True) * std + mean)
    levels = result.float() if result.dtype == torch.uint8 else 255 * (result * std + mean)
    off = (levels - expected).abs()
    assert off.max() < LEVELS[name] and off.mean() < 0.8


@pytest.mark.parametrize("group", GROUPS)
def test_in_turn(benchmark: Any, group: str, rounds: int) -> None:
    inputs = GROUPS[group].inputs()
    sides = {name: make(inputs) for name, make in SIDES.items()}
    for name, run in sides.items():
        check(inputs, name, run())
    benchmark.group = f"{group}-in-turn"
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, rounds, evict_caches, SLOW), rounds=1)
    over_fused = {name: seconds / medians["fused"] for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, over_fused=over_fused)
    print(f"\n{group}: fused {1e3 * medians['fused']:.2f} ms; in multiples of it:", end=" ")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in over_fused.items() if name != "fused"))
