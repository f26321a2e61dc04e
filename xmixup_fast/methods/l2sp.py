"""L2-SP (Li, Grandvalet, Davoine 2018, arXiv 1802.01483): weights are drawn to where they started, not to zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models import Network
from ..sampling import Draw
from ..settings import Settings
from .finetune import Finetune


class Anchor:
    """l2sp_alpha / 2 |w - w0|^2 + l2sp_beta / 2 |w_head|^2.

    w are all pretrained parameters, those of normalisation layers among them, and w0 what they were at the start. These
    terms take the place of weight decay, which the optimiser is to be given as zero.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        self.weights = (settings.l2sp_alpha, settings.l2sp_beta)
        self.groups = network.parameter_groups()
        self.start = flat(self.groups[0]).detach()
        """float32[n]: w0, of all parameters one after the other."""

    def penalty(self) -> Tensor:
        """A scalar."""
        pretrained, head = map(flat, self.groups)
        way = pretrained - self.start
        alpha, beta = self.weights
        return (alpha * way.dot(way) + beta * head.dot(head)) / 2


class L2SP(Finetune):
    """CE(target logits, y_t) + :class:`Anchor`'s penalty."""

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.weight_decay = 0.0
        self.anchor = Anchor(settings, network)
        self.state = {"start": self.anchor.start}

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        return super().loss(network, inputs, draw) + self.anchor.penalty()


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All parameters in one vector, which makes one operation of many."""
    return torch.cat([parameter.flatten() for parameter in parameters])
