"""Where the operators' results are allocated: on a GPU by torch.empty, so that a lack of memory is its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import emulation
import pytest
import torch
from draw_inputs import DrawInputs, assert_same
from plan_samples import PlanInputs
from samples import LossInputs, MixInputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from xmixup_fast import ops
from xmixup_fast.ops import operators, reference

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@dataclass
class Case:
    """A call of an operator, and how many tensors are allocated for it on a GPU: results and scratch."""

    op: str
    inputs: Any
    allocations: int

    def prepared(self, device: torch.device = CPU) -> Callable[[], Any]:
        """The call, with all that is made for it beforehand."""
        operator, inputs = getattr(ops, self.op), self.inputs.to(device)
        if self.op != "mix_plan":
            return lambda: inputs.call(operator)
        pools, plan, options = (inputs.mix.target, inputs.mix.aux), inputs.plan, inputs.options()
        return lambda: ops.mix_plan(*pools, plan, **options)


CASES = {
    "mix": Case("mix", MixInputs.make(boxes=True), 1),
    "mix_plan": Case("mix_plan", PlanInputs.make(MixInputs.make()), 1),
    "draw": Case("draw", DrawInputs.make(), 2),
    "draw with colours": Case("draw", DrawInputs.make().augmented(), 2),
    "loss": Case("dual_head_cross_entropy", LossInputs.make(), 4),
}


class Called(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def emulated(cuda_emulation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulation.use(monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_torch_allocates_the_results(name: str) -> None:
    case = CASES[name]
    with FakeTensorMode(allow_non_fake_inputs=True):
        call = case.prepared(CUDA)
        with Called() as called:
            call()
    ours = [called_name for called_name in called.names if "xmixup_fast" in called_name]
    assert ours == [f"xmixup_fast.{case.op}_out.default"]
    assert called.names.count("aten.empty.memory_format") == case.allocations
    assert called.names.index("aten.empty.memory_format") < called.names.index(ours[0])


@pytest.mark.parametrize("name", CASES)
def test_on_a_cpu_the_operator_allocates_them(name: str) -> None:
    case = CASES[name]
    call = case.prepared()
    with Called() as called:
        call()
    assert f"xmixup_fast.{case.op}.default" in called.names and "aten.empty.memory_format" not in called.names


def allocations(work: Callable[[], Any]) -> int:
    """How often a call allocates a tensor, from Python or from within an operator."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    return sum(event.count for event in profiler.key_averages() if event.key in ("aten::empty", "aten::empty_strided"))


@pytest.mark.parametrize("name", CASES)
def test_a_call_allocates_its_results_alone(name: str, emulated: None) -> None:
    """A plan without colours has an empty tensor of them, of no bytes."""
    case = CASES[name]
    assert allocations(case.prepared()) == case.allocations


