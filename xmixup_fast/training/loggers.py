"""Loggers: metrics for TensorBoard and Weights & Biases, as they come."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ..runtime.files import write_text
from ..settings.fields import Settings


class Logger(ABC):
    """Takes a run's metrics.

    Args:
        folder: the run folder, which is there.
        settings: of the run.
        step: after which the run goes on; 0 for a new one. What was logged of later steps is to be forgotten.
    """

    @abstractmethod
    def __init__(self, folder: Path, settings: Settings, step: int) -> None: ...

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Values by name, measured after a step."""

    @abstractmethod
    def close(self) -> None:
        """Everything is on disk, or sent, when this returns."""


class TensorBoard(Logger):
    """Writes event files to the run folder's folder tensorboard."""

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard forgets what an interrupted run wrote from this step on.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # so that no checkpoint is newer than what is on disk

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Logger):
    """Logs to Weights & Biases; WANDB_MODE=offline keeps everything in the run folder's folder wandb.

    A run there can take nothing back: steps that were logged before an interruption are not logged again. wandb.json in
    the run folder tells its id and the last step that it got.
    """

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        import wandb

        self.path = folder / "wandb.json"
        known = json.loads(self.path.read_text()) if step and self.path.exists() else {}
        self.last: int = known.get("step", 0)
        try:
            self.run = wandb.init(
                project="xmixup_fast",
                name=folder.name,
                id=known.get("id"),
                resume="allow" if known else None,
                dir=str(folder),
                config=asdict(settings),
            )
        except wandb.errors.Error as error:
            raise ValueError(f"loggers: wandb: {error}; WANDB_MODE=offline needs no account") from error
        self._remember()

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step <= self.last:
            return
        self.last = step
        self._remember()  # before it is logged: a kill in between may lose a step, but not log it twice
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()

    def _remember(self) -> None:
        write_text(self.path, json.dumps({"id": self.run.id, "step": self.last}) + "\n")


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def chosen(settings: Settings) -> Sequence[str]:
    """The loggers that the settings name. Raises ValueError where the package of one is not installed."""
    names = [settings.loggers] if isinstance(settings.loggers, str) else settings.loggers or []
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder, such as W&B's own, has no origin
            raise ValueError(f"loggers: {name} is not installed; pip install {name}")
    return names
