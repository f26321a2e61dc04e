"""The matrices of `draw`: those of torchvision's ColorJitter, in distribution and in what they do to an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision.transforms.v2.functional as TF
from draw_inputs import DrawInputs
from matplotlib.colors import rgb_to_hsv
from torch import Tensor

from xmixup_fast import Augmentation, MixPlan, ops
from xmixup_fast.ops.reference_draw import AUX, TARGET, Key

DRAWS = 20000
WEIGHTS = np.array([0.2989, 0.587, 0.114])
IDENTITY = torch.eye(3, 4)


def drawn(batch: int = DRAWS, size: tuple[int, int] = (5, 7), **settings: Any) -> tuple[DrawInputs, MixPlan]:
    inputs = DrawInputs.make(batch, size).augmented(Augmentation(**settings))
    return inputs, inputs.call(ops.draw)


def assert_uniform(values: Iterable[float], least: float, most: float) -> None:
    values = np.asarray(values, dtype=float)
    assert values.min() >= least - 1e-6 and values.max() <= most + 1e-6
    assert scipy.stats.kstest(values, scipy.stats.uniform(least, most - least).cdf).pvalue > 0.01


# --- factors and orders ---


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("setting", "least", "most"), [(0.4, 0.6, 1.4), (1.7, 0.0, 2.7)])
def test_factors_are_uniform(setting: float, least: float, most: float, side: int) -> None:
    brightness = drawn(brightness=setting)[1].color[:, side]
    assert torch.equal(brightness, brightness[:, :1, :1] * IDENTITY)
    assert_uniform(brightness[:, 0, 0], least, most)
    contrast = drawn(contrast=setting)[1].color[:, side]
    assert torch.equal(contrast[:, :, :3], contrast[:, :1, :1] * IDENTITY[:, :3])
    assert (contrast[:, :, 3] == contrast[:, :1, 3]).all()
    assert_uniform(contrast[:, 0, 0], least, most)
    saturation = drawn(saturation=setting)[1].color[:, side]
    assert_uniform(1 - saturation[:, 0, 1].double() / 0.587, least, most)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("hue", [0.02, 0.1, 0.5])
def test_turns_are_uniform_and_leave_grey_alone(hue: float, side: int) -> None:
    matrix = drawn(hue=hue)[1].color[:, side].double()
    assert not matrix[:, :, 3].any()
    turns = matrix[:, :, :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(turns)
    torch.testing.assert_close(turns @ turns.mT, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(turns.sum(2), torch.ones(DRAWS, 3, dtype=torch.float64), rtol=0, atol=1e-6)
    cosine, sine = (turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2, (turns[:, 1, 0] - turns[:, 0, 1]) * 3**0.5 / 2
    assert_uniform(torch.atan2(sine, cosine) / (2 * np.pi), -hue, hue)


def test_both_sides_and_all_factors_are_independent() -> None:
    plan = drawn(brightness=0.4, saturation=0.4)[1]
    other = drawn(hue=0.1)[1].color
    columns = [plan.color[:, side, 0, k] for side in (0, 1) for k in (0, 1)]
    columns += [other[:, side, 0, 1] for side in (0, 1)] + [plan.lam, plan.target_crops.window[:, 0]]
    correlation = torch.corrcoef(torch.stack([column.double() for column in columns]))
    correlation[0, 1] = correlation[1, 0] = correlation[2, 3] = correlation[3, 2] = 0  # two entries of one matrix
    assert correlation.fill_diagonal_(0).abs().max() < 4 / DRAWS**0.5


def steps_of(order: Sequence[int], factors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The matrix of steps in an order, by 4 x 4 matrices in float64."""
    matrix = np.eye(4)
    for step in order:
        factor, one = factors[step], np.eye(4)
        if step == 0:
            one[:3, :3] *= factor
        elif step == 1:
            one[:3, :3] *= factor
            one[:3, 3] = (1 - factor) * WEIGHTS @ (matrix @ [*mean, 1])[:3]
        elif step == 2:
            one[:3, :3] = factor * np.eye(3) + (1 - factor) * np.outer(np.ones(3), WEIGHTS)
        else:
            angle = 2 * np.pi * factor
            turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * np.sin(angle) / 3**0.5
            one[:3, :3] = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + turn
        matrix = one @ matrix
    return matrix[:3]


