"""Runs that are interrupted after a step, and a check that two runs ended with the same bits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import arguments, without_times

from xmixup_fast.runtime.signals import Interrupted
from xmixup_fast.training.run import Result, fit
from xmixup_fast.training.run_folder import RunFolder

STEPS = 8
"""Steps of each run."""


def run(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> Result:
    return fit(**arguments(data, output, method, steps=STEPS, **settings))


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal in a step, counted from 1 over all runs that follow."""
    steps = iter(range(1, 1000))
    original = RunFolder.step

    def with_signal(self: RunFolder, images: int, loss: float) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), number)
        original(self, images, loss)

    monkeypatch.setattr(RunFolder, "step", with_signal)


def interrupted(data: Path, output: Path, step: int, method: str = "xmixup", **settings: Any) -> None:
    """A run that is interrupted after a step, once its checkpoint is saved."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match=f"stopped after step {step} of"):
        stop_after(patch, step)
        run(data, output, method, **settings)


def assert_same(first: Result, second: Result) -> None:
    """Two runs have the same weights, summary, selection and metrics, but for durations."""
    weights = [load_file(result.folder / "model.safetensors") for result in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert without_times(first.summary) == without_times(second.summary)
    assert first.selection == second.selection
    lines = [(result.folder / "metrics.jsonl").read_text().splitlines() for result in (first, second)]
    for a, b in zip(*([json.loads(line) for line in part] for part in lines), strict=True):
        assert {**a, "seconds": 0, "images_per_second": 0} == {**b, "seconds": 0, "images_per_second": 0}
