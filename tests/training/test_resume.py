"""Resumed runs end with the same bits as uninterrupted ones, and checkpoints that are unusable are not used."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import STEPS, assert_same, interrupted, run, stop_after
from safetensors.torch import load_file, save_file
from small_runs import arguments, flags, without_times
from transfer import STEPPING

from xmixup_fast.models.build import build
from xmixup_fast.runtime.signals import catching_signals
from xmixup_fast.train import main
from xmixup_fast.training.checkpoints import Checkpoint, Checkpoints
from xmixup_fast.training.run import fit


@pytest.mark.parametrize("method", STEPPING)
def test_a_resumed_run_ends_with_the_same_bits(data: Path, tmp_path: Path, method: str) -> None:
    whole = run(data, tmp_path / "whole", method)
    storage = "stream" if STEPPING.index(method) % 2 else "resident"
    interrupted(data, tmp_path / "run", 5, method, storage=storage)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert_same(whole, run(data, tmp_path / "run", method, storage=storage, resume="auto"))


STEP_SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"amp": "bf16"},
    "fp16": {"amp": "fp16", "storage": "stream"},
    "average": {"ema_decay": 0.9},
    "best": {"ema_decay": 0.9, "patience": 9, "clip_grad": 0.5, "optimizer": "adamw", "lr": 1e-4},
    "heads": {"method": "seqtrain", "head_init": "probe", "refit_head": True, "ema_decay": 0.9, "storage": "stream"},
    "all": {"amp": "bf16", "ema_decay": 0.9, "grad_accum_steps": 2, "storage": "stream"},
}


@pytest.mark.parametrize("name", STEP_SETTINGS)
def test_a_resumed_run_with_other_kinds_of_steps_ends_with_the_same_bits(data: Path, tmp_path: Path, name: str) -> None:
    settings = STEP_SETTINGS[name]
    whole = run(data, tmp_path / "whole", **settings)
    interrupted(data, tmp_path / "run", 5, **settings)
    assert_same(whole, run(data, tmp_path / "run", **settings, resume="auto"))
    # Where an average is saved as the model, the weights themselves are in the checkpoints alone.
    states = [load_file(max((tmp_path / folder / "checkpoints").iterdir())) for folder in ("whole", "run")]
    assert states[0].keys() == states[1].keys()
    for key in states[0].keys() - {"progress.seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key


def test_the_loss_scale_is_resumed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the scale begins so high that gradients overflow, and doubles after three steps without overflow."""
    original = torch.amp.GradScaler

    def high_scale(device: str, enabled: bool) -> torch.amp.GradScaler:
        return original(device, init_scale=2.0**34, growth_interval=3, enabled=enabled)

    monkeypatch.setattr("torch.amp.GradScaler", high_scale)
    scales = {}
    whole = run(data, tmp_path / "whole", "finetune", amp="fp16")
    for step in (2, 5, 7):
        folder = tmp_path / f"run-{step}"
        interrupted(data, folder, step, "finetune", amp="fp16")
        state = load_file(max((folder / "checkpoints").iterdir()))
        scales[step] = float(state["scaler.scale"]), int(state["scaler._growth_tracker"])
        assert_same(whole, run(data, folder, "finetune", amp="fp16", resume="auto"))
    assert len(set(scales.values())) == 3


@pytest.mark.parametrize("selection", ["sample", "random", "feature"])
def test_a_resumed_run_reads_its_selection_and_does_not_select_again(
    data: Path, tmp_path: Path, selection: str
) -> None:
    whole = run(data, tmp_path / "whole", selection=selection, top_images=3)
    interrupted(data, tmp_path / "run", 3, selection=selection, top_images=3, cache="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmixup_fast.selection.selector.class_means", lambda *_: pytest.fail("passed over the images"))
        again = run(data, tmp_path / "run", selection=selection, top_images=3, cache="none", resume="auto")
    assert_same(whole, again)


def test_dropout_is_resumed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = build

    def with_dropout(*arguments: Any, **names: Any) -> Any:
        network = original(*arguments, **names)
        network.body.global_pool.register_forward_hook(
            lambda module, inputs, output: torch.nn.functional.dropout(output, 0.5, module.training)
        )
        return network

    monkeypatch.setattr("xmixup_fast.training.prepare.build", with_dropout)
    whole = run(data, tmp_path / "whole", "finetune")
    interrupted(data, tmp_path / "run", 4, "finetune")
    torch.rand(7)  # a generator in another state changes nothing
    assert_same(whole, run(data, tmp_path / "run", "finetune", resume="auto"))


