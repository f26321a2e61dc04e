"""The operator `dual_head_cross_entropy`, on every backend, against its definition in xmixup_fast.ops.reference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import LossInputs
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import ops
from xmixup_fast.ops import operators, reference, registrations

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def loss_inputs(draw: st.DrawFn) -> LossInputs:
    """All dtypes, lambdas and settings with both ends, logits up to extreme ones, one class or many: less and more than
    a block of the GPU has threads, with every remainder of a vector."""
    classes = st.one_of(st.integers(1, 40), st.integers(120, 300))
    inputs = LossInputs.make(
        draw(st.integers(1, 4)),
        (draw(classes), draw(classes)),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from([0.0, 1.0, 10.0, 1e4])),
        draw(st.integers(0, 2**31)),
    )
    for b in range(len(inputs.lam)):
        lam = draw(st.sampled_from([None, 0.0, 1.0]))
        if lam is not None:
            inputs.lam[b] = lam
    return replace(
        inputs,
        source_weight=draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 1.0])),
    )


def assert_as_the_reference(inputs: LossInputs) -> None:
    """Loss and gradients are the reference's in float64, but for float32's rounding, and that of 16-bit gradients."""
    loss, *grads = inputs.with_gradients(ops.dual_head_cross_entropy)
    expected, *expected_grads = inputs.double().with_gradients(reference.dual_head_cross_entropy)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=2e-6, equal_nan=True)
    dtype = inputs.target_logits.dtype
    weight = max(1.0, inputs.source_weight) / len(inputs.lam)  # of which p - q leaves little where they are near
    rounding = {"rtol": 1e-5 + torch.finfo(dtype).eps, "atol": 3e-7 * weight + torch.finfo(dtype).tiny / 1024}
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), expected_grad, **rounding, equal_nan=True)


@given(inputs=loss_inputs())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_loss_and_gradients_equal_the_reference(device: torch.device, inputs: LossInputs) -> None:
    assert_as_the_reference(inputs.to(device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_of_usual_size(device: torch.device, dtype: torch.dtype) -> None:
    assert_as_the_reference(LossInputs.make(20, (102, 1000), dtype).to(device))


def test_the_reference_is_differentiated_right() -> None:
    inputs = LossInputs.make(4, (3, 5), torch.float64)
    inputs.lam[:2] = torch.tensor([0.0, 1.0])
    lam = inputs.lam.double()

    def loss(target_logits: torch.Tensor, source_logits: torch.Tensor) -> torch.Tensor:
        changed = replace(inputs, target_logits=target_logits, source_logits=source_logits, lam=lam)
        return changed.call(reference.dual_head_cross_entropy)

    logits = [t.requires_grad_() for t in (inputs.target_logits, inputs.source_logits)]
    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "row",
    [
        [1e4, -1e4, 0.0, -88.0],
        [-1e30, 1e30, -3e38, 3e38],
        [0.0, -inf, 1.0, 2.0],
        [-inf, 0.0, 1.0, 2.0],
        [-inf, -inf, -inf, -inf],
        [0.0, inf, 1.0, 2.0],
        [0.0, nan, 1.0, 2.0],
        [nan, 0.0, 1.0, 2.0],
    ],
)
def test_extreme_logits_give_what_torch_gives(device: torch.device, row: list[float], smoothing: float) -> None:
    """In one row alone: loss and gradients of the others are as they were."""
    inputs = replace(LossInputs.make(2, (4, 4)), label_smoothing=smoothing).to(device)
    inputs.target_labels.fill_(0)
    inputs.lam.fill_(0.5)
    for logits in (inputs.target_logits, inputs.source_logits):
        spoiled = logits.clone()
        spoiled[1] = torch.tensor(row)
        changed = replace(inputs, **{"target_logits" if logits is inputs.target_logits else "source_logits": spoiled})
        loss, *grads = changed.with_gradients(ops.dual_head_cross_entropy)
        expected, *expected_grads = changed.with_gradients(reference.dual_head_cross_entropy)
        torch.testing.assert_close(loss, expected, equal_nan=True)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_16_bit_logits_are_read_right(device: torch.device, dtype: torch.dtype) -> None:
    """A row of two logits, 0 and x: the loss of label 0 has the gradient sigmoid(x) in x; NaN for x = inf."""
    emulated = operators._library is not torch.ops.xmixup_fast
    bits = torch.arange(-(2**15), 2**15, 331 if emulated else 1)  # the emulation is slow
    ends = torch.tensor([-inf, inf, nan], dtype=dtype)
    x = torch.cat([bits.short().view(dtype), ends])
    logits = torch.stack([torch.zeros_like(x), x], dim=1).to(device)
    labels = torch.zeros(len(x), dtype=torch.int64, device=device)
    inputs = LossInputs(logits, logits, labels, labels, torch.ones(len(x), device=device), label_smoothing=0.0)
    _, grad, _ = operators._library.dual_head_cross_entropy(*inputs.raw())
    expected = logits.double().softmax(dim=1)[:, 1] / len(x)
    torch.testing.assert_close(grad[:, 1].double(), expected, rtol=5e-7, atol=1e-37, equal_nan=True)


def test_lam_one_is_the_cross_entropy_of_the_target_alone(device: torch.device) -> None:
    inputs = LossInputs.make(4).to(device)
    inputs.lam.fill_(1)
    inputs.source_logits.fill_(nan)
    inputs.source_labels.fill_(-1)
    loss, _, source_grad = inputs.with_gradients(ops.dual_head_cross_entropy)
    expected = F.cross_entropy(inputs.target_logits, inputs.target_labels, label_smoothing=inputs.label_smoothing)
    torch.testing.assert_close(loss, expected)
    assert (source_grad == 0).all()


def test_one_row_of_lam_one_leaves_the_others_as_they_are(device: torch.device) -> None:
    inputs = LossInputs.make(3).to(device)
    inputs.lam[1] = 1
    expected = inputs.with_gradients(ops.dual_head_cross_entropy)
    inputs.source_logits[1] = nan
    inputs.source_labels[1] = 10**9
    assert all(map(torch.equal, inputs.with_gradients(ops.dual_head_cross_entropy), expected))
    assert_as_the_reference(inputs)


def test_swapping_the_heads_and_lam_changes_nothing(device: torch.device) -> None:
    inputs = replace(LossInputs.make(5), source_weight=1.0).to(device)
    swapped = replace(
        inputs,
        target_logits=inputs.source_logits,
        source_logits=inputs.target_logits,
        target_labels=inputs.source_labels,
        source_labels=inputs.target_labels,
        lam=1 - inputs.lam,
    )
    loss, target_grad, source_grad = inputs.with_gradients(ops.dual_head_cross_entropy)
    expected, expected_source, expected_target = swapped.with_gradients(ops.dual_head_cross_entropy)
    torch.testing.assert_close((loss, target_grad, source_grad), (expected, expected_target, expected_source))


def test_adding_a_constant_to_a_row_changes_nothing(device: torch.device) -> None:
    inputs = LossInputs.make(5).to(device)
    shifted = replace(inputs, target_logits=inputs.target_logits + 8, source_logits=inputs.source_logits - 8)
    results = [i.with_gradients(ops.dual_head_cross_entropy) for i in (inputs, shifted)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_a_batch_is_the_mean_of_its_samples(device: torch.device, batch: int) -> None:
    inputs = LossInputs.make(batch).to(device)
    losses = []
    for b in range(batch):
        row = slice(b, b + 1)
        alone = LossInputs(*(t[row] for t in inputs.raw()[:5]), inputs.source_weight, inputs.label_smoothing)
        losses.append(alone.call(ops.dual_head_cross_entropy))
    torch.testing.assert_close(inputs.call(ops.dual_head_cross_entropy), torch.stack(losses).mean())


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_batch_gives_nan_as_torch_does(device: torch.device, dtype: torch.dtype) -> None:
    loss, *grads = LossInputs.make(0, (5, 7), dtype).to(device).with_gradients(ops.dual_head_cross_entropy)
    assert loss.isnan()
    assert [grad.shape for grad in grads] == [(0, 5), (0, 7)] and all(grad.dtype == dtype for grad in grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [-2.5, 2.0**16])
def test_gradients_scale_with_the_losses(device: torch.device, dtype: torch.dtype, scale: float) -> None:
    """2^16 is where torch's loss scaling for float16 begins, and is infinite in float16 itself."""
    inputs = replace(LossInputs.make(8, (30, 200), dtype), source_weight=0.01).to(device)
    grads = inputs.with_gradients(ops.dual_head_cross_entropy, scale)[1:]
    for grad, raw in zip(grads, operators._library.dual_head_cross_entropy(*inputs.raw())[1:], strict=True):
        assert raw.dtype == torch.float32
        assert torch.equal(grad, (scale * raw).to(dtype)) and grad.isfinite().all()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    inputs = LossInputs.make(61, (102, 1000))
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(torch.ops.xmixup_fast.dual_head_cross_entropy(*inputs.raw()))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


