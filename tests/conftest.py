"""Fixtures: the backends that every operator test runs on, made images, and a comparison."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulation
import pytest
import torch
from hypothesis import settings

# A shell starts background processes with SIGINT ignored, nohup any with SIGHUP, which those that the tests start and
# interrupt would inherit.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps what the package caches out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XMIXUP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of target/ and source/, and of weights.safetensors, a network whose outputs are the source's classes."""
    # Late: the operators' tests, which run under sanitizers, need neither torchvision nor timm.
    from made import SOURCE, TARGET, write_folder

    from xmixup_fast.models.build import build
    from xmixup_fast.models.trained import save

    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "target", TARGET, 10)
    write_folder(folder / "source", SOURCE, 4)
    save(build("test_resnet", "none", sorted(SOURCE)), folder / "weights.safetensors", image_size=32)
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    """A comparison with two targets, three methods and two seeds, which need not exist."""
    return {
        **{"results": str(tmp_path / "results.jsonl"), "model": "test_resnet", "weights": "none", "source": "{data}/s"},
        "targets": {"birds": {"target": "{data}/b", "shots": 5}, "boats": {"target": "/mnt/own/boats", "steps": 9}},
        "methods": {"finetune": None, "xmixup-random": {"top_k": 2}, "mixup": {}},
        "seeds": [0, 1],
    }


@pytest.fixture
def depthwise_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each call of `depthwise_conv2d_weight_grad`: how many channels it had."""
    from xmixup_fast.ops import depthwise

    made: list[int] = []
    operator = depthwise.depthwise_conv2d_weight_grad

    def counted(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(input.shape[1])
        return operator(input, *args, **kwargs)

    monkeypatch.setattr(depthwise, "depthwise_conv2d_weight_grad", counted)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def cuda_emulation() -> Path:
    """The CUDA sources compiled for the CPU and registered as torch.ops.xmixup_fast_cuda_emulation."""
    return emulation.load()


@pytest.fixture(params=["cpu", "cuda_emulation", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where tensors go for the operators to run on: the CPU kernels, the CUDA kernels' emulation, or a GPU."""
    if request.param == "cuda_emulation":
        request.getfixturevalue("cuda_emulation")
        emulation.use(monkeypatch)
        return torch.device("cpu")
    return torch.device(request.param)
