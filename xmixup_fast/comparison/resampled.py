"""The paired difference of two methods in repeated cross-validation: its interval, its p-value, and what it can show.

The differences of the folds are not independent: any two of their networks share most of their training images, and
the folds of two repeats share test images. Their variance over the number of folds would be far too small. Nadeau and
Bengio (Inference for the Generalization Error, Machine Learning 52, 2003, doi 10.1023/A:1024068626366) add the ratio of
test images to training images: with k folds, (1 / J + 1 / (k - 1)) s^2 for the mean of J differences of variance s^2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two methods' accuracies over the folds of all repeats, in points."""

    mean: float
    spread: float
    """Standard deviation of the folds' differences."""
    count: int
    """How many folds there are in all repeats."""
    folds: int
    """Folds of a repeat."""
    least_error: float = 0.0
    """The standard error of the mean is never below this, in points."""

    @classmethod
    def of(
        cls,
        differences: Sequence[float],
        images: Sequence[int],
        folds: int,
        of_images: Sequence[float] = (),
    ) -> PairedDifference:
        """The difference of two methods from those of each fold, of which there are two at least.

        Args:
            differences: in points, for each fold of each repeat.
            images: how many images each of these folds has, none of them zero; folds weigh as many, so that the mean is
                that over images.
            folds: folds of a repeat.
            of_images: in points, for each image, the mean over the repeats. The standard error is never below that of
                their mean, which no number of repeats can lower; three folds may happen to agree far better.

        The spread is never below that of one image which goes the other way in each repeat: so few images cannot show
        that the difference is the same everywhere.
        """
        mean_images = statistics.fmean(images)
        mean = statistics.fmean(value * n / mean_images for value, n in zip(differences, images, strict=True))
        squares = [n / mean_images * (value - mean) ** 2 for value, n in zip(differences, images, strict=True)]
        spread = math.sqrt(sum(squares) / (len(squares) - 1))
        least = 100 * math.sqrt(folds - 1) / (folds * mean_images)
        error = statistics.pstdev(of_images) / math.sqrt(len(of_images)) if of_images else 0.0
        return cls(mean, max(spread, least), len(squares), folds, error)

    def half_width(self, level: float = LEVEL, repeats_factor: int = 1) -> float:
        """Half of the width of the interval of a confidence level: the smallest difference that it can show.

        ``repeats_factor`` asks for that of as many times the repeats.
        """
        from scipy import stats

        count = repeats_factor * self.count
        return float(stats.t.ppf((1 + level) / 2, count - 1)) * self._standard_error(count)

    @property
    def low(self) -> float:
        """The lower end of the interval, in points."""
        return max(self.mean - self.half_width(), -100.0)

    @property
    def high(self) -> float:
        """The upper end of the interval, in points."""
        return min(self.mean + self.half_width(), 100.0)

    @property
    def p(self) -> float:
        """The two-sided p-value of no difference."""
        from scipy import stats

        return 2 * float(stats.t.sf(abs(self.mean) / self._standard_error(self.count), self.count - 1))

    def _standard_error(self, count: int) -> float:
        return max(self.spread * math.sqrt(1 / count + 1 / (self.folds - 1)), self.least_error)

    def __str__(self) -> str:
        return f"{self.mean:+.1f} points ({self.low:+.1f} to {self.high:+.1f})"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979, pages 65 to 70).

    The smallest is multiplied by their number, the next by one less, and so on; none is below one before it, or above
    1.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, position in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p_values[position], 1.0))
        corrected[position] = largest
    return corrected
