"""Mixup within the batch (Zhang et al. 2018, arXiv 1710.09412): the control that tells whether the source matters."""

from __future__ import annotations

from torch import Tensor

from ..batches.plan import StepPlan
from ..models.network import Network
from .base import Method


class Mixup(Method):
    """lam CE(target logits, y_t) + (1 - lam) CE(target logits, y of the partner), with XMixup's weights."""

    second = "partner"

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        logits = network(images[0])
        own = self.target_cross_entropy(logits, plan.label)
        partner = self.target_cross_entropy(logits, plan.second_classes)
        return (plan.lam * own + (1 - plan.lam) * partner).mean()
