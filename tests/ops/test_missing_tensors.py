"""None in place of a tensor is named, by every operator, for every tensor that it needs: on every backend, and where
tensors have no values. `depthwise_conv2d_weight_grad` has one backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from draw_inputs import DrawInputs
from plan_samples import PlanInputs
from samples import LossInputs, MixInputs
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast.ops import operators
from xmixup_fast.ops.outputs import empty_losses, empty_plan

CPU = torch.device("cpu")


def mix_arguments(op: str) -> tuple[Any, ...]:
    inputs = MixInputs.make(boxes=True)
    return (*inputs.raw(), *([inputs.dtype, True, False] if op == "mix" else [True, False, inputs.empty_out()]))


def plan_arguments(op: str) -> tuple[Any, ...]:
    inputs = PlanInputs.make(MixInputs.make(), fill="noise")
    last, filling = (True, False), inputs.filling()
    if op == "mix_plan":
        return (*inputs.raw(), inputs.mix.dtype, *last, *filling)
    return (*inputs.raw(), *last, *filling, inputs.mix.empty_out())


def draw_arguments(op: str) -> tuple[Any, ...]:
    given = DrawInputs.make().augmented().with_mixed().raw()
    schema = getattr(torch.ops.xmixup_fast, op).default._schema
    values = [given[argument.name] for argument in schema.arguments if argument.name in given]
    return (*values, *(empty_plan(3, CPU, colored=True) if op == "draw_out" else ()))


def loss_arguments(op: str) -> tuple[Any, ...]:
    inputs = LossInputs.make()
    outputs = empty_losses(inputs.target_logits, inputs.source_logits) if op.endswith("_out") else ()
    return (*inputs.raw(), *outputs)


def depthwise_arguments(op: str) -> tuple[Any, ...]:
    images = torch.ones(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    return (images, images, [5, 5], [1, 1], [2, 2], [1, 1])


ON_CPU = "depthwise_conv2d_weight_grad"
"""The operator that has a CPU kernel alone, and nothing to write to."""
ARGUMENTS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "mix": mix_arguments,
    "mix_plan": plan_arguments,
    "draw": draw_arguments,
    "dual_head_cross_entropy": loss_arguments,
    ON_CPU: depthwise_arguments,
}
OPERATORS = [name + kind for name in ARGUMENTS for kind in ("", "_out") if (name, kind) != (ON_CPU, "_out")]


def schema_of(op: str) -> torch.FunctionSchema:
    return getattr(torch.ops.xmixup_fast, op).default._schema


NEEDED = [
    (op, argument.name) for op in OPERATORS for argument in schema_of(op).arguments if str(argument.type) == "Tensor"
]


def assert_named(library: Any, op: str, missing: str, mode: AbstractContextManager[Any]) -> None:
    """Fails unless the operator names the tensor that is missing, and takes the arguments where it is not."""
    arguments = ARGUMENTS[op.removesuffix("_out")](op)
    named = dict(zip((argument.name for argument in schema_of(op).arguments), arguments, strict=True))
    message = rf"^xmixup_fast\.{op.removesuffix('_out')}: {missing}: expected a tensor, got None$"
    with mode:
        getattr(library, op)(**named)
        with pytest.raises(RuntimeError, match=message):
            getattr(library, op)(**{**named, missing: None})


def test_every_operator_is_tried() -> None:
    names = {schema.name.split("::")[1] for schema in torch._C._jit_get_all_schemas() if "xmixup_fast::" in schema.name}
    assert names == {*OPERATORS, "device_assert"} and len(NEEDED) == 2 * (13 + 8 + 9 + 5) + 1 + 1 + 2 + 4 + 2


@pytest.mark.parametrize(("op", "missing"), NEEDED)
def test_a_missing_tensor_is_named(device: torch.device, op: str, missing: str) -> None:
    if device.type == "cuda":
        pytest.skip("the arguments are made on the CPU; what is missing has no device")
    assert_named(torch.ops.xmixup_fast if op == ON_CPU else operators._library, op, missing, nullcontext())


@pytest.mark.parametrize(("op", "missing"), NEEDED)
def test_a_missing_fake_tensor_is_named(op: str, missing: str) -> None:
    assert_named(torch.ops.xmixup_fast, op, missing, FakeTensorMode(allow_non_fake_inputs=True))
