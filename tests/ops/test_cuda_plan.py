"""`mix_plan` on CUDA, whose two kernels must agree where both can render a plan: the one for plain images, of which
rectangles may be erased, and the one for changed colours and filtered windows."""

from __future__ import annotations

from dataclasses import replace

import emulation
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_samples import PlanInputs
from samples import FORMATS, MixInputs, is_within
from test_mix_plan import LEVELS, plan_inputs

from xmixup_fast import ops
from xmixup_fast.ops import reference

IDENTITY = torch.eye(3, 4)


@pytest.fixture(params=["cuda_emulation", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where CUDA kernels run: emulated, or on a GPU."""
    if request.param == "cuda_emulation":
        request.getfixturevalue("cuda_emulation")
        emulation.use(monkeypatch)
        return torch.device("cpu")
    return torch.device("cuda")


@st.composite
def tall_mix_inputs(draw: st.DrawFn) -> MixInputs:
    """Outputs of more rows than a thread computes, whose widths are whole vectors or not. Windows are smaller or larger
    than the output along each axis."""
    size = (draw(st.integers(1, 20)), draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 128]))))
    extra = st.tuples(st.integers(0, 40), st.integers(0, 90))
    inputs = MixInputs.make(
        draw(st.integers(1, 4)),
        size,
        [(size[0] + h, size[1] + w) for h, w in draw(st.lists(extra, min_size=1, max_size=3))],
        draw(st.sampled_from(FORMATS)),
        seed=draw(st.integers(0, 2**31)),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        resampled=draw(st.sampled_from([(False, False), (True, False), (False, True), (True, True)])),
    )
    for b, lam in enumerate(inputs.lam.tolist()):
        inputs.lam[b] = draw(st.sampled_from([lam, 0.0, 1.0]))
    return inputs


@given(inputs=plan_inputs(tall_mix_inputs()))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plans_are_rendered_as_by_the_reference(device: torch.device, inputs: PlanInputs) -> None:
    inputs = inputs.to(device)
    whole = inputs.call(ops.mix_plan, dtype=torch.float32)
    # The reference's own error is no larger.
    assert is_within(whole, inputs.call(reference.mix_plan, dtype=torch.float32), 2 * inputs.error())
    assert torch.equal(inputs.call(ops.mix_plan), whole.to(inputs.mix.dtype))


@given(inputs=plan_inputs(tall_mix_inputs()))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_kernels_give_the_same_bits(device: torch.device, inputs: PlanInputs) -> None:
    interpolated, filtered = (replace(inputs.augmentation, antialias=antialias) for antialias in (False, True))
    inputs = replace(inputs, color=None, augmentation=interpolated).to(device)
    mix = inputs.mix
    plain = inputs.call(ops.mix_plan)
    same_colors = IDENTITY.repeat(len(mix.lam), 2, 1, 1).to(device)
    assert torch.equal(replace(inputs, color=same_colors).call(ops.mix_plan), plain)
    # The filter changes no bit of samples of which nothing is reduced.
    size = torch.tensor(mix.size, device=device)
    reduced = torch.stack([(c.window[:, 2:] > size).any(1) for c in (mix.target_crops, mix.aux_crops)]).any(0)
    by_filter = replace(inputs, augmentation=filtered.to(device)).call(ops.mix_plan)
    assert torch.equal(by_filter[~reduced], plain[~reduced])


def test_noise_is_that_of_the_reference(device: torch.device) -> None:
    """From the kernel for plain images, too."""
    mix = MixInputs.make(3, (17, 44), memory_format=torch.contiguous_format)
    mix.lam.fill_(1)
    whole = torch.tensor([[0, 0, 17, 44]] * 3, dtype=torch.int32)
    inputs = PlanInputs.make(mix, color=False, fill="noise")
    noise = torch.tensor([1, -1, 2**62 + 12345])
    boxed = torch.zeros_like(inputs.boxed)
    inputs = replace(inputs, boxed=boxed, erased=(whole, whole), noise=noise).to(device)
    levels = reference.filled(inputs.noise, 0, inputs.augmentation, **LEVELS, size=mix.size)
    assert torch.equal(inputs.call(ops.mix_plan, **LEVELS), levels.permute(0, 3, 1, 2))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("rectangle", [(0, 0, 6, 1), (-1, 0, 1, 1), (0, 7, 1, 1), (2**31 - 1, 0, 1, 1)])
def test_a_rectangle_outside_of_the_output_is_refused(
    device: torch.device, rectangle: tuple[int, int, int, int], color: bool, side: int
) -> None:
    if device.type == "cuda":
        pytest.skip("a device-side assert ends the process")
    inputs = PlanInputs.make(MixInputs.make(2), color=color)
    inputs.erased[side][:] = torch.tensor(rectangle)
    with pytest.raises(RuntimeError, match="_erased: expected a rectangle inside the output"):
        inputs.call(ops.mix_plan)
