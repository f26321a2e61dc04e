"""What the tests of comparisons share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparisons import STAND_IN
from made import SOURCE, TARGET, write_folder
from made_up_runs import MadeUp

from xmixup_fast.comparison import workers


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[dict[str, Any]]]]:
    """Puts the stand-in in the worker's place; returns a function that gives the settings of all workers started."""
    log = tmp_path / "started"
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(workers, "COMMAND", [sys.executable, "-S", str(tmp_path / "stand_in.py")])
    monkeypatch.setenv("STARTED", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    return MadeUp.install(monkeypatch)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/ and source/."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", TARGET, 20)
    write_folder(tmp_path / "source", SOURCE, 2)
    return tmp_path
