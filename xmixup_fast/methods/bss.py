"""Batch Spectral Shrinkage (Chen, Wang, Fu, Long, Wang 2019, NeurIPS 32): small singular values of features shrink."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models import Network
from ..sampling import Draw
from ..settings import Settings
from .finetune import Finetune


class BSS(Finetune):
    """CE(target logits, y_t) + bss_eta * the sum of the bss_k smallest squared singular values of the features [B, D].

    Directions with small singular values transfer badly, as the paper finds.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        values = min(settings.batch_size, network.body.get_classifier().in_features)
        if settings.bss_k > values:
            raise ValueError(f"bss_k: expected at most {values}, the singular values of a batch, got {settings.bss_k}")

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        features = network.features(images)
        values: Tensor = torch.linalg.svdvals(features)  # in descending order
        penalty = self.settings.bss_eta * values[-self.settings.bss_k :].square().sum()
        return self.cross_entropy(network.target_logits(features), draw.label).mean() + penalty
