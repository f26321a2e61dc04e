"""Calibration: whether predictions are as often right as their probabilities say, and temperatures that mend it.

Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599: reliability curve and expected calibration
error in section 2, temperature scaling in section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

BINS, IMAGES_PER_BIN = 15, 20
"""Bins of a reliability curve, as Guo et al. take; fewer, but five at least, where images per bin would be fewer."""
TEMPERATURES = (0.05, 20.0)
"""Between these a temperature is looked for."""


class Bin(NamedTuple):
    """The images whose predictions have a probability in low < p <= high."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean probability of the predicted classes, in percent."""
    accuracy: float
    """Percentage of right predictions."""


def reliability(confidences: Tensor, right: Tensor) -> list[Bin]:
    """A reliability curve: accuracy and confidence in bins of equal width, without empty ones.

    Args:
        confidences: float[n], probabilities of the predicted classes.
        right: bool[n], whether they are the true ones.
    """
    count = min(BINS, max(5, len(right) // IMAGES_PER_BIN))
    edges = torch.arange(count + 1, dtype=torch.float64, device=right.device) / count
    numbers = torch.bucketize(confidences.double(), edges[1:-1])
    found = []
    for number in numbers.unique().tolist():
        there = numbers == number
        confidence, accuracy = (100 * float(values[there].double().mean()) for values in (confidences, right))
        found.append(Bin(float(edges[number]), float(edges[number + 1]), int(there.sum()), confidence, accuracy))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error, in percentage points: the mean over the images of |accuracy - confidence|."""
    return sum(row.images * abs(row.accuracy - row.confidence) for row in bins) / sum(row.images for row in bins)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it makes of the images on which it was chosen."""

    temperature: float | None
    """What logits are divided by; None where no temperature is best."""
    images: int
    expected_calibration_error: float
    """Without a temperature, in percentage points."""
    calibrated_error: float | None
    """With it."""
    why_none: str | None = None
    """Why there is no temperature, in words; None where there is one."""

    def to_json(self) -> dict[str, Any]:
        """The values by name."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}

    def line(self) -> str:
        """The values in words."""
        before = f"expected calibration error {self.expected_calibration_error:.2f} points"
        if self.temperature is None:
            return f"no temperature: {self.why_none}; {before}"
        after = f"{self.calibrated_error:.2f} with it"
        return f"temperature {self.temperature:g} fitted on {self.images} validation images: {before}, {after}"


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Chooses a temperature for a network on labelled images.

    Args:
        logits: float[n, K], the network's.
        labels: int64[n], the true classes.
    """
    found = fit_temperature(logits, labels)
    temperature, why_none = (None, found) if isinstance(found, str) else (found, None)

    def error(divisor: float) -> float:
        confidences, predicted = (logits.double() / divisor).softmax(1).max(1)
        return calibration_error(reliability(confidences, predicted == labels))

    after = None if temperature is None else error(temperature)
    return Calibration(temperature, len(labels), error(1.0), after, why_none)


def fit_temperature(logits: Tensor, labels: Tensor) -> float | str:
    """The temperature T for which softmax(logits / T) gives the labels the lowest cross entropy, to three digits.

    In words, why there is none within TEMPERATURES: where all are right, the lower the better; where no better than
    chance, the higher.

    Args:
        logits: float[n, K].
        labels: int64[n].
    """
    from scipy.optimize import brentq

    # The cross entropy is convex in 1 / T; this is its derivative, which rises with 1 / T.
    wide = logits.double()
    margins = wide - wide.gather(1, labels[:, None])

    def slope(power: float) -> float:
        return float(((margins * math.exp(power)).softmax(1) * margins).sum(1).mean())

    low, high = (-math.log(temperature) for temperature in reversed(TEMPERATURES))
    if not slope(low) < 0 < slope(high):
        causes = {
            f"the network is right on all {len(labels)} validation images": bool((wide.argmax(1) == labels).all()),
            f"on the {len(labels)} validation images, the network is no better than chance": float(margins.mean()) >= 0,
            f"the best one is out of range, {TEMPERATURES[1]:g} or more": slope(low) >= 0,
            f"the best one is out of range, {TEMPERATURES[0]:g} or less": slope(high) <= 0,
            "logits of validation images are not finite": True,
        }
        return next(cause for cause, holds in causes.items() if holds)
    return float(f"{math.exp(-brentq(slope, low, high)):.3g}")