def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(data, tmp_path / "run", resume="auto")
    monkeypatch.setattr("xmixup_fast.training.trainer.Trainer.step", lambda _: pytest.fail("trained"))
    again = run(data, tmp_path / "run", resume="auto")
    assert without_times(again.summary) == without_times(first.summary)
    assert again.summary["train_seconds"] == first.summary["train_seconds"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_how_to_resume(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    handler = signal.getsignal(number)
    stop_after(monkeypatch, 2, number)
    output = tmp_path / "run"
    line = flags(arguments(data, output, "finetune", steps=STEPS))
    assert main(line) == 128 + number
    stopped = f"stopped after step 2 of {STEPS}; resume with --resume auto --output {output}\n"
    assert capsys.readouterr().err == stopped
    assert signal.getsignal(number) is handler
    assert main(line) == 2
    assert "go on with --resume auto" in capsys.readouterr().err
    assert main([*line, "--resume", "auto"]) == 0
    assert f"resuming at step 2 of {STEPS}" in capsys.readouterr().out


def test_a_second_signal_interrupts_at_once() -> None:
    with catching_signals() as caught:
        assert caught() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert caught() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_with_other_settings_is_not_resumed(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", 3)
    with pytest.raises(
        ValueError, match=r"resume: the run in .*run has lr 0.01 \(now 0.02\), flip True \(now False\);"
    ):
        run(data, tmp_path / "run", resume="auto", lr=0.02, flip=False)
    with pytest.raises(ValueError, match="resume: auto goes on with the run of the folder output, got no output"):
        fit(**(arguments(data, tmp_path) | {"output": None, "resume": "auto"}))


# Checkpoints that cannot be used


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"a": torch.full((3, 2), float(step)), "none": torch.empty(0)}, {"list": [step, None]})


def saved(folder: Path, *steps: int, run: str = "this", keep: int = 5) -> Checkpoints:
    """Checkpoints of the run after some steps, saved one after the other."""
    checkpoints = Checkpoints(folder, run, keep)
    for step in steps:
        checkpoints.save(checkpoint(step))
    return checkpoints


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2, 10, 300, 4000, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000300.safetensors",
        "step-000004000.safetensors",
    ]
    newest = checkpoints.newest(pytest.fail)
    assert newest is not None and newest.step == 4000 and newest.notes == {"list": [4000, None]}
    assert all(torch.equal(newest.tensors[name], tensor) for name, tensor in checkpoint(4000).tensors.items())
    assert Checkpoints(tmp_path / "absent", "this", 2).newest(pytest.fail) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "other run", "folder"])
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_one_before_it_taken(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path, 5, 6)
    path = tmp_path / "step-000000006.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("words" * 100)
    elif damage == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    elif damage == "other run":
        saved(tmp_path, 6, run="other")
    else:
        path.unlink()
        path.mkdir()
    logged: list[str] = []
    newest = checkpoints.newest(logged.append)
    assert newest is not None and newest.step == 5
    assert len(logged) == 1 and logged[0].startswith(f"checkpoint: {path}: not used (")


def test_a_run_resumes_at_the_checkpoint_before_a_truncated_one(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    interrupted(data, tmp_path / "run", 5, checkpoint_steps=2)
    paths = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in paths] == ["step-000000004.safetensors", "step-000000005.safetensors"]
    paths[1].write_bytes(paths[1].read_bytes()[:1000])
    assert_same(whole, run(data, tmp_path / "run", resume="auto"))


@pytest.mark.parametrize("damage", ["removed", "damaged"])
def test_a_run_without_a_checkpoint_that_can_be_used_says_that_it_begins_anew(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    whole = run(data, tmp_path / "whole", "finetune")
    interrupted(data, tmp_path / "run", 5, "finetune")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink() if damage == "removed" else path.write_bytes(b"no checkpoint")
    capsys.readouterr()
    resumed = run(data, tmp_path / "run", "finetune", resume="auto")
    said = f"resume: {tmp_path}/run has no checkpoint that can be used: the run begins anew\n"
    assert said in capsys.readouterr().out
    assert_same(whole, resumed)


def test_nothing_is_ever_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, 5)
    (tmp_path / "step-000000006.safetensors").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, tmp_path / "step-000000007.safetensors")
    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("unpickled"))
    newest = checkpoints.newest(lambda line: None)
    assert newest is not None and newest.step == 5


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(data, tmp_path / "whole")
    output = tmp_path / "run"
    opened = Path.open
    saves = iter(range(100))

    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        file = opened(self, mode, **options)
        if mode == "wb" and "checkpoints" in self.parts and next(saves) == 2:
            file.write(b"as much as fits")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert main(flags(arguments(data, output, steps=STEPS, checkpoint_steps=2))) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: checkpoint: {output}/checkpoints/step-000000006.safetensors: No space left on device"
    )
    assert error.endswith("; the one before it is kept\n")
    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == ["step-000000002.safetensors", "step-000000004.safetensors"]
    assert_same(whole, run(data, output, resume="auto"))


def test_a_folder_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoint: .*file/checkpoints/step-000000001.safetensors: Not a directory$"):
        Checkpoints(tmp_path / "file" / "checkpoints", "this", 2).save(checkpoint(1))


def test_checkpoints_are_saved_after_minutes_or_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, checkpoint: steps.append(checkpoint.step))
    run(data, tmp_path / "often", "finetune", checkpoint_minutes=1e-9)
    run(data, tmp_path / "rarely", "finetune")
    run(data, tmp_path / "by-step", "finetune", checkpoint_steps=3)
    assert steps == [*range(1, STEPS + 1), STEPS, 3, 6, STEPS]


def test_runs_that_are_killed_at_random_moments_end_with_the_same_bits() -> None:
    script = Path(__file__).parents[1] / "support" / "kill_runs.py"
    root = str(script.parent.parent)
    done = subprocess.run(
        [sys.executable, script, "--kills", "2", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as if never killed" in done.stdout
