"""A GPU of a run is the current device from the first thing on that the run does, and the caller's is so afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import xmixup_fast
from xmixup_fast import ImagePool, predict
from xmixup_fast.commands import evaluate, find_lr, select
from xmixup_fast.comparison import worker
from xmixup_fast.models.network import Network
from xmixup_fast.runtime import device as device_module
from xmixup_fast.runtime import distributed
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training import run


class Stop(Exception):
    """Raised at the first thing that needs a GPU."""


class GPUs:
    """Two GPUs that can be made the current device; and where that was when something asked for a GPU."""

    def __init__(self) -> None:
        self.current = 0
        self.seen: list[int] = []

    def exchange(self, index: int) -> int:
        before, self.current = self.current, self.current if index < 0 else index
        return before

    def stop(self, *args: object, **kwargs: object) -> Any:
        self.seen.append(self.current)
        raise Stop


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> GPUs:
    made = GPUs()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: made.current)
    monkeypatch.setattr(torch.cuda, "_exchange_device", made.exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", made.exchange)
    monkeypatch.setattr(device_module, "kernel_fault", lambda device: "")
    return made


def settings(device: str) -> Settings:
    return Settings(target="t", model="test_resnet", weights="none", method="finetune", device=device)


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", 1), ("cuda", 0), ("auto", 0), ("cpu", 0)])
def test_fit_begins_on_its_device_and_gives_the_callers_back(
    gpus: GPUs, monkeypatch: pytest.MonkeyPatch, device: str, expected: int
) -> None:
    """Seeding, which initialises CUDA, comes behind it."""
    monkeypatch.setattr(run, "reproducible", gpus.stop)
    with pytest.raises(Stop):
        xmixup_fast.fit(settings(device))
    assert gpus.seen == [expected] and gpus.current == 0


def test_a_run_without_a_number_keeps_the_callers_device(gpus: GPUs, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.current = 1
    monkeypatch.setattr(run, "reproducible", gpus.stop)
    with pytest.raises(Stop):
        xmixup_fast.fit(settings("cuda"))
    assert gpus.seen == [1] and gpus.current == 1


def test_each_process_of_a_machine_has_a_gpu_of_its_own(gpus: GPUs, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = []

    @contextmanager
    def two_processes() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            joined.append(gpus.current)
            yield

    monkeypatch.setattr(distributed, "processes", two_processes)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(run, "reproducible", gpus.stop)
    with pytest.raises(Stop):
        xmixup_fast.fit(settings("auto"))
    assert joined == [0] and gpus.seen == [1] and gpus.current == 0


@dataclass(frozen=True)
class Place:
    """Where data lies and a run that was trained on it, and a folder to write to."""

    data: Path
    run: Path
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        names = {name: str(self.data / name) for name in ("target", "source")}
        return {**names, "model": "test_resnet", "weights": "none", "cache": "none"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    target = {"target": str(data / "target"), "model": "test_resnet", "weights": "none", "method": "finetune"}
    length: dict[str, Any] = {"steps": 1, "batch_size": 4, "image_size": 32, "report": False}
    xmixup_fast.fit(**target, **length, device="cpu", output=str(folder))
    return folder


@pytest.fixture
def place(data: Path, trained: Path, tmp_path: Path) -> Place:
    return Place(data, trained, tmp_path)


def find_rates(place: Place) -> object:
    given = {**place.settings, "method": "finetune", "output": str(place.folder / "lr")}
    return find_lr.run(Settings(**given, device="cuda:1"))


def select_classes(place: Place) -> object:
    return select.run(Settings(**place.settings, device="cuda:1"))


def evaluate_run(place: Place) -> object:
    output = str(place.folder / "evaluation")
    return evaluate.run(evaluate.Options(model=str(place.run), device="cuda:1", cache="none", output=output))


def time_steps(place: Place) -> object:
    return worker._time_in_turn(settings("cuda:1"), settings("cuda:1"))


@pytest.mark.parametrize("command", [find_rates, select_classes, evaluate_run, time_steps])
def test_commands_begin_on_their_device_and_give_the_callers_back(
    gpus: GPUs, monkeypatch: pytest.MonkeyPatch, place: Place, command: Callable[[Place], object]
) -> None:
    for module in (device_module, worker):
        monkeypatch.setattr(module, "reproducible", gpus.stop)
    with pytest.raises(Stop):
        command(place)
    assert gpus.seen == [1] and gpus.current == 0


def test_predictions_leave_the_callers_device_alone_between_them(
    gpus: GPUs, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    """A generator's caller goes on between two of its values."""

    def stay(thing: Any, device: torch.device) -> Any:
        gpus.seen.append(gpus.current)
        return thing

    monkeypatch.setattr(Network, "to_device", stay)
    monkeypatch.setattr(ImagePool, "to", stay)
    images = place.data / "target" / "red"
    predictions = predict(place.run, images, batch_size=2, device="cuda:1", decoder="torchvision")
    assert gpus.current == 0
    for _ in islice(predictions, 4):
        assert gpus.current == 0
    assert set(gpus.seen) == {1} and len(gpus.seen) >= 3  # the network, and two batches
