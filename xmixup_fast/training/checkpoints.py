"""Checkpoints: all that a run needs to be resumed after a step and to end with the same bits, in safetensors files.

A checkpoint holds the network, the optimiser's state, averaged weights, loss scale, the method's state, metrics, and
the best weights so far. Nothing else is needed: order, crops, mixing and dropout follow from the seed and the step's
number, and config.yaml and selection.json in the run folder hold the settings and the selection. A file is written
under another name, synced and renamed, so it is whole or absent whenever the process dies. Nothing is unpickled, so a
checkpoint from elsewhere runs no code. tests/support/kill_runs.py kills runs at random moments and compares results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.manifest import Manifest
from ..runtime.tensor_files import write_tensors
from ..settings.fields import Settings
from ..settings.identity import run_hash

FORMAT = "xmixup_fast checkpoint 1"
PATTERN = "step-{:09d}.safetensors"


class Checkpoint(NamedTuple):
    """The state of a run after ``step`` steps."""

    step: int
    tensors: dict[str, Tensor]
    notes: dict[str, Any]
    """Values that are no tensors, such as metrics; stored as JSON."""
    about: Mapping[str, Any] | None = None
    """Of what network it is, for those who take its weights: values by name, each stored as JSON; None for a state that
    is not to be saved."""


class Checkpoints:
    """The newest checkpoints of a run, in a folder of their own.

    Args:
        folder: the folder, which is made when the first checkpoint is saved.
        run: identifies the run (see :func:`~xmixup_fast.settings.identity.run_hash`); files of other runs are not used.
        keep: the number of checkpoints that are kept.
        shorter: identifies the same run as it was before it was made longer, whose checkpoints are read, too.
    """

    def __init__(self, folder: Path, run: str, keep: int, shorter: str | None = None) -> None:
        self.folder = folder
        self.run = run
        self.keep = keep
        self.shorter = shorter

    @classmethod
    def of(cls, settings: Settings, manifest: Manifest, shorter: Settings | None = None) -> Checkpoints:
        """The checkpoints of the run whose images the manifest names: where they are is not part of what the run is.

        ``shorter`` are the settings that it was begun with, where it is made longer.
        """
        run = run_hash(replace(settings, target=manifest.fingerprint))
        before = None if shorter is None else run_hash(replace(shorter, target=manifest.fingerprint))
        return cls(Path(str(settings.output), "checkpoints"), run, settings.checkpoints_kept, before)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes the oldest until ``keep`` are left.

        Raises OSError, which names the file, where it cannot be written. Earlier checkpoints are still there then.
        """
        path = self.folder / PATTERN.format(checkpoint.step)
        metadata = {
            **(checkpoint.about or {}),
            "format": FORMAT,
            "run": self.run,
            "step": checkpoint.step,
            "notes": checkpoint.notes,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, checkpoint.tensors, {name: json.dumps(value) for name, value in metadata.items()})
        except OSError as error:
            kept = "; the one before it is kept" if self._paths() else ""
            raise OSError(f"checkpoint: {path}: {error.strerror or error}{kept}") from error
        for old in self._paths()[: -self.keep]:
            old.unlink(missing_ok=True)

    def newest(self, log: Callable[[str], object]) -> Checkpoint | None:
        """The newest checkpoint that is readable and of this run; ``log`` gets a line about each newer file."""
        for path in reversed(self._paths()):
            try:
                return self._read(path)
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                log(f"checkpoint: {path}: not used ({error})")
        return None

    def before(self, step: int) -> str:
        """A text that names the newest checkpoint before a step, or says that there is none."""
        for path in reversed(self._paths()):
            digits = path.stem.removeprefix("step-")
            if digits.isdecimal() and int(digits) < step:
                return f"the last good checkpoint is of step {int(digits)}: {path}"
        return "there is no good checkpoint"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def _read(self, path: Path) -> Checkpoint:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            if metadata.get("format") != FORMAT:
                raise ValueError("not a checkpoint of this version of xmixup_fast")
            if metadata["run"] not in (self.run, self.shorter):
                raise ValueError("of a run with other settings")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return Checkpoint(int(metadata["step"]), tensors, metadata["notes"])
