"""Plans made of columns, copies of plans, and those that show one image of each pair."""

from __future__ import annotations

import mmap
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from plan_samples import PlanInputs
from samples import MixInputs, is_within
from test_mix_memory import PAGE, forbid
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.ops import reference
from xmixup_fast.ops.mix_plan import MixPlan


def columns() -> dict[str, Any]:
    """All arguments of MixPlan.of, for three samples."""
    inputs = PlanInputs.make(MixInputs.make(3))
    given = {"target_crops": inputs.mix.target_crops, "aux_crops": inputs.mix.aux_crops, "lam": inputs.mix.lam}
    given |= {"target_erased": inputs.erased[0], "aux_erased": inputs.erased[1], "box": inputs.box}
    return given | {"noise": inputs.noise, "color": inputs.color, "aux_label": torch.tensor([4, -1, 2**40])}


def test_columns_come_back_as_they_were_given() -> None:
    given = columns()
    plan = MixPlan.of(**given)
    for name, values in given.items():
        for kept, value in zip(getattr(plan, name), values, strict=True):
            assert torch.equal(kept, value), name
    assert plan.boxed.all()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("lam", torch.ones(3, 1), r"lam: expected float32\[batch\], got float32\[3, 1\]"),
        ("lam", [1.0, 1.0, 1.0], r"lam: expected float32\[batch\], got \[1.0, 1.0, 1.0\]"),
        ("lam", torch.ones(3).double(), r"lam: expected float32\[3\], got float64\[3\]"),
        ("aux_label", torch.zeros(3).int(), r"aux_label: expected int64\[3\], got int32\[3\]"),
        ("aux_label", torch.tensor(4), r"aux_label: expected int64\[3\], got int64\[\]"),
        ("box", torch.zeros(4).int(), r"box: expected int32\[3, 4\], got int32\[4\]"),
        ("box", torch.zeros(3, 4), r"box: expected int32\[3, 4\], got float32\[3, 4\]"),
        ("target_erased", torch.zeros(1, 4).int(), r"target_erased: expected int32\[3, 4\], got int32\[1, 4\]"),
        ("aux_erased", [[0] * 4] * 3, r"aux_erased: expected int32\[3, 4\], got \[\[0, 0, 0, 0\], "),
        ("noise", torch.zeros(3), r"noise: expected int64\[3\], got float32\[3\]"),
        ("noise", torch.zeros(3, dtype=torch.int64, device="meta"), "noise: expected a tensor on cpu, got one on meta"),
        ("color", torch.zeros(1, 2, 3, 4), r"color: expected float32\[3, 2, 3, 4\], got float32\[1, 2, 3, 4\]"),
        ("color", torch.zeros(0, 3, 4), r"color: expected float32\[0, 2, 3, 4\], got float32\[0, 3, 4\]"),
        ("color", torch.zeros(3, 2, 3, 4).half(), r"color: expected float32\[3, 2, 3, 4\], got float16\[3, 2, 3, 4\]"),
        ("color", 1.0, r"color: expected float32\[batch, 2, 3, 4\] or float32\[0, 2, 3, 4\], got 1.0"),
        ("color", torch.tensor(1.0), r"color: expected float32\[batch, 2, 3, 4\] or .*, got float32\[\]"),
        ("target_crops.index", torch.zeros(2).long(), r"target_crops.index: expected int64\[3\], got int64\[2\]"),
        ("target_crops.window", torch.zeros(3, 4), r"target_crops.window: expected int32\[3, 4\], got float32\[3, 4\]"),
        ("aux_crops.flip", torch.zeros(3), r"aux_crops.flip: expected bool\[3\], got float32\[3\]"),
        ("aux_crops.flip", True, r"aux_crops.flip: expected bool\[3\], got True"),
    ],
)
def test_other_columns_are_named(place: str, value: Any, message: str) -> None:
    given = columns()
    name, _, field = place.partition(".")
    given[name] = given[name]._replace(**{field: value}) if field else value
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        MixPlan.of(**given)


