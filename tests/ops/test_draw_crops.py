"""Resized windows of `draw`: those of torchvision's RandomResizedCrop, in distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from draw_inputs import DrawInputs
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from xmixup_fast import Augmentation, ops

DRAWS = 20000


def windows_in(height: int, width: int, augmentation: Augmentation, draws: int = DRAWS) -> Tensor:
    """Windows of so many samples in images of one size, int32[draws, 4]."""
    inputs = DrawInputs.make(draws).augmented(augmentation)
    inputs.target_sizes[:] = torch.tensor([height, width])
    return inputs.call(ops.draw).target_crops.window


def torchvisions(height: int, width: int, scale: tuple[float, float], draws: int = DRAWS) -> Tensor:
    """The same of torchvision, which draws from torch's own generator."""
    image = torch.empty(3, height, width, device="meta")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(draws)]
    return torch.tensor(drawn)


def assert_same_odds(first: np.ndarray, second: np.ndarray) -> None:
    """Fails where two samples of categories would differ so much less than once in a thousand times."""
    categories, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = np.stack([np.bincount(half, minlength=len(categories)) for half in np.split(codes, [len(first)])])
    rare = counts.sum(0) < 20
    counts = np.concatenate([counts[:, ~rare], counts[:, rare].sum(1, keepdims=True)], axis=1)
    counts = counts[:, counts.sum(0) > 0]
    assert counts.shape[1] > 1 and scipy.stats.chi2_contingency(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(256, 256, (0.08, 1.0)), (256, 340, (0.08, 1.0)), (256, 512, (0.08, 1.0)), (256, 340, (0.8, 1.0))],
)
def test_windows_have_the_odds_of_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    ours = windows_in(height, width, Augmentation(scale=scale)).numpy()
    theirs = torchvisions(height, width, scale).numpy()
    room = np.array([height, width])
    for categories in (
        lambda window: window[:, 2] // 16 * 1000 + window[:, 3] // 16,  # sizes
        lambda window: (16 * window[:, :2] // (room - window[:, 2:] + 1)) @ [16, 1],  # places
        lambda window: window[:, 0] // 16 * 1000 + window[:, 2] // 32,
        lambda window: window[:, 1] // 16 * 1000 + window[:, 3] // 32,
    ):
        assert_same_odds(categories(ours), categories(theirs))
    if scale[0] > 0.5:  # after ten tries in vain: the whole image, whose aspect ratio is allowed
        middle = [(window == [0, 0, 256, 340]).all(1) for window in (ours, theirs)]
        assert 0.05 < middle[0].mean() < 0.2
        assert_same_odds(*middle)


@pytest.mark.parametrize(
    ("height", "width"), [(100, 401), (401, 100), (33, 64), (64, 33), (7, 1000), (1000, 7), (1, 9), (9, 1), (999, 2000)]
)
def test_where_no_window_fits_the_middle_one_is_torchvisions(height: int, width: int) -> None:
    scale = (0.95, 1.0)
    window = windows_in(height, width, Augmentation(scale=scale), draws=50)
    assert (window == torchvisions(height, width, scale, draws=1)).all()


def test_windows_are_inside_of_images_of_any_size(device: torch.device) -> None:
    inputs = DrawInputs.make(5000, (40, 30), images=500, aux_images=500)
    for ratio in ((3 / 4, 4 / 3), (0.01, 0.02), (50.0, 100.0)):
        augmentation = Augmentation(scale=(0.001, 1.0), ratio=ratio)
        made = inputs.augmented(augmentation, most=60).to(device)
        plan = made.call(ops.draw)
        for crops, sizes in ((plan.target_crops, made.target_sizes), (plan.aux_crops, made.aux_sizes)):
            corner, extent = crops.window[:, :2], crops.window[:, 2:]
            assert (corner >= 0).all() and (extent >= 1).all() and (corner + extent <= sizes[crops.index]).all()
            assert crops.window[:, 2:].unique(dim=0).shape[0] > 20


def test_resizing_moves_nothing_else(device: torch.device) -> None:
    inputs = DrawInputs.make(500, room=0).to(device)
    resized = replace(inputs, augmentation=Augmentation(scale=(0.1, 1.0)).to(device))
    expected, plan = inputs.call(ops.draw), resized.call(ops.draw)
    assert not torch.equal(plan.target_crops.window, expected.target_crops.window)
    assert torch.equal(plan.target_crops.flip, expected.target_crops.flip)
    assert torch.equal(plan.aux_crops.flip, expected.aux_crops.flip)
    assert torch.equal(plan.aux_crops.index, expected.aux_crops.index) and torch.equal(plan.lam, expected.lam)


def test_both_windows_of_a_pair_are_independent() -> None:
    inputs = DrawInputs.make(DRAWS).augmented(Augmentation(scale=(0.08, 1.0)))
    inputs.target_sizes[:] = inputs.aux_sizes[:] = torch.tensor([256, 300])
    plan = inputs.call(ops.draw)
    columns = [crops.window.double().T for crops in (plan.target_crops, plan.aux_crops)]
    correlation = torch.corrcoef(torch.cat([*columns, plan.lam[None].double()]))
    assert correlation[:4, 4:].abs().max() < 4 / DRAWS**0.5 and correlation[4:8, 8].abs().max() < 4 / DRAWS**0.5
