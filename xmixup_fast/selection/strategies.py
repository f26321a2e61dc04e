"""How similarities between classes become a selection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .choice import Selection


def cosine(target: Tensor, source: Tensor) -> Tensor:
    """The cosine similarity of each two mean features: float64[K_t, K_s] for float64[K_t, D] and float64[K_s, D]."""
    return F.normalize(target, dim=1) @ F.normalize(source, dim=1).T


def most_similar(similarity: Tensor, top_k: int) -> Selection:
    """The ``top_k`` most similar source classes of each target class: float64[K_t, K_s], -inf for what must not be.

    Of equal ones the first. Raises ValueError where there are fewer source classes that may be than ``top_k``.
    """
    check_top_k(top_k, int(similarity.isfinite().sum(1).min()))
    scores, classes = similarity.sort(dim=1, descending=True, stable=True)
    return Selection("class", classes[:, :top_k].tolist(), scores[:, :top_k].tolist())


def assignment_selection(similarity: Tensor) -> Selection:
    """One source class for each target class, none of them twice, so that the similarities' sum is the largest.

    Kuhn's Hungarian method (1955), for float64[K_t, K_s]; -inf for what must not be. Raises ValueError where there are
    fewer source classes than target classes.
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


def random_classes(num_target_classes: int, num_source_classes: int, top_k: int, seed: int) -> Selection:
    """``top_k`` distinct source classes for each target class, drawn from ``seed``; the control of every comparison.

    Raises ValueError where there are fewer source classes than ``top_k``.
    """
    check_top_k(top_k, num_source_classes)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(num_source_classes, generator=generator)[:top_k] for _ in range(num_target_classes)]
    return Selection("class", [row.tolist() for row in rows], None)


def check_top_k(top_k: int, usable: int) -> None:
    """Raises ValueError where fewer source classes can be used than are asked for."""
    if usable < top_k:
        raise ValueError(f"top_k: expected at most {usable}, the number of usable source classes, got {top_k}")
