"""What a frozen network sees in the images of each class, in one pass over them, by one process or several.

Where torch.distributed is initialised, every process passes over its share of the images, and all get the result of all
images. The sums are float64 and added in another order than by one process, so that means differ by 1e-12 of their size
at most; more only where the network rounds otherwise, as it may with another number of threads. Tensors are exchanged
on the CPU: the process group needs a backend for it, such as gloo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..models.network import Network
from ..runtime import distributed

LabelledBatches = Iterable[tuple[Tensor, Tensor]]
"""Normalised batches with one integer for each image, float[B, 3, H, W] and int64[B]."""


class ClassMeans(NamedTuple):
    """Means over the images of each of K classes; zeros for a class without images."""

    features: Tensor
    """float64[K, D]: what the classifier sees."""
    probabilities: Tensor | None
    """float64[K, N]: of the N outputs that were asked for."""
    counts: Tensor
    """int64[K]: the images of each class."""


def class_means(
    network: Network, images: LabelledBatches, num_classes: int, logits: Callable[[Tensor], Tensor] | None = None
) -> ClassMeans:
    """Means of the features, and of the softmax of what ``logits`` makes of them, in memory of O(classes).

    The integers of ``images`` are labels. ``logits`` is, for instance, ``network.classifier_logits``.
    """

    def outputs(batch: Tensor) -> list[Tensor]:
        features = network.features(batch)
        return [features.double()] + ([logits(features).double().softmax(1)] if logits else [])

    counts = torch.zeros(num_classes, dtype=torch.int64)
    with _frozen(network):
        nothing = next(network.parameters()).new_zeros(0, network.body.get_classifier().in_features)
        widths = [nothing.shape[1]] + ([logits(nothing).shape[1]] if logits else [])
        sums = [torch.zeros(num_classes, width, dtype=torch.float64) for width in widths]
        for batch, labels in images:
            labels = labels.cpu()
            for total, rows in zip(sums, outputs(batch), strict=True):
                total.index_add_(0, labels, rows.cpu())
            counts += labels.bincount(minlength=num_classes)
    if distributed.world_size() > 1:
        for total in (*sums, counts):
            dist.all_reduce(total)
    means = [total / counts.clamp(min=1).unsqueeze(1) for total in sums]
    return ClassMeans(means[0], means[1] if logits else None, counts)


def nearest_images(
    network: Network, images: LabelledBatches, class_features: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The ``count`` images whose features have the largest cosine with each row of ``class_features``, best first.

    The integers of ``images`` identify the images; of equally near ones the smallest comes first. The memory is
    O(classes x count). Returns int64[K, count] and their cosines, float64[K, count]; fewer columns where there are
    fewer images.
    """
    directions = F.normalize(class_features, dim=1).to(next(network.parameters()).device)
    cosines = directions.new_empty(len(directions), 0)
    identities = torch.empty_like(cosines, dtype=torch.int64)
    with _frozen(network):
        for batch, identity in images:
            new = directions @ F.normalize(network.features(batch).double(), dim=1).T
            identities, cosines = _best([identities, identity.expand_as(new)], [cosines, new], count)
    identities, cosines = identities.cpu(), cosines.cpu()
    parts = distributed.gather_objects((identities, cosines))
    return _best([part[0] for part in parts], [part[1] for part in parts], count)


def _best(identities: list[Tensor], cosines: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, or all where there are fewer; of equal ones that of the smallest identity."""
    identity, order = torch.cat(identities, 1).sort(dim=1)
    best, places = torch.cat(cosines, 1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return identity.gather(1, places[:, :count]), best[:, :count].contiguous()


@contextmanager
def _frozen(network: Network) -> Iterator[None]:
    """Without gradients and with batch normalisation as in evaluation, for a while."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)
