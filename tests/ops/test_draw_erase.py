"""Erased rectangles of `draw`: those of torchvision's RandomErasing, in distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from draw_inputs import DrawInputs
from test_draw_crops import DRAWS, assert_same_odds
from torch import Tensor
from torchvision.transforms import RandomErasing

from xmixup_fast import Augmentation, ops
from xmixup_fast.ops.reference_draw import ERASING, Key

Range = tuple[float, float]


def torchvisions(size: tuple[int, int], scale: Range, ratio: Range) -> Tensor:
    """Rectangles of torchvision, which draws from torch's own generator; zeros where none was found."""
    image = torch.empty(3, *size, device="meta")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomErasing.get_params(image, scale, ratio, [0.0])[:4] for _ in range(DRAWS)]
    rectangles = torch.tensor(drawn)
    return rectangles.masked_fill((rectangles[:, 2:] == torch.tensor(size)).all(1, keepdim=True), 0)


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((224, 224), (0.02, 0.33), (0.3, 3.3)), ((32, 64), (0.02, 0.33), (0.3, 3.3)), ((60, 40), (0.6, 0.9), (0.9, 3.0))],
)
def test_rectangles_have_the_odds_of_torchvisions(size: tuple[int, int], scale: Range, ratio: Range) -> None:
    augmentation = Augmentation(erase=1.0, erase_scale=scale, erase_ratio=ratio)
    plan = replace(DrawInputs.make(DRAWS, size), augmentation=augmentation).call(ops.draw)
    theirs = torchvisions(size, scale, ratio).numpy()
    room = np.array(size)
    for ours in (plan.target_erased.numpy(), plan.aux_erased.numpy()):
        assert ((ours[:, :2] >= 0) & (ours[:, :2] + ours[:, 2:] <= room)).all()
        for categories in (
            lambda erased: erased[:, 2] // 4 * 1000 + erased[:, 3] // 4,
            lambda erased: (8 * erased[:, :2] // (room - erased[:, 2:] + 1)) @ [8, 1],
            lambda erased: erased[:, 2:].any(1),
        ):
            if scale[0] < 0.5 and len(np.unique(categories(ours))) == 1:
                assert (categories(ours) == categories(theirs)).all()
            else:
                assert_same_odds(categories(ours), categories(theirs))


def test_each_side_is_erased_with_the_probability(device: torch.device) -> None:
    inputs = DrawInputs.make(DRAWS, (32, 32)).augmented(Augmentation(erase=0.25)).to(device)
    plan = inputs.call(ops.draw)
    target, aux = (erased.any(1) for erased in (plan.target_erased, plan.aux_erased))
    deviation = 4 * (0.25 * 0.75 / DRAWS) ** 0.5
    for erased, share in ((target, 0.25), (aux, 0.25), (target & aux, 0.0625)):
        assert abs(float(erased.double().mean()) - share) < deviation
    assert not (plan.target_erased == plan.aux_erased)[target & aux].all(1).any()


def test_noise_has_a_key_of_its_own_for_each_sample_and_none_without_erasing(device: torch.device) -> None:
    inputs = DrawInputs.make(300, (32, 32)).to(device)
    erasing = replace(inputs, augmentation=Augmentation(erase=0.01).to(device)).call(ops.draw)
    words = Key(inputs.seed, inputs.sample, inputs.epoch).words(ERASING)
    assert torch.equal(erasing.noise, words[:, 2] | words[:, 3] << 32)
    assert erasing.noise.unique().numel() == 300
    assert not inputs.call(ops.draw).noise.any()


def test_erasing_moves_nothing_else(device: torch.device) -> None:
    inputs = DrawInputs.make(300, (32, 32)).to(device)
    plan, expected = (
        replace(inputs, augmentation=Augmentation(erase=1.0).to(device)).call(ops.draw),
        inputs.call(ops.draw),
    )
    assert plan.target_erased.any(1).all() and plan.aux_erased.any(1).all()
    for name in ("target_crops", "aux_crops"):
        assert all(map(torch.equal, getattr(plan, name), getattr(expected, name)))
    assert torch.equal(plan.lam, expected.lam)
