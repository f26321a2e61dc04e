"""Calibration: the error of made predictions, and temperatures of logits whose temperature is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from xmixup_fast.calibration import calibrate, calibration_error, fit_temperature, reliability

CONFIDENCES = st.floats(0, 1, width=32) | st.sampled_from([i / 15 for i in range(16)])


@given(st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=400))
def test_the_error_is_the_mean_distance_in_bins(pairs: list[tuple[float, bool]]) -> None:
    confidences, right = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    bins = reliability(torch.from_numpy(confidences), torch.from_numpy(right))
    count = min(15, max(5, len(pairs) // 20))
    edges = np.arange(count + 1) / count
    expected, seen = 0.0, 0
    for number, (low, high) in enumerate(pairwise(edges)):
        there = (confidences > low) & (confidences <= high) | ((confidences == 0) & (number == 0))
        expected += abs(confidences[there].sum() - right[there].sum())
        if there.any():
            row = bins[seen]
            seen += 1
            assert (row.low, row.high, row.images) == (low, high, there.sum())
            assert row.confidence == pytest.approx(100 * confidences[there].mean())
            assert row.accuracy == pytest.approx(100 * right[there].mean())
    assert seen == len(bins)
    assert calibration_error(bins) == pytest.approx(100 * expected / len(pairs), abs=1e-9)
    assert 0 <= calibration_error(bins) <= 100


@pytest.mark.parametrize("shares", [[0.25, 0.5, 0.75], [0.05, 0.35, 0.65, 0.95], [0.5]])
def test_predictions_that_are_as_often_right_as_they_say_have_no_error(shares: list[float]) -> None:
    confidences = torch.tensor(shares, dtype=torch.float64).repeat_interleave(100)
    right = torch.cat([torch.arange(100) < round(100 * share) for share in shares])
    assert calibration_error(reliability(confidences, right)) == pytest.approx(0, abs=1e-9)
    surer = confidences + (1 - confidences) / 2
    expected = 100 * float((surer - confidences).mean())
    assert calibration_error(reliability(surer, right)) == pytest.approx(expected)


def drawn(images: int, classes: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn with the probabilities of softmax(logits / temperature)."""
    random = np.random.default_rng(5)
    logits = random.normal(scale=2 * temperature, size=(images, classes))
    noise = random.gumbel(size=logits.shape)
    return torch.from_numpy(logits).float(), torch.from_numpy((logits / temperature + noise).argmax(1))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_drawn_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(4000, 10, temperature)
    found = fit_temperature(logits, labels)
    assert (
        not isinstance(found, str) and found == pytest.approx(temperature, rel=0.08) and found == float(f"{found:.3g}")
    )

    def loss(divisor: float) -> float:
        return float(-log_softmax(logits.double().numpy() / divisor, axis=1)[np.arange(4000), labels.numpy()].mean())

    grid = [found * (1 + step / 100) for step in range(-20, 21)]
    assert min(grid, key=loss) == pytest.approx(found, rel=0.011)
    result = calibrate(logits, labels)
    assert (result.temperature, result.images) == (found, 4000)
    assert result.calibrated_error is not None and result.calibrated_error < 3
    if temperature != 1:
        assert result.expected_calibration_error > 2 * result.calibrated_error
    assert f"temperature {found:g} fitted on 4000 validation images" in result.line()
    assert result.to_json()["temperature"] == found


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("kind", ["all right", "all wrong", "no better than chance"])
def test_where_no_temperature_is_best_there_is_none(kind: str, scale: float) -> None:
    logits = scale * torch.eye(4).repeat(4, 1)
    labels = torch.arange(4).repeat(4)
    if kind == "all wrong":
        labels = (labels + 1) % 4
    elif kind == "no better than chance":
        labels = torch.arange(16) // 4
    right = "the network is right on all 16 validation images"
    expected = right if kind == "all right" else "on the 16 validation images, the network is no better than chance"
    assert fit_temperature(logits, labels) == expected
    result = calibrate(logits, labels)
    assert result.temperature is None and result.calibrated_error is None
    assert result.line().startswith(f"no temperature: {expected}; ") and result.to_json()["why_none"] == expected


@pytest.mark.parametrize(("temperature", "said"), [(0.01, "0.05 or less"), (100.0, "20 or more")])
def test_an_optimum_out_of_range_is_named(temperature: float, said: str) -> None:
    logits, labels = drawn(4000, 10, temperature)
    assert f"the best one is out of range, {said}" in str(fit_temperature(logits, labels))
    assert "not finite" in str(fit_temperature(logits * torch.nan, labels))
