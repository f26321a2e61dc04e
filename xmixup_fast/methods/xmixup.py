"""XMixup (Li, Xiong, An, Xu, Dou 2020, arXiv 2007.10252): each target image is mixed with an auxiliary image.

A reconstruction from the paper's abstract.
"""

from __future__ import annotations

from torch import Tensor

from .. import ops
from ..batches.plan import StepPlan
from ..models.network import Network
from .base import Method


class XMixup(Method):
    """lam CE(target logits, y_t) + source_weight (1 - lam) CE(source logits, y_s): one forward for both datasets.

    The image is lam times the target image plus 1 - lam times the auxiliary image.
    """

    uses_source = True
    second = "auxiliary"

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        features, target_logits = network.features_and_logits(images[0])
        return ops.dual_head_cross_entropy(
            target_logits,
            network.source_logits(features),
            plan.label,
            plan.second_classes,
            plan.lam,
            source_weight=self.settings.source_weight,
            label_smoothing=self.settings.label_smoothing,
        )
