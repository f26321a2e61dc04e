"""The operator `mix_plan`, on every backend: what `mix` does with a plan's columns, and changed colours and erased
rectangles besides."""

from __future__ import annotations

import mmap
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_samples import PlanInputs, make_color
from samples import FORMATS, IMAGENET, MixInputs, is_within
from test_mix import mix_inputs
from test_mix_memory import PAGE, forbid
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import ImagePool, ops
from xmixup_fast.ops import reference
from xmixup_fast.ops.mix_plan import MixPlan

LEVELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
"""Constants with which an output is a level of 0..255."""
FILLS = ["mean", "noise", (0.25, 0.5, 1.0)]


@st.composite
def plan_inputs(draw: st.DrawFn, mixes: st.SearchStrategy[MixInputs]) -> PlanInputs:
    """All of these mixes, filtered or not; rectangles, some of which are empty, whole or one pixel; matrices of every
    size, of which most results are clamped; all three fills."""
    mix = replace(draw(mixes), antialias=draw(st.booleans()))
    height, width = mix.size
    inputs = PlanInputs.make(
        mix, draw(st.integers(0, 2**31)), color=False, erase=draw(st.booleans()), fill=draw(st.sampled_from(FILLS))
    )
    batch = len(mix.lam)
    for erased in inputs.erased:
        for b in range(batch):
            pixel = [draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1)), 1, 1]
            special = draw(st.sampled_from([None, None, pixel, [0, 0, height, width]]))
            if special is not None:
                erased[b] = torch.tensor(special)
    spread = draw(st.sampled_from([None, 0.0, 0.2, 1.0, 1e3, 1e6]))
    if spread is not None:
        inputs.color = make_color(batch, torch.Generator().manual_seed(draw(st.integers(0, 2**31))), spread)
    return inputs


@given(inputs=mix_inputs())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_is_mixed_as_its_columns_are(device: torch.device, inputs: MixInputs) -> None:
    inputs = inputs.to(device)
    plan = MixPlan.of(inputs.target_crops, inputs.aux_crops, inputs.lam, box=inputs.box)
    options = {"size": inputs.size, "dtype": inputs.dtype, "memory_format": inputs.memory_format} | IMAGENET
    mixed = ops.mix_plan(inputs.target, inputs.aux, plan, **options)
    assert torch.equal(mixed, inputs.call(ops.mix))
    out = inputs.empty_out()
    assert ops.mix_plan(inputs.target, inputs.aux, plan, **options, out=out) is out
    assert torch.equal(out, mixed)


@given(inputs=plan_inputs(mix_inputs()))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mix_plan_equals_the_reference(device: torch.device, inputs: PlanInputs) -> None:
    inputs = inputs.to(device)
    mixed = inputs.call(ops.mix_plan)
    assert is_within(mixed, inputs.exact(), inputs.error())
    # The reference's own error is no larger.
    assert is_within(mixed, inputs.call(reference.mix_plan, dtype=torch.float32), 2 * inputs.error())
    assert mixed.is_contiguous(memory_format=inputs.mix.memory_format) and mixed.dtype == inputs.mix.dtype
    out = inputs.mix.empty_out()
    assert inputs.call(ops.mix_plan, out=out) is out
    assert torch.equal(out, mixed)


