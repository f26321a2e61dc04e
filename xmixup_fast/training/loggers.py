"""Loggers: send metrics to TensorBoard and Weights & Biases while a run trains.

A resumed run repeats the steps after its last checkpoint, and must not log them twice. TensorBoard can forget steps;
W&B cannot, so a file in the run folder tells which step it got last.
"""

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
    """Logs the metrics of a run.

    Args:
        folder: the run folder, which exists.
        settings: the settings of the run.
        step: the step at which a run is resumed, 0 for a new run. Later steps will be logged again.
    """

    @abstractmethod
    def __init__(self, folder: Path, settings: Settings, step: int) -> None: ...

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by name, measured after a step."""

    @abstractmethod
    def close(self) -> None:
        """Returns once everything is on disk or sent."""


class TensorBoard(Logger):
    """Writes event files to the folder tensorboard in the run folder."""

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # On reading, TensorBoard drops what an interrupted run wrote for this step and later ones.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a checkpoint that is saved later must find these values on disk

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Logger):
    """Logs to Weights & Biases; with WANDB_MODE=offline, to the folder wandb in the run folder.

    W&B cannot remove steps from a run, so steps that were logged before an interruption are not logged again.
    wandb.json in the run folder holds the run's id and the last step that was logged.

    Raises ValueError where W&B refuses, for instance without an account.
    """

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        import wandb

        self.path = folder / "wandb.json"
        previous = json.loads(self.path.read_text()) if step and self.path.exists() else {}
        self.last: int = previous.get("step", -1)
        try:
            self.run = wandb.init(
                project="xmixup_fast",
                name=folder.name,
                id=previous.get("id"),
                resume="allow" if previous else None,
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
        self._remember()  # first, so that a kill between the two calls loses a step rather than logging it twice
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()

    def _remember(self) -> None:
        write_text(self.path, json.dumps({"id": self.run.id, "step": self.last}) + "\n")


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def logger_names(settings: Settings) -> Sequence[str]:
    """The names of the settings' loggers. Raises ValueError where the package of one is not installed."""
    names = [settings.loggers] if isinstance(settings.loggers, str) else settings.loggers or []
    for name in names:
        spec = find_spec(name)
        if (
            spec is None or spec.origin is None
        ):  # a folder without __init__.py, such as the one W&B writes, has no origin
            raise ValueError(f"loggers: {name} is not installed; pip install {name}")
    return names