def test_a_copy_shares_no_memory() -> None:
    given = columns()
    plan = MixPlan.of(**given)
    before = [tensor.clone() for tensor in plan]
    for other in (plan.copy(), plan.target_alone(), plan.aux_alone(5)):
        for tensor in other:
            tensor.fill_(7)
    given["color"].fill_(7)
    assert all(map(torch.equal, plan, before))


def test_plans_compiled_are_those_made_step_by_step() -> None:
    given = columns()

    def made() -> list[Tensor]:
        plan = MixPlan.of(**given)
        return [*plan, *plan.target_alone(), *plan.aux_alone((5, 7)), *plan.target_crops, *plan.aux_crops]

    torch._dynamo.reset()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(compiled(), made(), strict=True):
        assert torch.equal(actual, expected)


# --- one image of each pair ---


def both_alone(inputs: PlanInputs) -> tuple[Tensor, Tensor]:
    """The target images and the auxiliary ones, each alone, as the operator shows them."""
    plan, options = inputs.plan, inputs.options()
    pools = inputs.mix.target, inputs.mix.aux
    return (
        ops.mix_plan(*pools, plan.target_alone(), **options),
        ops.mix_plan(*pools, plan.aux_alone(inputs.mix.size), **options),
    )


@pytest.mark.parametrize("fill", ["mean", "noise"])
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("color", [False, True])
def test_both_images_alone_are_those_that_are_mixed(
    device: torch.device, fill: str, resampled: bool, color: bool
) -> None:
    mix = MixInputs.make(8, (9, 41), resampled=(resampled, resampled))
    inputs = PlanInputs.make(mix, fill=fill, color=color).to(device)
    mixed, (target, aux) = inputs.call(ops.mix_plan), both_alone(inputs)
    assert not torch.equal(target, aux)
    weight = inputs.mix.lam.view(-1, 1, 1, 1)
    inside = reference.inside(inputs.box, mix.size).unsqueeze(1)
    pasted = torch.where(inside, aux, target)
    expected = torch.where(inputs.boxed.view(-1, 1, 1, 1), pasted, weight * target + (1 - weight) * aux)
    assert is_within(mixed, expected, torch.tensor(1e-5))
    assert torch.equal(mixed[inputs.boxed], pasted[inputs.boxed])


def test_overlapping_rectangles_of_a_pair_have_noise_of_their_own(device: torch.device) -> None:
    inputs = PlanInputs.make(MixInputs.make(4, (9, 41)), fill="noise").to(device)
    whole = torch.tensor([[0, 0, 9, 41]] * 4, dtype=torch.int32, device=device)
    target, aux = both_alone(replace(inputs, erased=(whole, whole)))
    assert (target == aux).float().mean() < 0.05


@pytest.mark.parametrize("resampled", [False, True])
def test_a_box_of_the_whole_output_reads_no_byte_of_the_target(device: torch.device, resampled: bool) -> None:
    if device.type == "cuda":
        pytest.skip("guard pages are host memory")
    mix = MixInputs.make(6, (3, 40), resampled=(resampled, resampled), antialias=True)
    inputs = PlanInputs.make(mix, color=resampled, erase=resampled)
    size = mix.target.pixels.numel()
    region = torch.frombuffer(mmap.mmap(-1, -(-size // PAGE) * PAGE), dtype=torch.uint8)
    forbid(region.data_ptr(), region.numel())
    forbidden = replace(mix.target, pixels=region[:size])
    plan = inputs.plan.aux_alone(mix.size)
    shown = ops.mix_plan(forbidden, mix.aux, plan, **inputs.options())
    assert torch.equal(shown, both_alone(inputs)[1])


@pytest.mark.parametrize(("size", "message"), [((9, 0), "from 1 to 16384, got 0"), ("9", "got '9'")])
def test_other_sizes_are_named(size: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^size: expected an integer.*{message}"):
        PlanInputs.make(MixInputs.make(3)).plan.aux_alone(size)
