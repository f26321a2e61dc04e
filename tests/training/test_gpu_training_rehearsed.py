"""The tests of test_gpu_training.py on the CPU, so that they have run before they meet a GPU: see support/no_gpu.py."""

from __future__ import annotations

from pathlib import Path

import no_gpu
import pytest
import test_gpu_training
import torch
from transfer import STEPPING


@pytest.fixture(autouse=True)
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_gpu_training, "CUDA", torch.device("cpu"))
    no_gpu.stand_in(monkeypatch)


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_runs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    test_gpu_training.test_no_step_of_a_run_waits_for_the_device(data, tmp_path, monkeypatch, storage, "bf16")


def test_steps() -> None:
    test_gpu_training.test_no_training_step_waits_for_the_device("xmixup", None)


def test_first_steps(data: Path, tmp_path: Path) -> None:
    test_gpu_training.test_the_first_training_step_has_the_cpus_loss(data, tmp_path, "delta")


@pytest.mark.parametrize("name", sorted(set(STEPPING) - test_gpu_training.WAITING))
def test_steps_from_a_graph(name: str) -> None:
    test_gpu_training.test_training_steps_from_a_graph_are_those_without(name, None)


@pytest.mark.parametrize("name", test_gpu_training.UPDATES)
def test_updates_from_a_graph(name: str) -> None:
    test_gpu_training.test_a_graph_updates_the_weights_as_a_run_without_it_does(name)


def test_steps_from_a_graph_that_replays_nothing_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_gpu.Graph, "replay", lambda graph: None)
    with pytest.raises(AssertionError):
        test_gpu_training.test_training_steps_from_a_graph_are_those_without("finetune", None)


def test_what_has_run_nowhere_is_listed() -> None:
    assert no_gpu.unlisted(Path(test_gpu_training.__file__), Path(__file__)) == set()
