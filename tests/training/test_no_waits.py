"""The loop of a training run has no step wait for the GPU: it runs on one that is not there, where each wait fails.

The exceptions are named here: fp16's loss scaler reads whether a gradient overflowed, bss computes singular values, and
epochs' ends and checkpoints wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpu import CUDA, SVD, HostWaits, Waits, fake_gpu, trainer_on_gpu, without_the_scalers_read
from torch import Tensor, nn
from transfer import STEPPING

from xmixup_fast.batches import plan, sampler
from xmixup_fast.methods import rifle
from xmixup_fast.training import run as runs
from xmixup_fast.training.checkpoints import Checkpoints
from xmixup_fast.training.losses import StepLosses
from xmixup_fast.training.progress import RunState
from xmixup_fast.training.run import _Run
from xmixup_fast.training.run_folder import NullRunFolder
from xmixup_fast.training.trainer import Trainer

BATCH = {"batch_size": 2, "steps": 7}
"""An epoch has six steps."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"regularizer": "l2sp", "clip_grad": 1.0},
    "bf16": {"amp": "bf16", "mix_probability": 0.5, "unmixed_share": 0.4, "ema_decay": 0.9, "sampler": "balanced"},
    "fp16": {"amp": "fp16", "grad_accum_steps": 2, "ema_decay": 0.9, "clip_grad": 1.0, "lam_per": "batch"},
    "adamw": {
        "optimizer": "adamw",
        "crop": "resized",
        "color_jitter": [0.4, 0.4, 0.4, 0.1],
        "erase": 0.5,
        "erase_fill": "noise",
    },
    "graph": {"cuda_graph": True, "clip_grad": 1.0, "ema_decay": 0.9},
    "graph, adamw": {"cuda_graph": True, "optimizer": "adamw", "no_norm_decay": True},
}


class Shown(NullRunFolder):
    """Keeps which step was shown after which one was queued."""

    def __init__(self) -> None:
        super().__init__(Path("run"))
        self.trainer: Any = None
        self.lags: list[int] = []

    def step(self, images: int, loss: float) -> None:
        self.lags.append(self.trainer.steps_done - len(self.lags) - 1)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    with fake_gpu(monkeypatch) as waits:
        yield waits


def made_run(waits: Waits, patch: pytest.MonkeyPatch, name: str, **options: Any) -> _Run:
    """A run before its first step. Its validations and checkpoints compute and write nothing, and may wait."""
    trainer, images = trainer_on_gpu(waits, name, **{**BATCH, **options})
    patch.setattr(Trainer, "evaluate", lambda *_: SimpleNamespace(accuracy=50.0))
    patch.setattr(Checkpoints, "save", lambda *_: None)
    end_epoch, save_if_due = _Run._end_epoch, _Run._save_checkpoint_if_due

    def ending(self: _Run, epoch: int, lr: float) -> None:
        with waits.allowed():
            end_epoch(self, epoch, lr)

    def saving(self: _Run, signal: int) -> None:
        if trainer.steps_done == trainer.steps:
            with waits.allowed():
                return save_if_due(self, signal)
        return save_if_due(self, signal)

    patch.setattr(_Run, "_end_epoch", ending)
    patch.setattr(_Run, "_save_checkpoint_if_due", saving)
    setup: Any = SimpleNamespace(images=SimpleNamespace(val=images))
    folder = Shown()
    folder.trainer = trainer
    return _Run(trainer.settings, setup, trainer, RunState(), folder, Checkpoints(Path("none"), "run", 2))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", STEPPING)
def test_no_step_of_a_run_waits(
    waits: Waits, monkeypatch: pytest.MonkeyPatch, name: str, options: str, streamed: bool
) -> None:
    waits.exceptions = SVD if name == "bss" else set()
    if OPTIONS[options].get("amp") == "fp16":
        without_the_scalers_read(monkeypatch)
    run = made_run(waits, monkeypatch, name, streamed=streamed, **OPTIONS[options])
    run._train()
    trainer, folder = run.trainer, run.run_folder
    assert isinstance(folder, Shown) and trainer.steps_done == trainer.steps == len(folder.lags)
    assert max(folder.lags) > 0 and not run.losses.read()  # late, and none left
    assert len(run.state.seconds) == trainer.steps and min(run.state.seconds) > 0
    assert sum(line["val_accuracy"] is not None for line in run.state.metrics) >= 2


