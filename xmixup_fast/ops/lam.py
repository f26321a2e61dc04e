"""Mixing weights: quantiles of their distribution."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

TABLE_SIZE = 4096
"""Intervals of the quantile table of the mixing weights."""


def beta_quantiles(alpha: float, fold: bool) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at 0, 1/TABLE_SIZE, ... 1: float32[TABLE_SIZE + 1], rising.

    Folded, they are those of max(lam, 1 - lam): by symmetry the upper half of the distribution.
    """
    p = np.linspace(0.5 if fold else 0.0, 1.0, TABLE_SIZE + 1)
    return torch.from_numpy(betaincinv(alpha, alpha, p)).float()


def mixing_quantiles(alpha: float, fold: bool, lam: float | None) -> Tensor:
    """The table that mixing weights are drawn from: of one weight, ``lam``, if given, else :func:`beta_quantiles`.

    float32[Q + 1], rising.
    """
    return beta_quantiles(alpha, fold) if lam is None else torch.full((2,), lam, dtype=torch.float32)
