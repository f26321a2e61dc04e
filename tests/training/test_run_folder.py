"""What a run writes while it trains: metrics files, loggers, console lines, also when it is interrupted and resumed."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import interrupted, run
from small_runs import arguments, flags

from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.train import main
from xmixup_fast.training import loggers
from xmixup_fast.training.run_folder import RunFolder

SETTINGS = {"method": "finetune", "checkpoint_steps": 2}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def interrupted_with_checkpoint_at(data: Path, output: Path, step: int, **settings: Any) -> None:
    """A run interrupted after step 7 that then lost its checkpoints after ``step``; its epochs end at 3, 5 and 7."""
    interrupted(data, output, 7, **SETTINGS, checkpoints_kept=5, **settings)
    for path in (output / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def test_metrics_csv_equals_metrics_jsonl_in_a_resumed_run(data: Path, tmp_path: Path) -> None:
    interrupted_with_checkpoint_at(data, tmp_path / "run", 4)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [3, 5, 7]
    run(data, tmp_path / "run", resume="auto", **SETTINGS)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 5, 7, 8]
    assert rows == [{name: "" if value is None else str(value) for name, value in line.items()} for line in lines]


def test_tensorboard_has_each_step_once_after_an_interruption(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted_with_checkpoint_at(data, tmp_path / "run", 4, loggers=["tensorboard"])
    for _ in range(2):  # resuming a finished run logs nothing new
        result = run(data, tmp_path / "run", resume="auto", loggers=["tensorboard"], **SETTINGS)
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    lines = metrics(result.folder)
    for name in ("train_loss", "val_accuracy", "lr", "images_per_second"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [3, 5, 7, 8]
        assert [scalar.value for scalar in scalars] == pytest.approx([line[name] for line in lines])
    assert [scalar.value for scalar in events.Scalars("test_accuracy")] == pytest.approx(
        [result.summary["test_accuracy"]]
    )


class FakeWandb(types.ModuleType):
    """A stand-in for the functions of wandb that the logger calls; records their arguments."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.errors = types.SimpleNamespace(Error=RuntimeError)

    def init(self, **options: Any) -> Any:
        self.started.append(options)
        return types.SimpleNamespace(
            id=options["id"] or "made-up",
            log=lambda values, step: self.logged.append((step, values)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


def test_weights_and_biases_gets_each_step_once_after_an_interruption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(loggers, "logger_names", lambda settings: ["wandb"])
    monkeypatch.setattr("xmixup_fast.training.run_folder.logger_names", lambda settings: ["wandb"])
    interrupted_with_checkpoint_at(data, tmp_path / "run", 4)
    assert [step for step, _ in fake.logged] == [3, 5, 7] and fake.finished == 1
    result = run(data, tmp_path / "run", resume="auto", **SETTINGS)
    assert [step for step, _ in fake.logged] == [3, 5, 7, 8, 9] and fake.finished == 2
    assert fake.logged[-1][1] == {"test_accuracy": result.summary["test_accuracy"]}
    assert fake.logged[3][1]["train_loss"] == metrics(result.folder)[-1]["train_loss"]
    assert [(options["id"], options["resume"]) for options in fake.started] == [(None, None), ("made-up", "allow")]
    assert fake.started[0]["config"]["lr"] == 0.01 and fake.started[0]["dir"] == str(tmp_path / "run")


def test_weights_and_biases_works_offline(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = run(data, tmp_path / "run", loggers="wandb", **SETTINGS)
    wandb.teardown()  # waits until W&B's background process has written everything
    (written,) = (result.folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train_loss" in written.read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "wandb").mkdir()  # a folder as W&B writes it, which is no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    settings = {**arguments(tmp_path / "absent", tmp_path / "run"), "loggers": name}
    assert main(flags(settings)) == 2
    assert capsys.readouterr().err == f"error: loggers: {name} is not installed; pip install {name}\n"
    assert not (tmp_path / "run").exists()


def test_loggers_and_report_do_not_change_the_hash_of_a_run() -> None:
    plain = Settings(target="a", model="b")
    shown = Settings(target="a", model="b", loggers=["tensorboard", "wandb"], report=False)
    assert run_hash(plain) == run_hash(shown)
    with pytest.raises(ValueError, match="loggers: expected one of tensorboard, wandb, got 'comet'"):
        Settings(target="a", model="b", loggers=["comet"])  # type: ignore[list-item]


def test_a_log_gets_a_line_an_epoch_with_the_time_left_and_no_bar(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path / "run", **SETTINGS)
    console = capsys.readouterr()
    epochs = [line for line in console.out.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 4 and console.err == ""
    assert all(re.search(r"validation \d+\.\d\d %  \d+\.\d images/s  \d\d:\d\d left$", line) for line in epochs[:3])
    assert epochs[3].endswith("images/s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_loss_validation_speed_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run_folder = RunFolder(tmp_path)
    line = {"epoch": 1, "step": 1, "lr": 0.1, "train_loss": 0.5, "val_accuracy": 62.5, "images_per_second": 9.0}
    with run_folder.progress(40):
        for loss in (0.5, 0.25, 0.125):
            time.sleep(0.11)  # the bar is drawn ten times a second
            run_folder.step(8, loss)
            if loss == 0.5:
                run_folder.epoch(line)
    bars = terminal.getvalue().split("\r")
    assert any("loss=0.125, validation=62.50 %" in bar and "images/s" in bar and "24/40" in bar for bar in bars)
    assert "epoch   1" in capsys.readouterr().out
