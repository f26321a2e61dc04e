"""What only a GPU can show of training: ``pytest -m gpu``.

In test_gpu_training_rehearsed.py these tests run on the CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import arguments
from transfer import STEPPING, Case, tiny_case, without_replays

from xmixup_fast.training import run as training_run
from xmixup_fast.training.cuda_graph import WARMUP

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
WAITING = {"bss"}
"""Methods whose steps wait for the device: an SVD does."""


def losses(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> list[float]:
    """The loss of each epoch of a small run."""
    result = training_run.fit(**arguments(data, output, method, selection="random", **settings))
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


@pytest.mark.parametrize("amp", [None, "bf16"])
@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_no_step_of_a_run_waits_for_the_device(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, amp: str | None
) -> None:
    """From the second step on: in the first, libraries may look at the device."""
    checked = []
    step = training_run._Run._step

    def checked_step(run: training_run._Run) -> None:
        if run.trainer.steps_done == 0:
            return step(run)
        checked.append(run.trainer.steps_done)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training_run._Run, "_step", checked_step)
    found = losses(data, tmp_path / "run", steps=12, device=str(CUDA), storage=storage, amp=amp, ema_decay=0.9)
    assert checked == list(range(1, 12)) and len(found) >= 2


@pytest.mark.parametrize("amp", [None, "bf16"])
@pytest.mark.parametrize("name", sorted(set(STEPPING) - WAITING))
def test_no_training_step_waits_for_the_device(name: str, amp: str | None) -> None:
    trainer = Case(steps=6, amp=amp, ema_decay=0.9).to(CUDA).trainer(name)
    trainer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        while trainer.steps_done < trainer.steps - 1:
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", STEPPING)
def test_the_first_training_step_has_the_cpus_loss(data: Path, tmp_path: Path, method: str) -> None:
    """Convolutions may run in TF32. delta compares with weights of channels, which L-BFGS finds from such features."""
    on_cpu = losses(data, tmp_path / "on-cpu", method, steps=1, device="cpu")
    on_gpu = losses(data, tmp_path / "on-gpu", method, steps=1, device=str(CUDA))
    assert on_gpu == pytest.approx(on_cpu, rel=5e-2 if method == "delta" else 1e-2)


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
@pytest.mark.parametrize("name", sorted(set(STEPPING) - WAITING))
def test_training_steps_from_a_graph_are_those_without(name: str, amp: str | None) -> None:
    settings = {"steps": 14, "seqtrain_share": 0.5, "amp": amp, "ema_decay": 0.9}
    plain, replayed = (Case(**settings, device="auto", cuda_graph=True).to(CUDA).trainer(name) for _ in range(2))
    without_replays(plain)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        while plain.steps_done < plain.steps:
            torch.testing.assert_close(replayed.step(), plain.step(), rtol=1e-2, atol=1e-3)
            # fp16: weights could not be compared if one of both had skipped a step alone.
            assert replayed.scaler.get_scale() == plain.scaler.get_scale()
    for key, tensor in plain.final_network.state_dict().items():
        torch.testing.assert_close(replayed.final_network.state_dict()[key], tensor, rtol=1e-2, atol=1e-2)


UPDATES: dict[str, dict[str, Any]] = {
    "sgd": {"warmup_epochs": 1.0, "clip_grad": 0.1},
    "without momentum": {"momentum": 0.0, "schedule": "step"},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1, "no_norm_decay": True},
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_graph_updates_the_weights_as_a_run_without_it_does(name: str) -> None:
    """With the rates of each step, but for rounding; and no replayed step waits for the device."""
    settings = {"steps": 14, "device": "auto", **UPDATES[name]}
    plain, replayed = (tiny_case(**settings, cuda_graph=graph).to(CUDA).trainer("finetune") for graph in (False, True))
    called: list[int] = []
    replayed.optimizer.register_step_post_hook(lambda *_: called.append(replayed.steps_done))
    try:
        while plain.steps_done < plain.steps:
            torch.cuda.set_sync_debug_mode("error" if replayed.steps_done > WARMUP else "default")
            loss = replayed.step()
            torch.cuda.set_sync_debug_mode("default")
            torch.testing.assert_close(loss, plain.step(), rtol=1e-3, atol=1e-5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for key, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(replayed.network.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)
    assert called == list(range(WARMUP + 1))


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_a_run_from_a_graph_goes_on(data: Path, tmp_path: Path, storage: str) -> None:
    settings = {"steps": 9, "device": str(CUDA), "storage": storage, "amp": "bf16", "ema_decay": 0.9, "lr": 1e-3}
    plain, replayed = (losses(data, tmp_path / f"run-{graph}", cuda_graph=graph, **settings) for graph in (False, True))
    assert replayed == pytest.approx(plain, rel=1e-2)
