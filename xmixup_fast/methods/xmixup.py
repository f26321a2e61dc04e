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
        source_logits = network.source_logits(features)
        if self.class_weights is not None:  # two gradients are added up: in float32, whatever the logits
            target_logits, source_logits = target_logits.float(), source_logits.float()
        loss = ops.dual_head_cross_entropy(
            target_logits,
            source_logits,
            plan.label,
            plan.second_classes,
            plan.lam,
            source_weight=self.settings.source_weight,
            label_smoothing=self.settings.label_smoothing,
        )
        if self.class_weights is None:
            return loss
        # The operator gives both terms of a sample one weight; what that of its class adds to the first comes on top.
        more = (self.class_weights[plan.label] - 1) * plan.lam
        return loss + (more * self.cross_entropy(target_logits, plan.label)).mean()
