"""The weight gradient of depthwise convolutions on the CPU, against its definition in xmixup_fast.ops.reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import nan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast.ops import reference
from xmixup_fast.ops.depthwise import depthwise_conv2d_weight_grad

Two = tuple[int, int]


@dataclass(frozen=True)
class Axes:
    """The settings of a convolution."""

    kernel_size: Two = (3, 5)
    stride: Two = (1, 2)
    padding: Two = (1, 0)
    dilation: Two = (1, 1)

    def output(self, size: Two) -> Two:
        """Height and width of the output for an input of this size, which the kernel fits."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width


def make(batch: int = 3, channels: int = 20, size: Two = (6, 9), axes: Axes = Axes(), seed: int = 0) -> list[Tensor]:
    """Random input and gradient of the output, in channels_last."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, channels, *size), (batch, channels, *axes.output(size))]
    return [torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for shape in shapes]


def assert_as_the_reference(input: Tensor, grad_output: Tensor, axes: Axes) -> None:
    """Within the bound that the operator documents."""
    actual = depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes))
    inputs = input.double(), grad_output.double()
    expected = reference.depthwise_conv2d_weight_grad(*inputs, **asdict(axes))
    size = reference.depthwise_conv2d_weight_grad(*(t.abs() for t in inputs), **asdict(axes))
    batch, _, height, width = grad_output.shape
    assert actual.dtype == torch.float32 and actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= (batch * height + width + 2) * 2**-24 * size).all()


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[list[Tensor], Axes]:
    """Kernels of 1 to 7 taps, with every remainder of the vectors, also ones that lie mostly in the padding."""

    def pair(least: int, most: int) -> Two:
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    axes = Axes(pair(1, 7), pair(1, 3), pair(0, 8), pair(1, 3))
    height, width = (
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 12))
        for k, p, d in zip(axes.kernel_size, axes.padding, axes.dilation, strict=True)
    )
    size = height, width
    channels = draw(st.one_of(st.integers(1, 40), st.integers(255, 300)))
    return make(draw(st.integers(0, 4)), channels, size, axes, draw(st.integers(0, 2**31))), axes


@given(convolution=convolutions())
@settings(max_examples=150)
def test_it_equals_the_reference(convolution: tuple[list[Tensor], Axes]) -> None:
    (input, grad_output), axes = convolution
    assert_as_the_reference(input, grad_output, axes)


@pytest.mark.parametrize("batch", [1, 7, 70])
@pytest.mark.parametrize("channels", [1, 16, 144, 530])
def test_batches_of_any_number_of_images_and_channels(batch: int, channels: int) -> None:
    axes = Axes((5, 5), (1, 1), (2, 2))
    assert_as_the_reference(*make(batch, channels, (3, 5), axes), axes)


def test_the_reference_is_the_gradient_of_torchs_convolution() -> None:
    axes = Axes((3, 2), (2, 1), (1, 3), (1, 2))
    input, grad_output = (t.double() for t in make(2, 4, (5, 6), axes))
    weight = torch.zeros(4, 1, *axes.kernel_size, dtype=torch.float64, requires_grad=True)
    output = torch.conv2d(input, weight, None, axes.stride, axes.padding, axes.dilation, 4)
    (expected,) = torch.autograd.grad(output, weight, grad_output)
    torch.testing.assert_close(reference.depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes)), expected)


def test_sums_of_integers_are_exact() -> None:
    axes = Axes((5, 4), (2, 1), (2, 3))
    input, grad_output = (t.mul(8).round() for t in make(5, 37, (11, 8), axes))
    expected = reference.depthwise_conv2d_weight_grad(input.double(), grad_output.double(), **asdict(axes))
    assert torch.equal(depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes)), expected.float())


def test_integers_stand_for_both_axes() -> None:
    input, grad_output = make(axes=(axes := Axes((3, 3), (2, 2), (1, 1), (2, 2))))
    expected = depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes))
    actual = depthwise_conv2d_weight_grad(input, grad_output, kernel_size=3, stride=2, padding=1, dilation=2)
    assert torch.equal(actual, expected)


def test_what_is_not_a_number_stays_in_its_channel() -> None:
    axes = Axes()
    input, grad_output = make()
    expected = depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes))
    input[1, 7] = nan
    grad_output[2, 17] = nan
    actual = depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes))
    spoiled = torch.tensor([c in (7, 17) for c in range(20)])
    assert actual[spoiled].isnan().all() and torch.equal(actual[~spoiled], expected[~spoiled])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    axes = Axes((5, 5), (1, 1), (2, 2))
    inputs = make(9, 530, (12, 12), axes)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(depthwise_conv2d_weight_grad(*inputs, **asdict(axes)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_an_empty_batch_gives_zeros() -> None:
    gradient = depthwise_conv2d_weight_grad(*make(0), **asdict(Axes()))
    assert torch.equal(gradient, torch.zeros(20, 1, 3, 5))


# --- arguments ---

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"input": lambda t: t.double()}, r"input: expected float32\[any, any, any, any\], got float64\[3, 20, 6, 9\]"),
    ({"input": lambda t: t[0]}, r"input: expected float32\[any, any, any, any\], got float32\[20, 6, 9\]"),
    (
        {"input": lambda t: t.contiguous()},
        r"input: expected a tensor in torch.channels_last, got \[3, 20, 6, 9\] with strides \[1080, 54, 9, 1\]",
    ),
    ({"grad_output": lambda t: t.half()}, r"grad_output: expected float32\[3, 20, 6, 3\], got float16\[3, 20, 6, 3\]"),
    ({"grad_output": lambda t: t[:2]}, r"grad_output: expected float32\[3, 20, 6, 3\], got float32\[2, 20, 6, 3\]"),
    (
        {"grad_output": lambda t: t[:, :, ::2]},
        r"grad_output: expected float32\[3, 20, 6, 3\], got float32\[3, 20, 3, 3\]",
    ),
    ({"grad_output": lambda t: t[..., :1].expand(t.shape)}, "grad_output: expected a tensor in torch.channels_last"),
    ({"kernel_size": (0, 3)}, r"kernel_size: expected 2 integers from 1 to 1024, got \[0, 3\]"),
    ({"kernel_size": (3, 2000)}, r"kernel_size: expected 2 integers from 1 to 1024, got \[3, 2000\]"),
    ({"kernel_size": (3, 3, 3)}, r"kernel_size: expected 2 integers from 1 to 1024, got \[3, 3, 3\]"),
    ({"stride": (1, 0)}, r"stride: expected 2 integers from 1 to 16777216, got \[1, 0\]"),
    ({"padding": (-1, 0)}, r"padding: expected 2 integers from 0 to 16777216, got \[-1, 0\]"),
    ({"dilation": (1, 2**40)}, r"dilation: expected 2 integers from 1 to 16777216, got \[1, 1099511627776\]"),
    ({"kernel_size": (9, 5)}, "input: expected a height of at least 7 for the kernel, got 6"),
    ({"dilation": (1, 3)}, "input: expected a width of at least 13 for the kernel, got 9"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    input, grad_output = make()
    arguments = {"input": input, "grad_output": grad_output, **asdict(Axes())}
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    with pytest.raises(RuntimeError, match=f"xmixup_fast.depthwise_conv2d_weight_grad: {message}"):
        depthwise_conv2d_weight_grad(**arguments)


@pytest.mark.parametrize("name", ["input", "grad_output"])
def test_a_tensor_that_is_none_is_named(name: str) -> None:
    arguments: dict[str, Any] = dict(zip(("input", "grad_output"), make(), strict=True)) | {name: None}
    with pytest.raises(RuntimeError, match=f"{name}: expected a tensor, got None"):
        depthwise_conv2d_weight_grad(**arguments, **asdict(Axes()))


# --- the operator inside torch ---


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(batch: int) -> None:
    operator = torch.ops.xmixup_fast.depthwise_conv2d_weight_grad.default
    results = torch.library.opcheck(operator, (*make(batch), [3, 5], [1, 2], [1, 0], [1, 1]))
    assert set(results.values()) == {"SUCCESS"}


def test_fake_tensors_must_be_on_one_device() -> None:
    with FakeTensorMode() as mode:
        input, grad_output = (mode.from_tensor(t) for t in make())
        gradient = depthwise_conv2d_weight_grad(input, grad_output, **asdict(Axes()))
        assert gradient.shape == (20, 1, 3, 5) and gradient.dtype == torch.float32
        with pytest.raises(RuntimeError, match="grad_output: expected a tensor on cpu, as input, got one on meta"):
            depthwise_conv2d_weight_grad(input, grad_output.to("meta"), **asdict(Axes()))


@pytest.mark.parametrize("kernel", [4, 5, 7])
def test_it_is_what_torch_computes(kernel: int) -> None:
    axes = replace(Axes((kernel, kernel)), stride=(1, 1), padding=(2, 2))
    input, grad_output = make(4, 48, (7, 7), axes)
    weight = torch.zeros(48, 1, kernel, kernel, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(input, weight, padding=2, groups=48), weight, grad_output)
    torch.testing.assert_close(
        depthwise_conv2d_weight_grad(input, grad_output, **asdict(axes)), expected, rtol=1e-5, atol=1e-4
    )
