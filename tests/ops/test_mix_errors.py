"""Wrong arguments of `mix` are named, on every backend."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from samples import MixInputs, unchecked_pool
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import ops
from xmixup_fast.ops import operators

SIDE_FAULTS = {
    "pixels dtype": ("pixels", lambda t: t.to(torch.int8), r"expected uint8\[any\], got int8"),
    "pixels shape": ("pixels", lambda t: t.view(1, -1), r"expected uint8\[any\], got uint8\[1, \d+\]"),
    "pixels strides": ("pixels", lambda t: torch.stack([t, t], 1)[:, 0], "expected a contiguous tensor"),
    "offsets dtype": ("offsets", lambda t: t.int(), r"expected int64\[any\], got int32\[3\]"),
    "offsets negative": ("offsets", lambda t: t - 1, "expected an image inside the"),
    "offsets beyond": ("offsets", lambda t: t + 1000, "expected an image inside the"),
    "sizes dtype": ("sizes", lambda t: t.long(), r"expected int32\[3, 2\], got int64\[3, 2\]"),
    "sizes shape": ("sizes", lambda t: t[:2], r"expected int32\[3, 2\], got int32\[2, 2\]"),
    "sizes too large": ("sizes", lambda t: t + 2**30, "expected an image inside the"),
    "index dtype": ("index", lambda t: t.int(), r"expected int64\[3\], got int32\[3\]"),
    "index beyond": ("index", lambda t: t + 3, r"\[0\]: expected an image from 0 to 2, got [345]"),
    "index negative": ("index", lambda t: t * 0 - 1, r"\[0\]: expected an image from 0 to 2, got -1"),
    "window dtype": ("window", lambda t: t.long(), r"expected int32\[3, 4\], got int64\[3, 4\]"),
    "window shape": ("window", lambda t: t[:, :3], r"expected int32\[3, 4\], got int32\[3, 3\]"),
    "window top": ("window", lambda t: t - torch.tensor([9, 0, 0, 0], dtype=torch.int32), "expected a window inside"),
    "window left": ("window", lambda t: t + torch.tensor([0, 99, 0, 0], dtype=torch.int32), "a window inside image"),
    "window overflow": ("window", lambda t: t | torch.tensor([0, 2**31 - 1, 0, 0], dtype=torch.int32), "inside image"),
    "window empty": ("window", lambda t: t * torch.tensor([1, 1, 0, 1], dtype=torch.int32), "expected a window inside"),
    "window size": ("window", lambda t: t + torch.tensor([0, 0, 99, 0], dtype=torch.int32), "expected a window inside"),
    "flip dtype": ("flip", lambda t: t.byte(), r"expected bool\[3\], got uint8\[3\]"),
    "flip shape": ("flip", lambda t: t[:2], r"expected bool\[3\], got bool\[2\]"),
}
VALUE_FAULTS = ("beyond", "negative", "too large", "top", "left", "overflow", "empty", "size")


@pytest.mark.parametrize("side", ["target", "aux"])
@pytest.mark.parametrize("fault", SIDE_FAULTS)
def test_wrong_pool_or_crops_are_named(device: torch.device, side: str, fault: str) -> None:
    field, spoil, message = SIDE_FAULTS[fault]
    by_value = fault.endswith(VALUE_FAULTS)
    if by_value and device.type == "cuda":
        pytest.skip("a device-side assert ends the process's CUDA context")
    inputs = MixInputs.make(3)
    pool, crops = getattr(inputs, side), getattr(inputs, f"{side}_crops")
    if hasattr(crops, field):
        crops = crops._replace(**{field: spoil(getattr(crops, field))})
    else:
        tensors = {name: getattr(pool, name) for name in ("pixels", "offsets", "sizes")}
        pool = unchecked_pool(**{**tensors, field: spoil(tensors[field])})
    spoiled = replace(inputs, **{side: pool, f"{side}_crops": crops}).to(device)
    out = inputs.to(device).empty_out()
    if by_value and operators._library is not torch.ops.xmixup_fast:
        one_line = rf"^device-side assert triggered: xmixup_fast\.mix: [^\n]*{side}_{field}[^\n]*: expected [^\n]*$"
        with pytest.raises(RuntimeError, match=one_line):
            spoiled.call(ops.mix, out=out)
        return
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix: .*{side}_{field}.*{message}"):
        spoiled.call(ops.mix, out=out)
    assert out.isnan().all(), "nothing is written by a call that fails"


@pytest.mark.parametrize(
    ("lam", "message"),
    [
        (torch.rand(3).double(), r"expected float32\[3\], got float64\[3\]"),
        (torch.rand(4), r"expected float32\[3\], got float32\[4\]"),
        (torch.tensor([0.5, 1.5, 0.5]), r"\[1\]: expected a number from 0 to 1, got 1.5"),
        (torch.tensor([0.5, 0.5, float("nan")]), r"\[2\]: expected a number from 0 to 1, got nan"),
    ],
)
def test_wrong_lam_is_named(lam: torch.Tensor, message: str) -> None:
    inputs = MixInputs.make(3)
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix: lam.*{message}"):
        replace(inputs, lam=lam).call(ops.mix, out=inputs.empty_out())


def named_tensors(inputs: MixInputs) -> dict[str, Any]:
    """The arguments of torch.ops.xmixup_fast.mix_out."""
    schema = torch.ops.xmixup_fast.mix_out.default._schema
    values = (*inputs.raw(), inputs.memory_format == torch.channels_last, False, inputs.empty_out())
    return dict(zip((argument.name for argument in schema.arguments), values, strict=True))


TENSORS = [name for name, value in named_tensors(MixInputs.make(boxes=True)).items() if isinstance(value, Tensor)]


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", TENSORS[1:])
def test_tensors_on_another_device_are_named(name: str, fake: bool) -> None:
    arguments = named_tensors(MixInputs.make(3, boxes=True))
    arguments[name] = arguments[name].to("meta")
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        pytest.raises(RuntimeError, match=f"{name}: expected a tensor on cpu, as target_pixels, got one on meta"),
    ):
        torch.ops.xmixup_fast.mix_out(**arguments)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_with_gaps_are_named(device: torch.device, name: str) -> None:
    arguments = named_tensors(MixInputs.make(3, boxes=True).to(device))
    arguments[name] = torch.stack([arguments[name]] * 2, -1)[..., 0]
    with pytest.raises(RuntimeError, match=rf"xmixup_fast.mix: {name}: expected .*, got strides \["):
        operators._library.mix_out(**arguments)


@pytest.mark.parametrize("name", [name for name in TENSORS if name not in ("box", "out")])
def test_none_is_named(device: torch.device, name: str) -> None:
    arguments = named_tensors(MixInputs.make(3).to(device))
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix: {name}: expected a tensor, got None"):
        operators._library.mix_out(**{**arguments, name: None})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("mean", (0.5, 0.5), "expected 3 numbers, one a channel, got 2"),
        ("std", (0.5,), "expected 3 numbers, one a channel, got 1"),
        ("std", (0.5, 0.0, 0.5), r"\[1\]: expected a positive number, got 0"),
        ("size", (5,), r"expected height and width.*got \[5\]"),
        ("size", (0, 7), r"1 to 16384 pixels each, got \[0, 7\]"),
        ("size", (5, 16385), r"1 to 16384 pixels each, got \[5, 16385\]"),
        ("std", (0.5, 0.5, float("nan")), r"\[2\]: expected a positive number, got nan"),
        ("std", (0.5, 0.5, 1e-60), r"\[2\]: expected a positive number, got 1e-60"),
        ("mean", (0.5, float("inf"), 0.5), r"\[1\]: expected a finite number, got inf"),
        ("dtype", torch.float64, "expected float32, bfloat16 or float16, got float64"),
        ("box", torch.zeros(3, 4), r"expected int32\[3, 4\], got float32\[3, 4\]"),
        ("box", torch.zeros(2, 4, dtype=torch.int32), r"expected int32\[3, 4\], got int32\[2, 4\]"),
        ("out", torch.empty(3, 3, 5, 8), r"expected shape \[3, 3, 5, 7\], got \[3, 3, 5, 8\]"),
        ("out", torch.empty(3, 3, 5, 7).double(), "expected float32, bfloat16 or float16, got float64"),
        ("out", torch.empty(3, 3, 5, 7), "expected a channels_last tensor with strides"),
    ],
)
def test_wrong_settings_are_named(device: torch.device, argument: str, value: object, message: str) -> None:
    inputs = MixInputs.make(3).to(device)
    if isinstance(value, torch.Tensor):
        value = value.to(device)
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix: {argument}.*{message}"):
        inputs.call(ops.mix, **{argument: value})


@pytest.mark.parametrize("box", [[-1, 0, 2, 2], [0, 0, 6, 1], [0, 6, 1, 2], [0, 0, -1, 2], [2**31 - 1, 0, 1, 1]])
def test_boxes_outside_of_the_output_are_named(box: list[int]) -> None:
    inputs = replace(MixInputs.make(3), box=torch.tensor([[0, 0, 0, 0], box, [0, 0, 5, 7]], dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"box\[1\]: expected a rectangle inside the output of 5 x 7, got \["):
        inputs.call(ops.mix)


def test_other_memory_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"memory_format: expected .*, got torch.preserve_format"):
        replace(MixInputs.make(3), memory_format=torch.preserve_format).call(ops.mix)