# --- the operator inside torch ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(batch: int, dtype: torch.dtype) -> None:
    inputs = LossInputs.make(batch, dtype=dtype)
    for logits in (inputs.target_logits, inputs.source_logits):
        logits.requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    if batch > 0:  # the last one compares results: an empty batch's NaN is not equal to itself
        tests += ("test_aot_dispatch_dynamic",)
    results = torch.library.opcheck(
        torch.ops.xmixup_fast.dual_head_cross_entropy.default, inputs.raw(), test_utils=tests
    )
    assert set(results.values()) == {"SUCCESS"}


def test_compiles_to_one_graph_with_its_backward() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ops.dual_head_cross_entropy, backend=counter, fullgraph=True)
    for seed, batch in enumerate((3, 3, 3, 5, 6, 7)):
        inputs = LossInputs.make(batch, seed=seed)
        results = [inputs.with_gradients(loss) for loss in (compiled, ops.dual_head_cross_entropy)]
        assert all(map(torch.equal, *results))
        assert counter.frame_count == (1 if batch == 3 else 2)  # the second batch size makes a graph for all


def test_autocast_gives_it_16_bit_logits(device: torch.device) -> None:
    inputs = LossInputs.make(6).to(device)
    generator = torch.Generator().manual_seed(0)
    features, weights = (torch.randn(n, 8, generator=generator).to(device) for n in (6, 45))
    weights.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        target_logits, source_logits = (F.linear(features, part) for part in weights.split([5, 40]))
        assert target_logits.dtype == torch.bfloat16
        mixed = replace(inputs, target_logits=target_logits, source_logits=source_logits)
        losses = [mixed.call(loss) for loss in (ops.dual_head_cross_entropy, reference.dual_head_cross_entropy)]
    assert losses[0].dtype == torch.float32
    grads = [torch.autograd.grad(loss, weights, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_float32_logits_alone(device: torch.device, dtype: torch.dtype) -> None:
    inputs = LossInputs.make(6).to(device)
    expected = inputs.with_gradients(ops.dual_head_cross_entropy)
    with torch.autocast(device.type, dtype):
        results = inputs.with_gradients(ops.dual_head_cross_entropy)
    assert all(result.dtype == torch.float32 for result in results) and all(map(torch.equal, results, expected))


def test_fake_cuda_tensors_give_a_fake_cuda_loss_and_gradients() -> None:
    inputs = LossInputs.make(dtype=torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = inputs.to(torch.device("cuda"))
        logits = inputs.target_logits.requires_grad_()
        loss = inputs.call(ops.dual_head_cross_entropy)
        assert loss.device.type == "cuda" and loss.shape == () and loss.dtype == torch.float32
        assert loss.requires_grad
        with torch.no_grad():  # what autograd calls; the engine itself asks for a real GPU
            outputs = torch.ops.xmixup_fast.dual_head_cross_entropy(*inputs.raw())
            context = SimpleNamespace(saved_tensors=outputs[1:], dtype=logits.dtype)
            grads = registrations.backward(context, torch.ones_like(loss))[:2]
        for grad, logits in zip(grads, (inputs.target_logits, inputs.source_logits), strict=True):
            assert grad.device.type == "cuda" and (grad.shape, grad.dtype) == (logits.shape, torch.bfloat16)


def test_second_derivatives_are_refused(device: torch.device) -> None:
    inputs = LossInputs.make().to(device)
    loss = inputs.call(
        lambda logits, *rest, **more: ops.dual_head_cross_entropy(logits.requires_grad_(), *rest, **more)
    )
    with pytest.raises(NotImplementedError, match="dual_head_cross_entropy: second derivatives are not implemented"):
        torch.autograd.grad(loss, inputs.target_logits, create_graph=True)


# --- wrong arguments ---

Spoil = Callable[[torch.Tensor], torch.Tensor]


def put(value: float) -> Spoil:
    """Puts value into the second place of a copy."""
    return lambda t: t.index_fill(0, torch.tensor([1], device=t.device), value)


FAULTS: dict[str, tuple[str, Spoil, str]] = {
    "target dtype": ("target_logits", lambda t: t.int(), "expected float32, bfloat16 or float16, got int32"),
    "target shape": ("target_logits", lambda t: t[0], r"expected float32\[batch, classes\], got float32\[5\]"),
    "target classes": ("target_logits", lambda t: t[:, :0], r"expected 1 to 16777216 classes, got float32\[3, 0\]"),
    "source dtype": ("source_logits", lambda t: t.half(), r"expected float32\[3, any\], got float16\[3, 40\]"),
    "source batch": ("source_logits", lambda t: t[:2], r"expected float32\[3, any\], got float32\[2, 40\]"),
    "source classes": ("source_logits", lambda t: t[:, :0], r"expected 1 to 16777216 classes, got float32\[3, 0\]"),
    "target labels' shape": ("target_labels", lambda t: t[:2], r"expected int64\[3\], got int64\[2\]"),
    "target labels' dtype": ("target_labels", lambda t: t.bool(), r"expected int64\[3\], got bool\[3\]"),
    "source labels' dtype": ("source_labels", lambda t: t.float(), r"expected int64\[3\], got float32\[3\]"),
    "source labels' shape": ("source_labels", lambda t: t[:, None], r"expected int64\[3\], got int64\[3, 1\]"),
    "lam dtype": ("lam", lambda t: t.double(), r"expected float32\[3\], got float64\[3\]"),
    "lam shape": ("lam", lambda t: t[:1], r"expected float32\[3\], got float32\[1\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_tensors_are_named(device: torch.device, fault: str) -> None:
    name, spoil, message = FAULTS[fault]
    inputs = LossInputs.make().to(device)
    spoiled = replace(inputs, **{name: spoil(getattr(inputs, name))})
    with pytest.raises(RuntimeError, match=rf"xmixup_fast\.dual_head_cross_entropy: {name}: .*{message}"):
        spoiled.call(ops.dual_head_cross_entropy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target_labels", -100, "expected a class from 0 to 4, got -100; no label can have its sample ignored"),
        ("target_labels", 5, "expected a class from 0 to 4, got 5"),
        ("source_labels", -1, r"expected .* 39, as lam\[1\] is less than 1, got -1; .*: leave the sample out"),
        ("source_labels", 40, r"expected a class from 0 to 39, as lam\[1\] is less than 1, got 40"),
        ("lam", 1.5, "expected a number from 0 to 1, got 1.5"),
        ("lam", -0.5, "expected a number from 0 to 1, got -0.5"),
        ("lam", nan, "expected a number from 0 to 1, got nan"),
    ],
)
def test_wrong_values_are_named(device: torch.device, name: str, value: Any, message: str) -> None:
    if device.type == "cuda":
        pytest.skip("a device-side assert ends the process's CUDA context")
    inputs = LossInputs.make()
    spoiled = replace(inputs, **{name: put(value)(getattr(inputs, name))})
    expected = rf"xmixup_fast\.dual_head_cross_entropy: {name}\[1\]: {message}"
    if operators._library is not torch.ops.xmixup_fast:
        kernel = r"xmixup_fast\.dual_head_cross_entropy"
        expected = rf"^device-side assert triggered: {kernel}: {name}: expected [^\n]*$"
    with pytest.raises(RuntimeError, match=expected):
        spoiled.call(ops.dual_head_cross_entropy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("source_weight", -0.1, "expected a finite number, 0 or greater, got -0.1"),
        ("source_weight", inf, "expected a finite number, 0 or greater, got inf"),
        ("source_weight", nan, "expected a finite number, 0 or greater, got nan"),
        ("label_smoothing", -0.1, "expected a number from 0 to 1, got -0.1"),
        ("label_smoothing", 1.1, "expected a number from 0 to 1, got 1.1"),
        ("label_smoothing", nan, "expected a number from 0 to 1, got nan"),
    ],
)
def test_wrong_settings_are_named(device: torch.device, name: str, value: float, message: str) -> None:
    with pytest.raises(RuntimeError, match=rf"xmixup_fast\.dual_head_cross_entropy: {name}: {message}"):
        LossInputs.make().to(device).call(ops.dual_head_cross_entropy, **{name: value})


TENSORS = ("target_logits", "source_logits", "target_labels", "source_labels", "lam")


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", TENSORS[1:])
def test_tensors_on_another_device_are_named(name: str, fake: bool) -> None:
    inputs = LossInputs.make()
    elsewhere = replace(inputs, **{name: getattr(inputs, name).to("meta")})
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        pytest.raises(RuntimeError, match=f"{name}: expected a tensor on cpu, as target_logits, got one on meta"),
    ):
        elsewhere.call(ops.dual_head_cross_entropy)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_with_gaps_are_taken_and_none_is_named(device: torch.device, name: str) -> None:
    inputs = LossInputs.make().to(device)
    tensor = getattr(inputs, name)
    for gaps in (torch.stack([tensor] * 2, -1)[..., 0], tensor[:1].expand_as(tensor)):
        spread, packed = (replace(inputs, **{name: t}) for t in (gaps, gaps.contiguous()))
        results = (case.with_gradients(ops.dual_head_cross_entropy) for case in (spread, packed))
        assert all(map(torch.equal, *results))
        if not gaps.is_contiguous():
            with pytest.raises(RuntimeError, match=rf"{name}: expected a contiguous .*, got strides \["):
                operators._library.dual_head_cross_entropy(*spread.raw())
    with pytest.raises(RuntimeError, match=f"cross_entropy: {name}: expected a tensor, got None"):
        replace(inputs, **{name: None}).call(ops.dual_head_cross_entropy)
