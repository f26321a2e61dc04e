"""The means to a batch of RECIPE that are compared: `draw` and `mix_plan`, and what people use instead.

Sides that can be told what to draw get the plan's windows, flips and weights beforehand, and do not draw: `compiled`
also its colours, `torchvision` and `kornia` other factors of the same distribution. `dali` and `timm` draw themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from augment_inputs import BATCH, CLASSES, RECIPE, AugmentInputs
from conftest import THREADS
from mix_sides import MEAN, SIZE, STD, slices
from mix_sides import ceiling as mix_ceiling
from mix_sides import fused as fused_mix
from mix_sides import make_inputs as make_mix_inputs
from photos import all_cores
from threads import image_threads
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.ops import reference

Side = Callable[[], Tensor]
Window = tuple[int, int, int, int]
Cut = Callable[[Tensor, Window, bool, int, int], Tensor]
"""Makes uint8[3, *SIZE] of an image uint8[3, H, W], a window of it, whether it is mirrored, side and sample."""


def fused(inputs: AugmentInputs) -> Side:
    out = inputs.as_mix().empty_out()
    return lambda: inputs.render(ops.mix_plan, ops.draw(0, **inputs.draws), out=out)


def fused_alloc(inputs: AugmentInputs) -> Side:
    return lambda: inputs.render(ops.mix_plan, ops.draw(0, **inputs.draws))


def same_windows(inputs: AugmentInputs) -> Side:
    """`mix` of the plan's windows: nothing is drawn, and colours stay."""
    return fused_mix(inputs.as_mix())


def mix_resized(inputs: AugmentInputs) -> Side:
    """What bench_mix.py times as mix-resized."""
    return fused_mix(make_mix_inputs(dtype=inputs.dtype, resized=True))


