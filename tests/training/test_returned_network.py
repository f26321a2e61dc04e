"""The network that fit returns is ready for use. What the caller has set in torch changes nothing, and is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import run

from xmixup_fast import evaluate, predict
from xmixup_fast.training.run import Result

KINDS: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune"},
    "average": {"method": "finetune", "ema_decay": 0.9},
    "best": {"method": "xmixup", "keep": "best"},
    "frozen": {"method": "finetune", "freeze": "backbone"},
    "without a test": {"method": "finetune", "test": "none"},
    "with a report": {"method": "finetune", "report": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_in_evaluation_mode(data: Path, tmp_path: Path, kind: str) -> None:
    network = run(data, tmp_path / "run", **KINDS[kind]).network
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES: dict[str, Callable[[], Any]] = {
    "gradients off": torch.no_grad,
    "gradients switched off": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "default device": lambda: default_device("meta"),
    "a device as context": lambda: torch.device("meta"),
    "default dtype": lambda: default_dtype(torch.float64),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def state() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().tolist() if torch.get_default_device().type == "cpu" else None,
        torch.get_num_threads(),
    )


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(data, tmp_path_factory.mktemp("plain") / "run", "finetune")


@pytest.mark.parametrize("kind", STATES)
def test_the_callers_state_changes_nothing_and_is_kept(data: Path, tmp_path: Path, plain: Result, kind: str) -> None:
    with STATES[kind]():
        before = state()
        result = run(data, tmp_path / "run", "finetune")
        assert state() == before
        found = evaluate(result, log=lambda line: None)
        answers = predict(result, data / "target" / "red")
        assert state() == before
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in result.network.parameters())
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(result.network.state_dict()[name], tensor), name
    assert found.accuracy == evaluate(plain, log=lambda line: None).accuracy
    assert [one.top for one in answers] == [one.top for one in predict(plain, data / "target" / "red")]


def test_a_thread_of_its_own_trains_alike(data: Path, tmp_path: Path, plain: Result) -> None:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(data, tmp_path / "run", "finetune")))
    thread.start()
    thread.join()
    (result,) = results
    assert not result.network.training
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(result.network.state_dict()[name], tensor), name
