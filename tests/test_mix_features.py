"""`mix_features`: equal to its definition in xmixup_fast.reference, forward and backward."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmixup_fast import mix_features, reference

Inputs = tuple[Tensor, Tensor, Tensor]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def made(shape: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    """Features of both sides, and lam."""
    generator = torch.Generator().manual_seed(seed)
    target, aux = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return target, aux, torch.rand(shape[0], generator=generator)


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    """Any dtype and number of dimensions, empty ones too, both layouts, and lambdas with both ends."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    target, aux, lam = made(shape, draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31)))
    if len(shape) == 4 and draw(st.booleans()):
        target, aux = (t.to(memory_format=torch.channels_last) for t in (target, aux))
    for b in range(len(lam)):
        end = draw(st.sampled_from([None, 0.0, 1.0]))
        if end is not None:
            lam[b] = end
    return target, aux, lam


@given(inputs=inputs())
@settings(max_examples=100)
def test_result_and_gradients_equal_the_reference(inputs: Inputs) -> None:
    """To within a few roundings of the larger side: those of lam to the features' dtype and of the arithmetic."""
    features = [t.requires_grad_() for t in inputs[:2]]
    lam = inputs[2].requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in inputs]
    mixed, expected = mix_features(*features, lam), reference.mix_features(*exact)
    dtype, eps = mixed.dtype, torch.finfo(mixed.dtype).eps
    assert dtype == features[0].dtype and mixed.shape == features[0].shape
    size = exact[0].abs().maximum(exact[1].abs())
    assert ((mixed.double() - expected).abs() <= 4 * eps * size).all()

    flow = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad(mixed, [*features, lam], flow)
    expected_grads = torch.autograd.grad(expected, exact, flow.double())
    for grad, expected_grad in zip(grads[:2], expected_grads[:2], strict=True):
        assert grad.dtype == dtype
        assert ((grad.double() - expected_grad).abs() <= 4 * eps * flow.double().abs()).all()
    each = flow.double() * (exact[0] - exact[1]).detach()
    rows = each.flatten(1) if each.dim() > 1 else each[:, None]
    slope = rows.sum(1).where(lam.detach() < 1, 0)
    assert ((grads[2].double() - slope).abs() <= 8 * max(eps, 1e-7) * (1 + rows.shape[1] * rows.abs().sum(1))).all()


@pytest.mark.parametrize("shape", [[3], [3, 4], [3, 2, 2, 2]])
def test_first_and_second_derivatives_are_right(shape: list[int]) -> None:
    target, aux, lam = (t.double() for t in made(shape))
    lam[0] = 0
    every = [t.requires_grad_() for t in (target, aux, lam)]
    assert torch.autograd.gradcheck(mix_features, every)
    assert torch.autograd.gradgradcheck(mix_features, every)
    unmixed = torch.ones_like(lam)
    assert torch.autograd.gradcheck(lambda t, a: mix_features(t, a, unmixed), [target, aux])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [nan, inf])
def test_lam_one_is_the_target_whatever_the_other_is(dtype: torch.dtype, bad: float) -> None:
    target, aux, lam = made([3, 5, 2, 2], dtype)
    lam[1] = 1
    aux[1] = bad
    every = [t.requires_grad_() for t in (target, aux, lam)]
    mixed = mix_features(*every)
    assert torch.equal(mixed[1], target[1]) and mixed.isfinite().all()
    target_grad, aux_grad, lam_grad = torch.autograd.grad(mixed.sum(), every)
    assert (target_grad[1] == 1).all() and (aux_grad[1] == 0).all() and lam_grad[1] == 0
    assert all(grad.isfinite().all() for grad in (target_grad, aux_grad, lam_grad))


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target", torch.zeros(3, 4, dtype=torch.int64), r"floating-point \[batch, ...\], got int64\[3, 4\] on cpu"),
        ("target", torch.zeros(()), r"floating-point \[batch, ...\], got float32\[\] on cpu"),
        ("aux", torch.zeros(3, 5), r"float32\[3, 4\] on cpu, as target, got float32\[3, 5\] on cpu"),
        ("aux", torch.zeros(3, 4).half(), r"float32\[3, 4\] on cpu, as target, got float16\[3, 4\] on cpu"),
        ("aux", torch.zeros(3, 4, device="meta"), r"float32\[3, 4\] on cpu, as target, got float32\[3, 4\] on meta"),
        ("lam", torch.zeros(4), r"floating-point \[3\] on cpu, got float32\[4\] on cpu"),
        ("lam", torch.zeros(3, 1), r"floating-point \[3\] on cpu, got float32\[3, 1\] on cpu"),
        ("lam", torch.zeros(3, dtype=torch.int64), r"floating-point \[3\] on cpu, got int64\[3\] on cpu"),
    ],
)
def test_wrong_arguments_are_named(name: str, value: Tensor, message: str) -> None:
    arguments = dict(zip(("target", "aux", "lam"), made([3, 4]), strict=True))
    with pytest.raises(ValueError, match=f"{name}: expected {message}"):
        mix_features(**{**arguments, name: value})
