"""Doubt: which of the chosen source classes are no better than a random class."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .choice import Selection

LEAST_CLASSES = 20
"""Fewer source classes do not tell what a random one gets."""
LEVEL = 0.99
"""Share of target classes without a relative that are marked."""
EFFICIENCY = 0.37
"""What a spread by quantiles is worth of one by squares, for normal scores: that of n values has 0.37 (n - 1) degrees
of freedom."""


def judge(selection: Selection, similarity: Tensor, *, of_predictions: bool) -> Selection:
    """Marks the chosen source classes whose score is no better than that of a random class.

    Of n source classes that have nothing to do with a target class, one is still the most similar. So a score has to
    exceed what the best of n unrelated classes reaches, by chance, for one target class in a hundred: as Grubbs's test
    for an outlier (1950, doi:10.1214/aoms/1177729885), but with the median in place of the mean, and with the distance
    from there to the quantile one standard deviation above in place of the spread: a few relatives, which are what is
    looked for, move neither, and a long upper tail widens the spread. Student's t allows for its error where n is
    small. Similarities of predictions (``of_predictions``) are compared by their logarithms, of which those of
    unrelated classes are nearly normal; cosines of features as they are.

    For an EfficientNet-Lite0 of ImageNet and photographs of a palace and of a daisy, the distance of the best class
    from the median is 2 and 1.6 times the limit's; for noise, grey images and handwritten digits it is 0.8 to 1.

    Args:
        selection: of source classes, with scores.
        similarity: float64[K_t, K_s], of which the selection was made; -inf for source classes that cannot be chosen.
        of_predictions: whether these are probabilities, or cosines of probabilities.

    Returns the selection with ``doubtful``; as it is where fewer than 20 source classes can be chosen.
    """
    usable = similarity[:, similarity.isfinite().all(0)]
    if selection.scores is None or usable.shape[1] < LEAST_CLASSES:
        return selection
    limits = _limits(usable.clamp(min=1e-12).log(), LEVEL).exp() if of_predictions else _limits(usable, LEVEL)
    rows = zip(selection.scores, limits.tolist(), strict=True)
    return replace(selection, doubtful=[[score <= limit for score in scores] for scores, limit in rows])


def _limits(scores: Tensor, level: float) -> Tensor:
    """For each row of [K_t, n], what the largest of n unrelated scores stays below with a probability, float64[K_t]."""
    from scipy.stats import norm, t

    n = scores.shape[1]
    median, upper = torch.quantile(scores, torch.tensor([0.5, norm.cdf(1)], dtype=scores.dtype), dim=1)
    limits: Tensor = median + float(t.ppf(level ** (1 / n), EFFICIENCY * (n - 1))) * (upper - median)
    return limits
