"""L2-SP (Li, Grandvalet, Davoine 2018, arXiv 1802.01483): weights are drawn to where they started, not to zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..batches.plan import Draw
from ..models.network import Network
from ..settings.fields import Settings
from .finetune import Finetune


class Anchor:
    """l2sp_alpha / 2 |w - w0|^2 + l2sp_beta / 2 |w_head|^2.

    w are all pretrained parameters, those of normalisation layers among them, and w0 what they were at the start. These
    terms take the place of weight decay, which the optimiser is to be given as zero.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        self.weights = (settings.l2sp_alpha, settings.l2sp_beta)
        self.pretrained, self.head = network.parameter_groups()
        self.start = [parameter.detach().clone() for parameter in self.pretrained]
        self.zero = [torch.zeros_like(parameter) for parameter in self.head]
        self.state = {f"start.{number}": tensor for number, tensor in enumerate(self.start)}

    def penalty(self) -> Tensor:
        """A scalar."""
        alpha, beta = self.weights
        return alpha * half_squared_distance(self.pretrained, self.start) + beta * half_squared_distance(
            self.head, self.zero
        )


def half_squared_distance(x: list[nn.Parameter], y: list[Tensor]) -> Tensor:
    """|x - y|^2 / 2 of as many tensors in each list, with a gradient for x."""
    distance: Tensor = _HalfSquaredDistance.apply(*x, *y)
    return distance


class _HalfSquaredDistance(torch.autograd.Function):
    """half_squared_distance in half the time of autograd's own way, which copies."""

    @staticmethod
    def forward(ctx: Any, *both: Tensor) -> Tensor:
        count = len(both) // 2
        ctx.ways = torch._foreach_sub(both[:count], both[count:])
        return torch.stack(torch._foreach_norm(ctx.ways)).square().sum() / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*torch._foreach_mul(ctx.ways, grad), *[None] * len(ctx.ways))


class L2SP(Finetune):
    """CE(target logits, y_t) + :class:`Anchor`'s penalty."""

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.weight_decay = 0.0
        self.anchor = Anchor(settings, network)
        self.state = self.anchor.state

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        return super().loss(network, inputs, draw) + self.anchor.penalty()
