"""Co-training (multitask learning; Ge & Yu 2017, arXiv 1702.08690): a second batch, of auxiliary images, each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..models.network import Network
from .base import Method


class Cotrain(Method):
    """CE(target logits, y_t) + source_weight CE(source logits of the auxiliary image, y_s).

    One forward of both batches. Two would normalise each batch by its own statistics, and evaluation by those of both.
    """

    uses_source = True

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return render.target(draw.crops), render.aux(draw.aux_crops)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        images, aux = inputs
        assert draw.aux_label is not None
        features, aux_features = network.features(torch.cat([images, aux])).chunk(2)
        target = self.cross_entropy(network.target_logits(features), draw.label)
        source = self.cross_entropy(network.source_logits(aux_features), draw.aux_label)
        return (target + self.settings.source_weight * source).mean()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.aux_label is not None
        own = super().titles(draw, target_classes, source_classes)
        return [*own, [source_classes[label] for label in draw.aux_label.tolist()]]
