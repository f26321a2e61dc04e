"""How heads start, where it is not as the network was built: the settings source_head and head_init."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..batches.seeds import SeedUse, hash_integers
from ..methods.base import Batches
from ..models.build import build
from ..models.network import Network
from ..selection.statistics import class_means
from ..settings.fields import Settings


def pretrained_network(
    settings: Settings, target_classes: Sequence[str], source_classes: Sequence[str] | None, setting: str
) -> Network:
    """The network before training, whose source head is the pretrained classifier, on the run's device.

    Its outputs are ``source_classes``, or without these all that the classifier has. Raises ValueError, which names the
    ``setting`` that asks for it, where the pretrained classifier does not know all of them.
    """
    network = build(
        settings.model,
        settings.weights,
        target_classes,
        source_classes=source_classes,
        seed=settings.seed,
        keep_classifier=True,
        image_size=settings.crop_size,
        model_args=settings.model_args,
        weights_classes=settings.weights_classes,
    )
    check_classifier(network, setting)
    return network.to_device(settings.device)


def check_classifier(network: Network, setting: str) -> None:
    """Raises ValueError, which names the setting, unless the pretrained classifier knows all source classes."""
    matched = network.source_matched
    if matched is None or not matched.any():
        lacks = f"and {network.no_classifier}" if network.no_classifier else "which knows none of the source's classes"
        raise ValueError(f"{setting}: needs a pretrained classifier of one layer, {lacks}; take other weights")
    if not matched.all():
        raise ValueError(
            f"{setting}: needs a pretrained classifier that knows all source classes, and it knows "
            f"{int(matched.sum())} of {len(matched)}; leave the others out of the source"
        )


def freeze_source_head(network: Network) -> None:
    """Excludes the source head from training. Raises ValueError where a row of it is new."""
    if network.source_head is None:
        return
    check_classifier(network, "source_head: frozen")
    network.source_head.requires_grad_(False)


def renew_source_head(network: Network, seed: int) -> None:
    """Gives the source head random weights of PyTorch's default, which follow from the seed, as a head of new rows."""
    head = network.source_head
    if head is None or network.source_matched is None:
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hash_integers(seed, SeedUse.SOURCE_HEAD))
        fresh = nn.Linear(head.in_features, head.out_features, head.bias is not None)
    head.load_state_dict(fresh.state_dict())
    head.requires_grad_(True)
    network.source_matched = torch.zeros_like(network.source_matched)


@torch.no_grad()
def start_target_head(network: Network, pretrained: Network, batches: Batches) -> None:
    """Starts new rows of the target head as means of the pretrained classifier's rows, weighted by its predictions.

    The row of target class j is the sum over classes i of P[j, i] times row i, where P[j] is the mean over the training
    images of class j of what the pretrained network predicts. Rows that come from the weights stay.

    Args:
        network: gets the rows.
        pretrained: :func:`pretrained_network`.
        batches: unmixed training images.
    """
    means = class_means(pretrained, batches(), len(network.classes), pretrained.source_logits)
    assert means.probabilities is not None and pretrained.source_head is not None
    head = network.body.get_classifier()
    new = torch.ones(len(network.classes), dtype=torch.bool)
    if network.target_matched is not None:
        new = ~network.target_matched.cpu()
    for name, tensor in head.state_dict().items():
        rows = getattr(pretrained.source_head, name)
        start = torch.zeros_like(tensor) if rows is None else (means.probabilities @ rows.double().cpu()).to(tensor)
        tensor[new.to(tensor.device)] = start[new.to(tensor.device)]


def check_target_head(network: Network) -> None:
    """Raises ValueError where the target head is not one linear layer of the features."""
    if not network.is_direct:
        raise ValueError(
            f"head_init: source needs a target head of one linear layer, and {network.model_name} has another; take "
            "fresh, or another network"
        )
