"""The interface of a transfer method: what a step looks at, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..batches.sampler import Sampler
from ..models.network import Network
from ..selection.statistics import LabelledBatches
from ..settings.fields import Settings

Batches = Callable[[], LabelledBatches]
"""Gives, each time it is called, one pass over the training images: unmixed centre crops with their labels."""


class Method(ABC):
    """One way to train.

    A new run makes the method with the network as it starts, and calls :meth:`prepare`; a resumed run calls
    :meth:`load_state_dict` instead. Each step then calls :meth:`draw`, :meth:`before_step`, :meth:`inputs` and
    :meth:`loss`, in this order. ``step`` counts all steps of the run from 0; ``steps`` are those of fine-tuning, to
    which :meth:`source_phase_steps` come on top.

    Raises ValueError where the network lacks what the method needs.
    """

    uses_source: ClassVar[bool] = False
    """Whether it needs auxiliary images, and a source head."""
    uses_classifier: ClassVar[bool] = False
    """Whether it needs a source head that starts as the pretrained classifier; auxiliary images it may do without."""

    has_unused_parameters: ClassVar[bool] = False
    """Whether some parameters that are trained have no part in some steps' losses."""

    def __init__(self, settings: Settings, network: Network) -> None:
        self.settings = settings
        self.weight_decay = settings.weight_decay
        """What the optimiser decays all weights by."""
        self.state: dict[str, Tensor] = {}
        """What a resumed run needs, on the network's device: filled in here, changed in place by :meth:`prepare`."""

    def prepare(self, network: Network, batches: Batches) -> None:
        """Measures what the method needs to know of the training images. Here: nothing."""
        return

    def source_phase_steps(self, steps: int) -> int:
        """How many steps come before ``steps`` of fine-tuning, as a phase with a learning rate schedule of its own."""
        return 0

    def draw(self, sampler: Sampler, step: int) -> Draw:
        """What is random in a step."""
        return sampler.draw(step)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        """What changes as training goes on. Here: nothing."""
        return

    @abstractmethod
    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        """The batches that the step looks at, each [B, 3, H, W]."""

    @abstractmethod
    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        """The scalar to minimise, for what :meth:`inputs` gave."""

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        """What to write above the images of each batch of :meth:`inputs`, for batch.png. Here: the target class."""
        return [[target_classes[label] for label in draw.label.tolist()]]

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that is resumed needs, besides network, optimiser and step. The tensors are the method's own."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises ValueError for tensors of other names or shapes, as of another method or network.
        """
        if state.keys() != self.state.keys():
            odd = sorted(state.keys() ^ self.state.keys())
            raise ValueError(f"state: expected {len(self.state)} tensors, got {len(state)}; not in both: {odd[:3]}")
        for name, tensor in self.state.items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"state: {name}: expected {list(tensor.shape)}, got {list(state[name].shape)}")
            tensor.copy_(state[name])

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each sample, float[B], smoothed as the settings say."""
        smoothing = self.settings.label_smoothing
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


def mixed_titles(lam: Tensor, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Titles of mixed images: weight and class of one, then class of the other."""
    return [f"{weight:.2f} {a}\n+ {b}" for weight, a, b in zip(lam.tolist(), first, second, strict=True)]
