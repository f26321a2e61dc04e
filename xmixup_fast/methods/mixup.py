"""Mixup within the batch (Zhang et al. 2018, arXiv 1710.09412): the control that tells whether the source matters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..batches.sampler import Sampler
from ..models.network import Network
from .base import Method, mixed_titles


class Mixup(Method):
    """lam CE(target logits, y_t) + (1 - lam) CE(target logits, y of the partner), with XMixup's weights."""

    def draw(self, sampler: Sampler, step: int) -> Draw:
        return sampler.draw(step, partners=True)

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.mixup(draw),)

    def weights(self, draw: Draw) -> Tensor:
        """Of the samples' own images, float32[B]."""
        return draw.lam

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        assert draw.partner_label is not None
        logits = network(images)
        own = self.cross_entropy(logits, draw.label)
        partner = self.cross_entropy(logits, draw.partner_label)
        lam = self.weights(draw)
        return (lam * own + (1 - lam) * partner).mean()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.partner_label is not None
        own, partners = ([target_classes[i] for i in labels.tolist()] for labels in (draw.label, draw.partner_label))
        return [mixed_titles(self.weights(draw), own, partners)]
