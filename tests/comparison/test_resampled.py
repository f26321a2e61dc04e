"""Differences in repeated cross-validation: Nadeau and Bengio's interval, its coverage, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xmixup_fast.comparison.resampled import PairedDifference, holm

T_9 = 2.2621571628
"""97.5 % quantile of Student's t with nine degrees of freedom."""


def test_the_interval_is_nadeau_and_bengios() -> None:
    differences = [4.0, -2.0, 6.0, 1.0, 3.0, 0.0, 5.0, 2.0, -1.0, 2.0]
    found = PairedDifference.of(differences, [40] * 10, folds=5)
    half = T_9 * np.std(differences, ddof=1) * math.sqrt(1 / 10 + 1 / 4)
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert str(found) == f"+2.0 points ({2 - half:+.1f} to {2 + half:+.1f})"
    # The p-value is 0.05 where an end of the interval is zero.
    edge = PairedDifference(half, found.spread, 10, 5)
    assert edge.p == pytest.approx(0.05, rel=1e-6) and edge.low == pytest.approx(0, abs=1e-9)


def test_folds_weigh_as_many_images() -> None:
    found = PairedDifference.of([10.0, 0.0], [30, 10], folds=2)
    assert found.mean == 7.5


def test_more_repeats_narrow_the_interval_down_to_what_the_images_allow() -> None:
    found = PairedDifference.of([4.0, -2.0, 6.0, 1.0, 3.0], [40] * 5, folds=5)
    widths = [found.half_width(repeats_factor=factor) for factor in (1, 4, 100, 10**6)]
    assert widths == sorted(widths, reverse=True) and widths[0] > 1.5 * widths[1]
    assert widths[-1] == pytest.approx(1.959964 * found.spread / 2, rel=1e-3)


@pytest.mark.parametrize(("images", "folds", "repeats"), [(1, 2, 1), (1, 5, 3), (2, 5, 1), (10, 2, 2)])
def test_equal_differences_of_few_images_are_not_taken_for_certain(images: int, folds: int, repeats: int) -> None:
    """The spread is that of one image of all which goes the other way in each repeat."""
    none = PairedDifference.of([0.0] * folds * repeats, [images] * folds * repeats, folds)
    assert none.low < 0 < none.high and none.p == 1
    one_each = ([100 / images] + [0.0] * (folds - 1)) * repeats
    assert none.spread == pytest.approx(float(np.std(one_each)))


def test_folds_that_happen_to_agree_are_not_taken_for_certain() -> None:
    # Of 80 images one method alone has 10 right, the other alone 4: a sign test gives p = 0.18.
    differences, images, of_images = [7.4, 7.4, 7.7], [27, 27, 26], [100.0] * 10 + [-100.0] * 4 + [0.0] * 66
    assert PairedDifference.of(differences, images, folds=3).p < 0.05
    found = PairedDifference.of(differences, images, 3, of_images)
    assert found.least_error == pytest.approx(float(np.std(of_images)) / math.sqrt(80)) and found.low < 0 < found.high
    assert found.p > 0.18 and found.half_width(repeats_factor=10**6) == pytest.approx(
        1.96 * found.least_error, rel=1e-3
    )


def made_comparisons(
    count: int, *, photos: int, folds: int, repeats: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Differences of accuracy, float64[count, repeats, folds], in points, of two learners that are equally good; and
    the mean differences of each photo, float64[count, photos].

    Each comparison has photos of its own, of two classes. Both learners take the nearest class mean, each in features
    of its own of one distribution: so what they learn, and on which photos they fail, differs by chance alone.
    """
    random = np.random.default_rng(0)
    labels = np.arange(photos) % 2
    features = random.normal(size=(count, 2, photos, 4)) + 0.8 * labels[:, None]
    found, of_photos = np.empty((count, repeats, folds)), np.zeros((count, photos))
    for repeat in range(repeats):
        fold = np.empty(photos, int)
        for label in (0, 1):
            fold[labels == label] = random.permutation(photos // 2) * folds // (photos // 2)
        for part in range(folds):
            train, test = fold != part, fold == part
            means = [features[:, :, train & (labels == label)].mean(2, keepdims=True) for label in (0, 1)]
            near = [np.square(features[:, :, test] - mean).sum(-1) for mean in means]
            right = (near[1] < near[0]) == (labels[test] == 1)
            each = 100.0 * right[:, 0] - 100.0 * right[:, 1]
            found[:, repeat, part] = each.mean(-1)
            of_photos[:, test] += each / repeats
    return found, of_photos


@pytest.mark.parametrize(("photos", "folds", "repeats"), [(60, 5, 10), (200, 5, 10), (100, 10, 10)])
def test_under_no_difference_the_interval_covers_zero_as_often_as_it_says(
    photos: int, folds: int, repeats: int
) -> None:
    differences, of_photos = made_comparisons(1000, photos=photos, folds=folds, repeats=repeats)
    sizes = [photos // folds] * folds * repeats
    intervals = [
        PairedDifference.of(one.ravel().tolist(), sizes, folds, each.tolist())
        for one, each in zip(differences, of_photos, strict=True)
    ]
    covered = np.mean([one.low <= 0 <= one.high for one in intervals])
    assert 0.93 <= covered <= 0.97, covered
    # Without the correction, it would be far too sure.
    flat = differences.reshape(1000, -1)
    half = 2.01 * flat.std(1, ddof=1) / math.sqrt(flat.shape[1])
    assert np.mean(np.abs(flat.mean(1)) <= half) < 0.75


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 1 x 0.04 no less than before, 2 x 0.03
        ([0.5, 0.001, 0.6], [1.0, 0.003, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_is_between_none_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, found in zip(p_values, corrected, strict=True):
        assert p <= found <= min(len(p_values) * p, 1) or found == pytest.approx(p)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
