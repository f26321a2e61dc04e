"""RIFLE (Li, Xiong, An, Xu, Dou 2020, arXiv 2007.03349): the head is re-initialised several times while training."""

from __future__ import annotations

import torch
from torch import nn

from ..batches.seeds import SeedUse, hash_integers
from ..models.classifiers import output_layers
from ..models.network import Network
from ..runtime.device import upload
from .base import forget
from .finetune import Finetune


class Rifle(Finetune):
    """CE(target logits, y_t); the run has rifle_periods equal parts, and all but the first begin with a new head.

    A new head gets random weights of PyTorch's default, from the seed and the step alone, and no momentum; where a head
    has several layers, the last one is new. Its learning rate is that of all methods; the authors' code can also
    restart it in each part.
    """

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        periods = self.settings.rifle_periods
        if step not in [steps * period // periods for period in range(1, periods)]:
            return
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash_integers(self.settings.seed, SeedUse.HEAD, step))
            for layer in output_layers(network.body):
                fresh = _fresh(layer).state_dict()
                layer.load_state_dict({name: upload(tensor, layer.weight.device) for name, tensor in fresh.items()})
                forget(optimizer, layer.parameters())


def _fresh(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """A new layer of the same shape, on the CPU: one generator draws the same numbers for every device."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias)
    size = layer.kernel_size
    return nn.Conv2d(layer.in_channels, layer.out_channels, (size[0], size[1]), groups=layer.groups, bias=bias)
