"""How similarities between target classes and source classes become a selection.

A strategy sees means over classes, never single images. So one pass over a source of any size suffices, in memory of
O(classes), and every strategy can be tested on a small matrix.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import Selection

MARGIN, ENTROPY = 0.1, 0.01
"""Of transport, in units of cosine: what it costs to use source classes unequally, and to concentrate the plan."""
ITERATIONS = 10_000
"""The most iterations of Sinkhorn's algorithm."""


def cosine(target: Tensor, source: Tensor) -> Tensor:
    """Cosine similarity of each row of ``target`` with each row of ``source``; 0 where a row is zero.

    float64[K_t, K_s] for float64[K_t, D] and float64[K_s, D].
    """
    return F.normalize(target, dim=1) @ F.normalize(source, dim=1).T


def most_similar(similarity: Tensor, top_k: int) -> Selection:
    """The ``top_k`` most similar source classes of each target class; equally similar ones in the source's order.

    ``similarity`` is float64[K_t, K_s], with -inf for source classes that cannot be chosen.

    Raises ValueError where a target class has fewer than ``top_k`` source classes to choose from.
    """
    check_top_k(top_k, int(similarity.isfinite().sum(1).min()))
    scores, classes = similarity.sort(dim=1, descending=True, stable=True)
    return Selection("class", classes[:, :top_k].tolist(), scores[:, :top_k].tolist())


def least_similar(similarity: Tensor, top_k: int) -> Selection:
    """The ``top_k`` least similar source classes of each target class; equally similar ones in the source's order.

    It is a control of :func:`most_similar`, as :func:`random_classes` is: where it matters what is selected, it does
    worse than either. ``similarity`` and errors are those of :func:`most_similar`.
    """
    check_top_k(top_k, int(similarity.isfinite().sum(1).min()))
    scores, classes = similarity.masked_fill(~similarity.isfinite(), torch.inf).sort(dim=1, stable=True)
    return Selection("class", classes[:, :top_k].tolist(), scores[:, :top_k].tolist())


def assignment_selection(similarity: Tensor) -> Selection:
    """A different source class for each target class, chosen so that the sum of their similarities is the largest.

    This is the linear assignment problem (Kuhn 1955, doi:10.1002/nav.3800020109), which scipy solves. ``similarity``
    is float64[K_t, K_s], with a column of -inf for a source class that cannot be chosen.

    Raises ValueError where there are fewer source classes to choose from than target classes.
    """
    from scipy.optimize import linear_sum_assignment

    usable = similarity.isfinite().all(0).nonzero().flatten()
    if len(usable) < len(similarity):
        raise ValueError(
            f"selection: assignment needs at least as many source classes as target classes, {len(similarity)}, "
            f"and {len(usable)} can be used"
        )
    _, columns = linear_sum_assignment(similarity[:, usable].numpy(), maximize=True)
    classes = usable[torch.from_numpy(columns)].unsqueeze(1)
    return Selection("class", classes.tolist(), similarity.gather(1, classes).tolist())


def transport_selection(similarity: Tensor, top_k: int) -> Selection:
    """The ``top_k`` source classes that get most of each target class's mass by unbalanced optimal transport.

    After Liu et al. 2022 (Improved Fine-Tuning by Better Leveraging Pre-Training Data, NeurIPS 35), by the package POT.
    P is the plan with all its rows' sums 1 / K_t that makes this the smallest, with C = 1 - similarity and b = 1 / K_s:

        <C, P> + MARGIN KL(sums of P's columns || b) + ENTROPY KL(P || b / K_t)

    So a source class that many target classes resemble goes to those that have no other. MARGIN and ENTROPY are ours.
    ``similarity`` is float64[K_t, K_s], with a column of -inf for a source class that cannot be chosen. Scores are
    similarities; equal parts of the mass come in the source's order.

    Raises ValueError where there are fewer than ``top_k`` source classes to choose from, or POT is not installed.
    """
    usable = similarity.isfinite().all(0).nonzero().flatten()
    check_top_k(top_k, len(usable))
    plan = transport_plan(1 - similarity[:, usable])
    order = plan.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    classes = usable[order]
    return Selection("class", classes.tolist(), similarity.gather(1, classes).tolist())


def transport_plan(cost: Tensor) -> Tensor:
    """The plan P of :func:`transport_selection` for the costs C, float64[K_t, n] both."""
    unbalanced = transport_package()
    rows, columns = (np.full(count, 1 / count) for count in cost.shape)
    margins = math.inf, MARGIN
    plan = unbalanced.sinkhorn_unbalanced(
        rows, columns, cost.numpy(), ENTROPY, margins, numItermax=ITERATIONS, stopThr=1e-9
    )
    return torch.from_numpy(plan)


def transport_package() -> Any:
    """The module ``ot.unbalanced`` of the package POT. Raises ValueError where it is not installed."""
    try:
        from ot import unbalanced
    except ImportError as error:
        package = "pip install 'xmixup_fast[transport]'"
        raise ValueError(f"selection: transport needs the package POT: {package}") from error
    return unbalanced


def random_classes(num_target_classes: int, num_source_classes: int, top_k: int, seed: int) -> Selection:
    """``top_k`` distinct source classes for each target class, drawn from ``seed``.

    It is the control of other strategies: the same training, with auxiliary images chosen without regard to the target.

    Raises ValueError where there are fewer source classes than ``top_k``.
    """
    check_top_k(top_k, num_source_classes)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(num_source_classes, generator=generator)[:top_k] for _ in range(num_target_classes)]
    return Selection("class", [row.tolist() for row in rows], None)


def check_top_k(top_k: int, usable: int) -> None:
    """Raises ValueError where ``top_k`` exceeds the number of source classes that can be chosen."""
    if usable < top_k:
        raise ValueError(f"top_k: expected at most {usable}, the number of usable source classes, got {top_k}")
