"""Progress of long passes: a bar on a terminal, a line at least every half minute in any other log."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import run

import xmixup_fast
from xmixup_fast.runtime import progress as module
from xmixup_fast.runtime.progress import Progress, progress
from xmixup_fast.runtime.threads import in_flight


def test_half_a_minute_is_the_longest_silence() -> None:
    assert module.LINE_SECONDS <= 30


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)


@pytest.mark.usefixtures("often")
def test_a_log_gets_lines_also_while_one_step_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "training", unit="steps", done=2) as bar:
        bar.update(2, loss="0.5")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r"training: 4 of 10 steps, loss 0\.5, \d\d:\d\d left", line) for line in lines)
    time.sleep(0.15)
    assert not capsys.readouterr().err, "a pass that has ended is silent"


def test_threads_may_count_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Progress(None, "fetching", unit="B") as bar:
            list(in_flight(lambda i: [bar.update(1, n=str(i)) for _ in range(2000)], range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert bar.done == 16_000


@pytest.mark.usefixtures("often")
def test_a_line_of_the_pass_itself_postpones_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, "decoding") as bar:
        for _ in range(20):
            bar.write("epoch")
            time.sleep(0.01)
    console = capsys.readouterr()
    assert console.out == "epoch\n" * 20 and len(console.err.splitlines()) <= 2


@pytest.mark.usefixtures("often")
def test_items_are_passed_on_and_counted_and_short_passes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("abc", 3, "spelling")) == ["a", "b", "c"]
    assert not capsys.readouterr().err
    for _ in progress([[1, 2], [3]], 3, "spelling", unit="letters", count=len):
        time.sleep(0.12)
    assert "spelling: 2 of 3 letters" in capsys.readouterr().err
    for _ in progress(range(2), 2, "spelling", hidden=True):
        time.sleep(0.12)
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("often")
def test_only_the_first_process_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.distributed, "rank", lambda: 1)
    for _ in progress(range(2), 2, "spelling"):
        time.sleep(0.12)
    assert not capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("often")
def test_a_terminal_gets_a_bar_and_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in progress(range(3), 3, "spelling"):
        time.sleep(0.12)
    assert "spelling: " in terminal.getvalue() and "2/3" in terminal.getvalue() and "\n" not in terminal.getvalue()


@pytest.mark.usefixtures("often")
def test_every_long_pass_of_a_run_says_how_far_it_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading, decoding, selection, training and evaluation, where each item takes long."""
    original = Progress.update

    def slow(self: Progress, count: int = 1, **shown: str) -> None:
        original(self, count, **shown)
        time.sleep(0.06 if self.done < 4 * count else 0)

    monkeypatch.setattr(Progress, "update", slow)
    run(data, tmp_path / "run", selection="feature", cache="none", batch_size=4)
    titles = {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()}
    passes = {"reading images", "decoding train images", "decoding auxiliary images", "evaluating", "training"}
    assert passes | {"looking at training images", "source images"} <= titles


def test_bars_are_those_of_notebooks_in_notebooks() -> None:
    """No other module makes bars of its own, which notebooks would show as text."""
    folder = Path(xmixup_fast.__file__).parent
    users = [path.name for path in folder.rglob("*.py") if re.search(r"\btqdm\b", path.read_text(encoding="utf-8"))]
    assert sorted(users) == ["__init__.py", "progress.py"]  # the first filters a warning of it


def test_help_does_not_wait_for_tqdm() -> None:
    program = "import sys, xmixup_fast.cli; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
