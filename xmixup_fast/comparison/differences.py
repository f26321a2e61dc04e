"""Paired differences of accuracy: their mean, confidence interval and p-value, and Holm's correction.

Two questions have two intervals. *Would other seeds give this mean on these targets?* :meth:`Difference.of` takes the
targets as given. *Would other targets give it?* :meth:`Difference.over_targets` takes them as drawn at random, too.

The second is that of the mixed model ``difference ~ 1 + (1 | target)``. Every target has the same seeds here, and with
such balanced data the model's exact interval is Student's t over the targets' means, so scipy is all it takes. A
bootstrap over targets and seeds assumes less but promises too much: there are few targets, and with six of them an
interval of 95 % holds the mean in fewer than 92 % of all cases (tests/comparison/test_differences.py simulates both).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences of accuracy, in points, with its confidence interval and p-value."""

    mean: float
    """NaN without pairs."""
    low: float
    """NaN with fewer than two pairs, as ``high`` and ``p``."""
    high: float
    pairs: int
    """The number of pairs; of several tasks, that of the task with the fewest; over targets, the number of targets."""
    p: float = math.nan
    """Two-sided p-value of a mean of zero, of this comparison alone: see :func:`holm`."""

    @classmethod
    def of(cls, *tasks: Sequence[float]) -> Difference:
        """The mean over tasks of the mean difference on each task; ``tasks`` hold one difference per seed.

        Differences on different tasks count as independent, so the variances of the tasks' means add up, and the
        interval is that of Student's t distribution with Welch and Satterthwaite's degrees of freedom (Satterthwaite
        1946, Biometrics Bulletin 2). The tasks count as the only ones there are.
        """
        from scipy import stats

        pairs = min(map(len, tasks))
        mean = statistics.fmean(map(statistics.fmean, tasks)) if pairs else math.nan
        if pairs < 2:
            return cls(mean, math.nan, math.nan, pairs)
        variances = [statistics.variance(values) / len(values) for values in tasks]
        parts = [variance**2 / (len(values) - 1) for variance, values in zip(variances, tasks, strict=True)]
        freedom = sum(variances) ** 2 / sum(parts) if any(parts) else pairs - 1
        error = math.sqrt(sum(variances)) / len(tasks)
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
        quantile = abs(mean) / error if error else math.inf if mean else 0.0
        p = 2 * float(stats.t.sf(quantile, freedom))
        return cls(mean, mean - half, mean + half, pairs, p)

    @classmethod
    def over_targets(cls, *tasks: Sequence[float]) -> Difference:
        """The same mean, with the interval of targets that are drawn at random, as the seeds are.

        ``tasks`` hold one difference per seed, as many on each task. With one task there is no interval. Targets cannot
        vary by less than nothing: where their means lie closer together than those of seeds do, by chance, the interval
        is that of :meth:`of`, so it is never the narrower one.
        """
        if not all(tasks):
            return cls(math.nan, math.nan, math.nan, 0)
        given, drawn = cls.of(*tasks), cls.of([statistics.fmean(values) for values in tasks])
        if given.high - given.mean > drawn.high - drawn.mean:
            return replace(given, pairs=len(tasks))
        return drawn

    def __str__(self) -> str:
        if not self.pairs:
            return ""
        if math.isnan(self.low):
            return f"{self.mean:+.1f}, one pair, no interval"
        verdict = "above zero" if self.low > 0 else "below zero" if self.high < 0 else "includes zero"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}), {verdict}"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected so that any of them is below x by chance alone with a probability of at most x.

    Holm 1979, Scandinavian Journal of Statistics 6. NaN, a comparison without a p-value, stays NaN and does not count.
    scipy has no such function, and statsmodels would come with pandas for these lines.
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
