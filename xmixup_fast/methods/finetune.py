"""Plain fine-tuning with weight decay (L2): what every other method is compared with."""

from __future__ import annotations

from torch import Tensor

from ..batches.plan import StepPlan
from ..models.network import Network
from .base import Method


class Finetune(Method):
    """CE(target logits, y_t)."""

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        return self.target_cross_entropy(network(images[0]), plan.label).mean()