class Staged:
    """Makes the images of a batch one by one, in threads, and then blends the two batches of bytes."""

    def __init__(
        self,
        inputs: AugmentInputs,
        cut: Cut,
        blend: Callable[[Tensor, Tensor], Tensor],
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.cut, self.blend, self.threads = cut, blend, image_threads()
        pools = (inputs.target, inputs.aux)
        self.images = [[pool[i].permute(2, 0, 1) for i in range(len(pool))] for pool in pools]
        self.crops = [[tensor.tolist() for tensor in crops] for crops in inputs.crops()]
        shape = (BATCH, 3, *SIZE)
        self.batches = [torch.empty(shape, dtype=torch.uint8, memory_format=memory_format) for _ in pools]

    def __call__(self) -> Tensor:
        for _ in self.threads.map(self._make, range(2 * BATCH)):  # so that an error is raised here
            pass
        return self.blend(*self.batches)

    def _make(self, number: int) -> None:
        side, sample = divmod(number, BATCH)
        index, window, flip = (column[sample] for column in self.crops[side])
        self.batches[side][sample].copy_(self.cut(self.images[side][index], window, flip, side, sample))


def compiled(inputs: AugmentInputs) -> Side:
    """Bytes resized in threads into planes, and a compiled kernel for colours, blend and normalisation, reused output.

    The fastest of what was tried. Slower on a busy machine, in multiples of its time: floats instead of bytes, 1.4,
    also with a kernel that shifts rows of R, G, B against each other, as the operator does; floats without threads,
    2.6. Of the kernel's time: an output in planes that is copied to channels_last, 1.1; matmul by the matrices, 1.2;
    batches in channels_last, 1.6; such rows of bytes, 4.
    """
    mix = inputs.as_mix()
    scale, bias = (torch.tensor(c).view(3, 1, 1) for c in reference.channel_constants(MEAN, STD))
    colors, lam, out = inputs.plan.color, mix.lam.view(-1, 1, 1, 1), mix.empty_out()

    def coloured(images: Tensor, matrix: Tensor) -> Tensor:
        m, channels = matrix[..., None, None], images.unbind(1)
        made = [sum(m[:, i, j] * channels[j] for j in range(3)) + m[:, i, 3] for i in range(3)]
        return torch.stack(made, dim=1).clamp(0, 255)

    torch._dynamo.reset()  # so that this dtype gets a kernel of its own

    @torch.compile(fullgraph=True)
    def blend(target: Tensor, aux: Tensor, colors: Tensor, lam: Tensor, out: Tensor) -> None:
        t, a = coloured(target, colors[:, 0]), coloured(aux, colors[:, 1])
        out.copy_(t * (lam * scale) + (a * ((1 - lam) * scale) + bias))

    def cut(image: Tensor, window: Window, flip: bool, side: int, sample: int) -> Tensor:
        return F.interpolate(slices(image, window, flip).unsqueeze(0), SIZE, mode="bilinear")[0]

    def blended(target: Tensor, aux: Tensor) -> Tensor:
        blend(target, aux, colors, lam, out)
        return out

    return Staged(inputs, cut, blended, torch.contiguous_format)


def torchvision(inputs: AugmentInputs) -> Side:
    """torchvision's v2 kernels: images of bytes in threads, as their factors differ, the rest of whole batches."""
    from torchvision.transforms.v2 import functional as v2

    steps = (v2.adjust_brightness_image, v2.adjust_contrast_image, v2.adjust_saturation_image)
    jitters = [(jitter.factors.tolist(), jitter.order.tolist()) for jitter in inputs.jitters]
    lam = inputs.plan.lam.view(-1, 1, 1, 1)

    def cut(image: Tensor, window: Window, flip: bool, side: int, sample: int) -> Tensor:
        view = v2.resized_crop_image(image, *window, list(SIZE), antialias=False)
        view = v2.horizontal_flip_image(view) if flip else view
        factors, order = (column[sample] for column in jitters[side])
        for step in order:
            view = steps[step](view, factors[step])
        return view

    def blend(target: Tensor, aux: Tensor) -> Tensor:
        t, a = (v2.to_dtype_image(batch, torch.float32, scale=True) for batch in (target, aux))
        torch.lerp(a, t, lam, out=t)  # what v2.MixUp does in three passes
        return v2.normalize_image(t, MEAN, STD, inplace=True).to(inputs.dtype)

    return Staged(inputs, cut, blend)


def kornia(inputs: AugmentInputs) -> Side:
    """kornia's batched augmentations of floats, with given factors; windows one by one, as its crops are of images of
    one size. The order of the colour steps is one for the batch."""
    from kornia.augmentation import ColorJitter
    from kornia.enhance import normalize
    from kornia.geometry.transform import hflip, resize

    factors = torch.cat([jitter.factors for jitter in inputs.jitters])
    order = torch.arange(4)
    ones = torch.ones(2 * BATCH)
    names = ("brightness_factor", "contrast_factor", "saturation_factor")
    given = {**dict(zip(names, factors.unbind(1), strict=True)), "hue_factor": 0 * ones, "order": order}
    given |= {"batch_prob": ones, "forward_input_shape": torch.tensor([2 * BATCH, 3, *SIZE])}
    jitter = ColorJitter(RECIPE.brightness, RECIPE.contrast, RECIPE.saturation)
    lam = inputs.plan.lam.view(-1, 1, 1, 1)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    resized = partial(resize, size=SIZE, interpolation="bilinear", align_corners=False, antialias=False)

    def cut(image: Tensor, window: Window, flip: bool, side: int, sample: int) -> Tensor:
        view = resized(slices(image, window, flip=False).float())
        return hflip(view) if flip else view

    staged = Staged(inputs, cut, lambda target, aux: target)
    images = torch.empty((2 * BATCH, 3, *SIZE))
    staged.batches = list(images.split(BATCH))

    def run() -> Tensor:
        staged()
        target, aux = jitter(images / 255, params=given).split(BATCH)
        mixed = normalize(torch.lerp(aux, target, lam), mean, std)
        return mixed.to(inputs.dtype, memory_format=torch.channels_last)

    return run


def dali(inputs: AugmentInputs) -> Side:
    """DALI's pipeline on the CPU, out of decoded images, with draws of its own; then mixup of its tensor in torch.

    Its operator for colours has the steps in one order, and contrast about mid-grey.
    """
    from nvidia.dali import fn, pipeline_def, types

    indices = [crops.index.tolist() for crops in inputs.crops()]
    pools = (inputs.target, inputs.aux)
    images = [pool[i].numpy() for pool, index in zip(pools, indices, strict=True) for i in index]

    @pipeline_def(
        batch_size=2 * BATCH, num_threads=THREADS, device_id=None, exec_async=False, exec_pipelined=False, seed=0
    )
    def recipe() -> object:
        factor = {
            name: fn.random.uniform(range=[1 - width, 1 + width])
            for name in ("brightness", "contrast", "saturation")
            if (width := getattr(RECIPE, name))
        }
        decoded = fn.external_source(source=lambda: images, layout="HWC", no_copy=True)
        assert RECIPE.scale is not None
        cut = fn.random_resized_crop(
            decoded,
            size=list(SIZE),
            random_area=list(RECIPE.scale),
            random_aspect_ratio=list(RECIPE.ratio),
            interp_type=types.DALIInterpType.INTERP_LINEAR,
            antialias=False,
        )
        return fn.crop_mirror_normalize(
            fn.color_twist(cut, **factor),
            mirror=fn.random.coin_flip(),
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
            output_layout="HWC",
        )

    with all_cores():  # its threads would inherit the main thread's one
        pipeline = recipe()
        pipeline.build()
    lam = inputs.plan.lam.view(-1, 1, 1, 1)

    def run() -> Tensor:
        (made,) = pipeline.run()
        target, aux = torch.from_dlpack(made.as_tensor()).permute(0, 3, 1, 2).split(BATCH)
        return torch.lerp(aux, target, lam, out=target).to(inputs.dtype)

    return run


def timm(inputs: AugmentInputs) -> Side:
    """timm's transforms of decoded Pillow images and its Mixup, which mixes within the batch: half as many images.

    As its users run it, in worker processes of one thread. One call does what each of THREADS such workers does for a
    batch, one in so many of its images, and what the main process does. The other workers' images, and what it costs
    to bring them to the main process, are taken for free. Pillow filters where it reduces.
    """
    from timm.data import Mixup, create_transform

    transform = create_transform(
        SIZE[0],
        is_training=True,
        scale=RECIPE.scale,
        ratio=RECIPE.ratio,
        color_jitter=(RECIPE.brightness, RECIPE.contrast, RECIPE.saturation),
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # from all of which timm draws
        seed(0)
    mixup = Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    index = inputs.plan.target_crops.index.tolist()
    pictures = [PIL.Image.fromarray(inputs.target[i].numpy()) for i in index]
    made = [transform(picture) for picture in pictures]
    label = inputs.draws["label"]

    def run() -> Tensor:
        torch.set_num_threads(1)
        for i in range(0, BATCH, THREADS):
            made[i] = transform(pictures[i])
        torch.set_num_threads(THREADS)
        images, _ = mixup(torch.stack(made), label)
        return images.contiguous(memory_format=torch.channels_last).to(inputs.dtype)

    return run


def ceiling(inputs: AugmentInputs) -> Callable[[], int]:
    return mix_ceiling(inputs.as_mix())


SIDES: dict[str, Callable[[AugmentInputs], Callable[[], object]]] = {
    "fused": fused,
    "fused_alloc": fused_alloc,
    "mix": same_windows,
    "mix-resized": mix_resized,
    "compiled": compiled,
    "torchvision": torchvision,
    "kornia": kornia,
    "dali": dali,
    "timm": timm,
    "ceiling": ceiling,
}
PACKAGES = {"kornia": "kornia", "dali": "nvidia.dali"}
"""What some sides need besides what the package itself does."""


def missing(side: str) -> str | None:
    """Why a side cannot be had; None where it can."""
    package = PACKAGES.get(side, "torch")
    try:
        found = find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        found = False
    return None if found else f"{side}: {package} is not installed"
