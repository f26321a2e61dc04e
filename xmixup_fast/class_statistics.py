"""What a frozen network sees in the images of each class, in one pass over them, by one process or several.

Where torch.distributed is initialised, every process passes over its share of the images, and all get the result of all
images. The sums are float64 and added in another order than by one process, so that means differ by 1e-12 of their size
at most; more only where the network rounds otherwise, as it may with another number of threads. Tensors are exchanged
on the CPU: the process group needs a backend for it, such as gloo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from .data.dataset import Sample
from .files import default_cache, replacing
from .models import Network

Images = Iterable[tuple[Tensor, Tensor]]
"""Normalised batches with one integer for each image, float[B, 3, H, W] and int64[B]."""


class ClassMeans(NamedTuple):
    """Means over the images of each of K classes; zeros for a class without images."""

    features: Tensor
    """float64[K, D]: what the classifier sees."""
    probabilities: Tensor | None
    """float64[K, K_s]: softmax of the source head over the classes that the pretrained classifier has, else 0."""


def class_means(network: Network, images: Images, num_classes: int, *, predictions: bool) -> ClassMeans:
    """Means of the features, and of the predicted probabilities if asked for. The memory is O(classes).

    The integers of ``images`` are labels. With predictions, the network needs a source head of which at least one row
    comes from the pretrained classifier.
    """
    widths = [network.body.get_classifier().in_features]
    matched = network.source_matched
    if predictions:
        assert matched is not None and matched.any()
        widths.append(len(matched))
    sums = [torch.zeros(num_classes, width, dtype=torch.float64) for width in widths]
    counts = torch.zeros(num_classes, dtype=torch.float64)
    with _frozen(network):
        for batch, labels in images:
            features = network.features(batch)
            outputs = [features.double()]
            if matched is not None and predictions:
                logits = network.source_logits(features).double()
                outputs.append(logits.masked_fill(~matched.to(logits.device), -torch.inf).softmax(1))
            labels = labels.cpu()
            for total, rows in zip(sums, outputs, strict=True):
                total.index_add_(0, labels, rows.cpu())
            counts += labels.bincount(minlength=num_classes)
    if dist.is_initialized():
        for total in (*sums, counts):
            dist.all_reduce(total)
    means = [total / counts.clamp(min=1).unsqueeze(1) for total in sums]
    return ClassMeans(means[0], means[1] if predictions else None)


def nearest_images(network: Network, images: Images, class_features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` images whose features have the largest cosine with each row of ``class_features``, best first.

    The integers of ``images`` identify the images; of equally near ones the smallest comes first. The memory is
    O(classes x count). Returns int64[K, count] and their cosines, float64[K, count]; fewer
    columns where there are fewer images.
    """
    directions = F.normalize(class_features, dim=1).to(next(network.parameters()).device)
    cosines = directions.new_empty(len(directions), 0)
    identities = torch.empty_like(cosines, dtype=torch.int64)
    with _frozen(network):
        for batch, identity in images:
            new = directions @ F.normalize(network.features(batch).double(), dim=1).T
            identities, cosines = _best([identities, identity.expand_as(new)], [cosines, new], count)
    identities, cosines = identities.cpu(), cosines.cpu()
    if dist.is_initialized():
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (identities, cosines))
        identities, cosines = _best([part[0] for part in parts], [part[1] for part in parts], count)
    return identities, cosines


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


def cached(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``compute`` gives, or what it gave for the same key before: kept as selection/KEY.safetensors in the cache.

    Several processes that work together all compute, or none.

    Raises ValueError for a file there that cannot be read, and OSError where it cannot be written.
    """
    folder = default_cache() / "selection"
    path = folder / f"{key}.safetensors"
    found = torch.tensor(int(path.exists()))
    if dist.is_initialized():
        dist.all_reduce(found, dist.ReduceOp.MIN)
    if found:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: cannot be read ({error}); remove it") from error
    tensors = compute()
    if not dist.is_initialized() or dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            aside.write_bytes(serialize(tensors))  # save_file would let the owner alone read it
    return tensors


def cache_key(network: Network, samples: Iterable[Iterable[Sample]], parameters: Iterable[object]) -> str:
    """A hash of the backbone's weights, of names, stamps and labels of lists of images, and of what else matters.

    Raises OSError where an image's stamp cannot be had.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(text: object) -> None:
        digest.update(f"{text}\0".encode())

    classifier = {id(tensor) for tensor in network.body.get_classifier().state_dict(keep_vars=True).values()}
    for name, tensor in network.body.state_dict(keep_vars=True).items():
        if id(tensor) not in classifier:
            add((name, tensor.dtype, tuple(tensor.shape)))
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for images in samples:
        add("images")
        for image, label in images:
            add(image.name)
            add(image.stamp())
            add(label)
    for parameter in (network.model_name, *parameters):
        add(parameter)
    return digest.hexdigest()
