"""Statistics of a frozen network over images, in one pass: mean features of classes, and nearest images.

With torch.distributed, every process passes over its share of the images, and all processes get the result of all
images. Sums are float64, but are added in another order than by one process, so means differ by at most 1e-12 of their
size. They differ more where the network itself rounds otherwise, as it may with another number of threads. Tensors are
exchanged on the CPU, for which the process group needs a backend such as gloo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..models.finite import not_finite
from ..models.network import Network
from ..runtime import distributed

LabelledBatches = Iterable[tuple[Tensor, Tensor]]
"""Batches of normalised images, float[B, 3, H, W], each with one integer per image, int64[B]."""


class ClassMeans(NamedTuple):
    """Means over the images of each of K classes; zeros for a class without images."""

    features: Tensor
    """float64[K, D]: the pooled features, which a head gets."""
    probabilities: Tensor | None
    """float64[K, N]: predicted probabilities of N outputs; None where none were computed."""
    counts: Tensor
    """int64[K]: number of images of each class."""


def class_means(
    network: Network, images: LabelledBatches, num_classes: int, logits: Callable[[Tensor], Tensor] | None = None
) -> ClassMeans:
    """Mean features and, with ``logits``, mean softmax probabilities of each class, in memory of O(classes).

    The integers of ``images`` are labels, 0 to ``num_classes`` - 1. ``logits`` maps features, float[B, D], to logits,
    float[B, N]; ``network.classifier_logits`` is such a function.

    Raises ValueError where features are not finite.
    """

    def outputs(batch: Tensor) -> list[Tensor]:
        features = network.features(batch)
        return [features.double()] + ([logits(features).double().softmax(1)] if logits else [])

    counts = torch.zeros(num_classes, dtype=torch.int64)
    with _frozen(network):
        no_features = next(network.parameters()).new_zeros(0, network.width)
        widths = [no_features.shape[1]] + ([logits(no_features).shape[1]] if logits else [])
        sums = [torch.zeros(num_classes, width, dtype=torch.float64) for width in widths]
        for batch, labels in images:
            labels = labels.cpu()
            for total, rows in zip(sums, outputs(batch), strict=True):
                total.index_add_(0, labels, rows.cpu())
            counts += labels.bincount(minlength=num_classes)
    if distributed.world_size() > 1:
        for total in (*sums, counts):
            dist.all_reduce(total)
    if not sums[0].isfinite().all():
        raise not_finite(network, "features", "images whose classes are compared")
    means = [total / counts.clamp(min=1).unsqueeze(1) for total in sums]
    return ClassMeans(means[0], means[1] if logits else None, counts)


def all_features(network: Network, images: LabelledBatches) -> tuple[Tensor, Tensor]:
    """The features of each image, float32[n, D], and the images' integers, int64[n], on the CPU.

    The memory needed is O(n D). With torch.distributed, each process gets those of the images that it passes over.
    """
    with _frozen(network):
        pairs = [(network.features(batch).float().cpu(), labels.cpu()) for batch, labels in images]
    features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return features, labels


def nearest_images(
    network: Network, images: LabelledBatches, class_features: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """For each row of ``class_features``, the ``count`` images whose features have the largest cosine with it.

    Args:
        network: its features are compared; it is left in the mode that it was in.
        images: the integers identify the images; of equally near images the one with the smaller integer comes first.
        class_features: float64[K, D].
        count: how many images for each row. The memory needed is O(K count).

    Returns:
        The images' integers, int64[K, count], nearest first, and their cosines, float64[K, count]; with fewer columns
        where there are fewer images.
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
    """The ``count`` largest cosines of each row, with their identities; equal cosines in the identities' order.

    Both lists hold parts of the columns, [K, n] each. Rows with fewer than ``count`` columns are kept whole.
    """
    identity, order = torch.cat(identities, 1).sort(dim=1)
    best, columns = torch.cat(cosines, 1).gather(1, order).sort(dim=1, descending=True, stable=True)
    return identity.gather(1, columns[:, :count]), best[:, :count].contiguous()


@contextmanager
def _frozen(network: Network) -> Iterator[None]:
    """Puts the network into evaluation mode, without gradients, and back into its former mode."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)
