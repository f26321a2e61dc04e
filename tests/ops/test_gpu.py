"""What only a GPU can show of the operators: ``pytest -m gpu``. Their own tests run there as well, by the `device`
fixture.

Wrong values and memory checks are in test_kernel_calls.py, training is in tests/training/test_gpu_training.py. In
test_gpu_rehearsed.py these tests run on the emulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from draw_inputs import DrawInputs
from plan_samples import PlanInputs
from samples import IMAGENET, LossInputs, MixInputs, make_pool
from test_cpu_levels import DTYPES, mix_many, render_many
from torch import Tensor

import xmixup_fast
from xmixup_fast import ImagePool, MixPlan, ops

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONG = 500_000_000
"""Clock cycles, about a quarter of a second: far longer than the host needs for a call."""


@dataclass
class Step:
    """A draw, a mix of what was drawn, and the loss of given logits with its gradients."""

    drawn: DrawInputs
    target: ImagePool
    aux: ImagePool
    heads: LossInputs

    @classmethod
    def make(cls, device: torch.device, batch: int = 8) -> Step:
        generator = torch.Generator().manual_seed(0)
        target = make_pool([(36, 40), (33, 37), (50, 45)], generator).to(device)
        aux = make_pool([(32, 32), (41, 36), (60, 33), (38, 38)], generator).to(device)
        drawn = DrawInputs.make(batch, (32, 32), images=3, aux_images=4).to(device)
        drawn = replace(drawn, target_sizes=target.sizes, aux_sizes=aux.sizes)
        return cls(drawn, target, aux, LossInputs.make(batch).to(device))

    def advance(self, number: int) -> None:
        """Puts other values into the same tensors."""
        self.drawn.epoch.fill_(number)
        self.heads.target_logits.mul_(1.1)

    def empty_out(self) -> Tensor:
        shape = (len(self.heads.lam), 3, 32, 32)
        return torch.empty(shape, device=self.target.device).to(memory_format=torch.channels_last)

    def run(self, out: Tensor) -> list[Tensor]:
        """Windows, weights, images, loss and gradients."""
        draws: MixPlan = self.drawn.call(ops.draw)
        mixed = ops.mix_plan(self.target, self.aux, draws, size=(32, 32), **IMAGENET, out=out)
        losses = replace(self.heads, lam=draws.lam).with_gradients(ops.dual_head_cross_entropy)
        return [draws.target_crops.window, draws.aux_crops.window, draws.lam, mixed, *losses]


def one_call(op: str, device: torch.device) -> tuple[Callable[[], list[Tensor]], Tensor]:
    """A call of an operator that returns its results, and an input of it on which they depend."""
    if op == "mix":
        mix = MixInputs.make(4, (64, 64)).to(device)
        out = mix.empty_out()
        return lambda: [mix.call(ops.mix), mix.call(ops.mix, out=out).clone()], mix.lam
    if op == "mix_plan":
        sizes = [(64, 64), (80, 70), (90, 64)]
        inputs = PlanInputs.make(MixInputs.make(4, (64, 64), sizes, resampled=(True, True)), fill="noise")
        inputs.boxed[0] = False
        moved = inputs.to(device)
        plan, into = moved.plan, moved.mix.empty_out()

        def render(**more: Tensor) -> Tensor:
            return ops.mix_plan(moved.mix.target, moved.mix.aux, plan, **moved.options(), **more)

        return lambda: [render(), render(out=into).clone()], plan.lam
    if op == "draw":
        draw = DrawInputs.make(64, room=1000).to(device)
        return lambda: [draw.call(ops.draw).target_crops.window, draw.call(ops.draw).lam], draw.sample
    heads = LossInputs.make(8, (30, 200)).to(device)
    return lambda: list(heads.with_gradients(ops.dual_head_cross_entropy)), heads.lam


OPERATORS = ["mix", "mix_plan", "draw", "dual_head_cross_entropy"]


# --- the same results as on the CPU ---


@pytest.mark.skipif(xmixup_fast.cpu_level() == "baseline", reason="the baseline has no fused multiply-add")
@pytest.mark.parametrize("many", [mix_many, render_many])
def test_mix_gives_the_cpus_bits(many: Callable[..., dict[str, np.ndarray]]) -> None:
    expected, mixed = many(CPU), many(CUDA)
    assert expected.keys() == mixed.keys()
    for name, bits in expected.items():
        assert np.array_equal(mixed[name], bits), name


def test_draw_gives_the_cpus_bits() -> None:
    inputs = DrawInputs.make(5000, (32, 32), room=200, aux_images=100, classes=20, intervals=4096)
    augmented = inputs.augmented(most=400).with_mixed()
    for one in (inputs, augmented, replace(augmented, box=True, one_lam=True), augmented.with_partners()):
        for drawn, wanted in zip(one.to(CUDA).call(ops.draw), one.call(ops.draw), strict=True):
            assert torch.equal(drawn.cpu(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_agrees_with_the_cpus_and_repeats_to_the_bit(dtype: torch.dtype) -> None:
    inputs = LossInputs.make(300, (102, 1000), dtype)
    expected = torch.ops.xmixup_fast.dual_head_cross_entropy(*inputs.raw())
    results = [torch.ops.xmixup_fast.dual_head_cross_entropy(*inputs.to(CUDA).raw()) for _ in range(2)]
    for first, second, wanted in zip(*results, expected, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first.cpu(), wanted, rtol=1e-5, atol=1e-8)


# --- streams, devices, graphs, memory ---


@pytest.mark.parametrize("op", OPERATORS)
def test_calls_take_their_turn_on_the_current_stream_and_do_not_wait(op: str) -> None:
    call, changed = one_call(op, CUDA)
    late = changed.clone()
    expected = call()  # this also loads the kernels, for which the driver may wait
    changed.zero_()
    other = call()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # so that the stream has memory of its own
        torch.cuda._sleep(LONG)
        changed.copy_(late)
        results = call()
        still_busy = not stream.query()
    stream.synchronize()
    assert still_busy, "the call waited for the stream"
    assert all(map(torch.equal, results, expected)) and not all(map(torch.equal, results, other))


@pytest.mark.parametrize("op", OPERATORS)
def test_no_call_synchronises(op: str) -> None:
    call, _ = one_call(op, CUDA)
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("op", OPERATORS)
def test_tensors_on_a_second_device_are_worked_on_there(op: str) -> None:
    first, second = (one_call(op, torch.device("cuda", index))[0]() for index in (0, 1))
    assert torch.cuda.current_device() == 0
    for expected, result in zip(first, second, strict=True):
        assert result.device.index == 1 and torch.equal(result.cpu(), expected.cpu())


def test_a_step_is_captured_in_a_graph_and_replayed() -> None:
    step, eager = Step.make(CUDA), Step.make(CUDA)
    out = step.empty_out()
    stream = torch.cuda.Stream()  # torch asks for a first run on a side stream
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step.run(out)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step.run(out)
    before: list[Tensor] = []
    for number in range(3):
        for one in (step, eager):
            one.advance(number)
        graph.replay()
        assert all(map(torch.equal, captured, eager.run(eager.empty_out())))
        assert not before or not any(map(torch.equal, captured, before))
        before = [tensor.clone() for tensor in captured]


def test_a_compiled_step_runs_on_without_recompiling() -> None:
    pytest.importorskip("triton")
    step, eager = Step.make(CUDA), Step.make(CUDA)
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, fullgraph=True)
    def forward(step: Step, logits: tuple[Tensor, Tensor], out: Tensor) -> tuple[Tensor, Tensor]:
        draws = step.drawn.call(ops.draw)
        mixed = ops.mix_plan(step.target, step.aux, draws, size=(32, 32), **IMAGENET, out=out)
        labels = (step.heads.target_labels, step.heads.source_labels)
        return mixed, ops.dual_head_cross_entropy(*logits, *labels, draws.lam, source_weight=0.7, label_smoothing=0.1)

    for number in range(3):
        for one in (step, eager):
            one.advance(number)
        logits = tuple(t.clone().requires_grad_() for t in (step.heads.target_logits, step.heads.source_logits))
        mixed, loss = forward(step, logits, step.empty_out())
        results = [mixed, loss.detach(), *torch.autograd.grad(loss, logits)]
        assert all(map(torch.equal, results, eager.run(eager.empty_out())[3:]))
    assert counter.frame_count == 1


@pytest.mark.parametrize(("op", "allocations"), [("mix", 0), ("draw", 1), ("loss", 4)])
def test_calls_allocate_their_results_alone(op: str, allocations: int) -> None:
    """Draw has a plan, and no memory for colours that do not change; the loss has 3 results, and each sample's loss as
    scratch. With `out`, mix_plan has none."""
    step = Step.make(CUDA)
    out = step.empty_out()
    draws = step.drawn.call(ops.draw)
    calls: dict[str, Callable[[], object]] = {
        "mix": lambda: ops.mix_plan(step.target, step.aux, draws, size=(32, 32), **IMAGENET, out=out),
        "draw": lambda: step.drawn.call(ops.draw),
        "loss": lambda: torch.ops.xmixup_fast.dual_head_cross_entropy(*step.heads.raw()),
    }
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    calls[op]()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == allocations


def test_no_memory_for_the_output_is_torchs_own_error() -> None:
    inputs = MixInputs.make(64, (8, 8)).to(CUDA)
    with pytest.raises(torch.OutOfMemoryError):
        inputs.call(ops.mix, size=(16384, 16384))  # 206 GB
    assert inputs.call(ops.mix).isfinite().all()
