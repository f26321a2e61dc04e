"""`mix_features`: equal to its definition in xmixup_fast.ops.reference, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmixup_fast import mix_features
from xmixup_fast.ops import reference

Inputs = tuple[Tensor, Tensor, Tensor]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def made(shape: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    """Features of both sides, and lam."""
    generator = torch.Generator().manual_seed(seed)
    target, aux = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return target, aux, torch.rand(shape[0], generator=generator)


def permuted(t: Tensor) -> Tensor:
    """Samples without gaps, and in an order of their own."""
    return t.transpose(1, -1).contiguous().transpose(1, -1) if t.dim() > 2 else t


def with_samples_inside(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "permuted": permuted,
    "samples inside": with_samples_inside,
    "gaps": lambda t: torch.stack([t, t], -1)[..., 0],
    "reversed gaps": lambda t: torch.cat([t, t])[::2],
    "one sample": lambda t: t[:1].expand_as(t),
}


def moved(t: Tensor, device: torch.device) -> Tensor:
    """With its strides, which Tensor.to does not keep where there are gaps."""
    if t.device == device:
        return t
    size = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
    flat = t.as_strided((size if t.numel() else 0,), (1,), 0).to(device)
    return flat.as_strided(t.shape, t.stride())


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    """Any dtypes and number of dimensions, empty ones too, any layouts, and lambdas with both ends."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4) | st.tuples(st.integers(1, 3), st.integers(1, 99)))
    target, aux, lam = made(list(shape), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31)))
    layouts = [LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]] * 2
    if draw(st.booleans()):
        layouts[1] = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    for b in range(len(lam)):
        end = draw(st.sampled_from([None, 0.0, 1.0]))
        if end is not None:
            lam[b] = end
    return layouts[0](target), layouts[1](aux), lam.to(draw(st.sampled_from(DTYPES)))