# --- colours ---


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("width", [1, 15, 16, 33, 600])
def test_the_identity_changes_no_bit_of_a_crop(
    device: torch.device, width: int, memory_format: torch.memory_format
) -> None:
    mix = MixInputs.make(6, (3, width), memory_format=memory_format)
    inputs = PlanInputs.make(mix, erase=False, color=False).to(device)
    identity = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1).expand(6, 2, 3, 4).to(device)
    assert torch.equal(replace(inputs, color=identity).call(ops.mix_plan), inputs.call(ops.mix_plan))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_levels_stay_in_range_for_any_matrix(device: torch.device, number: float) -> None:
    inputs = PlanInputs.make(MixInputs.make(12, (4, 30), resampled=(False, True)), erase=False).to(device)
    assert inputs.color is not None
    inputs.color[torch.rand(inputs.color.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = number
    mixed = inputs.call(ops.mix_plan, **LEVELS)
    assert (mixed >= 0).all() and (mixed <= 255.001).all()


def test_levels_that_are_not_a_number_count_as_zero(device: torch.device) -> None:
    inputs = PlanInputs.make(MixInputs.make(4, (4, 30)), erase=False).to(device)
    assert inputs.color is not None
    inputs.color.fill_(float("nan"))
    assert (inputs.call(ops.mix_plan, **LEVELS) == 0).all()


def test_channels_are_permuted_exactly(device: torch.device) -> None:
    inputs = PlanInputs.make(MixInputs.make(4, (5, 50)), erase=False, color=False).to(device)
    permutation = [2, 0, 1]
    matrix = torch.cat([torch.eye(3)[permutation], torch.zeros(3, 1)], dim=1)
    permuted = replace(inputs, color=matrix.expand(4, 2, 3, 4).to(device)).call(ops.mix_plan, **LEVELS)
    assert torch.equal(permuted, inputs.call(ops.mix_plan, **LEVELS)[:, permutation])


# --- erased rectangles ---


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("resampled", [False, True])
def test_erased_pixels_show_nothing_of_the_image(device: torch.device, fill: Any, resampled: bool) -> None:
    mix = MixInputs.make(8, (9, 41), resampled=(resampled, resampled))
    inputs = PlanInputs.make(mix, fill=fill).to(device)
    pools = [replace(pool, pixels=255 - pool.pixels) for pool in (mix.target, mix.aux)]
    other = replace(inputs, mix=replace(mix, target=pools[0], aux=pools[1]).to(device))
    for side in (0, 1):
        inputs.mix.lam.fill_(1 - side)
        inputs.boxed.fill_(False)
        first, second = inputs.call(ops.mix_plan), other.call(ops.mix_plan)
        inside = reference.inside(inputs.erased[side], mix.size).unsqueeze(1).expand_as(first)
        assert inside.any() and torch.equal(first[inside], second[inside])
        assert (first == second)[~inside].float().mean() < 0.5  # else they show the image


def alone(inputs: PlanInputs, side: int, **changes: Any) -> torch.Tensor:
    """Levels of one side alone: float32[batch, 3, height, width]."""
    mix = replace(inputs.mix, lam=torch.full_like(inputs.mix.lam, 1 - side))
    return replace(inputs, mix=mix, boxed=torch.zeros_like(inputs.boxed), **changes).call(ops.mix_plan, **LEVELS)


def test_noise_is_normal_and_of_its_own_for_each_sample_side_and_pixel(device: torch.device) -> None:
    batch, size = 4, (60, 70)
    inputs = PlanInputs.make(MixInputs.make(batch, size), fill="noise").to(device)
    whole = torch.tensor([[0, 0, *size]] * batch, dtype=torch.int32, device=device)
    sides = [alone(inputs, side, erased=(whole, whole)).double() for side in (0, 1)]
    noise = torch.stack(sides, 1).flatten(0, 1).flatten(1)  # a row for each sample and side
    count = noise.shape[1]
    assert (noise.mean(1).abs() < 5 / count**0.5).all()
    assert ((noise.std(1) - 1).abs() < 5 / (2 * count) ** 0.5).all()
    correlation = torch.corrcoef(noise) - torch.eye(2 * batch, device=device)
    assert (correlation.abs() < 5 / count**0.5).all()
    images = noise.view(2 * batch, 3, *size)
    for shifted in (images.roll(1, 1), images.roll(1, 2), images.roll(1, 3), images.roll(5, 3)):
        assert (images * shifted).mean().abs() < 5 / images.numel() ** 0.5


def test_noise_has_the_bits_of_the_reference(device: torch.device) -> None:
    inputs = PlanInputs.make(MixInputs.make(6, (9, 33)), fill="noise").to(device)
    for side in (0, 1):
        levels = reference.filled(inputs.noise, side, inputs.augmentation, **LEVELS, size=inputs.mix.size)
        inside = reference.inside(inputs.erased[side], inputs.mix.size).unsqueeze(1).expand(6, 3, 9, 33)
        assert torch.equal(alone(inputs, side)[inside], levels.permute(0, 3, 1, 2)[inside])


# --- properties of the whole ---


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(224, 224), (225, 223)])
def test_large_outputs_are_streamed_to_the_same_values(
    device: torch.device, memory_format: torch.memory_format, size: tuple[int, int]
) -> None:
    mix = MixInputs.make(8, size, [(240, 250), size], memory_format, resampled=(False, True), antialias=True)
    inputs = PlanInputs.make(mix, fill="noise").to(device)
    assert mix.empty_out().nbytes > 4 << 20
    whole = inputs.call(ops.mix_plan)
    assert is_within(whole, inputs.exact(), inputs.error())
    for b in range(8):  # one image alone is small enough for ordinary stores
        assert torch.equal(inputs.of(slice(b, b + 1)).call(ops.mix_plan)[0], whole[b])


