"""Checkpoints: all that a run needs to go on from a step, to the same bits, in safetensors files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.tensor_files import write_tensors

FORMAT = "xmixup_fast checkpoint 1"
PATTERN = "step-{:09d}.safetensors"


class Checkpoint(NamedTuple):
    """The state of a run after a step."""

    step: int
    tensors: dict[str, Tensor]
    notes: dict[str, Any]
    """What else there is to remember, as JSON."""


class Checkpoints:
    """The newest checkpoints of a run, in a folder of their own.

    Args:
        folder: where they are; made when the first is saved.
        run: a text that tells runs apart; checkpoints of other runs are refused.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, run: str, keep: int) -> None:
        self.folder = folder
        self.run = run
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, which appears whole or not at all, then removes those that are too many.

        Raises OSError, which names the file, where it cannot be written; those before it are still there then.
        """
        path = self.folder / PATTERN.format(checkpoint.step)
        metadata = {"format": FORMAT, "run": self.run, "step": checkpoint.step, "notes": checkpoint.notes}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, checkpoint.tensors, {name: json.dumps(value) for name, value in metadata.items()})
        except OSError as error:
            kept = "; the one before it is kept" if self._paths() else ""
            raise OSError(f"checkpoint: {path}: {error.strerror or error}{kept}") from error
        for old in self._paths()[: -self.keep]:
            old.unlink(missing_ok=True)

    def newest(self, log: Callable[[str], object]) -> Checkpoint | None:
        """The newest checkpoint that can be used; ``log`` gets a line about each newer one that cannot."""
        for path in reversed(self._paths()):
            try:
                return self._read(path)
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                log(f"checkpoint: {path}: not used ({error})")
        return None

    def before(self, step: int) -> str:
        """Tells the user of the newest checkpoint of an earlier step."""
        for path in reversed(self._paths()):
            number = path.stem.removeprefix("step-")
            if number.isdecimal() and int(number) < step:
                return f"the last good checkpoint is of step {int(number)}: {path}"
        return "there is no good checkpoint"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def _read(self, path: Path) -> Checkpoint:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            if metadata.get("format") != FORMAT:
                raise ValueError("not a checkpoint of this version of xmixup_fast")
            if metadata["run"] != self.run:
                raise ValueError("of a run with other settings")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        return Checkpoint(int(metadata["step"]), tensors, metadata["notes"])
