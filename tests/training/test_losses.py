"""Losses that are read late: the GPU's way of reading them, on CPU tensors and with events that pass late."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fake_gpu import Waits, patch_cuda
from interrupted_runs import assert_same, run
from safetensors.torch import load_file
from small_runs import arguments
from torch import Tensor

from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.runtime import distributed
from xmixup_fast.runtime.signals import Interrupted
from xmixup_fast.training import run as runs
from xmixup_fast.training.losses import SLOTS, StepLosses, agreement_interval
from xmixup_fast.training.run import fit
from xmixup_fast.training.trainer import Trainer

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def read_late(patch: pytest.MonkeyPatch, lag: int) -> Waits:
    """Has runs on the CPU read their losses as on a GPU whose events pass after ``lag`` others."""
    waits = Waits(lag)
    patch_cuda(patch, waits)
    waits.are_allowed = True
    patch.setattr(runs, "StepLosses", lambda device: StepLosses(CUDA))
    return waits


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    return read_late(monkeypatch, lag=5)


def test_on_a_cpu_a_loss_is_read_at_once() -> None:
    losses = StepLosses(CPU)
    losses.begin()
    (read,) = losses.end(1, torch.tensor(0.1))
    assert read[:2] == (1, float(torch.tensor(0.1))) and 0 < read.seconds < 10
    assert losses.unfinished() == 0 and losses.read() == []


def test_losses_are_read_in_order_once_their_event_has_passed(waits: Waits) -> None:
    losses = StepLosses(CUDA)
    waits.are_allowed = False
    read = []
    for step in range(1, 2 * SLOTS):
        losses.begin()
        assert losses.end(step, torch.tensor(1 / step)) == []
        assert losses.unfinished() == min(step, 3)
        read += losses.read(losses.unfinished())
    assert [(one.step, one.loss) for one in read] == [(n, float(torch.tensor(1 / n))) for n in range(1, 2 * SLOTS - 3)]
    assert {one.seconds for one in read} == {0.001}
    waits.are_allowed = True
    assert [one.step for one in losses.read()] == [2 * SLOTS - 3, 2 * SLOTS - 2, 2 * SLOTS - 1]


def test_a_full_ring_reads_the_oldest_loss_and_waits_for_it(waits: Waits) -> None:
    losses = StepLosses(CUDA, slots=3)
    waits.lag = 100
    read = []
    for step in range(1, 7):
        losses.begin()
        read.append([one.step for one in losses.end(step, torch.tensor(float(step)))])
    assert read == [[], [], [1], [2], [3], [4]]
    assert [one.loss for one in losses.read()] == [5.0, 6.0]


def test_losses_are_summed_over_processes_where_they_are(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(1.0))
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda *_: pytest.fail("the host takes part"))
    losses = StepLosses(CUDA)
    losses.begin()
    loss = torch.tensor(0.5)
    losses.end(1, loss)
    assert losses.read()[0].loss == 1.5 and loss == 0.5


def test_how_often_processes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agreement_interval(CUDA, 0.001) == 1
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert agreement_interval(CPU, 0.001) == 1
    seconds = (0.0, 1e-6, 0.01, 0.1, 0.3, 2.0)
    assert [agreement_interval(CUDA, each) for each in seconds] == [1, SLOTS, 50, 5, 1, 1]


# Whole runs


def after_update(patch: pytest.MonkeyPatch, do: Callable[[int], object]) -> None:
    """Calls a function with the number of each step, once the weights are updated."""
    original = Trainer._update

    def update(self: Trainer) -> None:
        original(self)
        do(self.steps_done)

    patch.setattr(Trainer, "_update", update)


@pytest.mark.parametrize("method", ["xmixup", "seqtrain"])
def test_a_run_that_reads_late_ends_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    settings: dict[str, Any] = {"checkpoint_steps": 3, "checkpoints_kept": 9}
    plain = run(data, tmp_path / "plain", method, **settings)
    with monkeypatch.context() as patch:
        read_late(patch, lag=7)
        late = run(data, tmp_path / "late", method, **settings)
        with monkeypatch.context() as stopping, pytest.raises(Interrupted, match="stopped after step 5 of"):
            after_update(stopping, lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM))
            run(data, tmp_path / "again", method, **settings)
        again = run(data, tmp_path / "again", method, **settings, resume="auto")
    assert_same(plain, late)
    assert_same(plain, again)
    for path in sorted((plain.folder / "checkpoints").iterdir()):
        saved = [load_file(folder / "checkpoints" / path.name) for folder in (plain.folder, late.folder)]
        assert torch.equal(*(state["progress.losses"] for state in saved))
        assert len(saved[1]["progress.seconds"]) == int(path.stem[5:])


def with_nan(patch: pytest.MonkeyPatch, step: int) -> None:
    """Has all losses from a step on be no number."""
    original = Trainer.step

    def stepping(self: Trainer) -> Tensor:
        loss = original(self)
        return loss if self.steps_done < step else loss * math.nan

    patch.setattr(Trainer, "step", stepping)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("every", [{"checkpoint_steps": 2}, {"checkpoint_minutes": 1e-9}])
@pytest.mark.parametrize("lag", [0, 3, 1000])
def test_a_loss_that_is_no_number_is_found_before_a_good_checkpoint_is_removed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int, every: dict[str, Any]
) -> None:
    read_late(monkeypatch, lag)
    with_nan(monkeypatch, 5)
    with pytest.raises(ValueError, match="lr: the loss became nan in step 5; try a smaller learning rate; ") as caught:
        run(data, tmp_path / "run", "finetune", batch_size=2, **every)
    last_good = 2 if "checkpoint_steps" in every else 3
    assert f"the last good checkpoint is of step {last_good}: " in str(caught.value)
    assert saved_steps(tmp_path / "run") == ([2, 4] if last_good == 2 else [3, 4])


def test_a_loss_that_is_no_number_stops_a_run_soon(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint or an epoch's end in between."""
    read_late(monkeypatch, lag=5)
    with_nan(monkeypatch, 2)
    seen: list[int] = []
    after_update(monkeypatch, seen.append)
    with pytest.raises(ValueError, match="the loss became nan in step 2"):
        fit(**arguments(data, tmp_path / "run", "finetune", steps=40, batch_size=2))
    assert 2 < max(seen) <= 5


