"""Doubt: which scores of chosen source classes chance may explain."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .choice import Selection

LEAST_CLASSES = 20
"""Fewer source classes do not tell what a random one gets."""
LEVEL = 0.5
"""A score is marked where the best of as many unrelated classes gets as much with a higher probability, which is more
likely than not. Real features are less regular than the models below, so neither a mark nor its absence is a proof."""
EFFICIENCY = 0.37
"""Degrees of freedom of a spread that is measured from the median, in parts of those of the standard deviation."""


def judge(selection: Selection, similarity: Tensor, *, of_predictions: bool) -> Selection:
    """Marks the chosen source classes whose score the best of as many unrelated classes may well get.

    Of n source classes that have nothing to do with a target class, one is still the most similar. So a score is marked
    where the best of n unrelated classes gets as much in more than half of all cases.

    Predictions, or cosines of predictions, share a whole. Unrelated classes share it at random, all ways to share it
    equally likely: then one share exceeds g with probability (1 - g)^(n - 1) (R. A. Fisher 1929,
    doi:10.1098/rspa.1929.0151), and the largest of them about as that of n independent ones.
    Of lower choices, the same is asked of what the better ones leave.

    Cosines of features of unrelated classes are taken for independent normal numbers around their median. The spread is
    that of the lower half, so that relatives, however many of the upper half they are, do not widen it; Student's t
    allows for its error where n is small.

    Args:
        selection: of source classes, with scores.
        similarity: float64[K_t, K_s], of which the selection was made; -inf for source classes that cannot be chosen.
        of_predictions: whether these are probabilities, or cosines of probabilities.

    Returns the selection with ``doubtful``; as it is where fewer than 20 source classes can be chosen.
    """
    usable = similarity[:, similarity.isfinite().all(0)]
    if selection.scores is None or usable.shape[1] < LEAST_CLASSES:
        return selection
    scores = torch.tensor(selection.scores, dtype=usable.dtype)
    limits = _limits_of_shares(scores, usable) if of_predictions else _limit_of_normal(usable)
    return replace(selection, doubtful=(scores <= limits).tolist())


def _limits_of_shares(scores: Tensor, shares: Tensor) -> Tensor:
    """What each score of [K_t, k] has to exceed, among shares [K_t, n] of a whole that need not be 1."""
    better = shares.unsqueeze(1) > scores.unsqueeze(2)
    left = shares.sum(1, keepdim=True) - (shares.unsqueeze(1) * better).sum(2)
    n = shares.shape[1] - better.sum(2)
    return left * (1 - (1 - (1 - LEVEL) ** (1 / n)) ** (1 / (n - 1).clamp(min=1)))


def _limit_of_normal(scores: Tensor) -> Tensor:
    """What the largest of n unrelated scores exceeds with the probability LEVEL, for each row: float64[K_t, 1]."""
    from scipy.stats import t

    n = scores.shape[1]
    median = scores.quantile(0.5, dim=1, keepdim=True)
    spread = ((median - scores).clamp(min=0).square().sum(1, keepdim=True) * 2 / n).sqrt()
    limit: Tensor = median + float(t.isf(1 - (1 - LEVEL) ** (1 / n), EFFICIENCY * (n - 1))) * spread
    return limit
