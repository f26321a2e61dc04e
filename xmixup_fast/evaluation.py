"""Evaluation of a network on labelled images: predictions, losses and calibration of one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .calibration import Bin, calibration_error, reliability
from .data.center_crops import center_crop_batches
from .models.network import Network
from .ops.image_format import ImageFormat
from .ops.image_pool import Images
from .runtime.progress import progress

LISTED_LOSSES = 20
"""Images with the highest loss that :meth:`Evaluation.to_json` lists."""
TOP = 5
"""A prediction's likeliest classes, among which top-5 accuracy looks for the true one."""
CONFIDENCE = 0.95
"""How sure the interval of the accuracy is."""


class ClassResult(NamedTuple):
    """The predictions for the images of one class."""

    name: str
    images: int
    """The support: images of this class."""
    precision: float | None
    """Percentage of this class among the images that are predicted as it; None where there are none."""
    recall: float | None
    """Percentage of the class's images that are predicted as it, its accuracy; None for a class without images."""
    f1: float | None
    """Harmonic mean of both, in percent; None for a class that is neither there nor predicted."""
    taken_for: str | None
    """The wrong class that was predicted most often; None where all predictions are right."""
    times: int
    """How often that class was predicted."""


class Confusion(NamedTuple):
    """A class whose images are taken for another one."""

    label: str
    predicted: str
    times: int
    """How many images are."""
    positions: list[int]
    """Positions of some of these images, the most confident predictions first."""
    example: int | None
    """Position of the image of the class ``predicted`` with the lowest loss; None where it has no image."""


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
    """float32[n]: probabilities of the predicted classes; nan where a logit is not finite."""
    losses: Tensor
    """float32[n]: cross entropies."""
    ranks: Tensor
    """int64[n]: how many classes are likelier than the true one."""
    names: list[str] = field(default_factory=list)
    """Names of all images, by position; empty where unknown."""
    temperature: float | None = None
    """The network's temperature; None where it has none."""
    calibrated: Tensor | None = None
    """float32[n]: probabilities of the predicted classes with that temperature; None without one."""
    logits: Tensor | None = None
    """float32[n, K], where they were asked for."""

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        accuracy = f", {self.accuracy:.2f} % right" if len(self) else ""
        return f"Evaluation({len(self)} images of {len(self.classes)} classes{accuracy})"

    def not_finite(self) -> list[int]:
        """Positions of the images for which the network gave nan or infinity, so that it has no answer."""
        return self.positions[~self.probabilities.isfinite()].tolist()

    @property
    def accuracy(self) -> float:
        """Percentage of the images whose class is predicted."""
        return 100 * int((self.predicted == self.labels).sum()) / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval of the accuracy, in percent, of other such images."""
        from scipy.stats import binomtest

        right = int((self.predicted == self.labels).sum())
        interval = binomtest(right, len(self)).proportion_ci(CONFIDENCE, "wilson")
        return 100 * float(interval.low), 100 * float(interval.high)

    @property
    def top5_accuracy(self) -> float | None:
        """Percentage of the images whose class is among the five likeliest; None where there are no more than five."""
        return 100 * int((self.ranks < TOP).sum()) / len(self) if len(self.classes) > TOP else None

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images, in percent."""
        found = [row.f1 or 0.0 for row in self.per_class() if row.images]
        return sum(found) / len(found)

    @property
    def macro_f1_name(self) -> str:
        """What :attr:`macro_f1` is called: it says where some classes have no image."""
        every = bool((self.confusion_matrix().sum(1) > 0).all())
        return "macro F1" if every else "macro F1 (over classes with images)"

    def reliability(self, calibrated: bool = False) -> list[Bin]:
        """Accuracy and confidence in bins of equal width, without empty ones; ``calibrated``: with the temperature."""
        return reliability(self._confidences(calibrated), self.predicted == self.labels)

    def expected_calibration_error(self, calibrated: bool = False) -> float:
        """The mean distance of a prediction's probability from the accuracy of its bin, in percentage points.

        Raises ValueError where ``calibrated`` is asked for and the network has no temperature.
        """
        return calibration_error(self.reliability(calibrated))

    def _confidences(self, calibrated: bool) -> Tensor:
        if not calibrated:
            return self.probabilities
        if self.calibrated is None:
            raise ValueError("calibrated: expected a network with a temperature, and this one has none")
        return self.calibrated

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
        from sklearn.metrics import precision_recall_fscore_support

        matrix = self.confusion_matrix()
        times, taken_for = (matrix - torch.diag(matrix.diagonal())).max(1)
        *shares, _ = precision_recall_fscore_support(
            self.labels.numpy(), self.predicted.numpy(), labels=range(len(self.classes)), zero_division=math.nan
        )
        columns = ([None if math.isnan(x) else 100 * x for x in share.tolist()] for share in shares)
        wrong = ((self.classes[j] if k else None, k) for j, k in zip(taken_for.tolist(), times.tolist(), strict=True))
        rows = zip(self.classes, matrix.sum(1).tolist(), *columns, wrong, strict=True)
        return [ClassResult(name, count, *three, *pair) for name, count, *three, pair in rows]

    def confused_pairs(self, count: int = 6, images: int = 3) -> list[Confusion]:
        """The pairs of classes that are confused most often, most often first, with some of the images."""
        wrong = self.confusion_matrix().fill_diagonal_(0)
        order = wrong.flatten().argsort(descending=True, stable=True)[:count]
        found = []
        for label, predicted in ((int(i) // len(wrong), int(i) % len(wrong)) for i in order):
            if times := int(wrong[label, predicted]):
                these = ((self.labels == label) & (self.predicted == predicted)).nonzero()[:, 0]
                surest = these[self.probabilities[these].argsort(descending=True, stable=True)][:images]
                others = (self.labels == predicted).nonzero()[:, 0]
                example = int(self.positions[others[self.losses[others].argmin()]]) if len(others) else None
                names = self.classes[label], self.classes[predicted]
                found.append(Confusion(*names, times, self.positions[surest].tolist(), example))
        return found

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
            "accuracy_interval": [round(end, 4) for end in self.accuracy_interval],
            "top5_accuracy": None if self.top5_accuracy is None else round(self.top5_accuracy, 4),
            "macro_f1": round(self.macro_f1, 4),
            "balanced_accuracy": round(self.balanced_accuracy, 4),
            "loss": round(self.loss, 6),
            "calibration": self._calibration(calibrated=False),
            "calibrated": None if self.temperature is None else self._calibration(calibrated=True),
            "classes": [_rounded(row._asdict()) for row in self.per_class()],
            "confusion": confusion,
            "highest_losses": [_rounded(row._asdict()) for row in self.top_losses(LISTED_LOSSES)],
        }

    def _calibration(self, calibrated: bool) -> dict[str, Any]:
        return {
            "temperature": self.temperature if calibrated else 1.0,
            "expected_calibration_error": round(self.expected_calibration_error(calibrated), 4),
            "reliability": [_rounded(row._asdict()) for row in self.reliability(calibrated)],
        }

    def lines(self) -> list[str]:
        """The classes as a table for the console."""
        width = max(5, *map(len, self.classes))
        lines = [f"{'class':{width}s}  images  precision    recall        F1  most often confused with"]
        for row in self.per_class():
            cells = ("-" if share is None else f"{share:.2f} %" for share in (row.precision, row.recall, row.f1))
            taken = f"{row.taken_for} ({row.times})" if row.taken_for else ""
            precision, recall, f1 = (f"{cell:>8s}" for cell in cells)
            lines.append(f"{row.name:{width}s}  {row.images:6d}   {precision}  {recall}  {f1}  {taken}")
        return [line.rstrip() for line in lines]

    def figures(self) -> list[str]:
        """Accuracy and calibration of all images, for the console."""
        top5 = "" if self.top5_accuracy is None else f", top-5 {self.top5_accuracy:.2f} %"
        calibrated = ""
        if self.temperature is not None:
            error = self.expected_calibration_error(calibrated=True)
            calibrated = f"; {error:.2f} with the temperature {self.temperature:g}"
        low, high = self.accuracy_interval
        balanced = f"mean of the classes {self.balanced_accuracy:.2f} %, {self.macro_f1_name} {self.macro_f1:.2f} %"
        return [
            f"{self.accuracy:.2f} % of {len(self)} images (95 % interval: {low:.2f} to {high:.2f} %){top5}",
            f"{balanced}, loss {self.loss:.4f}",
            f"expected calibration error {self.expected_calibration_error():.2f} points{calibrated}",
        ]


@torch.no_grad()
def evaluate_network(
    network: Network,
    images: Images,
    form: ImageFormat,
    batch_size: int,
    positions: Tensor | None = None,
    *,
    flip: bool = False,
    temperature: float | None = None,
    keep_logits: bool = False,
) -> Evaluation:
    """Evaluates a network on unmixed centre crops.

    Nothing is brought to the CPU before the end.

    Args:
        network: on the images' device.
        images: the images, in memory or streamed.
        form: size and normalisation of the crops.
        batch_size: images at a time.
        positions: int64[n], which of the images; all of them if not given.
        flip: take the mean probabilities of an image and its mirror image.
        temperature: of the network, where it has one, for calibrated probabilities besides.
        keep_logits: keep all logits, which takes the memory of n x K numbers; with ``flip``, logarithms of the mean.
    """
    if positions is None:
        positions = torch.arange(len(images), device=images.labels.device)
    training = network.training
    network.eval()
    no_label = positions[:0]
    no_logits = no_label.float()[:, None].expand(0, len(network.classes))
    found = [_judged(no_logits, no_label, temperature, keep_logits)]  # a process may have no image
    batches = center_crop_batches(images, form, batch_size, positions, flip=flip)
    for batch, labels in progress(batches, len(positions), "evaluating", count=lambda one: len(one[1])):
        logits = network(batch).float()
        found.append(_judged(logits, labels, temperature, keep_logits))
    network.train(training)
    columns: dict[str, Any] = {name: torch.cat([part[name] for part in found]).cpu() for name in found[0]}
    return Evaluation(network.classes, positions.cpu(), **columns, temperature=temperature)


def _judged(logits: Tensor, labels: Tensor, temperature: float | None, keep_logits: bool) -> dict[str, Tensor]:
    """What an evaluation keeps of a batch, under its names: of B labels, and the logits of as many or twice as many."""
    scores = averaged(logits, len(labels))
    predicted, true = scores.argmax(1), scores.gather(1, labels[:, None])
    # Of equally likely classes argmax takes the first. What is not a number counts as likelier than all.
    before = torch.arange(scores.shape[1], device=labels.device) < labels[:, None]
    above = ~(scores <= true) | ((scores == true) & before)
    probabilities = scores.softmax(1).gather(1, predicted[:, None])[:, 0]
    found = {
        "labels": labels,
        "predicted": predicted,
        "probabilities": probabilities.masked_fill(~logits_are_finite(logits, len(labels)), math.nan),
        "losses": F.cross_entropy(scores, labels, reduction="none"),
        "ranks": above.sum(1),
    }
    if temperature is not None:
        calibrated = averaged(logits / temperature, len(labels)).softmax(1)
        found["calibrated"] = calibrated.gather(1, predicted[:, None])[:, 0]
    return found | ({"logits": scores} if keep_logits else {})


def logits_are_finite(logits: Tensor, images: int) -> Tensor:
    """bool[images]: whether all logits of an image, and of its mirror image where there are these, are finite."""
    finite = logits.isfinite().all(1)
    return finite if len(logits) == images else finite.view(2, images).all(0)


def averaged(logits: Tensor, images: int) -> Tensor:
    """Logits of so many images as they are, or, of their mirror images besides, logarithms of mean probabilities.

    Either gives the probabilities by a softmax. ``logits`` are float[B, K], or float[2 B, K], the mirror images' last.
    """
    if len(logits) == images:
        return logits
    one, other = logits.log_softmax(1).split(images)
    return torch.logaddexp(one, other) - math.log(2)


def merge_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """Joins evaluations of different images by the same network into one, in the order of the images' positions.

    Raises ValueError where an image is in two parts.
    """
    positions, order = torch.cat([part.positions for part in parts]).sort()
    if (positions[1:] == positions[:-1]).any():
        raise ValueError("parts: expected each image in one part, got one in two of them")
    first = parts[0]
    names = [name for name, value in vars(first).items() if isinstance(value, Tensor) and name != "positions"]
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts])[order] for name in names}
    return replace(first, positions=positions, **joined)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
