"""The mean colours of the parts of images that a pool knows."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import make_pool

from xmixup_fast import ImagePool
from xmixup_fast.ops.mean_colors import dense_mean_colors


def exact(image: torch.Tensor) -> list[list[list[int]]]:
    """The means by their definition, in fractions, rounded half up."""
    height, width, _ = image.shape
    values = image.tolist()

    def share(part: int, pixel: int, extent: int) -> Fraction:
        begin, end = Fraction(part * extent, 8), Fraction((part + 1) * extent, 8)
        return max(min(end, pixel + 1) - max(begin, pixel), Fraction(0))

    def mean(row: int, column: int, channel: int) -> int:
        total = sum(
            share(row, y, height) * share(column, x, width) * values[y][x][channel]
            for y in range(height)
            for x in range(width)
        )
        return int(total / Fraction(height * width, 64) + Fraction(1, 2))

    return [[[mean(row, column, channel) for channel in range(3)] for column in range(8)] for row in range(8)]


@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_means_are_those_of_eighths(height: int, width: int, seed: int) -> None:
    pool = make_pool([(height, width)], torch.Generator().manual_seed(seed))
    assert pool.means.dtype == torch.uint8 and pool.means[0].tolist() == exact(pool[0])


def test_images_of_any_size_are_side_by_side() -> None:
    sizes = [(8, 8), (1, 1), (300, 41), (16, 24)]
    pool = make_pool(sizes, torch.Generator().manual_seed(0))
    assert pool.means.shape == (4, 8, 8, 3)
    for image, means in enumerate(pool.means):
        alone = ImagePool.from_images([pool[image]])
        assert torch.equal(alone.means[0], means)
    assert torch.equal(pool.means[0], pool[0])  # each part is a pixel
    blocks = pool[3].view(8, 2, 8, 3, 3).double().mean((1, 3))
    assert torch.equal(pool.means[3].double(), (blocks + 0.5).floor())


@given(height=st.integers(1, 12), width=st.integers(1, 12), batch=st.integers(0, 3), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_images_of_one_size_have_the_means_of_their_pool(height: int, width: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
    assert torch.equal(dense_mean_colors(images), ImagePool.from_dense(images).means)


def test_no_image_is_so_large_that_sums_are_rounded() -> None:
    white = torch.full((1, 3000, 2999, 3), 255, dtype=torch.uint8)
    assert (dense_mean_colors(white) == 255).all()
    white[:, 0, 0] = 0  # one part's mean is just below 255
    assert (dense_mean_colors(white) == 255).all()


def test_autocast_leaves_means_alone() -> None:
    images = make_pool([(40, 50)], torch.Generator().manual_seed(0))[0].unsqueeze(0)
    expected = dense_mean_colors(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dense_mean_colors(images), expected)


def test_white_and_black_stay_what_they_are() -> None:
    pool = ImagePool.from_images([np.full((37, 1001, 3), 255, np.uint8), np.zeros((5, 3, 3), np.uint8)])
    assert (pool.means[0] == 255).all() and (pool.means[1] == 0).all()


def test_means_are_computed_once_and_move_with_their_pool() -> None:
    pool = make_pool([(9, 9)], torch.Generator().manual_seed(0))
    assert pool.means is pool.means
    moved = pool.to("meta")
    assert moved.means.device.type == "meta" and moved.means.shape == (1, 8, 8, 3)
    assert torch.equal(pickle.loads(pickle.dumps(pool)).means, pool.means)
    assert make_pool([], torch.Generator()).means.shape == (0, 8, 8, 3)