# Several processes, whose GPUs are not equally fast


def process(rank: int, folder: Path, what: str) -> None:
    """One of two processes, the second of which is behind and is signalled; writes how its run ended."""
    os.environ["XMIXUP_CACHE"] = str(folder / "cache")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    steps: list[int] = []

    def count(step: int) -> None:
        steps.append(step)
        if (what, rank, step) == ("signal", 1, 6):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        read_late(patch, lag=1 + 4 * rank)
        patch.setattr(runs, "agreement_interval", lambda device, seconds: 4)
        patch.setattr(Sampler, "epoch_ends", lambda self: {self.steps: 1})  # where all would be read
        if what == "nan":
            with_nan(patch, 11)
        after_update(patch, count)
        with pytest.raises((ValueError, Interrupted)) as caught:
            fit(**arguments(folder, folder / "run", "finetune", steps=40, threads=1))
    (folder / f"ended-{rank}").write_text(json.dumps([steps[-1], str(caught.value)]))
    dist.destroy_process_group()


@pytest.mark.parametrize("what", ["nan", "signal"])
def test_processes_that_read_late_stop_after_the_same_step(data: Path, tmp_path: Path, what: str) -> None:
    for name in ("target", "source", "weights.safetensors"):
        (tmp_path / name).symlink_to(data / name)
    torch.multiprocessing.spawn(process, (tmp_path, what), nprocs=2)
    first, second = (json.loads((tmp_path / f"ended-{rank}").read_text()) for rank in range(2))
    assert first == second
    step, message = first
    if what == "nan":
        # They agree after steps 1, 5, 9, 13 and 17. After step 13 the second has not done step 11.
        assert step == 17 and "the loss became nan in step 11; " in message
    else:
        assert step == 9 and message.startswith("stopped after step 9 of 40") and saved_steps(tmp_path / "run") == [9]
        state = load_file(tmp_path / "run" / "checkpoints" / "step-000000009.safetensors")
        assert len(state["progress.seconds"]) == 9