def assert_as_the_reference(inputs: Inputs) -> None:
    """Mix and features' gradients are those of the reference, computed in float32 or float64, to the bit. Lam's
    gradient is a sum, and off by less than roundings of all that is added up, and of lam's dtype."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    dtype, lam_dtype, size = leaves[0].dtype, leaves[2].dtype, leaves[0].numel() // max(1, len(inputs[2]))
    computed = torch.promote_types(dtype, torch.float32)
    wide = [t.detach().to(computed).requires_grad_() for t in inputs]
    mixed, expected = mix_features(*leaves), reference.mix_features(*wide)
    assert (mixed.dtype, mixed.shape) == (dtype, leaves[0].shape)
    assert torch.equal(mixed, expected.to(dtype))

    flow = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1)).to(mixed)
    grads = torch.autograd.grad(mixed, leaves, flow)
    expected_grads = torch.autograd.grad(expected, wide, flow.to(computed))
    for grad, expected_grad in zip(grads[:2], expected_grads[:2], strict=True):
        assert grad.dtype == dtype and torch.equal(grad, expected_grad.to(dtype))
    exact = [t.detach().double() for t in (flow, *wide)]
    terms = (exact[0] * (exact[1] - exact[2])).reshape(len(exact[3]), size)
    terms[exact[3] == 1] = 0
    sums, sizes = terms.sum(1), terms.abs().sum(1)
    rounding = min(size + 4, 600) * torch.finfo(computed).eps + torch.finfo(lam_dtype).eps
    assert grads[2].dtype == lam_dtype
    assert ((grads[2].double() - sums).abs() <= rounding * sizes + torch.finfo(lam_dtype).tiny).all()


@given(inputs=inputs())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_result_and_gradients_equal_the_reference(device: torch.device, inputs: Inputs) -> None:
    target, aux, lam = inputs
    assert_as_the_reference((moved(target, device), moved(aux, device), lam.to(device)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [[2, 3, 57, 53], [2, 16, 32, 33]])
def test_samples_of_several_parts(device: torch.device, dtype: torch.dtype, shape: list[int]) -> None:
    """More features than csrc/core/mix_features.h sums up at a time; samples of whole 128 bits and of others."""
    target, aux, lam = (t.to(device) for t in made(shape, dtype))
    target, aux = (t.to(memory_format=torch.channels_last) for t in (target, aux))
    assert_as_the_reference((target, aux, lam))


def test_more_samples_than_a_grid_is_high(device: torch.device) -> None:
    target, aux, lam = (t.to(device) for t in made([65539, 1]))
    mixed = mix_features(target.requires_grad_(), aux, lam)
    assert torch.equal(mixed, reference.mix_features(target, aux, lam))
    (grad,) = torch.autograd.grad(mixed.sum(), target)
    assert torch.equal(grad, lam[:, None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_maps_which_are_written_past_the_caches(dtype: torch.dtype) -> None:
    """The second sample does not begin on a line of the caches, nor end on one."""
    target, aux, lam = made([3, 2**22 // (2 * torch.finfo(dtype).bits // 8) + 1], dtype)
    lam[2] = 1
    assert_as_the_reference((target, aux, lam))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lam", [0.5, 1.0, nan])
def test_every_16_bit_number(device: torch.device, dtype: torch.dtype, lam: float) -> None:
    numbers = torch.arange(2**16).to(torch.uint16).view(dtype)[None].to(device)
    weight = torch.tensor([lam], device=device)
    mixed = mix_features(numbers, torch.zeros_like(numbers), weight)
    expected = lam * numbers.float() + (1 - lam) * 0
    torch.testing.assert_close(mixed, expected.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_any_nan_as_lam_gives_nan(device: torch.device) -> None:
    """A NaN whose lower bits are set would be rounded to minus zero."""
    target, aux, _ = (t.to(device) for t in made([1, 80], torch.bfloat16))
    lam = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32).to(device)
    assert mix_features(target, aux, lam).isnan().all()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    target, aux, lam = made([5, 40001])
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            every = [t.detach().requires_grad_() for t in (target, aux, lam)]
            mixed = mix_features(*every)
            results.append([mixed, *torch.autograd.grad(mixed.square().sum(), every)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_features_are_kept_for_backward_where_lam_needs_a_gradient() -> None:
    target, aux, lam = made([3, 4])
    target.requires_grad_()
    assert [t.shape for t in mix_features(target, aux, lam).grad_fn.saved_tensors] == [(3,)]
    assert len(mix_features(target, aux, lam.requires_grad_()).grad_fn.saved_tensors) == 3


@pytest.mark.parametrize("shape", [[3], [3, 4], [3, 2, 2, 2]])
def test_first_and_second_derivatives_are_right(device: torch.device, shape: list[int]) -> None:
    target, aux, lam = (t.double().to(device) for t in made(shape))
    lam[0] = 0
    every = [t.requires_grad_() for t in (target, aux, lam)]
    assert torch.autograd.gradcheck(mix_features, every)
    assert torch.autograd.gradgradcheck(mix_features, every)
    unmixed = torch.ones_like(lam)
    assert torch.autograd.gradcheck(lambda t, a: mix_features(t, a, unmixed), [target, aux])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [nan, inf])
def test_lam_one_is_the_target_whatever_the_other_is(device: torch.device, dtype: torch.dtype, bad: float) -> None:
    target, aux, lam = made([3, 5, 4, 4], dtype)
    lam[1] = 1
    aux[1] = bad
    every = [t.to(device).requires_grad_() for t in (target, aux, lam)]
    target = every[0]
    mixed = mix_features(*every)
    assert torch.equal(mixed[1], target[1]) and mixed.isfinite().all()
    target_grad, aux_grad, lam_grad = torch.autograd.grad(mixed.sum(), every)
    assert (target_grad[1] == 1).all() and (aux_grad[1] == 0).all() and lam_grad[1] == 0
    assert all(grad.isfinite().all() for grad in (target_grad, aux_grad, lam_grad))
    overflown = torch.full_like(mixed, inf)
    assert (torch.autograd.grad(mix_features(*every), every[1], overflown)[0][1] == 0).all()


def test_swapping_the_sides_and_the_weights_changes_nothing() -> None:
    target, aux, lam = made([6, 7])
    torch.testing.assert_close(mix_features(target, aux, lam), mix_features(aux, target, 1 - lam))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_is_kept_forward_and_backward(dtype: torch.dtype) -> None:
    target, aux, lam = made([2, 4, 3, 5], dtype)
    for layout in (torch.channels_last, torch.contiguous_format):
        features = [t.to(memory_format=layout).detach().requires_grad_() for t in (target, aux)]
        mixed = mix_features(*features, lam)
        grads = torch.autograd.grad(mixed, features, torch.ones_like(mixed))
        assert all(t.is_contiguous(memory_format=layout) for t in (mixed, *grads))


def test_mixes_within_a_batch() -> None:
    features, _, lam = made([4, 6])
    features.requires_grad_()
    partner = torch.tensor([2, 0, 0, 3])
    mixed = mix_features(features, features[partner], lam)
    (grad,) = torch.autograd.grad(mixed.sum(), features)
    weight = lam + torch.zeros(4).index_add(0, partner, 1 - lam)
    torch.testing.assert_close(grad, weight[:, None].expand(4, 6))


def test_compiles_to_one_graph_with_gradients() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mix_features, backend=counter, fullgraph=True)
    for seed in range(2):
        every = [t.requires_grad_() for t in made([3, 4, 2, 2], seed=seed)]
        results = [call(*every) for call in (compiled, mix_features)]
        assert torch.equal(*results)
        grads = [torch.autograd.grad(result.square().sum(), every) for result in results]
        for grad, expected in zip(*grads, strict=True):
            torch.testing.assert_close(grad, expected)
    assert counter.frame_count == 1


OPERATORS = torch.ops.xmixup_fast
A, LAM = torch.zeros(3, 4), torch.zeros(3)


@pytest.mark.parametrize(
    ("shape", "layout"), [([3, 4, 2, 2], "channels_last"), ([0, 4], "contiguous"), ([2, 3, 4], "samples inside")]
)
def test_opcheck(shape: list[int], layout: str) -> None:
    target, aux, lam = made(shape)
    target, aux = LAYOUTS[layout](target), LAYOUTS[layout](aux)
    checks = ("test_schema", "test_faketensor")
    for op, arguments in (
        (OPERATORS.mix_features_backward, (target, lam)),
        (OPERATORS.mix_features_lam_backward, (aux, target, aux, lam)),
    ):
        assert set(torch.library.opcheck(op.default, arguments, test_utils=checks).values()) == {"SUCCESS"}
    leaves = tuple(t.requires_grad_() for t in (target, aux, lam))
    assert set(torch.library.opcheck(OPERATORS.mix_features.default, leaves).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target", torch.zeros(3, 4, dtype=torch.int64), r"floating-point \[batch, ...\], got int64\[3, 4\] on cpu"),
        ("target", torch.zeros(()), r"floating-point \[batch, ...\], got float32\[\] on cpu"),
        ("target", None, r"floating-point \[batch, ...\], got None"),
        ("aux", 2, r"float32\[3, 4\] on cpu, as target, got 2"),
        ("aux", torch.zeros(3, 5), r"float32\[3, 4\] on cpu, as target, got float32\[3, 5\] on cpu"),
        ("aux", torch.zeros(3, 4).half(), r"float32\[3, 4\] on cpu, as target, got float16\[3, 4\] on cpu"),
        ("aux", torch.zeros(3, 4, device="meta"), r"float32\[3, 4\] on cpu, as target, got float32\[3, 4\] on meta"),
        ("lam", torch.zeros(4), r"floating-point \[3\] on cpu, got float32\[4\] on cpu"),
        ("lam", torch.zeros(3, 1), r"floating-point \[3\] on cpu, got float32\[3, 1\] on cpu"),
        ("lam", torch.zeros(3, dtype=torch.int64), r"floating-point \[3\] on cpu, got int64\[3\] on cpu"),
    ],
)
def test_wrong_arguments_are_named(name: str, value: Any, message: str) -> None:
    arguments = dict(zip(("target", "aux", "lam"), made([3, 4]), strict=True))
    with pytest.raises(ValueError, match=f"{name}: expected {message}"):
        mix_features(**{**arguments, name: value})


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("mix_features", (None, A, LAM), "target: expected a tensor, got None"),
        ("mix_features", (A, None, LAM), "aux: expected a tensor, got None"),
        ("mix_features", (A, A, None), "lam: expected a tensor, got None"),
        ("mix_features", (A.int(), A.int(), LAM), "target: expected float32, bfloat16, float16 or float64, got int32"),
        ("mix_features", (LAM[0], LAM[0], LAM), r"target: expected \[batch, ...\], got float32\[\]"),
        ("mix_features", (A, A[:, :2], LAM), r"aux: expected float32\[3, 4\], as target, got float32\[3, 2\]"),
        ("mix_features", (A, A.half(), LAM), r"aux: expected float32\[3, 4\], as target, got float16\[3, 4\]"),
        ("mix_features", (A, A, LAM[:2]), r"lam: expected floating-point \[3\], got float32\[2\]"),
        ("mix_features", (A, A, LAM.int()), r"lam: expected floating-point \[3\], got int32\[3\]"),
        (
            "mix_features_backward",
            (A.int(), LAM),
            "mixed_grad: expected float32, bfloat16, float16 or float64, got int32",
        ),
        ("mix_features_backward", (A, LAM[:2]), r"lam: expected floating-point \[3\], got float32\[2\]"),
        (
            "mix_features_lam_backward",
            (A.T, A, A, LAM),
            r"mixed_grad: expected float32\[3, 4\], as target, got .*\[4, 3\]",
        ),
        ("mix_features_lam_backward", (A, A, A[0], LAM), r"aux: expected float32\[3, 4\], as target, got float32\[4\]"),
    ],
)
def test_operators_check_for_themselves(host_grid: Path, op: str, arguments: tuple[Any, ...], message: str) -> None:
    for library in (OPERATORS, torch.ops.xmixup_fast_host_grid):
        with pytest.raises(RuntimeError, match=rf"xmixup_fast\.{op}: {message}"):
            getattr(library, op)(*arguments)
