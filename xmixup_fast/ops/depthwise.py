"""Depthwise convolutions on the CPU: their gradient by the weight, and a mode that has networks use it.

torch computes this gradient with a kernel of its own for kernels of up to 3 x 3 without dilation. For others it takes
the dense convolution of blocks of channels, most of whose products are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import registrations  # noqa: F401  (registers the operators)

Pair = int | Sequence[int]


def depthwise_conv2d_weight_grad(
    input: Tensor,
    grad_output: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """The gradient of a depthwise convolution by its weight, on the CPU.

    For ``output = torch.conv2d(input, weight, None, stride, padding, dilation, groups=C)``: row c of the result is the
    sum over n, y, x of ``grad_output[n, c, y, x]`` times the pixels of ``input[n, c]`` under the kernel. What lies in
    the padding is not read. The bits are the same with any number of threads and on every CPU level. Each sum is off by
    less than ``(N * H_out + W_out + 2) * 2**-24`` times the sum of its products' absolute values.

    Settings are two integers, for height and width, or one for both.

    Args:
        input: float32[N, C, H, W] in channels_last.
        grad_output: float32[N, C, H_out, W_out] in channels_last, the gradient of the output.
        kernel_size: 1 to 1024 taps.
        stride: 1 to 2**24 pixels.
        padding: 0 to 2**24 pixels.
        dilation: 1 to 2**24 pixels.

    Returns:
        float32[C, 1, kernel height, kernel width]; zeros for an empty batch. It is not differentiable.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device, memory format or value, or the kernel is larger than
            the padded input.
    """
    operator = torch.ops.xmixup_fast.depthwise_conv2d_weight_grad
    gradient: Tensor = operator(input, grad_output, kernel_size, stride, padding, dilation)
    return gradient


class FastDepthwise(TorchFunctionMode):
    """A context in which depthwise convolutions get their weight's gradient from :func:`depthwise_conv2d_weight_grad`.

    The forward of a network runs in it; backward may run outside. It takes effect where torch has no kernel of its own
    (see above), on the CPU, in float32 and channels_last, where the weight needs a gradient. All else is torch's, to
    the bit: outputs, and the gradients of inputs. Modules are not changed. It does nothing in code that torch.compile
    compiles. Backward raises NotImplementedError where it is asked for second derivatives.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_conv2d if func is torch.conv2d else func)(*args, **(kwargs or {}))

    @staticmethod
    def helps(network: nn.Module) -> bool:
        """Whether the network has convolutions that the mode makes faster on a CPU."""
        return any(
            isinstance(module, nn.Conv2d)
            and _is_depthwise(module.weight, module.groups)
            and _is_slow(module.kernel_size, module.dilation)
            for module in network.modules()
        )


def _conv2d(  # noqa: PLR0917  (the arguments of torch.conv2d)
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv2d``, with our gradient of the weight where the mode takes effect."""
    takes_effect = (
        _is_depthwise(weight, groups)
        and _is_slow(weight.shape[2:], _pair(dilation))
        and weight.requires_grad
        and torch.is_grad_enabled()
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (input, weight))
        and input.dim() == 4
        and input.is_contiguous(memory_format=torch.channels_last)
        and not isinstance(padding, str)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    if not takes_effect:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    axes = _Axes(_pair(stride), _pair(padding), _pair(dilation))
    output: Tensor = _DepthwiseConv2d.apply(input, weight, bias, axes)
    return output


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    return weight.dim() == 4 and groups == weight.shape[0] > 1 == weight.shape[1]


def _is_slow(kernel_size: Sequence[int], dilation: Sequence[int]) -> bool:
    return max(kernel_size) > 3 or max(dilation) > 1


def _pair(value: Any) -> list[int]:
    """One integer for both axes, or one for each, as two."""
    both = [value] if isinstance(value, int) else list(value)
    return both * 2 if len(both) == 1 else both


class _Axes(NamedTuple):
    stride: list[int]
    padding: list[int]
    dilation: list[int]


class _DepthwiseConv2d(torch.autograd.Function):
    """torch's convolution, with our gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, axes: _Axes) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.axes = axes
        return torch.conv2d(input, weight, bias, *axes, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise NotImplementedError("xmixup_fast.FastDepthwise: second derivatives are not implemented")
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        input_grad = weight_grad = None
        if needs_input:
            input_grad = torch.ops.aten.convolution_backward(
                grad_output, input, weight, None, *ctx.axes, False, [0, 0], len(weight), [True, False, False]
            )[0]
        if needs_weight:
            weight_grad = depthwise_conv2d_weight_grad(
                input, grad_output, kernel_size=weight.shape[2:], **ctx.axes._asdict()
            )
            if weight.is_contiguous():  # its strides may be others all the same: with one channel, several mean this
                weight_grad = weight_grad.as_strided(weight.shape, weight.stride())
        return input_grad, weight_grad, grad_output.sum((0, 2, 3)) if needs_bias else None, None
