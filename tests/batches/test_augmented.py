"""Plans and batches of runs with augmentation: drawn and rendered as by the reference, resident or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import PIL.Image
import pytest
import torch
from samples import make_pool
from torch import Tensor

from xmixup_fast import Augmentation, ImagePool, XMixup
from xmixup_fast.batches.plan import Second, StepPlan
from xmixup_fast.batches.render import Pools, fetch, render, render_auxiliary
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.streamed import StreamedImages
from xmixup_fast.ops import reference
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.ops.image_pool import Images
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read_recipe

SIZE = 32
RECIPES: dict[str, dict[str, Any]] = {
    "timm": read_recipe("timm"),
    "everything": {
        "crop": "resized",
        "scale": [0.3, 1],
        "color_jitter": [0.4, 0.4, 0.4, 0.1],
        "color_jitter_prob": 0.8,
        "erase": 0.5,
        "antialias": True,
    },
    "jitter alone": {"color_jitter": 0.4},
    "erase alone": {"erase": 0.9, "erase_fill": "noise"},
}
FORM = ImageFormat(SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def made_sampler(images: Images, aux: ImagePool, recipe: str, **more: Any) -> Sampler:
    processes = {name: more.pop(name) for name in ("rank", "world_size") if name in more}
    common = {"target": "t", "model": "m", "image_size": SIZE, "batch_size": 4, "epochs": 2}
    settings = Settings(**{**common, **RECIPES[recipe], **more})
    index = AuxiliaryIndex.of(aux, [[0], [1], [0, 1]])
    if Augmentation.of(**settings.augmentation).needs_means:
        index = index._replace(means=aux.means)
    return Sampler(images, index, settings, **processes)


def made_pools() -> tuple[ImagePool, ImagePool]:
    """Twelve target images in three classes, and five auxiliary images in two, some smaller than a crop."""
    generator = torch.Generator().manual_seed(0)
    target = make_pool([(20 + 7 * i, 70 - 4 * i) for i in range(12)], generator)
    target.labels.copy_(torch.arange(12) % 3)
    aux = make_pool([(50, 60), (33, 100), (40, 40), (90, 35), (64, 64)], generator)
    aux.labels.copy_(torch.arange(5) % 2)
    return target, aux


def large_pools() -> tuple[ImagePool, ImagePool]:
    """Images that hold a crop of the output's size."""
    generator = torch.Generator().manual_seed(0)
    pools = [make_pool([(SIZE + i, SIZE + 9 - i % 5) for i in range(n)], generator) for n in (12, 5)]
    pools[0].labels.copy_(torch.arange(12) % 3)
    pools[1].labels.copy_(torch.arange(5) % 2)
    return pools[0], pools[1]


def pools_for(recipe: str) -> tuple[ImagePool, ImagePool]:
    return made_pools() if RECIPES[recipe].get("crop") == "resized" else large_pools()


def rendered(plan: StepPlan, pools: Pools, *, auxiliary: bool = False) -> Tensor:
    out = OutputBuffers().get("test", len(plan), FORM, torch.device("cpu"))
    return (render_auxiliary if auxiliary else render)(plan, pools, FORM, out)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("second", [None, *get_args(Second)])
@pytest.mark.parametrize("box", [False, True])
def test_batches_are_the_references(recipe: str, second: Second | None, box: bool) -> None:
    target, aux = pools_for(recipe)
    sampler = made_sampler(target, aux, recipe, alpha=1.0)
    for step in range(3):
        plan = sampler.plan(step, second=second, box=box)
        pools = Pools(target, aux, sampler.augmentation)
        other = target if second == "partner" else aux
        form = {"mean": FORM.mean, "std": FORM.std, "size": (SIZE, SIZE), "augmentation": sampler.augmentation}
        expected = reference.mix_plan(target, other, plan.mix, **form)
        torch.testing.assert_close(rendered(plan, pools), expected, rtol=0, atol=1e-3)
        if second != "partner":
            plain = plan.mix.copy()
            plain.lam.zero_()
            plain.boxed.fill_(False)
            shown = rendered(plan, pools, auxiliary=True)
            expected = reference.mix_plan(target, aux, plain, **form)
            torch.testing.assert_close(shown, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_images_of_a_pair_get_numbers_of_their_own(recipe: str) -> None:
    target, aux = pools_for(recipe)
    sampler = made_sampler(target, aux, recipe, batch_size=12)
    plans = [sampler.plan(step, second="auxiliary").mix for step in range(2)]
    for plan in plans:
        if len(plan.color):
            assert (plan.color[:, 0] != plan.color[:, 1]).flatten(1).any(1).sum() > 6
        if sampler.augmentation.erase:
            assert not torch.equal(plan.target_erased, plan.aux_erased)
        if sampler.augmentation.scale:
            assert (plan.target_crops.window[:, 2:] != plan.aux_crops.window[:, 2:]).any(1).sum() > 6
    assert not torch.equal(plans[0].rows, plans[1].rows)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_parts_of_a_batch_are_the_batch(recipe: str) -> None:
    target, aux = pools_for(recipe)
    whole = made_sampler(target, aux, recipe).plan(1, second="partner")
    pools = Pools(target, aux, made_sampler(target, aux, recipe).augmentation)
    parts = []
    for rank in range(2):
        sampler = made_sampler(target, aux, recipe, rank=rank, world_size=2)
        parts += [rendered(part, pools) for part in sampler.plan(1, second="partner").split(2)]
    assert torch.equal(torch.cat(parts), rendered(whole, pools))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("second", get_args(Second))
def test_a_stream_gives_a_pools_batches(recipe: str, second: Second, tmp_path: Path) -> None:
    pool, aux = pools_for(recipe)
    samples = []
    for i, label in enumerate(pool.labels.tolist()):
        PIL.Image.fromarray(pool[i].numpy()).save(tmp_path / f"{i}.png")
        samples.append(Sample(FileImage(tmp_path / f"{i}.png"), label))
    decoder = make_decoder("pillow", None, torch.device("cpu"), 2, print)
    stream = StreamedImages(samples, pool.sizes, decoder)

    def batches(images: Images) -> Iterator[Tensor]:
        sampler = made_sampler(images, aux, recipe)
        plans = (sampler.plan(step, second=second) for step in range(sampler.steps))
        for plan, pools in fetch(images, aux, plans, sampler.augmentation):
            yield rendered(plan, pools)

    for streamed, resident in zip(batches(stream), batches(pool), strict=True):
        assert torch.equal(streamed, resident)


def test_images_smaller_than_a_crop_are_for_resized_crops_alone() -> None:
    target, aux = made_pools()
    made_sampler(target, aux, "timm")
    with pytest.raises(ValueError, match=f"image_size: {SIZE} is more than an image has"):
        made_sampler(target, aux, "jitter alone")


@pytest.mark.parametrize("recipe", RECIPES)
def test_xmixup_takes_the_same_keywords(recipe: str) -> None:
    """With the sampler's sample numbers and epoch, it gives the sampler's batches."""
    target, aux = pools_for(recipe)
    sampler = made_sampler(target, aux, recipe)
    plan = sampler.plan(1, second="auxiliary")
    mix = XMixup(
        aux,
        [[0], [1], [0, 1]],
        size=SIZE,
        mean=FORM.mean,
        std=FORM.std,
        target=target,
        **RECIPES[recipe],
    )
    images, labels = mix(plan.sample, plan.label, plan.sample, 0)
    assert torch.equal(images, rendered(plan, Pools(target, aux, sampler.augmentation)))
    assert torch.equal(labels.lam, plan.lam) and torch.equal(labels.source, plan.second_classes)
