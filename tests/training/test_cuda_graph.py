"""CUDA graphs, captured and replayed on a GPU that does nothing before somebody waits for it (``late_gpu``)."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from late_gpu import GPU, LateGPU, LateTensor, Stream
from torch import Tensor
from transfer import STEPPING, Case, without_replays

from xmixup_fast.training.cuda_graph import WARMUP, CudaGraphRunner

STEPS = 2 * (WARMUP + 3)
"""Of two kinds in turn, so that each kind is replayed."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateGPU]:
    late = LateGPU()
    with monkeypatch.context() as patch:
        late.install(patch)
        yield late


class Plan:
    """A plan of one tensor."""

    def __init__(self, lam: Tensor) -> None:
        self.lam = lam

    def tensors(self) -> list[Tensor]:
        return [self.lam]

    def __deepcopy__(self, memo: object) -> Plan:
        return Plan(self.lam.clone())


class Steps:
    """Steps of two kinds in turn: each renders a batch, does the work, and uses loss and gradient."""

    def __init__(self, gpu: LateGPU) -> None:
        self.gpu = gpu
        self.buffers = [gpu.tensor(torch.zeros(3)), gpu.tensor(torch.zeros(3))]
        self.parameter: Any = types.SimpleNamespace(device=GPU, grad=None)
        self.frozen: Any = types.SimpleNamespace(device=GPU, grad=None)
        self.works = 0
        self.runner: Any = CudaGraphRunner(self.work, [self.parameter, self.frozen])

    def work(self, images: tuple[Tensor, ...], plan: Any) -> Tensor:
        self.works += 1
        self.parameter.grad = images[0] * plan.lam
        loss: Tensor = images[0].sum() + plan.lam
        return loss

    def results(self, *, at_once: bool = False) -> list[tuple[float, list[float]]]:
        """Loss and gradient of each step, read after all steps or at once."""
        used = []
        for step in range(STEPS):
            buffer = self.buffers[step % 2]
            buffer.copy_(self.gpu.tensor(torch.arange(3.0) + step))  # behind all that is queued, as rendering is
            loss = self.runner((buffer,), Plan(self.gpu.tensor(torch.tensor(10.0 * step))))
            gradient = self.parameter.grad
            used.append((loss.cpu(), gradient.cpu()) if at_once else (loss.clone(), gradient.clone()))
            assert self.frozen.grad is None
            self.parameter.grad = None
        return [(loss.item(), gradient.cpu().tolist()) for loss, gradient in used]


EXPECTED = [(3.0 + 13 * step, [10.0 * step * (value + step) for value in range(3)]) for step in range(STEPS)]


@pytest.mark.parametrize("own_stream", [False, True])
def test_every_step_gives_what_the_work_gives(gpu: LateGPU, own_stream: bool) -> None:
    steps = Steps(gpu)
    with gpu.stream(gpu.new_stream(GPU) if own_stream else gpu.defaults[1]):
        assert steps.results() == EXPECTED
    assert steps.works == 2 * (WARMUP + 1)  # then the graphs alone


def test_kinds_share_a_stream_and_a_pool_on_the_parameters_device(gpu: LateGPU) -> None:
    """Though another device is the current one."""
    assert gpu.current_device() != GPU.index
    Steps(gpu).results()
    (stream,) = gpu.streams
    first, second = gpu.graphs
    assert first == second == {"pool": 1, "stream": stream, "capture_error_mode": "thread_local", "device": 1}
    assert stream.device == GPU and gpu.pools == 1 and gpu.current_device() == 0


def forgetful_side_stream(stream: Stream, other: Stream) -> None:
    """The side stream does not wait for the caller's."""
    if not stream.cuda_stream:
        stream.wait_event(other.record_event())


def forgetful_caller(stream: Stream, other: Stream) -> None:
    """The caller's stream does not wait for the side stream."""
    if stream.cuda_stream:
        stream.wait_event(other.record_event())


@pytest.mark.parametrize(("faulty", "at_once"), [(forgetful_side_stream, False), (forgetful_caller, True)])
def test_a_missing_wait_is_seen(gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, faulty: Any, at_once: bool) -> None:
    assert Steps(gpu).results(at_once=at_once) == EXPECTED
    monkeypatch.setattr(Stream, "wait_stream", faulty)
    assert Steps(gpu).results(at_once=at_once) != EXPECTED


def test_a_capture_on_another_device_is_seen(gpu: LateGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the one that was current when torch captured first: the graph is empty, and replays change nothing."""
    original = gpu.graph
    elsewhere = {"stream": gpu.defaults[0]}
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: original(graph, **{**options, **elsewhere}))
    assert Steps(gpu).results() != EXPECTED


def addresses(trainer: Any) -> dict[str, int]:
    """Where each tensor is that a captured step may read."""
    state = trainer.state_dict()
    return {name: tensor.data_ptr() for name, tensor in state.items() if name.split(".")[0] in ("network", "method")}


@pytest.mark.parametrize("name", sorted(set(STEPPING) - {"bss"}))
def test_no_method_moves_what_a_graph_reads(name: str) -> None:
    """Neither new heads, nor the change of phases, nor a checkpoint that is loaded."""
    trainer = Case(steps=8, seqtrain_share=0.5, rifle_periods=2, ema_decay=0.9).trainer(name)
    before = addresses(trainer)
    while trainer.steps_done < trainer.steps:
        trainer.step()
        assert addresses(trainer) == before
    trainer.load_state_dict({key: tensor.clone() for key, tensor in trainer.state_dict().items()}, 3)
    assert addresses(trainer) == before


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_steps_on_a_second_gpu_are_replayed_there() -> None:
    """Graphs that were captured on the current device would repeat the gradients of one step."""
    settings = {"steps": 14, "seqtrain_share": 0.5}
    plain, replayed = (
        Case(**settings, device="cuda:1", cuda_graph=True).to(torch.device("cuda:1")).trainer("seqtrain")
        for _ in range(2)
    )
    without_replays(plain)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        while plain.steps_done < plain.steps:
            torch.testing.assert_close(replayed.step(), plain.step(), rtol=1e-2, atol=1e-3)
    assert torch.cuda.current_device() == 0


def test_a_late_tensor_reads_as_zeros(gpu: LateGPU) -> None:
    """What the tests above rest on."""
    side = gpu.new_stream(GPU)
    source = gpu.tensor(torch.ones(2))
    with gpu.stream(side):
        double = source * 2
        ready = side.record_event()
    assert isinstance(double, LateTensor) and double.cpu().tolist() == [0, 0]
    gpu.current_stream(GPU).wait_event(ready)
    assert double.cpu().tolist() == [2, 2]
