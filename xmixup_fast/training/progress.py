"""The state of a run besides its trainer's: losses, metrics, and the best weights so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import BadFile
from ..settings.fields import Settings
from .checkpoints import Checkpoint
from .trainer import Trainer

NOTES = ("val_accuracy", "metrics", "bad", "best_accuracy", "best_step", "waited", "head_seconds")
"""Fields of :class:`RunState` that a checkpoint holds as JSON; it holds the other fields as tensors."""


@dataclass
class RunState:
    """What a run has measured so far, and the weights that were best at a validation."""

    seconds: list[float] = field(default_factory=list)
    """Duration of each step."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step of the current epoch."""
    val_accuracy: float = 0.0
    """Validation accuracy, in percent, when it was last measured."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    bad: list[BadFile] = field(default_factory=list)
    """Images that cannot be decoded and are left out."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The network's state at the best validation, on the CPU; empty before the first one, and with ``keep`` last."""
    best_accuracy: float = 0.0
    """The highest validation accuracy, in percent, without validations of a source phase."""
    best_step: int = 0
    """The last step after which it was measured; 0 before the first validation."""
    waited: int = 0
    """The number of validations since the first that measured it."""
    head_seconds: float = 0.0
    """Seconds that fits of the target head took besides the steps."""

    def record_validation(self, accuracy: float, trainer: Trainer, keep: str) -> None:
        """Counts a validation; with ``keep`` best, copies the weights where none before had a higher accuracy."""
        first = self.best_step == 0
        self.waited = 0 if first or accuracy > self.best_accuracy else self.waited + 1
        if first or accuracy >= self.best_accuracy:
            self.best_accuracy, self.best_step = accuracy, trainer.steps_done
            if keep == "best":
                state = trainer.final_network.state_dict()
                self.best = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def validations(self, images: int, keep: str) -> list[str]:
        """Lines with the best and the last validation accuracy, and a hint where they differ by more than chance.

        That is by more than two standard errors of an accuracy that lies between both, measured on so many images.
        """
        best, last = self.best_accuracy, self.val_accuracy
        lines = [
            f"validation: best {best:.2f} % after step {self.best_step}, last {last:.2f} %; the {keep} weights are kept"
        ]
        share = (best + last) / 200
        errors = 200 * math.sqrt(share * (1 - share) / images)
        if best - last > errors:
            advice = "--patience stops earlier" if keep == "best" else "--keep best keeps the weights of the best"
            lines.append(
                f"validation fell by {best - last:.2f} points since the best, more than two standard errors of "
                f"{images} images ({errors:.2f}): the run became worse; try fewer epochs or a smaller lr; {advice}"
            )
        return lines

    def stops_early(self, settings: Settings) -> bool:
        """Whether as many validations in a row as the settings' ``patience`` were no better than the best."""
        return settings.patience is not None and self.waited >= settings.patience

    def checkpoint(self, trainer: Trainer) -> Checkpoint:
        """A checkpoint of the trainer and of this state."""
        tensors = trainer.state_dict()
        for name in ("seconds", "losses"):
            tensors[f"progress.{name}"] = torch.tensor(getattr(self, name), dtype=torch.float64)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        notes = {name: getattr(self, name) for name in NOTES}
        network = trainer.network
        about = {name: getattr(network, name) for name in ("classes", "mean", "std")}
        about |= {"model": network.model_name, "image_size": trainer.settings.crop_size}
        return Checkpoint(trainer.steps_done, tensors, notes, about)

    @classmethod
    def of(cls, checkpoint: Checkpoint, bad: Sequence[BadFile]) -> RunState:
        """The state that a checkpoint holds, with bad images that were found since then.

        Removes the state's own tensors from the checkpoint, so that those of the trainer are left.
        """
        tensors, notes = checkpoint.tensors, dict(checkpoint.notes)
        seconds, losses = (tensors.pop(f"progress.{name}").tolist() for name in ("seconds", "losses"))
        best = {name.removeprefix("best."): tensors.pop(name) for name in list(tensors) if name.startswith("best.")}
        notes["bad"] = list(dict.fromkeys([*(BadFile(*item) for item in notes["bad"]), *bad]))
        return cls(seconds, losses, best=best, **notes)
