"""The command xmixup as pip installs it: files in the working folder are not taken for Python's own modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made import TARGET, write_folder, write_plan

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""


@pytest.fixture
def xmixup(tmp_path: Path) -> Path:
    """The script that pip writes for the entry in pyproject.toml."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (entry,) = (line.partition(" = ")[2].strip('"') for line in lines if line.startswith("xmixup = "))
    module, _, function = entry.partition(":")
    path = tmp_path / "bin" / "xmixup"
    path.parent.mkdir()
    path.write_text(SCRIPT.format(python=sys.executable, module=module, function=function))
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose files are called as modules are, and must not be imported."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("select", "queue", "random", "numpy", "types", "xmixup_fast"):
        (folder / f"{name}.py").write_text("raise SystemExit(f'{__file__} is imported')\n")
    return folder


def run(script: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([script, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files_in_the_working_folder_are_not_imported(xmixup: Path, folder: Path) -> None:
    assert run(xmixup, folder, "--version").startswith("xmixup_fast 0.")
    assert "CPU level" in run(xmixup, folder, "info")
    assert run(xmixup, folder, "train", "--help").startswith("usage: xmixup train [DATASET] [FLAG ...]\n")


def test_files_in_the_working_folder_are_not_imported_by_the_workers_of_compare(xmixup: Path, folder: Path) -> None:
    write_folder(folder / "photos", TARGET, 10)
    plan = {
        **{"results": "results.jsonl", "model": "test_resnet", "weights": "none", "image_size": 32, "batch_size": 8},
        **{"steps": 1, "device": "cpu", "decoder": "torchvision", "threads": 1, "seeds": [0]},
        **{"targets": {"colours": {"target": "photos"}}, "methods": {"finetune": {}}},
    }
    run(xmixup, folder, "compare", write_plan(folder, plan))
    (line,) = (folder / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["test_accuracy"] is not None
