"""Settings and options out of flags, and the exit status of commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from xmixup_fast import train
from xmixup_fast.cli import exit_status, parse_options, parse_settings
from xmixup_fast.runtime.signals import Interrupted
from xmixup_fast.settings.fields import Settings

REQUIRED = ["--target", "t", "--model", "m"]


def settings(*flags: str) -> Settings:
    return parse_settings([*REQUIRED, *flags], "xmixup train", None)


def test_flags_of_every_type() -> None:
    assert settings("--lr", "1e-3", "--steps", "7").lr == 0.001
    assert settings("--batch_size", "7", "--no_flip") == settings("--batch-size=7", "--no-flip")
    assert settings("--no-no-norm-decay", "--flip") == settings()
    assert settings("--no-norm-decay").no_norm_decay
    assert settings("--steps", "None", "--source", "None", "--epochs", "3") == settings("--epochs", "3")
    assert settings("--resize", "full").resize == "full" and settings("--resize", "300").resize == 300
    assert settings("--source", "a").source == "a" and settings("--source", "a", "b").source == ["a", "b"]
    assert settings("--loggers", "wandb").loggers == "wandb"
    assert settings("--loggers", "wandb", "tensorboard").loggers == ["wandb", "tensorboard"]
    assert settings("--output", "a_b=c").output == "a_b=c"  # dashes in names of flags alone
    assert settings("--cache", "none").cache == "none"


def test_flags_come_on_top_of_files_and_files_on_top_of_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text("lr: 0.3\nepochs: 7\nmodel: recipe\nalpha: 0.9\n")
    (tmp_path / "config.yaml").write_text("lr: 0.2\nepochs: 6\ntarget: t\n")
    monkeypatch.setattr("xmixup_fast.settings.yaml_file.RECIPES", tmp_path)
    given = parse_settings(
        ["--recipe", "small", "--lr", "0.1", "--config", str(tmp_path / "config.yaml")], "xmixup train", None
    )
    assert (given.lr, given.epochs, given.alpha, given.model, given.target) == (0.1, 6, 0.9, "recipe", "t")
    with pytest.raises(ValueError, match="recipe: expected one of config, small, got large"):
        settings("--recipe", "large")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command takes."""

    run: str
    """A folder."""
    files: list[str]
    """Some files."""
    parts: list[int] | None = None
    """Their parts."""
    dry: bool = False
    """Do nothing."""


def options(*arguments: str) -> Options:
    return parse_options(Options, arguments, "xmixup try", None, positional={"run": "RUN", "files": "FILE"})


def test_options_with_and_without_flags() -> None:
    assert options("r", "--parts", "1", "2", "--dry", "a", "b") == Options(
        run="r", files=["a", "b"], parts=[1, 2], dry=True
    )
    assert options("r", "a", "--parts", "1") == Options(run="r", files=["a"], parts=[1])
    assert options("r", "a", "--parts", "None") == options("r", "--", "a")
    with pytest.raises(ValueError, match=r"--no-dry is no flag of xmixup try; did you mean --dry\?"):
        options("r", "a", "--no-dry")


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        raise error

    return work


def test_the_exit_status_tells_how_work_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: None) == 0 and exit_status(lambda: 1) == 1
    assert capsys.readouterr() == ("", "")
    for error, status, said in (
        (ValueError("lr: too high"), 2, "error: lr: too high\n"),
        (FileExistsError("output: is there"), 2, "error: output: is there\n"),
        (ImportError("no extension"), 2, "error: no extension\n"),
        (Interrupted("stopped after step 3", signal.SIGTERM), 143, "stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ):
        assert exit_status(raising(error)) == status
        assert capsys.readouterr() == ("", said)
    with pytest.raises(RuntimeError):
        exit_status(raising(RuntimeError("a bug")))


def test_train_without_flags_is_the_demonstration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []
    monkeypatch.setattr("xmixup_fast.demo.main", lambda: started.append("demo"))
    assert train.main([]) == 0 and started == ["demo"]
    monkeypatch.setattr("xmixup_fast.demo.main", raising(FileExistsError("runs/demo: is there")))
    assert train.main([]) == 2 and capsys.readouterr().err == "error: runs/demo: is there\n"


@pytest.mark.parametrize("lines", [0, 1, 1000])
def test_whoever_reads_the_output_may_have_enough(lines: int) -> None:
    """As in ``xmixup sources | head -1``: whether the lines are flushed at once, or at the end."""
    work = f"lambda: print('line\\n' * {lines * 9})"
    code = f"from xmixup_fast.cli import exit_status; raise SystemExit(exit_status({work}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_there_need_not_be_an_output() -> None:
    """As with ``>&-`` in a shell, or in a service."""
    code = "import sys; from xmixup_fast.cli import exit_status; sys.stdout = None; sys.exit(exit_status(print))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
