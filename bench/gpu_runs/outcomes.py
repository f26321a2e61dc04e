"""A plugin of pytest: the outcome of each test as a JSON line, as soon as it is known.

Tests that passed before, as the file says, are left out.

python -m pytest -p gpu_runs.outcomes --lines FILE
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .lines import append, read


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", type=Path, required=True, help="file of JSON lines to add to")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # of pytest-xdist, whose controller hears of all tests
        config.pluginmanager.register(Outcomes(config.getoption("--lines")))


@pytest.hookimpl(trylast=True)  # after the choice by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    passed = {line["test"] for line in read(config.getoption("--lines")) if line["outcome"] == "passed"}
    known = [item for item in items if item.nodeid in passed]
    if known:
        config.hook.pytest_deselected(items=known)
        items[:] = [item for item in items if item.nodeid not in passed]


class Outcomes:
    """Writes a line for each test."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test's call says what came of it; setup and teardown do where something went wrong, or setup skipped it.
        if report.when == "call" or report.outcome != "passed":
            line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
            append(self.file, line if report.passed else {**line, "why": why(report)})


def why(report: pytest.TestReport) -> str:
    """The reason of a skip, or the end of a failure."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext[-2000:]
