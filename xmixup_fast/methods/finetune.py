"""Plain fine-tuning with weight decay (L2): what every other method is compared with."""

from __future__ import annotations

from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..models.network import Network
from .base import Method


class Finetune(Method):
    """CE(target logits, y_t)."""

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.target(draw.crops),)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        return self.cross_entropy(network(images), draw.label).mean()
