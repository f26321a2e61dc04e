"""The inputs of the `mix` benchmarks, and the other means to the same batches that `mix` is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from samples import IMAGENET, MixInputs, make_crops, make_pool
from torch import Tensor

from xmixup_fast import Crops, ImagePool, ops
from xmixup_fast.ops import reference

SIZE = (224, 224)
MEAN, STD = list(IMAGENET["mean"]), list(IMAGENET["std"])

Side = Callable[[], Tensor]
Cut = Callable[[Tensor, tuple[int, int, int, int], bool], Tensor]
"""Takes a window (top, left, height, width) out of an image uint8[3, H, W], mirrored if asked: [3, *SIZE]."""


def photo_sizes(images: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Short sides of 256, long sides of 300 to 380; one image in four is upright."""
    long = torch.randint(300, 381, (images,), generator=generator).tolist()
    return [(256, side) if i % 4 else (side, 256) for i, side in enumerate(long)]


def resized_crops(pool: ImagePool, batch: int, generator: torch.Generator) -> Crops:
    """Windows as RandomResizedCrop draws them: a quarter to the whole of an image's area, 3:4 to 4:3."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def window(height: int, width: int) -> tuple[int, int, int, int]:
        while True:
            area, ratio = height * width * uniform(0.25, 1), math.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if h <= height and w <= width:
                return int(uniform(0, height - h + 1)), int(uniform(0, width - w + 1)), h, w

    index = torch.randint(0, len(pool), (batch,), generator=generator)
    windows = torch.tensor([window(*size) for size in pool.sizes[index].tolist()], dtype=torch.int32)
    return Crops(index, windows, torch.rand(batch, generator=generator) < 0.5)


def make_inputs(batch: int = 64, dtype: torch.dtype = torch.float32, resized: bool = False) -> MixInputs:
    """A batch of two pools of 128 images of about 256 x 340 pixels, to be brought to SIZE in channels_last."""
    generator = torch.Generator().manual_seed(0)
    pools = [make_pool(photo_sizes(128, generator), generator) for _ in range(2)]
    crops = [
        resized_crops(pool, batch, generator) if resized else make_crops(pool, batch, SIZE, generator) for pool in pools
    ]
    lam = torch.rand(batch, generator=generator)
    return MixInputs(pools[0], crops[0], pools[1], crops[1], lam, SIZE, dtype=dtype)


def is_resized(inputs: MixInputs) -> bool:
    return bool((inputs.target_crops.window[:, 2:] != torch.tensor(inputs.size)).any())


class Staged:
    """Cuts the windows one by one into a reused batch for each side, and then blends the two batches.

    Faster than any gather of the whole batch at once that was tried (see `compiled`). The views of single images are
    made beforehand.
    """

    def __init__(
        self, inputs: MixInputs, cut: Cut, blend: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.uint8
    ) -> None:
        self.inputs, self.cut, self.blend = inputs, cut, blend
        shape = (len(inputs.lam), 3, *inputs.size)
        self.images = [[pool[i].permute(2, 0, 1) for i in range(len(pool))] for pool in (inputs.target, inputs.aux)]
        self.batches = [torch.empty(shape, dtype=dtype, memory_format=torch.channels_last) for _ in self.images]

    def __call__(self) -> Tensor:
        crops = (self.inputs.target_crops, self.inputs.aux_crops)
        for images, (index, window, flip), batch in zip(self.images, crops, self.batches, strict=True):
            for place, i, where, mirror in zip(batch, index.tolist(), window.tolist(), flip.tolist(), strict=True):
                place.copy_(self.cut(images[i], where, mirror))
        return self.blend(*self.batches)


def slices(image: Tensor, window: tuple[int, int, int, int], flip: bool) -> Tensor:
    top, left, height, width = window
    view = image[:, top : top + height, left : left + width]
    return view.flip(-1) if flip else view


def compiled(inputs: MixInputs) -> Side:
    """Slices, and a compiled blend of the two batches into a reused output: the fastest of what was tried.

    Slower, in multiples of its time: one compiled kernel that makes an index for every byte of the batch and gathers
    it, 14; that with an index for each row and a table of columns, or none and no flips, 4 (single bytes are loaded in
    either case); torch.stack instead of copies, 1.2. Slices inside the compiled function: it recompiles for every
    batch. Resized: compiled gathers of the four neighbours, 1.1; of two rows and then of two columns, 1.6; interpolate
    of bytes, which runs on one thread, 1.1.
    """
    height, width = inputs.size
    # Tables as long as a row, so that the inner loop is one of 3 * width elements and is vectorised.
    scale, bias = (torch.tensor(c).repeat(width) for c in reference.channel_constants(**IMAGENET))
    out = inputs.empty_out()

    torch._dynamo.reset()  # so that this shape gets a kernel of its own, and not one for all shapes seen so far

    @torch.compile(fullgraph=True)
    def blend(target: Tensor, aux: Tensor, lam: Tensor, out: Tensor) -> None:
        t, a, rows = (batch.permute(0, 2, 3, 1).view(-1, height, 3 * width) for batch in (target, aux, out))
        lam = lam.view(-1, 1, 1)
        rows.copy_(t * (lam * scale) + (a * ((1 - lam) * scale) + bias))

    def resize(image: Tensor, window: tuple[int, int, int, int], flip: bool) -> Tensor:
        return F.interpolate(slices(image, window, flip).unsqueeze(0).float(), inputs.size, mode="bilinear")[0]

    def blended(target: Tensor, aux: Tensor) -> Tensor:
        blend(target, aux, inputs.lam, out)
        return out

    if is_resized(inputs):
        return Staged(inputs, resize, blended, torch.float32)
    return Staged(inputs, slices, blended)


def torchvision(inputs: MixInputs) -> Side:
    """torchvision's v2 kernels: windows of bytes as its documentation advises, the rest of whole batches, in place."""
    from torchvision.transforms.v2 import functional as v2

    lam = inputs.lam.view(-1, 1, 1, 1)

    def cut(image: Tensor, window: tuple[int, int, int, int], flip: bool) -> Tensor:
        if tuple(window[2:]) == inputs.size:
            view = v2.crop_image(image, *window)
        else:
            view = v2.resized_crop_image(image, *window, list(inputs.size), antialias=False)
        return v2.horizontal_flip_image(view) if flip else view

    def blend(target: Tensor, aux: Tensor) -> Tensor:
        t, a = (v2.to_dtype_image(batch, torch.float32, scale=True) for batch in (target, aux))
        torch.lerp(a, t, lam, out=t)  # what v2.MixUp does in three passes
        return v2.normalize_image(t, MEAN, STD, inplace=True).to(inputs.dtype)

    return Staged(inputs, cut, blend)


