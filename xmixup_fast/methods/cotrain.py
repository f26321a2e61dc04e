"""Co-training (multitask learning; Ge & Yu 2017, arXiv 1702.08690): a second batch, of auxiliary images, each step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import Network
from ..rendering import Renderer
from ..sampling import Draw
from .base import Method


class Cotrain(Method):
    """CE(target logits, y_t) + source_weight CE(source logits of the auxiliary image, y_s): two forwards."""

    uses_source = True

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return render.target(draw.crops), render.aux(draw.aux_crops)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        images, aux = inputs
        assert draw.aux_label is not None
        target = self.cross_entropy(network(images), draw.label)
        source = self.cross_entropy(network.source_logits(network.features(aux)), draw.aux_label)
        return (target + self.settings.source_weight * source).mean()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.aux_label is not None
        own = super().titles(draw, target_classes, source_classes)
        return [*own, [source_classes[label] for label in draw.aux_label.tolist()]]
