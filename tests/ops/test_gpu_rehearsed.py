"""The tests of test_gpu.py on the emulation, so that they have run before they meet a GPU: see support/no_gpu.py."""

from __future__ import annotations

from pathlib import Path

import emulation
import no_gpu
import pytest
import test_gpu
import torch
from samples import MixInputs
from test_cpu_levels import DTYPES

from xmixup_fast import ops
from xmixup_fast.ops import operators


@pytest.fixture(autouse=True)
def rehearsed(cuda_emulation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_gpu, "CUDA", torch.device("cpu"))
    emulation.use(monkeypatch)
    no_gpu.stand_in(monkeypatch)


def test_bits_of_mix() -> None:
    """Of one call: test_levels_mix_alike compares the emulation's with the CPU's."""
    test_gpu.test_mix_gives_the_cpus_bits(lambda device: {"one": MixInputs.make().to(device).call(ops.mix).numpy()})


def test_bits_of_draw() -> None:
    test_gpu.test_draw_gives_the_cpus_bits()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss(dtype: torch.dtype) -> None:
    test_gpu.test_the_loss_agrees_with_the_cpus_and_repeats_to_the_bit(dtype)


@pytest.mark.parametrize("op", test_gpu.OPERATORS)
def test_streams_and_waits(op: str) -> None:
    test_gpu.test_calls_take_their_turn_on_the_current_stream_and_do_not_wait(op)
    test_gpu.test_no_call_synchronises(op)


def test_graphs() -> None:
    test_gpu.test_a_step_is_captured_in_a_graph_and_replayed()


def test_a_graph_that_replays_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_gpu.Graph, "replay", lambda graph: None)
    with pytest.raises(AssertionError):
        test_gpu.test_a_step_is_captured_in_a_graph_and_replayed()


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU's kernels, as torch.compile knows no shapes of the emulation's results, and without a compiler."""
    monkeypatch.setattr(operators, "_library", torch.ops.xmixup_fast)
    counter = torch._dynamo.testing.CompileCounterWithBackend
    monkeypatch.setattr(torch._dynamo.testing, "CompileCounterWithBackend", lambda backend: counter("aot_eager"))
    test_gpu.test_a_compiled_step_runs_on_without_recompiling()


def test_what_has_run_nowhere_is_listed() -> None:
    assert no_gpu.unlisted(Path(test_gpu.__file__), Path(__file__)) == set()
