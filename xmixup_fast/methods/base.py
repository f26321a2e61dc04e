"""The interface of a transfer method: what a step looks at, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..models import Network
from ..rendering import Renderer
from ..sampling import Draw
from ..settings import Settings

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives, each time it is called, one pass over the training images: unmixed centre crops with their labels."""


class Method(ABC):
    """One way to train. A step calls :meth:`before_step`, :meth:`inputs` and :meth:`loss`, in this order.

    What a method needs once, it makes when it is constructed, with the network as it starts and the training images:
    the starting weights (L2-SP), a frozen copy and its channel weights (DELTA), the class relationship (Co-Tuning).
    What is said of features is part of the loss (BSS). What changes as training goes on belongs to
    :meth:`before_step`: a head that is drawn anew (RIFLE), or a first phase on auxiliary images alone, which
    :meth:`inputs` and :meth:`loss` then follow (sequential training).
    """

    uses_source: ClassVar[bool] = False
    """Whether it needs a source folder: auxiliary images, and a source head."""

    def __init__(self, settings: Settings, network: Network, batches: Batches) -> None:
        self.settings = settings

    def before_step(self, network: Network, step: int, steps: int) -> None:
        """Called before each step, counted from 0, of ``steps``. Does nothing unless a method says otherwise."""
        return

    @abstractmethod
    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        """The batches that the step looks at, each float32[B, 3, H, W]."""

    @abstractmethod
    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        """The scalar to minimise, for what :meth:`inputs` gave."""

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        """What to write above the images of each batch of :meth:`inputs`, for batch.png. Here: the target class."""
        return [[target_classes[label] for label in draw.label.tolist()]]

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each sample, float[B], smoothed as the settings say."""
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.settings.label_smoothing)


def mixed_titles(lam: Tensor, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Titles of mixed images: weight and class of one, then class of the other."""
    return [f"{weight:.2f} {a}\n+ {b}" for weight, a, b in zip(lam.tolist(), first, second, strict=True)]
