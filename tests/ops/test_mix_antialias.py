"""`mix` with a triangle filter along axes that shrink, on every backend, against its definition and torch's filter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import FORMATS, MixInputs, is_within, view_error

from xmixup_fast import Crops, ImagePool, ops
from xmixup_fast.ops import reference

LEVELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
"""Constants with which an output is a level of 0..255."""


def black_and_white(window: tuple[int, int], size: tuple[int, int]) -> MixInputs:
    """Pixels of 0 and 255 in turn, the steepest image there is, in order and mirrored."""
    black = torch.arange(window[0])[:, None, None] + torch.arange(window[1])[:, None] & 1
    pool = ImagePool.from_images([(black * 255).byte().expand(*window, 3)])
    crops = Crops(torch.tensor([0]), torch.tensor([[0, 0, *window]], dtype=torch.int32), torch.tensor([False]))
    return MixInputs(pool, crops, pool, crops._replace(flip=~crops.flip), torch.tensor([0.75]), size, antialias=True)


@given(
    window=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
    memory_format=st.sampled_from(FORMATS),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filtered_windows_equal_their_definition(
    device: torch.device,
    window: tuple[int, int],
    size: tuple[int, int],
    seed: int,
    memory_format: torch.memory_format,
) -> None:
    inputs = MixInputs.make(3, size, [window], memory_format, seed=seed, resampled=(True, True), antialias=True).to(
        device
    )
    mixed = inputs.call(ops.mix)
    assert is_within(mixed, inputs.exact(), inputs.error())
    assert is_within(mixed, inputs.call(reference.mix), 2 * inputs.error())


@pytest.mark.parametrize("size", [(7, 5), (20, 64), (64, 12), (31, 33)])
def test_filtered_windows_are_torchs(device: torch.device, size: tuple[int, int]) -> None:
    """Both have an error of no more than the documented bound, where torch's own images are floats."""
    inputs = MixInputs.make(6, size, [(40, 50), (61, 33)], resampled=(True, True), antialias=True).to(device)
    inputs.lam.fill_(1)
    inputs.target_crops.flip.fill_(False)
    mixed, error = inputs.call(ops.mix, **LEVELS), view_error(inputs.target_crops, size, antialias=True)
    for b, (index, window) in enumerate(zip(*inputs.target_crops[:2], strict=True)):
        top, left, height, width = window.tolist()
        view = inputs.target[int(index)][top : top + height, left : left + width].permute(2, 0, 1).float()
        expected = F.interpolate(view[None], size, mode="bilinear", antialias=True)[0]
        assert (mixed[b] - expected).abs().max() <= 2 * error[b] + 1e-4  # and of the blend


@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((2, 70001), (3, 1)),
        ((2, 70001), (1, 16384)),
        ((70001, 2), (1500, 3)),
        ((30011, 3), (1, 1)),
        ((5, 16385), (4, 16384)),
        ((50, 100), (49, 1)),
        ((64, 64), (32, 32)),
    ],
)
def test_filtering_is_as_exact_as_it_says(device: torch.device, window: tuple[int, int], size: tuple[int, int]) -> None:
    inputs = black_and_white(window, size).to(device)
    assert is_within(inputs.call(ops.mix, **LEVELS), inputs.exact(**LEVELS), inputs.error(**LEVELS))


@pytest.mark.parametrize("resampled", [False, True])
def test_windows_that_do_not_shrink_are_as_without(device: torch.device, resampled: bool) -> None:
    sizes = [(9, 41), (8, 33), (9, 12)] if resampled else [(15, 60)]
    inputs = MixInputs.make(8, (9, 41), sizes, resampled=(resampled, resampled)).to(device)
    assert torch.equal(inputs.call(ops.mix, antialias=True), inputs.call(ops.mix))


def test_each_axis_is_filtered_where_it_shrinks(device: torch.device) -> None:
    """Rows of one colour do not tell how columns are resampled, nor columns how rows are."""
    size, window = (20, 30), (50, 25)
    generator = torch.Generator().manual_seed(0)
    whole = torch.tensor([[0, 0, *window]], dtype=torch.int32)
    crops = Crops(torch.tensor([0]), whole, torch.tensor([False]))
    results = []
    for stripes in ((window[0], 1, 3), (1, window[1], 3)):
        image = torch.randint(0, 256, stripes, dtype=torch.uint8, generator=generator).expand(*window, 3)
        pool = ImagePool.from_images([image.contiguous()])
        inputs = MixInputs(pool, crops, pool, crops, torch.ones(1), size).to(device)
        results.append([inputs.call(ops.mix, antialias=antialias, **LEVELS) for antialias in (False, True)])
    assert (results[0][0] - results[0][1]).abs().max() > 10  # rows are filtered,
    torch.testing.assert_close(*results[1], rtol=0, atol=1e-3)  # columns are not


def test_an_image_of_one_colour_stays_as_it_is(device: torch.device) -> None:
    for level in (0, 1, 127, 255):
        pool = ImagePool.from_images([torch.full((97, 61, 3), level, dtype=torch.uint8)])
        inputs = replace(black_and_white((97, 61), (13, 17)), target=pool, aux=pool).to(device)
        torch.testing.assert_close(
            inputs.call(ops.mix, **LEVELS), torch.full((1, 3, 13, 17), float(level), device=device), rtol=1e-5, atol=0
        )
