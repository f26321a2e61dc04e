"""What is known of a run so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import BadFile
from ..settings.fields import Settings
from .checkpoints import Checkpoint
from .trainer import Trainer

NOTED = ("val_accuracy", "metrics", "bad", "best_accuracy", "best_step", "waited")
"""What a checkpoint's notes hold of the progress."""


@dataclass
class RunState:
    """What is known of a run so far."""

    seconds: list[float] = field(default_factory=list)
    """Of each step."""
    losses: list[float] = field(default_factory=list)
    """Of the steps of the epoch at hand."""
    val_accuracy: float = 0.0
    """In percent, when it was last measured."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    bad: list[BadFile] = field(default_factory=list)
    """Images that are left out."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The network's state at the best validation, on the CPU; empty without patience, and before the first one."""
    best_accuracy: float = 0.0
    """What that validation found, in percent."""
    best_step: int = 0
    """The step after which it was."""
    waited: int = 0
    """Validations since."""

    def validated(self, accuracy: float, trainer: Trainer) -> None:
        """Keeps the weights where a validation is the best so far. Of equal ones the first is."""
        self.waited += 1
        if not self.best or accuracy > self.best_accuracy:
            self.best = {
                name: tensor.to("cpu", copy=True) for name, tensor in trainer.final_network.state_dict().items()
            }
            self.best_accuracy, self.best_step, self.waited = accuracy, trainer.steps_done, 0

    def is_over(self, settings: Settings) -> bool:
        """Whether the settings' patience is at its end."""
        return settings.patience is not None and self.waited >= settings.patience

    def checkpoint(self, trainer: Trainer) -> Checkpoint:
        """The trainer's state, and this."""
        tensors = trainer.state_dict()
        for name in ("seconds", "losses"):
            tensors[f"progress.{name}"] = torch.tensor(getattr(self, name), dtype=torch.float64)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        notes = {name: getattr(self, name) for name in NOTED}
        return Checkpoint(trainer.steps_done, tensors, notes)

    @classmethod
    def of(cls, checkpoint: Checkpoint, bad: Sequence[BadFile]) -> RunState:
        """What :meth:`checkpoint` kept, whose tensors it takes away; and images that were found to be bad since."""
        tensors, notes = checkpoint.tensors, checkpoint.notes
        seconds, losses = (tensors.pop(f"progress.{name}").tolist() for name in ("seconds", "losses"))
        best = {name.removeprefix("best."): tensors.pop(name) for name in list(tensors) if name.startswith("best.")}
        known = dict.fromkeys([*(BadFile(*item) for item in notes["bad"]), *bad])
        return cls(seconds, losses, best=best, **{**notes, "bad": list(known)})