def kornia(inputs: MixInputs) -> Side:
    """kornia's operations; slices for the windows, as its crops take batches of equal images only."""
    from kornia.enhance import normalize
    from kornia.geometry.transform import hflip, resize

    lam = inputs.lam.view(-1, 1, 1, 1)
    mean, std = (255 * torch.tensor(values) for values in (MEAN, STD))

    def cut(image: Tensor, window: tuple[int, int, int, int], flip: bool) -> Tensor:
        view = slices(image, window, flip=False)
        if tuple(window[2:]) != inputs.size:
            view = resize(view.float(), inputs.size, "bilinear", align_corners=False, antialias=False)
        return hflip(view) if flip else view

    def blend(target: Tensor, aux: Tensor) -> Tensor:
        t, a = target.float(), aux.float()
        return normalize(torch.lerp(a, t, lam, out=t), mean, std).to(inputs.dtype)

    return Staged(inputs, cut, blend, torch.float32 if is_resized(inputs) else torch.uint8)


CEILING_BYTE = 0x5A
"""What the ceiling fills its output with."""


def ceiling(inputs: MixInputs) -> Callable[[], int]:
    """Reads the bytes of all windows and writes the bytes of an output. Returns the sum of the bytes read."""
    out = inputs.empty_out()
    sides = ((inputs.target, inputs.target_crops), (inputs.aux, inputs.aux_crops))
    tensors = [t for pool, c in sides for t in (pool.pixels, pool.offsets, pool.sizes, c.index, c.window)]
    run = lambda: torch.ops.xmixup_fast_bench.ceiling(*tensors, CEILING_BYTE, out)  # noqa: E731
    read = sum(
        int(pool[i][top : top + h, left : left + w].sum())
        for pool, crops in sides
        for i, (top, left, h, w) in zip(crops.index.tolist(), crops.window.tolist(), strict=True)
    )
    assert run() == read
    assert (out.permute(0, 2, 3, 1).view(torch.uint8) == CEILING_BYTE).all()
    return run


def fused(inputs: MixInputs) -> Side:
    out = inputs.empty_out()
    return lambda: inputs.call(ops.mix, out=out)


def fused_alloc(inputs: MixInputs) -> Side:
    return lambda: inputs.call(ops.mix)


def fresh_output(inputs: MixInputs) -> Tensor:
    """From 32 MiB on, memory that malloc asks the system for, unless as much in one piece was freed before."""
    shape = (len(inputs.lam), 3, *inputs.size)
    return torch.empty(shape, dtype=inputs.dtype, memory_format=inputs.memory_format)


def fused_fresh(inputs: MixInputs) -> Side:
    return lambda: inputs.call(ops.mix, out=fresh_output(inputs))


SIDES: dict[str, Callable[[MixInputs], Callable[[], object]]] = {
    "fused_alloc": fused_alloc,
    "fused": fused,
    "fused_fresh": fused_fresh,
    "reference": lambda inputs: lambda: inputs.call(reference.mix),
    "compiled": compiled,
    "torchvision": torchvision,
    "kornia": kornia,
    "ceiling": ceiling,
}
