"""Bi-Tuning (Zhong, Ma, Kou, Wang, Long 2020, arXiv 2011.06182): two contrastive losses beside the cross entropy."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches.plan import StepPlan
from ..batches.seeds import SeedUse, hash_integers
from ..models.classifiers import check_linear, output_layers
from ..models.network import Network
from ..runtime.device import float32
from ..settings.fields import Settings
from .finetune import Finetune

QUEUE, MOMENTUM, TEMPERATURE, DIMENSIONS = 40, 0.999, 0.07, 128
"""Keys of each class, momentum of the key encoder, temperature and width of the projection, as in the authors' code."""


class Bituning(Finetune):
    """CE(target logits, y_t) + bituning_weight (CCE + CCL), with the keys of a queue of 40 images of each class.

    Keys come from the key encoder, a copy of the network whose weights follow as a moving average. h is an image's
    features with a 1 after them, w_y the row of the target head with its bias, and z a linear projection of the
    features; all have length 1. K is the image and all keys, K+ the image and the keys of its class; the means are over
    K+:

        CCE = -mean log (exp(w_y h_k / T) / sum over K of exp(w_y h_k / T))
        CCL = -mean log (exp(z z_k / T) / sum over K of exp(z z_k / T))

    In CCE the image itself has h of the network, and w_y gets no gradient, as in the authors' code; in CCL it has its
    own key. The authors give the key encoder another random crop; here both see the same one. The queues start as
    random directions. Each process has its own; with --grad-accum-steps they move on with each micro-batch.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        check_linear("method: bituning", network.body, network.model_name)
        device = next(network.parameters()).device
        classes, width = len(network.classes), network.width
        generator = torch.Generator().manual_seed(hash_integers(settings.seed, SeedUse.HEAD))
        if network.projector is None:
            network.projector = _projector(width, generator).to(device)
        self.keys = copy.deepcopy(network).train().requires_grad_(False)
        self.features = _directions(classes, width + 1, generator).to(device)
        """float32[K_t, QUEUE + 1, D + 1]: h of each key. What is written to the last place of a class is not used."""
        self.projections = _directions(classes, DIMENSIONS, generator).to(device)
        """float32[K_t, QUEUE + 1, DIMENSIONS]: z of each key, likewise."""
        self.next = torch.zeros(classes, dtype=torch.int64, device=device)
        """int64[K_t]: the place of each class's oldest key, which is replaced next."""
        self.state = {"features": self.features, "projections": self.projections, "next": self.next}
        self.state |= {f"keys.{name}": tensor for name, tensor in self.keys.state_dict().items()}

    @torch.no_grad()
    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        torch._foreach_lerp_(list(self.keys.parameters()), list(network.parameters()), 1 - MOMENTUM)

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        features, logits = network.features_and_logits(images[0])
        with torch.no_grad():
            key_features = self.keys.features(images[0])
        with float32(features.device):
            contrast = self._contrast(network, features.float(), key_features.float(), plan.label)
        return self.target_cross_entropy(logits, plan.label).mean() + self.settings.bituning_weight * contrast

    def _contrast(self, network: Network, features: Tensor, key_features: Tensor, label: Tensor) -> Tensor:
        """CCE + CCL, from the features of images and of their keys, float32[B, D]; the keys join the queues."""
        assert network.projector is not None and self.keys.projector is not None
        (head,) = output_layers(network.body)
        rows = head.weight.detach().flatten(1)
        bias = rows.new_zeros(len(rows), 1) if head.bias is None else head.bias.detach()[:, None]
        row = F.normalize(torch.cat([rows, bias], 1), dim=1)[label]
        own = (row * _with_one(features)).sum(1)
        loss = _positive_loss(own, row @ self.features[:, :QUEUE].flatten(0, 1).T, label)

        projection = F.normalize(network.projector(features), dim=1)
        with torch.no_grad():
            key = F.normalize(self.keys.projector(key_features), dim=1)
        # A copy, as the queue moves on before the backward.
        queue = self.projections[:, :QUEUE].flatten(0, 1).clone()
        loss = loss + _positive_loss((projection * key).sum(1), projection @ queue.T, label)
        self._enqueue(_with_one(key_features), key, label)
        return loss

    @torch.no_grad()
    def _enqueue(self, features: Tensor, projections: Tensor, label: Tensor) -> None:
        """Replaces the oldest keys of each class by those of its images in the batch: by the last QUEUE of them."""
        place, count = self._places(label)
        self.features.index_put_((label, place), features)
        self.projections.index_put_((label, place), projections)
        self.next.add_(count).remainder_(QUEUE)

    def _places(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Where the key of each image goes, int64[B], and how many images each class has, int64[K_t].

        No two images share a place but QUEUE, which is not used: a GPU would write either of them.
        """
        of_class = label[:, None] == torch.arange(len(self.next), device=label.device)
        count = of_class.sum(0)
        number = (of_class.cumsum(0) - 1).gather(1, label[:, None])[:, 0]
        place = (self.next[label] + number) % QUEUE
        return torch.where(number < count[label] - QUEUE, QUEUE, place), count


def _projector(width: int, generator: torch.Generator) -> nn.Linear:
    """A new linear layer, as PyTorch initialises one, from a generator of its own."""
    layer = nn.Linear(width, DIMENSIONS, device="meta").to_empty(device="cpu")
    bound = width**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _directions(classes: int, width: int, generator: torch.Generator) -> Tensor:
    """Random directions for the queue of each class, float32[classes, QUEUE + 1, width]."""
    return F.normalize(torch.randn(classes, QUEUE + 1, width, generator=generator, dtype=torch.float32), dim=2)


def _with_one(features: Tensor) -> Tensor:
    """Features with a 1 after them, of length 1: float32[B, D + 1] for float32[B, D]."""
    return F.normalize(torch.cat([features, features.new_ones(len(features), 1)], 1), dim=1)


def _positive_loss(own: Tensor, keys: Tensor, label: Tensor) -> Tensor:
    """The mean over the batch of -mean log softmax over the positives, a scalar.

    Args:
        own: float32[B], similarities with the image itself.
        keys: float32[B, K_t QUEUE], similarities with the keys, class by class.
        label: int64[B], the class whose keys are positives.
    """
    chances = (torch.cat([own[:, None], keys], 1) / TEMPERATURE).log_softmax(1)
    positive = torch.arange(keys.shape[1], device=keys.device) // QUEUE == label[:, None]
    total = chances[:, 0] + (chances[:, 1:] * positive).sum(1)
    return -(total / (QUEUE + 1)).mean()
