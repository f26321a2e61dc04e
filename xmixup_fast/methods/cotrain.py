"""Co-training (multitask learning; Ge & Yu 2017, arXiv 1702.08690): a second batch, of auxiliary images, each step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches.plan import StepPlan
from ..models.network import Network
from .base import Method


class Cotrain(Method):
    """CE(target logits, y_t) + source_weight CE(source logits of the auxiliary image, y_s).

    Both batches go through the network as one. In two forwards, batch normalisation would normalise each by its own
    statistics, and evaluate with a mixture of both.
    """

    uses_source = True
    shows = ("mixed", "auxiliary")

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        count = len(plan)
        features, target_logits = network.features_and_logits(torch.cat(images), count)
        target = self.target_cross_entropy(target_logits, plan.label)
        source = self.cross_entropy(network.source_logits(features[count:]), plan.second_classes)
        return (target + self.settings.source_weight * source).mean()
