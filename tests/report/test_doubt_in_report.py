"""Doubts of a selection reach all that shows it, also from the file of another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import run

MARKED = {
    "blue": [{"class": "sky", "score": 0.5}],
    "green": [{"class": "snow", "score": 0.01, "doubtful": True}],
    "red": [{"class": "grass", "score": 0.02, "doubtful": True}],
}


def test_marks_are_in_the_log_in_selection_json_and_in_the_report(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "selection.json"
    path.write_text(json.dumps({"classes": MARKED}))
    run(data, tmp_path / "run", selection_file=str(path), report=True)
    said = capsys.readouterr().out
    doubt = "(?): the best of as many unrelated classes may well score as much; look at these on the contact sheet"
    assert doubt in said and "snow 0.010 (?)" in said and "sky 0.500\n" in said
    assert json.loads((tmp_path / "run" / "selection.json").read_text())["classes"] == MARKED
    assert doubt in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_without_marks_nothing_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data, tmp_path / "run", report=True)
    assert "(?)" not in capsys.readouterr().out
    assert "(?)" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