def test_a_call_with_out_allocates_nothing(emulated: None) -> None:
    mix = MixInputs.make()
    plan, pools = PlanInputs.make(mix), (mix.target, mix.aux)
    out, rendered, options = mix.empty_out(), plan.plan, plan.options()
    assert allocations(lambda: mix.call(ops.mix, out=out)) == 0
    assert allocations(lambda: ops.mix_plan(*pools, rendered, **options, out=out)) == 0


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU whose memory is full."""

    def empty(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", empty)
    yield


@pytest.mark.parametrize("name", CASES)
def test_a_lack_of_memory_is_torchs_error(name: str, emulated: None, request: pytest.FixtureRequest) -> None:
    call = CASES[name].prepared()
    request.getfixturevalue("full")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        call()


SIZES = [(5,), (0, 7), (5, 16385), (5, -1), (5, 7, 3)]


@pytest.mark.parametrize("size", SIZES)
def test_a_wrong_size_is_named_and_nothing_allocated(size: tuple[int, ...], emulated: None, full: None) -> None:
    mix = MixInputs.make()
    with pytest.raises(RuntimeError, match=r"xmixup_fast\.mix: size: expected height and width"):
        mix.call(ops.mix, size=size)
    with pytest.raises(RuntimeError, match=r"xmixup_fast\.mix_plan: size: expected height and width"):
        PlanInputs.make(mix).call(ops.mix_plan, size=size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_a_wrong_dtype_is_named_and_nothing_allocated(dtype: torch.dtype, emulated: None, full: None) -> None:
    with pytest.raises(RuntimeError, match=r"xmixup_fast\.mix: dtype: expected float32, bfloat16 or float16, got"):
        MixInputs.make().call(ops.mix, dtype=dtype)


# --- what is around a call ---


@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_same_bits(name: str, cuda_emulation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_library", torch.ops.xmixup_fast_cuda_emulation)
    case = CASES[name]
    call = case.prepared()
    expected = call()
    emulation.use(monkeypatch)
    torch.testing.assert_close(call(), expected, rtol=0, atol=0)


def test_gradients_are_those_of_the_reference(emulated: None) -> None:
    inputs = LossInputs.make()
    loss, *grads = inputs.with_gradients(ops.dual_head_cross_entropy)
    expected = inputs.with_gradients(reference.dual_head_cross_entropy)
    torch.testing.assert_close((loss, *grads), expected)
    only_source = replace(inputs, source_logits=inputs.source_logits.clone().requires_grad_())
    only_source.call(ops.dual_head_cross_entropy).backward()
    torch.testing.assert_close(only_source.source_logits.grad, expected[2])
    assert not inputs.call(ops.dual_head_cross_entropy).requires_grad


def test_compiled_code_keeps_the_operators_that_allocate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU as on a CPU, so that a graph has no operator that writes to its arguments."""
    monkeypatch.setattr("xmixup_fast.ops.outputs.ALLOCATED_ON", "cpu")
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph.code)
        return graph

    mix, draw, heads = MixInputs.make(), DrawInputs.make(), LossInputs.make()
    arguments = {name: value for name, value in vars(draw).items() if name != "augmentation"}
    pools, crops = (mix.target, mix.aux), (mix.target_crops, mix.aux_crops)
    constants = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": (5, 7)}

    @torch.compile(backend=backend, fullgraph=True)
    def step(lam: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixed = ops.mix(pools[0], crops[0], pools[1], crops[1], lam, **constants)
        rows = ops.draw(**arguments).rows
        return mixed, rows, replace(heads, target_logits=logits).call(ops.dual_head_cross_entropy)

    torch._dynamo.reset()
    mixed, rows, _ = step(mix.lam, heads.target_logits)
    assert torch.equal(mixed, mix.call(ops.mix, **constants))
    assert_same(ops.MixPlan(rows, torch.empty(0, 2, 3, 4)), draw.call(ops.draw))
    (code,) = graphs
    assert "_out" not in code and all(f"xmixup_fast.{op}(" in code for op in ("mix", "draw", "dual_head_cross_entropy"))


def test_transforms_take_them_too(emulated: None) -> None:
    inputs = MixInputs.make(2)
    lams = torch.tensor([[0.25, 0.5], [0.75, 1.0]])
    each = torch.vmap(lambda lam: replace(inputs, lam=lam).call(ops.mix))(lams)
    assert torch.equal(each[1], replace(inputs, lam=lams[1]).call(ops.mix))


# --- the operators that write to given tensors ---


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("batch", [0, 3])
def test_opcheck_of_draw_out(batch: int, augmented: bool) -> None:
    inputs = DrawInputs.make(batch).augmented() if augmented else DrawInputs.make(batch)
    plan = inputs.call(ops.draw)
    outputs = {"plan": torch.empty_like(plan.rows), "color": torch.empty_like(plan.color)}
    results = torch.library.opcheck(torch.ops.xmixup_fast.draw_out.default, (), inputs.raw() | outputs)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_opcheck_of_the_loss_out(dtype: torch.dtype) -> None:
    inputs = LossInputs.make(3, dtype=dtype)
    outputs = operators.empty_losses(inputs.target_logits, inputs.source_logits)
    loss = torch.ops.xmixup_fast.dual_head_cross_entropy_out.default
    assert set(torch.library.opcheck(loss, (*inputs.raw(), *outputs)).values()) == {"SUCCESS"}


def draw_outputs() -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    inputs = DrawInputs.make().augmented()
    rows, color = operators.empty_plan(3, torch.device("cpu"), colored=True)
    return "draw", inputs.raw(), {"plan": rows, "color": color}


def loss_outputs() -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    inputs = LossInputs.make()
    names = ("loss", "sample_loss", "target_grad", "source_grad")
    outputs = operators.empty_losses(inputs.target_logits, inputs.source_logits)
    return "dual_head_cross_entropy", vars(inputs), dict(zip(names, outputs, strict=True))


OUTPUTS = [(make, name) for make in (draw_outputs, loss_outputs) for name in make()[2]]
SPOILS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "dtype": (Tensor.double, "got float64"),
    "shape": (lambda t: t.new_empty((*t.shape, 1)), r"got \w+\[.*1\]"),
}


@pytest.mark.parametrize("fault", SPOILS)
@pytest.mark.parametrize(("make", "name"), OUTPUTS)
def test_wrong_outputs_are_named(device: torch.device, make: Callable[[], Any], name: str, fault: str) -> None:
    if device.type == "cuda":
        pytest.skip("the arguments are made on the CPU")
    op, arguments, outputs = make()
    spoil, got = SPOILS[fault]
    outputs[name] = spoil(outputs[name])
    with pytest.raises(RuntimeError, match=rf"xmixup_fast\.{op}: {name}: expected .*, {got}"):
        getattr(operators._library, f"{op}_out")(**arguments, **outputs)


@pytest.mark.parametrize(("make", "name"), OUTPUTS)
def test_outputs_on_another_device_are_named(make: Callable[[], Any], name: str) -> None:
    op, arguments, outputs = make()
    outputs[name] = outputs[name].to("meta")
    with pytest.raises(RuntimeError, match=rf"xmixup_fast\.{op}: {name}: expected a tensor on cpu, as .* on meta"):
        getattr(torch.ops.xmixup_fast, f"{op}_out")(**arguments, **outputs)


def test_rows_of_a_plan_at_an_odd_address_are_refused(device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("the arguments are made on the CPU")
    _, arguments, outputs = draw_outputs()
    outputs["plan"] = torch.empty(3 * 32 + 1, dtype=torch.int32)[1:].view(3, 32)
    with pytest.raises(RuntimeError, match=r"xmixup_fast\.draw: plan: expected rows that begin at a multiple of 8"):
        operators._library.draw_out(**arguments, **outputs)


def test_results_are_written_to_given_tensors(device: torch.device) -> None:
    drawn, heads = DrawInputs.make().augmented().to(device), LossInputs.make().to(device)
    plan = operators.empty_plan(3, device, colored=True)
    operators._library.draw_out(**drawn.raw(), plan=plan[0], color=plan[1])
    assert_same(ops.MixPlan(*plan), drawn.call(ops.draw))
    outputs = operators.empty_losses(heads.target_logits, heads.source_logits)
    operators._library.dual_head_cross_entropy_out(*heads.raw(), *outputs)
    expected = operators._library.dual_head_cross_entropy(*heads.raw())
    assert all(map(torch.equal, (outputs[0], *outputs[2:]), expected))
    torch.testing.assert_close(outputs[1].mean(), outputs[0])
