"""Wrong arguments of `mix_plan` are named, on every backend."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from plan_samples import PlanInputs
from samples import MixInputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import ops
from xmixup_fast.ops import operators
from xmixup_fast.ops.mix_plan import MixPlan


def plan_samples() -> PlanInputs:
    """Three samples whose columns are all in use."""
    return PlanInputs.make(MixInputs.make(3), fill="noise")


VALUE_FAULTS: dict[str, tuple[str, Any, str]] = {
    "target index": ("target_crops.index", 3, r"target_index: expected an image from 0 to 2, got 3"),
    "aux index": ("aux_crops.index", -1, r"aux_index: expected an image from 0 to 2, got -1"),
    "target window": ("target_crops.window", [0, 99, 5, 7], r"target_window: expected a window inside image \d of"),
    "aux window": ("aux_crops.window", [-1, 0, 5, 7], r"aux_window: expected a window inside .*got \[-1, 0, 5, 7\]"),
    "window overflow": ("target_crops.window", [2**31 - 1, 0, 5, 7], r"target_window: expected a window inside"),
    "lam": ("lam", 1.5, r"lam: expected a number from 0 to 1, got 1.5"),
    "lam nan": ("lam", float("nan"), r"lam: expected a number from 0 to 1, got nan"),
    "box": ("box", [0, 6, 1, 2], r"box: expected a rectangle inside the output of 5 x 7, got \[0, 6, 1, 2\]"),
    "target erased": ("target_erased", [4, 0, 2, 1], r"target_erased: expected a rectangle inside the output of 5 x 7"),
    "aux erased": ("aux_erased", [0, 0, -1, 2], r"aux_erased: expected a rectangle inside .*got \[0, 0, -1, 2\]"),
    "erased overflow": ("aux_erased", [0, 2**31 - 1, 1, 1], r"aux_erased: expected a rectangle inside the output"),
}


@pytest.mark.parametrize("fault", VALUE_FAULTS)
def test_wrong_values_of_a_row_are_named(device: torch.device, fault: str) -> None:
    if device.type == "cuda":
        pytest.skip("a device-side assert ends the process's CUDA context")
    place, value, message = VALUE_FAULTS[fault]
    inputs = plan_samples()
    plan = inputs.plan
    plan.boxed.fill_(True)
    column = plan
    for name in place.split("."):
        column = getattr(column, name)
    column[1] = torch.tensor(value)
    out = inputs.mix.empty_out()
    options = {**inputs.options(), "out": out}
    if operators._library is not torch.ops.xmixup_fast:
        column = message.split(":")[0]
        one_line = rf"^device-side assert triggered: xmixup_fast\.mix_plan: plan: {column}: expected [^\n]*$"
        with pytest.raises(RuntimeError, match=one_line):
            ops.mix_plan(inputs.mix.target, inputs.mix.aux, plan, **options)
        return
    with pytest.raises(RuntimeError, match=rf"xmixup_fast.mix_plan: plan\[1\]: {message}"):
        ops.mix_plan(inputs.mix.target, inputs.mix.aux, plan, **options)
    assert out.isnan().all(), "nothing is written by a call that fails"


PLAN_FAULTS: dict[str, tuple[str, Any, str]] = {
    "plan dtype": ("rows", lambda t: t.long(), r"plan: expected int32\[any, 32\], got int64\[3, 32\]"),
    "plan shape": ("rows", lambda t: t[:, :31], r"plan: expected int32\[any, 32\], got int32\[3, 31\]"),
    "plan dimensions": ("rows", lambda t: t[0], r"plan: expected int32\[any, 32\], got int32\[32\]"),
    "plan None": ("rows", lambda t: None, r"plan: expected a tensor, got None"),
    "plan place": (
        "rows",
        lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
        r"plan: expected rows that begin at a multiple of 8 bytes",
    ),
    "color dtype": ("color", lambda t: t.double(), r"color: expected float32\[3, 2, 3, 4\], got float64"),
    "color batch": ("color", lambda t: t[:2], r"color: expected float32\[3, 2, 3, 4\], got float32\[2, 2, 3, 4\]"),
    "color shape": ("color", lambda t: t[:, 0], r"color: expected float32\[3, 2, 3, 4\], got float32\[3, 3, 4\]"),
    "color empty": ("color", lambda t: t[:0, 0], r"color: expected float32\[0, 2, 3, 4\], got float32\[0, 3, 4\]"),
    "color None": ("color", lambda t: None, r"color: expected a tensor, got None"),
}


@pytest.mark.parametrize("fault", PLAN_FAULTS)
def test_wrong_plans_are_named(device: torch.device, fault: str) -> None:
    field, spoil, message = PLAN_FAULTS[fault]
    inputs = plan_samples().to(device)
    plan = inputs.plan
    plan = plan._replace(**{field: spoil(getattr(plan, field))})
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix_plan: {message}"):
        ops.mix_plan(inputs.mix.target, inputs.mix.aux, plan, **inputs.options())


def named_arguments(inputs: PlanInputs) -> dict[str, Any]:
    """The arguments of torch.ops.xmixup_fast.mix_plan_out."""
    schema = torch.ops.xmixup_fast.mix_plan_out.default._schema
    last = inputs.mix.memory_format == torch.channels_last
    values = (*inputs.raw(), last, False, *inputs.filling(), inputs.mix.empty_out())
    return dict(zip((argument.name for argument in schema.arguments), values, strict=True))


TENSORS = [name for name, value in named_arguments(plan_samples()).items() if isinstance(value, Tensor)]


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("fill", (0.5, 0.5), "expected 3 numbers, one a channel, got 2"),
        ("fill", (0.5, float("nan"), 0.5), r"\[1\]: expected a finite number, got nan"),
        ("noise_quantiles", torch.zeros(255), r"expected float32\[256\], got float32\[255\]"),
        ("noise_quantiles", torch.zeros(256).double(), r"expected float32\[256\], got float64\[256\]"),
        ("mean", (0.5,), "expected 3 numbers, one a channel, got 1"),
        ("std", (0.5, 0.0, 0.5), r"\[1\]: expected a positive number, got 0"),
        ("std", (0.5, 0.5, 1e37), r"\[2\]: expected a finite number for noise, got 1e\+37"),
        ("size", (0, 7), r"1 to 16384 pixels each, got \[0, 7\]"),
        ("out", torch.empty(3, 3, 5, 8), r"expected shape \[3, 3, 5, 7\], got \[3, 3, 5, 8\]"),
    ],
)
def test_wrong_settings_are_named(device: torch.device, argument: str, value: Any, message: str) -> None:
    arguments = named_arguments(plan_samples().to(device))
    arguments[argument] = value.to(device) if isinstance(value, Tensor) else value
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix_plan: {argument}.*{message}"):
        operators._library.mix_plan_out(**arguments)


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", TENSORS[1:])
def test_tensors_on_another_device_are_named(name: str, fake: bool) -> None:
    arguments = named_arguments(plan_samples())
    arguments[name] = arguments[name].to("meta")
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        pytest.raises(RuntimeError, match=f"{name}: expected a tensor on cpu, as target_pixels, got one on meta"),
    ):
        torch.ops.xmixup_fast.mix_plan_out(**arguments)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_with_gaps_are_named(device: torch.device, name: str) -> None:
    arguments = named_arguments(plan_samples().to(device))
    arguments[name] = torch.stack([arguments[name]] * 2, -1)[..., 0]
    with pytest.raises(RuntimeError, match=rf"xmixup_fast.mix_plan: {name}: expected .*, got strides \["):
        operators._library.mix_plan_out(**arguments)


def test_rows_with_gaps_are_copied(device: torch.device) -> None:
    inputs = plan_samples().to(device)
    plan = inputs.plan
    gaps = MixPlan(*(torch.stack([t] * 2, -1)[..., 0] for t in plan))
    mixed = ops.mix_plan(inputs.mix.target, inputs.mix.aux, gaps, **inputs.options())
    assert torch.equal(mixed, inputs.call(ops.mix_plan))


@pytest.mark.parametrize(("augmentation", "got"), [({}, r"\{\}"), ("timm", "'timm'"), (MixPlan, "a type")])
def test_what_is_no_augmentation_is_refused(augmentation: Any, got: str) -> None:
    inputs = plan_samples()
    with pytest.raises(TypeError, match=f"augmentation: expected an Augmentation or None, got {got}"):
        inputs.call(ops.mix_plan, augmentation=augmentation)


def test_other_memory_formats_are_refused() -> None:
    inputs = plan_samples()
    inputs = replace(inputs, mix=replace(inputs.mix, memory_format=torch.preserve_format))
    with pytest.raises(ValueError, match=r"memory_format: expected .*, got torch.preserve_format"):
        inputs.call(ops.mix_plan)
