"""Draws pairs of images through each part of a recipe of augmentation, as a picture: recipe.png.

    python docs/recipe.py TARGET SOURCE [--size 128] [--output recipe.png]

TARGET and SOURCE are folders of class folders. Each row is a pair: the first image as it is, its plain crop, then what
resized crops, colours and erased rectangles add to it, the same of the second image, and both blended and as CutMix.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from xmixup_fast import Augmentation, ImagePool, MixPlan, draw, mix_plan
from xmixup_fast.ops.lam import beta_quantiles

PAIRS = 5
PARTS = {
    "crop": {},
    "resized": {"crop": "resized", "scale": (0.2, 1.0)},
    "+ colours": {"crop": "resized", "scale": (0.2, 1.0), "color_jitter": (0.4, 0.4, 0.4, 0.1)},
    "+ erased": {
        "crop": "resized",
        "scale": (0.2, 1.0),
        "color_jitter": (0.4, 0.4, 0.4, 0.1),
        "erase": 1.0,
        "erase_fill": "noise",
    },
}


def plan_of(target: ImagePool, source: ImagePool, augmentation: Augmentation, size: int, *, box: bool) -> MixPlan:
    """Pairs of the first images of both pools."""
    count = torch.arange(PAIRS)
    return draw(
        0,
        sample=count,
        epoch=torch.zeros_like(count),
        label=count,
        target_index=count,
        target_sizes=target.sizes,
        target_means=target.means if augmentation.needs_means else None,
        offsets=torch.arange(PAIRS + 1),
        members=count,
        aux_sizes=source.sizes,
        aux_means=source.means if augmentation.needs_means else None,
        lam_quantiles=beta_quantiles(1.0, fold=True),
        size=size,
        box=box,
        augmentation=augmentation,
    )


def columns(target: ImagePool, source: ImagePool, size: int) -> dict[str, list[Tensor]]:
    """The pictures of each column, by its title: uint8[H, W, 3] each."""
    form = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "size": size}

    def pictures(first: ImagePool, second: ImagePool, plan: MixPlan, augmentation: Augmentation) -> list[Tensor]:
        images = mix_plan(first, second, plan, augmentation=augmentation, **form)
        return list(((images.permute(0, 2, 3, 1) * 0.25 + 0.5) * 255).round().clamp(0, 255).byte())

    found = {"first image": [target[i] for i in range(PAIRS)]}
    for title, settings in PARTS.items():
        augmentation = Augmentation.of(**settings)
        plan = plan_of(target, source, augmentation, size, box=False)
        found[title] = pictures(target, source, plan.target_alone(), augmentation)
    found["second image"] = [source[i] for i in range(PAIRS)]
    found["all of it"] = pictures(target, source, plan.aux_alone(size), augmentation)
    for title, box in (("blended", False), ("as a box", True)):
        plan = plan_of(target, source, augmentation, size, box=box)
        found[title] = pictures(target, source, plan, augmentation)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--size", type=int, default=128, help="height and width of the network's images, in pixels")
    parser.add_argument("--output", type=Path, default=Path("recipe.png"))
    options = parser.parse_args(arguments)
    pools = [ImagePool.from_folder(folder, resize=options.size * 8 // 7) for folder in (options.target, options.source)]
    spread = [ImagePool.from_images([pool[i * len(pool) // PAIRS] for i in range(PAIRS)]) for pool in pools]
    found = columns(spread[0], spread[1], options.size)
    figure = Figure(figsize=(1.6 * len(found), 1.7 * PAIRS), layout="constrained")
    axes = figure.subplots(PAIRS, len(found))
    for column, (title, images) in enumerate(found.items()):
        axes[0, column].set_title(title)
        for row, image in enumerate(images):
            axes[row, column].imshow(image.numpy())
            axes[row, column].axis("off")
    figure.savefig(options.output, dpi=80)


if __name__ == "__main__":
    main()
