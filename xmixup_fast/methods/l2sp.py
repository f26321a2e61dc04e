"""L2-SP (Li, Grandvalet, Davoine 2018, arXiv 1802.01483), a regularizer for any method.

Weights are drawn to where they started, not to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.network import Network
from ..settings.fields import Settings


class L2SPPenalty:
    """alpha / 2 |w - w0|^2 + beta / 2 |w_head|^2, a scalar, each time it is called.

    w are pretrained parameters, w0 their values when this object was made, and w_head the parameters of new heads.
    """

    def __init__(
        self, pretrained: Sequence[nn.Parameter], head: Sequence[nn.Parameter], alpha: float, beta: float
    ) -> None:
        self.alpha, self.beta = alpha, beta
        self.pretrained, self.head = pretrained, head
        self.start = [parameter.detach().clone() for parameter in pretrained]
        self.zero = [torch.zeros_like(parameter) for parameter in head]

    def __call__(self) -> Tensor:
        distance = half_squared_distance(self.pretrained, self.start)
        if not self.head:  # a head whose rows all come from the weights is no new one
            return self.alpha * distance
        return self.alpha * distance + self.beta * half_squared_distance(self.head, self.zero)


def l2sp(
    network: nn.Module, heads: nn.Module | Iterable[nn.Module] = (), *, alpha: float = 0.01, beta: float = 0.01
) -> L2SPPenalty:
    """L2-SP's penalty for any training loop: ``penalty = l2sp(network, heads)``, then ``loss = loss + penalty()``.

    Set the optimizer's weight decay to 0, which the penalty replaces.

    Args:
        network: the pretrained network, on its device and before the first step; its parameters are drawn to what they
            are now.
        heads: modules of new weights, inside of the network or not, whose parameters are drawn to zero.
        alpha: weight of the pretrained parameters' half squared distance from their start.
        beta: weight of the new heads' half squared norm.

    Raises TypeError for what is no module, and ValueError for a network without parameters of its own.
    """
    modules = [heads] if isinstance(heads, nn.Module) else list(heads)
    for name, module in [("network", network), *(("heads", head) for head in modules)]:
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")
    new = {id(parameter): parameter for head in modules for parameter in head.parameters()}
    pretrained = [parameter for parameter in network.parameters() if id(parameter) not in new]
    if not pretrained:
        raise ValueError("network: expected pretrained parameters, got none besides those of heads")
    return L2SPPenalty(pretrained, list(new.values()), alpha, beta)


class L2SP:
    """The regularizer l2sp of the trainer, in place of weight decay.

    Its pretrained parameters include those of normalisation layers.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        self.penalty = L2SPPenalty(*network.parameter_groups(), settings.l2sp_alpha, settings.l2sp_beta)
        self.state = {f"start.{number}": tensor for number, tensor in enumerate(self.penalty.start)}
        """What a resumed run needs."""


def half_squared_distance(x: Sequence[nn.Parameter], y: Sequence[Tensor]) -> Tensor:
    """|x - y|^2 / 2 of as many tensors in each list, with a gradient for x."""
    distance: Tensor = _HalfSquaredDistance.apply(*x, *y)
    return distance


class _HalfSquaredDistance(torch.autograd.Function):
    """Takes half the time of the same in PyTorch's own operations, which copy the differences."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        count = len(tensors) // 2
        ctx.differences = torch._foreach_sub(tensors[:count], tensors[count:])
        return torch.stack(torch._foreach_norm(ctx.differences)).square().sum() / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: Sequence[Tensor] = torch._foreach_mul(ctx.differences, grad)
        return (*gradients, *[None] * len(gradients))