def host() -> Tensor:
    """Numbers on the CPU, in memory that is not pinned."""
    return torch.zeros(3, dtype=torch.int64)


def large_gradients(trainer: Trainer) -> object:
    return nn.utils.clip_grad_norm_(trainer.network.parameters(), 1.0, error_if_nonfinite=True)


WAITS: dict[str, Callable[[Trainer], object]] = {
    "item": lambda trainer: trainer.sampler.quantiles[0].item(),
    "float": lambda trainer: float(trainer.sampler.quantiles[0]),
    "bool": lambda trainer: bool(trainer.sampler.quantiles[0] > 0),
    "tolist": lambda trainer: trainer.sampler.labels.tolist(),
    "numpy": lambda trainer: trainer.sampler.labels.cpu().numpy(),
    "cpu": lambda trainer: trainer.sampler.labels.cpu(),
    "nonzero": lambda trainer: trainer.sampler.labels.nonzero(),
    "mask": lambda trainer: trainer.sampler.labels[trainer.sampler.labels > 0],
    "unique": lambda trainer: trainer.sampler.labels.unique(),
    "bincount": lambda trainer: trainer.sampler.labels.bincount(),
    "equal": lambda trainer: torch.equal(trainer.sampler.labels, trainer.sampler.labels),
    "singular values": lambda trainer: torch.linalg.svdvals(trainer.network.source_head.weight),
    "checked norm": large_gradients,
    "upload": lambda trainer: host().to(CUDA, non_blocking=True),
    "upload that is waited for": lambda trainer: host().pin_memory().to(CUDA),
    "copy": lambda trainer: trainer.sampler.labels[:3].copy_(host(), non_blocking=True),
    "copy back": lambda trainer: host().copy_(trainer.sampler.labels[:3], non_blocking=True),
    "numbers": lambda trainer: torch.tensor([1.0], device=CUDA),
    "index": lambda trainer: trainer.sampler.labels[host()],
    "event": lambda trainer: torch.cuda.Event().synchronize(),
    "stream": lambda trainer: torch.cuda.current_stream().synchronize(),
    "device": lambda trainer: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("spoiled", WAITS)
def test_each_kind_of_wait_in_a_step_is_caught(waits: Waits, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    update = Trainer._update

    def waiting(self: Trainer) -> None:
        WAITS[spoiled](self)
        update(self)

    run = made_run(waits, monkeypatch, "finetune")
    monkeypatch.setattr(Trainer, "_update", waiting)
    with pytest.raises(HostWaits):
        run._train()
    assert run.trainer.steps_done == 0


def unpinned(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [
        (sampler, "mixup", {}),
        (sampler, "finetune", {}),
        (plan, "xmixup", {"streamed": True}),
        (rifle, "rifle", {}),
    ],
)
def test_copies_of_our_own_that_are_not_pinned_are_caught(
    waits: Waits, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, options: dict[str, Any]
) -> None:
    run = made_run(waits, monkeypatch, name, **options)
    monkeypatch.setattr(module, "upload", unpinned)
    with pytest.raises(HostWaits, match="not pinned"):
        run._train()


@pytest.mark.parametrize(("name", "options"), [("bss", {}), ("finetune", {"amp": "fp16"})])
def test_the_exceptions_wait(waits: Waits, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]) -> None:
    run = made_run(waits, monkeypatch, name, **options)
    with pytest.raises(HostWaits):
        run._train()


def test_a_loop_that_reads_each_loss_at_once_is_caught(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(waits, monkeypatch, "finetune")
    monkeypatch.setattr(StepLosses, "unfinished", lambda self: 0)
    with pytest.raises(HostWaits, match="Event"):
        run._train()


def test_a_full_ring_waits(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "StepLosses", lambda device: StepLosses(device, slots=2))
    run = made_run(waits, monkeypatch, "finetune")
    with pytest.raises(HostWaits, match="Event"):
        run._train()