@pytest.mark.parametrize(("side", "purposes"), [(0, TARGET), (1, AUX)])
def test_steps_come_in_every_order_equally_often(side: int, purposes: Any) -> None:
    inputs, plan = drawn(3000, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    words = Key(inputs.seed, inputs.sample, inputs.epoch).words
    uniform = (words(purposes.factors) >> 8).double().numpy() / 2**24
    factors = np.array([0.6, 0.6, 0.6, -0.1]) + uniform * np.array([0.8, 0.8, 0.8, 0.2])
    numbers = (words(purposes.color)[:, 1] * 24 >> 32).numpy()
    assert scipy.stats.chisquare(np.bincount(numbers, minlength=24)).pvalue > 0.01

    means = (inputs.target_means, inputs.aux_means)[side]
    crops = (plan.target_crops, plan.aux_crops)[side]
    sizes = (inputs.target_sizes, inputs.aux_sizes)[side]
    orders, bounds = [*permutations(range(4))], np.array([2e-5, 2e-5, 2e-5, 2e-3])  # the last column is in levels
    fits_reversed = 0
    for b, matrix in enumerate(plan.color[:, side].double().numpy()):
        image, order = int(crops.index[b]), orders[numbers[b]]
        mean = mean_by_hand(means[image].numpy(), sizes[image].tolist(), crops.window[b].tolist())
        assert (np.abs(steps_of(order, factors[b], mean) - matrix) <= bounds).all()
        fits_reversed += (np.abs(steps_of(order[::-1], factors[b], mean) - matrix) <= bounds).all()
    assert fits_reversed < 100  # hue changes what is grey, so that its place can be seen


# --- the mean of a window ---


def mean_by_hand(means: np.ndarray, size: Sequence[int], window: Sequence[int]) -> np.ndarray:
    """The mean colour of a window, eighth of a pixel by eighth."""
    (height, width), (top, left, rows, columns) = size, window
    y, x = np.arange(8 * top, 8 * (top + rows)) // height, np.arange(8 * left, 8 * (left + columns)) // width
    return means[y][:, x].reshape(-1, 3).astype(float).mean(0)


def test_contrast_is_about_the_mean_grey_of_the_window(device: torch.device) -> None:
    inputs = DrawInputs.make(300).augmented(Augmentation(scale=(0.01, 1.0), contrast=0.9)).to(device)
    plan = inputs.call(ops.draw)
    sides = ((plan.target_crops, inputs.target_sizes, inputs.target_means),)
    sides += ((plan.aux_crops, inputs.aux_sizes, inputs.aux_means),)
    for side, (crops, sizes, means) in enumerate(sides):
        for b in range(300):
            image = int(crops.index[b])
            mean = mean_by_hand(means[image].cpu().numpy(), sizes[image].tolist(), crops.window[b].tolist())
            factor, shift = plan.color[b, side, 0, 0].item(), plan.color[b, side, 0, 3].item()
            assert shift == pytest.approx((1 - factor) * WEIGHTS @ mean, abs=1e-3)


def test_the_largest_images_have_exact_means(device: torch.device) -> None:
    augmentation = Augmentation(scale=(0.5, 1.0), contrast=0.9)
    inputs = DrawInputs.make(300).augmented(augmentation, most=2**24)
    inputs.target_means[:] = 255
    inputs.target_sizes[:] = 2**24
    color = inputs.to(device).call(ops.draw).color[:, 0, 0].double()
    torch.testing.assert_close(color[:, 3], (1 - color[:, 0]) * 255 * WEIGHTS.sum(), rtol=0, atol=1e-4)


# --- whether colours are changed ---


def test_where_colours_are_not_changed_the_matrix_is_the_identity(device: torch.device) -> None:
    settings = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    inputs = DrawInputs.make(DRAWS).augmented(Augmentation(**settings, jitter_probability=0.3)).to(device)
    color = inputs.call(ops.draw).color
    unchanged = (color == IDENTITY.to(device)).all((2, 3))
    deviation = 4 * (0.3 * 0.7 / DRAWS) ** 0.5
    assert ((unchanged.double().mean(0) - 0.7).abs() < deviation).all()
    assert abs(float(unchanged.all(1).double().mean()) - 0.49) < deviation
    always = inputs.augmented(Augmentation(**settings)).to(device).call(ops.draw).color
    assert torch.equal(always[~unchanged], color[~unchanged])
    assert (
        inputs.augmented(Augmentation(**settings, jitter_probability=0.0)).to(device).call(ops.draw).color.shape[0] == 0
    )


# --- what torchvision makes of an image ---


def applied(matrix: Tensor, image: Tensor) -> Tensor:
    """An image float[3, H, W] in 0..255 after a matrix float[3, 4]."""
    matrix = matrix.double()
    return torch.einsum("ij,jhw->ihw", matrix[:, :3], image) + matrix[:, 3, None, None]


def test_the_matrix_does_what_torchvisions_steps_do() -> None:
    """On images whose cells have one colour each, of which nothing is clamped."""
    inputs = DrawInputs.make(200, (16, 24), room=0).augmented(
        Augmentation(brightness=0.2, contrast=0.2, saturation=0.2)
    )
    inputs.target_means.remainder_(40).add_(100)
    plan = inputs.call(ops.draw)
    words = Key(inputs.seed, inputs.sample, inputs.epoch).words
    factors = 0.8 + 0.4 * (words(TARGET.factors) >> 8).double() / 2**24
    orders = [*permutations(range(4))]
    changes = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    for b in range(200):
        cells = inputs.target_means[inputs.target_index[b]].double()
        image = cells.repeat_interleave(2, 0).repeat_interleave(3, 1).permute(2, 0, 1)
        expected = image / 255
        for step in orders[int(words(TARGET.color)[b, 1]) * 24 >> 32]:
            expected = changes[step](expected, factors[b, step].item()) if step < 3 else expected
        assert expected.min() > 0 and expected.max() < 1
        torch.testing.assert_close(applied(plan.color[b, 0], image), 255 * expected, rtol=0, atol=1e-3)


def smooth_image() -> Tensor:
    """An image float32[3, 96, 96] in 0..1 with a photograph's colours: smooth, and mostly unsaturated."""
    generator = torch.Generator().manual_seed(0)
    coarse, grey = torch.rand(3, 12, 12, generator=generator), torch.rand(1, 12, 12, generator=generator)
    planes = (0.3 * coarse + 0.7 * grey)[None]
    return torch.nn.functional.interpolate(planes, (96, 96), mode="bicubic")[0].clamp(0.05, 0.95)


def hue_of(image: Tensor) -> Tensor:
    """Hue of each pixel of a float[3, H, W] in 0..1, of whole turns: float64[H, W]."""
    return torch.from_numpy(rgb_to_hsv(image.clamp(0, 1).permute(1, 2, 0).double().numpy())[..., 0])


@pytest.mark.parametrize(("hue", "levels"), [(0.02, 0.75), (0.05, 1.8), (0.1, 3.2)])
def test_turns_are_torchvisions_hue_within_a_stated_distance(hue: float, levels: float) -> None:
    """Hue moves as far as torchvision's, within a seventh of the turn. Pixels differ, as torchvision keeps the largest
    and the smallest channel, and not the grey: by ``levels`` of 0..255 on average, about as much as they are changed.
    """
    image = smooth_image()
    inputs, plan = drawn(50, hue=hue)
    words = Key(inputs.seed, inputs.sample, inputs.epoch).words(TARGET.factors)[:, 3]
    turns = hue * (2 * (words >> 8).double() / 2**24 - 1)
    distances, errors = [], []
    chroma = image.amax(0).double() - image.amin(0)
    for matrix, turn in zip(plan.color[:, 0], turns, strict=True):
        ours, theirs = applied(matrix, 255 * image.double()).clamp(0, 255), 255 * TF.adjust_hue(image, float(turn))
        distances.append((ours - theirs).abs().mean())
        moved = (hue_of(ours / 255) - hue_of(image) + 0.5) % 1 - 0.5
        errors.append((chroma * (moved - turn).abs()).sum() / chroma.sum())
    assert float(torch.stack(errors).mean()) < 0.15 * float(turns.abs().mean())
    assert levels / 2 < float(torch.stack(distances).mean()) < levels
