"""Intervals of differences, and p-values: against their formulas, and by how often they are right on simulated data."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from xmixup_fast.comparison.differences import Difference, holm


def test_intervals_are_students() -> None:
    # Student's t with two degrees of freedom has its 97.5 % quantile at 4.302653.
    difference = Difference.of([1.0, 2.0, 6.0])
    half = 4.302653 * np.std([1, 2, 6], ddof=1) / math.sqrt(3)
    assert (difference.mean, difference.pairs) == (3.0, 3)
    assert (difference.low, difference.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert str(difference) == "+3.0 (-3.6 to +9.6), includes zero"
    assert str(Difference.of([2.0, 2.1, 2.2])) == "+2.1 (+1.9 to +2.3), above zero"
    assert str(Difference.of([-2.0, -2.1, -2.2])) == "-2.1 (-2.3 to -1.9), below zero"
    assert str(Difference.of([1.5])) == "+1.5, one pair, no interval" and str(Difference.of([])) == ""


def test_intervals_of_averages_are_welchs() -> None:
    a, b = [1.0, 2.0, 6.0], [0.0, 1.0, 2.5]
    welch = stats.ttest_ind(a, [-value for value in b], equal_var=False).confidence_interval()  # of the sum of means
    difference = Difference.of(a, b)
    assert (difference.mean, difference.pairs) == (np.mean([*a, *b]), 3)
    assert (2 * difference.low, 2 * difference.high) == pytest.approx(tuple(welch))
    assert Difference.of(a, a, a, a).high - 3 < (Difference.of(a).high - 3) / 2  # twice as sure, with more freedom
    assert str(Difference.of([1.0, 1.0], [2.0, 2.0])) == "+1.5 (+1.5 to +1.5), above zero"


@pytest.mark.parametrize(
    "tasks",
    [
        [[1.0, 2.0, 6.0]],
        [[1.0, 2.0, 6.0], [0.0, 1.0, 2.5]],
        [[1.0, 2.0], [4.0, 8.0], [-3.0, 5.0]],
        [[-1.0, -2.0], [-1.5, -1.0]],
    ],
    ids=str,
)
def test_a_p_value_is_the_level_whose_interval_ends_at_zero(tasks: list[list[float]]) -> None:
    difference = Difference.of(*tasks)
    assert (difference.p < 0.05) == (difference.low > 0 or difference.high < 0)
    mirrored = Difference.of(*([-value for value in values] for values in tasks))
    assert mirrored.p == difference.p and mirrored.low == pytest.approx(-difference.high)
    if len(tasks) == 1:
        assert difference.p == pytest.approx(stats.ttest_1samp(tasks[0], 0).pvalue)


@pytest.mark.parametrize(
    ("tasks", "p"),
    [([[2.0, 2.0]], 0.0), ([[0.0, 0.0]], 1.0), ([[1.0]], math.nan), ([[]], math.nan), ([[1.0], []], math.nan)],
)
def test_p_values_without_spread_or_pairs(tasks: list[list[float]], p: float) -> None:
    assert Difference.of(*tasks).p == pytest.approx(p, nan_ok=True)


def test_targets_at_random_are_students_t_over_their_means() -> None:
    over = Difference.over_targets([1.0, 3.0], [5.0, 9.0], [-1.0, 2.0])
    expected = stats.ttest_1samp([2.0, 7.0, 0.5], 0)
    assert (over.low, over.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert over.p == pytest.approx(expected.pvalue) and over.pairs == 3
    # One seed a target is enough; one target is not.
    assert Difference.over_targets([1.0], [2.0]) == Difference.of([1.0, 2.0])
    assert str(Difference.over_targets([1.0, 2.0])) == "+1.5, one pair, no interval"
    # Means that happen to agree are no better known than their seeds allow; a target with one seed tells no more.
    alike, given = Difference.over_targets([3.0, 1.0], [1.0, 3.0]), Difference.of([3.0, 1.0], [1.0, 3.0])
    assert (alike.low, alike.high, alike.p, alike.pairs) == (given.low, given.high, given.p, 2)
    assert Difference.over_targets([2.0], [2.0]).low == 2.0
    assert str(Difference.over_targets([])) == "" and Difference.over_targets([1.0], []).pairs == 0


TRIES = 500
"""Simulated comparisons. The standard error of a share of 0.95 is 0.01."""


def simulated(of_targets: float, *, targets: int = 6, seeds: int = 5) -> np.ndarray:
    """Differences float64[TRIES, targets, seeds] of mean 1: seeds spread by 2, the targets' own means by of_targets."""
    random = np.random.default_rng(0)
    means = 1 + of_targets * random.standard_normal((TRIES, targets, 1))
    return means + 2 * random.standard_normal((TRIES, targets, seeds))


def coverage(interval: Callable[..., Difference], of_targets: float) -> float:
    """The share of simulated comparisons whose interval holds the true mean."""
    found = [interval(*tries.tolist()) for tries in simulated(of_targets)]
    return float(np.mean([one.low <= 1 <= one.high for one in found]))


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    assert coverage(Difference.of, 0.0) == pytest.approx(0.95, abs=0.02)
    # Where targets differ, other targets would give another mean: the interval of given targets is too narrow for it.
    assert coverage(Difference.of, 3.0) < 0.6
    assert coverage(Difference.over_targets, 3.0) == pytest.approx(0.95, abs=0.02)
    assert 0.94 < coverage(Difference.over_targets, 0.0) < 0.995  # then the wider one of two is too wide


def test_a_bootstrap_over_six_targets_promises_too_much() -> None:
    """Why the interval is Student's: what is drawn again is targets, each with the mean of its seeds."""
    means = simulated(3.0).mean(axis=2)
    interval = stats.bootstrap(
        (means,), np.mean, axis=1, n_resamples=500, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert np.mean((interval.low <= 1) & (interval.high >= 1)) < 0.92


def test_holm_corrects_as_published() -> None:
    # Worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.04, which may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []
    assert holm([0.02, math.nan, 0.01]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


@pytest.mark.parametrize("effects", [0, 4])
def test_holm_keeps_the_family_wise_error(effects: int) -> None:
    """Eight comparisons share a baseline, some have an effect: any of the others is found in 5 % of tries at most."""
    random = np.random.default_rng(2)
    count, seeds = 8, 5
    true = np.where(np.arange(count) < effects, 4.0, 0.0)
    wrong, wrong_uncorrected, right = 0, 0, 0
    for _ in range(TRIES):
        runs = true[:, None] + random.standard_normal((count, seeds)) - random.standard_normal(seeds)
        p_values = stats.ttest_1samp(runs, 0, axis=1).pvalue.tolist()
        found = np.array(holm(p_values)) < 0.05
        wrong += bool(found[effects:].any())
        wrong_uncorrected += bool((np.array(p_values) < 0.05)[effects:].any())
        right += int(found[:effects].sum())
    assert wrong / TRIES < 0.065 and wrong_uncorrected / TRIES > 0.1
    assert right >= 0.5 * effects * TRIES
