"""What a run on a GPU has found so far: results.json and results.md, written anew after each line of a part."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parts import Part
from .report import page

FINISHED = ("done", "skipped")
"""States of parts that are not run again."""


class Record:
    """The results in a folder. Those that the folder has already are gone on with.

    Args:
        folder: where results.json and results.md are; made if it is not there.
        machine: what gpu_runs/machine.py says.
        parts: all parts, in their order.

    Raises ValueError where the results in the folder are another device's.
    """

    def __init__(self, folder: Path, machine: dict[str, Any], parts: Sequence[Part]) -> None:
        self.folder = folder
        self.file = folder / "results.json"
        stored = json.loads(self.file.read_text()) if self.file.exists() else {"machine": machine, "parts": {}}
        there = stored["machine"]["device"]
        if there != machine["device"]:
            raise ValueError(f"output: expected a folder for {machine['device']}, got {folder} with results of {there}")
        self.parts: dict[str, dict[str, Any]] = {}
        """By name of a part: its state, seconds and lines."""
        for part in parts:
            new = {"state": "not begun", "seconds": 0, "lines": []}
            self.parts[part.name] = stored["parts"].get(part.name, new) | {"what": part.what, "tests": part.is_tests}
        self.results = {"machine": machine, "parts": self.parts}
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def is_finished(self, name: str) -> bool:
        return self.parts[name]["state"] in FINISHED

    def write(self) -> None:
        """Replaces both files, each as a whole."""
        _replace(self.file, json.dumps(self.results, indent=1) + "\n")
        _replace(self.folder / "results.md", page(self.results))


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}.part")
    with new.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(new, file)
