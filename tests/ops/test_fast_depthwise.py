"""FastDepthwise: the convolutions that it takes, and that nothing but their weights' gradients changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xmixup_fast.ops.depthwise import FastDepthwise

C = 24


def conv(kernel: int | tuple[int, int] = 5, **settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    settings = {"padding": 2, "groups": C} | settings
    return nn.Conv2d(C, C, kernel, **settings).to(memory_format=torch.channels_last)


def images(channels_last: bool = True) -> Tensor:
    made = torch.randn(3, C, 9, 8, generator=torch.Generator().manual_seed(1))
    return made.contiguous(memory_format=torch.channels_last) if channels_last else made


def gradients(layer: nn.Module, input: Tensor, mode: Callable[[], Any]) -> dict[str, Tensor]:
    """Output, and the gradients of parameters and input, of a loss whose gradient is the same for a whole channel."""
    input = input.clone().requires_grad_()
    with mode():
        output = layer(input)
    layer.zero_grad()
    (output.mean((2, 3)) * torch.arange(C)).sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": input.grad} | grads


TAKEN = {
    "5x5": conv(),
    "4x4, stride 2": conv(4, stride=2),
    "dilated": conv(3, dilation=2),
    "3x7": conv((3, 7), padding=(1, 3)),
    "without bias": conv(bias=False),
}


@pytest.mark.parametrize("name", TAKEN)
def test_weights_get_our_gradient_and_all_else_is_torchs_to_the_bit(name: str, depthwise_calls: list[int]) -> None:
    layer = TAKEN[name].to(memory_format=torch.channels_last)
    expected = gradients(layer, images(), nullcontext)
    assert depthwise_calls == []
    actual = gradients(layer, images(), FastDepthwise)
    assert depthwise_calls == [C]
    for part in ("output", "input"):
        assert torch.equal(actual[part], expected[part])
    assert actual["weight"].stride() == layer.weight.stride()
    assert actual.keys() == expected.keys()
    for part, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[part], rtol=1e-5, atol=1e-4)


class Called(nn.Module):
    """Calls torch's function itself, with the settings by position or by name."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.call = conv().weight, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight)


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "integers": lambda x, w: torch.conv2d(x, w, None, 1, 2, 1, C),
    "lists": lambda x, w: nn.functional.conv2d(x, w, None, [2], [1, 2], [1, 1], C),
    "names": lambda x, w: torch.conv2d(input=x, weight=w, groups=C, stride=(2, 1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_settings_may_come_in_all_of_torchs_ways(name: str, depthwise_calls: list[int]) -> None:
    layer = Called(CALLS[name])
    expected = gradients(layer, images(), nullcontext)
    actual = gradients(layer, images(), FastDepthwise)
    assert depthwise_calls == [C] and torch.equal(actual["output"], expected["output"])
    torch.testing.assert_close(actual["weight"], expected["weight"], rtol=1e-5, atol=1e-4)


LEFT = {
    "3x3": conv(3),
    "not depthwise": conv(groups=C // 2),
    "one group": conv(groups=1),
    "padding by name": conv(padding="same"),
    "float64": conv().double(),
    "frozen": conv().requires_grad_(False),
    "not channels_last": conv(),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_convolutions_are_torchs_to_the_bit(name: str, depthwise_calls: list[int]) -> None:
    layer = LEFT[name]
    input = images(name != "not channels_last").to(layer.weight.dtype)
    actual, expected = (gradients(layer, input, mode) for mode in (FastDepthwise, nullcontext))
    assert depthwise_calls == []
    assert actual.keys() == expected.keys() and all(torch.equal(actual[part], expected[part]) for part in expected)


def test_autocast_and_no_grad_leave_it_to_torch(depthwise_calls: list[int]) -> None:
    layer = conv()
    with FastDepthwise(), torch.autocast("cpu", torch.bfloat16):
        output = layer(images())
    output.sum().backward()
    with FastDepthwise(), torch.no_grad():
        assert layer(images()).grad_fn is None
    assert output.dtype == torch.bfloat16 and depthwise_calls == []


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("input_needs_gradient", [False, True])
def test_torch_computes_the_gradient_of_an_input_that_needs_one(input_needs_gradient: bool) -> None:
    with FastDepthwise():
        output = conv()(images().requires_grad_(input_needs_gradient))
    with Operators() as operators:
        output.sum().backward()
    assert "xmixup_fast::depthwise_conv2d_weight_grad" in operators.names
    assert ("aten::convolution_backward" in operators.names) == input_needs_gradient


def test_gradients_accumulate() -> None:
    layer = conv()
    for _ in range(2):
        with FastDepthwise():
            layer(images()).sum().backward()
    twice = layer.weight.grad
    layer.zero_grad()
    with FastDepthwise():
        layer(images()).sum().backward()
    assert twice is not None and layer.weight.grad is not None and torch.equal(twice, 2 * layer.weight.grad)


def test_second_derivatives_are_refused() -> None:
    layer = conv()
    with FastDepthwise():
        output = layer(images())
    with pytest.raises(NotImplementedError, match="FastDepthwise: second derivatives are not implemented"):
        torch.autograd.grad(output.sum(), layer.weight, create_graph=True)


@pytest.mark.parametrize("name", [*TAKEN, *LEFT])
def test_it_helps_networks_with_such_layers(name: str) -> None:
    """By the layers alone: whether they are frozen, and what they are called with, may change."""
    network = nn.Sequential(nn.Conv2d(3, C, 5), (TAKEN | LEFT)[name])
    assert FastDepthwise.helps(network) == (name not in ("3x3", "not depthwise", "one group"))


def test_compiled_code_is_torchs(depthwise_calls: list[int]) -> None:
    layer = conv()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    actual, expected = gradients(compiled, images(), FastDepthwise), gradients(layer, images(), nullcontext)
    assert depthwise_calls == []
    assert torch.equal(actual["output"], expected["output"])
