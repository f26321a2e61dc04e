"""How a part reports to bench/gpu.py: a file of JSON lines, each written as soon as it is known."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a part; a last one that was cut off is left out."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps(line) + "\n")
        opened.flush()
        os.fsync(opened.fileno())


@dataclass
class Figures:
    """The figures of a part. Those that its file has already are not measured again."""

    file: Path
    known: set[str] = field(init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.known = {line["name"] for line in read(self.file) if "error" not in line}

    def measure(self, name: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Adds a line with the name and what ``measured`` returns; or with the error, after which others go on."""
        if name in self.known:
            return
        try:
            line = measured()
        except Exception as error:
            line = {"error": f"{type(error).__name__}: {error}"[:2000]}
            self.failed = True
        append(self.file, {"name": name, **line})
        print(f"{name}: {json.dumps(line)}", flush=True)


def main(measure_all: Callable[[Figures, argparse.Namespace], None], given: Sequence[str] | None = None) -> None:
    """Runs a part of benchmarks; exits with 1 where a figure could not be measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=Path, required=True, help="file of JSON lines to add to")
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"), help="cpu: tiny sizes, to rehearse")
    parser.add_argument("--photos", type=Path, required=True, help="folder of target/ and source/")
    asked = parser.parse_args(given)
    figures = Figures(asked.lines)
    measure_all(figures, asked)
    sys.exit(1 if figures.failed else 0)