@pytest.mark.parametrize("memory_format", FORMATS)
def test_unaligned_out_is_written_right(device: torch.device, memory_format: torch.memory_format) -> None:
    inputs = PlanInputs.make(MixInputs.make(8, (224, 224), memory_format=memory_format)).to(device)
    expected = inputs.call(ops.mix_plan)
    for shift in (1, 3):
        flat = torch.full((expected.numel() + 8,), 7.0, device=device)
        out = flat[shift : shift + expected.numel()].as_strided(expected.shape, expected.stride(), shift)
        inputs.call(ops.mix_plan, out=out)
        assert torch.equal(out, expected)
        assert (flat[:shift] == 7).all() and (flat[shift + expected.numel() :] == 7).all()


@pytest.mark.parametrize("resampled", [False, True])
def test_lam_one_reads_no_auxiliary_byte(device: torch.device, resampled: bool) -> None:
    if device.type == "cuda":
        pytest.skip("guard pages are host memory")
    mix = MixInputs.make(6, (3, 40), resampled=(resampled, resampled), antialias=True)
    mix.lam.fill_(1)
    inputs = PlanInputs.make(mix)
    inputs.box[:, 2] = 0
    size = mix.aux.pixels.numel()
    region = torch.frombuffer(mmap.mmap(-1, -(-size // PAGE) * PAGE), dtype=torch.uint8)
    forbid(region.data_ptr(), region.numel())
    forbidden = replace(inputs, mix=replace(mix, aux=replace(mix.aux, pixels=region[:size])))
    assert torch.equal(forbidden.call(ops.mix_plan), inputs.call(ops.mix_plan))


@pytest.mark.parametrize("fill", ["mean", (0.25, 0.5, 1.0)])
def test_swapping_the_sides_and_lam_changes_nothing(device: torch.device, fill: Any) -> None:
    inputs = PlanInputs.make(MixInputs.make(6, (5, 40), resampled=(True, False)), fill=fill).to(device)
    inputs.boxed.fill_(False)
    swapped = inputs.swapped()
    assert is_within(swapped.call(ops.mix_plan), inputs.call(ops.mix_plan), 2 * inputs.error())


@pytest.mark.parametrize("width", [1, 5, 6, 33, 700])
@pytest.mark.parametrize("size_of_image", ["larger", "same"])
def test_flipping_mirrored_images_is_the_identity(device: torch.device, width: int, size_of_image: str) -> None:
    image = (3, width) if size_of_image == "same" else (7, 2 * width + 1)
    mix = MixInputs.make(4, (3, width), [image], antialias=True)
    whole = torch.tensor([[0, 0, *image]] * 4, dtype=torch.int32)
    mix.target_crops = mix.target_crops._replace(window=whole)
    mirrored = ImagePool.from_images([mix.target[0].flip(1)])
    crops = mix.target_crops
    flipped = replace(mix, target=mirrored, target_crops=crops._replace(flip=~crops.flip))
    first, second = (PlanInputs.make(one, fill="noise").to(device).call(ops.mix_plan) for one in (mix, flipped))
    # Positions from the right are rounded otherwise than those from the left.
    assert torch.equal(first, second) if size_of_image == "same" else (first - second).abs().max() < 1e-3


@pytest.mark.parametrize("resampled", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_box_shows_the_auxiliary_image_alone(
    device: torch.device, memory_format: torch.memory_format, resampled: tuple[bool, bool]
) -> None:
    mix = MixInputs.make(8, (9, 41), memory_format=memory_format, resampled=resampled)
    inputs = PlanInputs.make(mix, fill="noise").to(device)
    inside = (reference.inside(inputs.box, mix.size) & inputs.boxed.view(-1, 1, 1)).unsqueeze(1)
    assert inside.any() and not inside.all()
    mixed, target, aux = inputs.call(ops.mix_plan, **LEVELS), alone(inputs, 0), alone(inputs, 1)
    boxed = inputs.boxed
    expected = torch.where(inside, aux, target)[boxed]
    assert is_within(mixed[boxed], expected, torch.tensor(2**-14))  # lam 0 blends the target with a weight of 0


def test_any_number_of_threads_gives_the_same_bits() -> None:
    mix = MixInputs.make(16, (64, 65), [(80, 90)], resampled=(True, False), antialias=True)
    inputs = PlanInputs.make(mix, fill="noise")
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(inputs.call(ops.mix_plan))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_halves_are_the_rounded_float32_result(
    device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    for size, resampled in product(((6, 97), (224, 224)), (False, True)):
        mix = MixInputs.make(6, size, None, memory_format, resampled=(resampled, resampled), antialias=True)
        inputs = PlanInputs.make(mix, fill="noise").to(device)
        assert torch.equal(inputs.call(ops.mix_plan, dtype=dtype), inputs.call(ops.mix_plan).to(dtype))


# --- the operator inside torch ---


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("batch", [0, 3])
def test_opcheck(memory_format: torch.memory_format, batch: int, fill: Any) -> None:
    mix = MixInputs.make(batch, memory_format=memory_format, dtype=torch.bfloat16)
    inputs = PlanInputs.make(mix, fill=fill)
    last = memory_format == torch.channels_last
    new, into = torch.ops.xmixup_fast.mix_plan.default, torch.ops.xmixup_fast.mix_plan_out.default
    results = torch.library.opcheck(new, (*inputs.raw(), mix.dtype, last, True, *inputs.filling()))
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(into, (*inputs.raw(), last, True, *inputs.filling(), mix.empty_out()))
    assert set(results.values()) == {"SUCCESS"}


def test_compiles_to_one_graph_that_serves_every_step() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    augmentation = PlanInputs.make(MixInputs.make(), fill="noise").augmentation

    @torch.compile(backend=counter, fullgraph=True)
    def step(target: ImagePool, aux: ImagePool, plan: MixPlan, out: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"size": (5, 7), "augmentation": augmentation} | IMAGENET
        return ops.mix_plan(target, aux, plan, **options, out=out) + ops.mix_plan(target, aux, plan, **options)

    for seed, batch in enumerate((3, 3, 5, 6, 7)):
        inputs = PlanInputs.make(MixInputs.make(batch, seed=seed), seed, fill="noise")
        mixed = step(inputs.mix.target, inputs.mix.aux, inputs.plan, inputs.mix.empty_out())
        assert torch.equal(mixed, 2 * inputs.call(ops.mix_plan))
        assert counter.frame_count == (1 if batch == 3 else 2)  # the second batch size makes a graph for all


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_alone(device: torch.device, dtype: torch.dtype) -> None:
    inputs = PlanInputs.make(MixInputs.make(), fill="noise").to(device)
    expected = inputs.call(ops.mix_plan)
    with torch.autocast(device.type, dtype):
        mixed, out = inputs.call(ops.mix_plan), inputs.call(ops.mix_plan, out=inputs.mix.empty_out())
    assert mixed.dtype == torch.float32 and torch.equal(mixed, expected) and torch.equal(out, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_fake_cuda_tensors_give_a_fake_cuda_batch(memory_format: torch.memory_format) -> None:
    inputs = PlanInputs.make(MixInputs.make(memory_format=memory_format), fill="noise")
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = inputs.to(torch.device("cuda"))
        mixed = inputs.call(ops.mix_plan)
        assert mixed.device.type == "cuda" and mixed.shape == (3, 3, 5, 7) and mixed.dtype == torch.float32
        assert mixed.is_contiguous(memory_format=memory_format)
        out = inputs.mix.empty_out()
        assert inputs.call(ops.mix_plan, out=out) is out
