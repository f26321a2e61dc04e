"""XMixup (Li et al. 2020, arXiv 2007.10252): each target image is mixed with an auxiliary one of the source.

A reconstruction from the paper's abstract.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..models import Network
from ..rendering import Renderer
from ..sampling import Draw
from .base import Method, mixed_titles


class XMixup(Method):
    """lam CE(target logits, y_t) + source_weight (1 - lam) CE(source logits, y_s): one forward for both datasets."""

    uses_source = True

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.xmixup(draw),)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        assert draw.aux_label is not None
        features = network.features(images)
        return dual_head_cross_entropy(
            *(network.target_logits(features), network.source_logits(features)),
            *(draw.label, draw.aux_label, draw.lam),
            source_weight=self.settings.source_weight,
            label_smoothing=self.settings.label_smoothing,
        )

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.aux_label is not None
        names = [target_classes[label] for label in draw.label.tolist()]
        return [mixed_titles(draw.lam, names, [source_classes[label] for label in draw.aux_label.tolist()])]


def dual_head_cross_entropy(
    target_logits: Tensor,
    source_logits: Tensor,
    target_labels: Tensor,
    source_labels: Tensor,
    lam: Tensor,
    *,
    source_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """mean over b of lam[b] CE(target_logits[b]) + source_weight (1 - lam[b]) CE(source_logits[b]), a scalar.

    Logits are float[B, K_t] and float[B, K_s], labels int64[B], lam float32[B] in 0..1.
    """
    target = F.cross_entropy(target_logits, target_labels, reduction="none", label_smoothing=label_smoothing)
    source = F.cross_entropy(source_logits, source_labels, reduction="none", label_smoothing=label_smoothing)
    return (lam * target + source_weight * (1 - lam) * source).mean()
