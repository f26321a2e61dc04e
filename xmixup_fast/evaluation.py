"""Evaluation of a network on labelled images: predictions and losses of one pass, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.center_crops import center_crop_batches
from .models.network import Network
from .ops.image_format import ImageFormat
from .ops.image_pool import Images
from .runtime.progress import progress

LISTED_LOSSES = 20
"""Images with the highest loss that :meth:`Evaluation.to_json` lists."""


class ClassResult(NamedTuple):
    """The predictions for the images of one class."""

    name: str
    images: int
    accuracy: float | None
    """In percent; None for a class without images."""
    taken_for: str | None
    """The wrong class that was predicted most often; None where all predictions are right."""
    times: int
    """How often that class was predicted."""


class ImageResult(NamedTuple):
    """The prediction for one image."""

    position: int
    """Position of the image among all that were evaluated."""
    name: str
    """Name of the image; empty where it is unknown."""
    label: str
    predicted: str
    probability: float
    """Probability of the predicted class."""
    loss: float
    """Cross entropy."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for n images of K classes. All tensors are on the CPU."""

    classes: list[str]
    positions: Tensor
    """int64[n]: positions of the images among all."""
    labels: Tensor
    """int64[n]: true classes."""
    predicted: Tensor
    """int64[n]: predicted classes."""
    probabilities: Tensor
    """float32[n]: probabilities of the predicted classes."""
    losses: Tensor
    """float32[n]: cross entropies."""
    names: list[str] = field(default_factory=list)
    """Names of all images, by position; empty where unknown."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def accuracy(self) -> float:
        """Percentage of the images whose class is predicted."""
        return 100 * int((self.predicted == self.labels).sum()) / len(self)

    @property
    def balanced_accuracy(self) -> float:
        """The mean accuracy of the classes that have images, in percent."""
        matrix = self.confusion_matrix()
        counts = matrix.sum(1)
        there = counts > 0
        return 100 * float((matrix.diagonal()[there] / counts[there]).double().mean())

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return float(self.losses.double().mean())

    def confusion_matrix(self) -> Tensor:
        """int64[K, K]: in row i, column j the number of images of class i for which class j is predicted."""
        count = len(self.classes)
        return torch.bincount(self.labels * count + self.predicted, minlength=count * count).view(count, count)

    def per_class(self) -> list[ClassResult]:
        """The result of each class, in the classes' order."""
        matrix = self.confusion_matrix()
        counts, correct = matrix.sum(1), matrix.diagonal()
        times, taken_for = (matrix - torch.diag(correct)).max(1)
        rows = zip(self.classes, *(column.tolist() for column in (counts, correct, taken_for, times)), strict=True)
        return [
            ClassResult(name, images, 100 * right / images if images else None, self.classes[j] if k else None, k)
            for name, images, right, j, k in rows
        ]

    def top_losses(self, count: int = 9) -> list[ImageResult]:
        """The images with the highest loss, highest first."""
        return [
            ImageResult(
                position := int(self.positions[i]),
                self.names[position] if self.names else "",
                self.classes[int(self.labels[i])],
                self.classes[int(self.predicted[i])],
                float(self.probabilities[i]),
                float(self.losses[i]),
            )
            for i in self.losses.argsort(descending=True, stable=True)[:count].tolist()
        ]

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json, with those numbers of the confusion matrix that are not zero."""
        confusion: dict[str, dict[str, int]] = {}
        pairs, counts = torch.stack([self.labels, self.predicted]).unique(dim=1, return_counts=True)
        for (label, predicted), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            confusion.setdefault(self.classes[label], {})[self.classes[predicted]] = count
        return {
            "images": len(self),
            "accuracy": round(self.accuracy, 4),
            "balanced_accuracy": round(self.balanced_accuracy, 4),
            "loss": round(self.loss, 6),
            "classes": [_rounded(row._asdict()) for row in self.per_class()],
            "confusion": confusion,
            "highest_losses": [_rounded(row._asdict()) for row in self.top_losses(LISTED_LOSSES)],
        }

    def lines(self) -> list[str]:
        """The classes as a table for the console."""
        width = max(5, *map(len, self.classes))
        lines = [f"{'class':{width}s}  images  accuracy  most often confused with"]
        for row in self.per_class():
            accuracy = "       -" if row.accuracy is None else f"{row.accuracy:6.2f} %"
            taken = f"{row.taken_for} ({row.times})" if row.taken_for else ""
            lines.append(f"{row.name:{width}s}  {row.images:6d}  {accuracy}  {taken}".rstrip())
        return lines


@torch.no_grad()
def evaluate_network(
    network: Network, images: Images, form: ImageFormat, batch_size: int, positions: Tensor | None = None
) -> Evaluation:
    """Evaluates a network on unmixed centre crops.

    Nothing is brought to the CPU before the end.

    Args:
        network: on the images' device.
        images: the images, in memory or streamed.
        form: size and normalisation of the crops.
        batch_size: images at a time.
        positions: int64[n], which of the images; all of them if not given.
    """
    if positions is None:
        positions = torch.arange(len(images), device=images.labels.device)
    training = network.training
    network.eval()
    none = positions[:0]
    found: list[tuple[Tensor, ...]] = [(none, none, none.float(), none.float())]  # a process may have no image
    batches = center_crop_batches(images, form, batch_size, positions)
    for batch, labels in progress(batches, len(positions), "evaluating", count=lambda one: len(one[1])):
        logits = network(batch).float()
        predicted = logits.argmax(1)
        probabilities = logits.softmax(1).gather(1, predicted[:, None])[:, 0]
        found.append((labels, predicted, probabilities, F.cross_entropy(logits, labels, reduction="none")))
    network.train(training)
    labels, predicted, probabilities, losses = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    return Evaluation(network.classes, positions.cpu(), labels, predicted, probabilities, losses)


def merge_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """Joins evaluations of different images into one, in the order of the images' positions.

    Raises ValueError where an image is in two parts.
    """
    positions, order = torch.cat([part.positions for part in parts]).sort()
    if (positions[1:] == positions[:-1]).any():
        raise ValueError("parts: expected each image in one part, got one in two of them")
    labels, predicted, probabilities, losses = (
        torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("labels", "predicted", "probabilities", "losses")
    )
    return Evaluation(parts[0].classes, positions, labels, predicted, probabilities, losses, parts[0].names)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
