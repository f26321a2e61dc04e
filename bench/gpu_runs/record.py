"""What a run on a GPU has found so far: results.json and results.md, written anew after each line of a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .parts import PARTS
from .report import page

FINISHED = ("done", "skipped")
"""States of parts that are not run again."""


class Record:
    """The results in a folder. Those that the folder has already are gone on with.

    Args:
        folder: where results.json and results.md are; made if it is not there.
        machine: what gpu_runs/machine.py says.

    Raises ValueError where the results in the folder are another device's.
    """

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        self.folder = folder
        self.file = folder / "results.json"
        self.results: dict[str, Any] = {"machine": machine, "parts": {}}
        if self.file.exists():
            self.results["parts"] = json.loads(self.file.read_text())["parts"]
            there = json.loads(self.file.read_text())["machine"]["device"]
            if there != machine["device"]:
                raise ValueError(
                    f"output: expected a folder for {machine['device']}, got {folder} with results of {there}"
                )
        folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str) -> dict[str, Any]:
        """The entry of a part: its state, seconds and lines."""
        entry: dict[str, Any] = self.results["parts"].setdefault(
            name, {"state": "not begun", "seconds": 0, "lines": []}
        )
        return entry

    def is_finished(self, name: str) -> bool:
        return self.part(name)["state"] in FINISHED

    def write(self) -> None:
        """Replaces both files, each as a whole."""
        order = {part.name: self.part(part.name) for part in PARTS}
        self.results["parts"] = order
        _replace(self.file, json.dumps(self.results, indent=1) + "\n")
        _replace(self.folder / "results.md", page(self.results))


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}.part")
    with new.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(new, file)
