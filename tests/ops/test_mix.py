"""The operator `mix`, on every backend, against its definition in xmixup_fast.ops.reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch._dynamo.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import FORMATS, IMAGENET, MixInputs, is_within
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import Crops, ImagePool, ops
from xmixup_fast.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# The reference rounds after every product and sum, of which no partial result is over 1 / std + mean / std < 7.
TOLERANCE = {"rtol": 0, "atol": 4 * 7 * torch.finfo(torch.float32).eps}


@st.composite
def mix_inputs(draw: st.DrawFn) -> MixInputs:
    """Ragged pools, windows at any place, all flips, lambdas with both ends, both layouts; wide enough for every
    vector length, its tails, and rows of more than one chunk."""
    size = (draw(st.integers(1, 6)), draw(st.one_of(st.integers(1, 70), st.integers(500, 600))))
    extra = st.tuples(st.integers(0, 4), st.integers(0, 4))
    sizes = [(size[0] + h, size[1] + w) for h, w in draw(st.lists(extra, min_size=1, max_size=3))]
    inputs = MixInputs.make(
        batch=draw(st.integers(0, 4)),
        size=size,
        sizes=sizes,
        memory_format=draw(st.sampled_from(FORMATS)),
        seed=draw(st.integers(0, 2**31)),
        dtype=draw(st.sampled_from(DTYPES)),
        resampled=draw(st.sampled_from([(False, False), (False, False), (True, False), (False, True), (True, True)])),
        boxes=draw(st.booleans()),
    )
    ends = draw(st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=len(inputs.lam), max_size=len(inputs.lam)))
    for b, lam in enumerate(ends):
        if lam is not None:
            inputs.lam[b] = lam
    return inputs


@given(inputs=mix_inputs())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mix_equals_the_reference(device: torch.device, inputs: MixInputs) -> None:
    inputs = inputs.to(device)
    mixed = inputs.call(ops.mix)
    assert is_within(mixed, inputs.exact(), inputs.error())
    # The reference's own error is no larger.
    assert is_within(mixed, inputs.call(reference.mix, dtype=torch.float32), 2 * inputs.error())
    assert mixed.is_contiguous(memory_format=inputs.memory_format) and mixed.dtype == inputs.dtype
    out = inputs.empty_out()
    assert inputs.call(ops.mix, out=out) is out
    assert torch.equal(out, mixed)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(224, 224), (225, 223)])
def test_large_outputs_are_streamed_to_the_same_values(
    device: torch.device, memory_format: torch.memory_format, size: tuple[int, int]
) -> None:
    inputs = MixInputs.make(8, size, [(240, 250), size], memory_format).to(device)
    assert inputs.empty_out().nbytes > 4 << 20
    whole = inputs.call(ops.mix)
    torch.testing.assert_close(whole, inputs.call(reference.mix), **TOLERANCE)
    for b in range(8):  # one image alone is small enough for ordinary stores
        alone = replace(
            inputs,
            target_crops=Crops(*(t[b : b + 1] for t in inputs.target_crops)),
            aux_crops=Crops(*(t[b : b + 1] for t in inputs.aux_crops)),
            lam=inputs.lam[b : b + 1],
        )
        assert torch.equal(alone.call(ops.mix)[0], whole[b])


@pytest.mark.parametrize("memory_format", FORMATS)
def test_unaligned_out_is_written_right(device: torch.device, memory_format: torch.memory_format) -> None:
    inputs = MixInputs.make(8, (224, 224), memory_format=memory_format).to(device)
    expected = inputs.call(ops.mix)
    for shift in (1, 2, 3):
        flat = torch.full((expected.numel() + 8,), 7.0, device=device)
        out = flat[shift : shift + expected.numel()].as_strided(expected.shape, expected.stride(), shift)
        inputs.call(ops.mix, out=out)
        assert torch.equal(out, expected)
        assert (flat[:shift] == 7).all() and (flat[shift + expected.numel() :] == 7).all()


def test_lam_one_is_the_target_alone(device: torch.device) -> None:
    inputs = MixInputs.make(4).to(device)
    inputs.lam.fill_(1)
    target = reference.gather(inputs.target, inputs.target_crops, inputs.size).permute(0, 3, 1, 2).double()
    mean, std = (torch.tensor(IMAGENET[k], dtype=torch.float64, device=device).view(3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(inputs.call(ops.mix).double(), (target / 255 - mean) / std, rtol=0, atol=1e-6)


def test_swapping_the_images_and_lam_changes_nothing(device: torch.device) -> None:
    inputs = MixInputs.make(4).to(device)
    swapped = replace(inputs.swapped(), lam=1 - inputs.lam)
    torch.testing.assert_close(swapped.call(ops.mix), inputs.call(ops.mix), **TOLERANCE)


@pytest.mark.parametrize("width", [1, 5, 6, 33, 700])
def test_flipping_mirrored_images_is_the_identity(device: torch.device, width: int) -> None:
    inputs = MixInputs.make(4, (3, width), [(3, width)]).to(device)
    mirrored = ImagePool.from_images([inputs.target[0].cpu().flip(1)]).to(device)
    crops = inputs.target_crops
    flipped = replace(inputs, target=mirrored, target_crops=crops._replace(flip=~crops.flip))
    assert torch.equal(flipped.call(ops.mix), inputs.call(ops.mix))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    inputs = MixInputs.make(16, (64, 65))
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(inputs.call(ops.mix))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_halves_are_the_rounded_float32_result(
    device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    for size, resampled in product(((6, 97), (224, 224)), (False, True)):
        inputs = MixInputs.make(6, size, None, memory_format, resampled=(resampled, resampled)).to(device)
        assert torch.equal(inputs.call(ops.mix, dtype=dtype), inputs.call(ops.mix).to(dtype))
        for std in (1e-6, 1e-3, 30.0, 1e5):  # infinities, and what is subnormal in float16
            constants = {"mean": (0.5, 0.5, 0.5), "std": (std,) * 3}
            exact = inputs.call(ops.mix, **constants)
            assert torch.equal(inputs.call(ops.mix, dtype=dtype, **constants), exact.to(dtype))


@pytest.mark.parametrize("resampled", [(False, False), (True, True)])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_box_shows_the_auxiliary_image_alone(
    device: torch.device, memory_format: torch.memory_format, resampled: tuple[bool, bool]
) -> None:
    inputs = MixInputs.make(8, (9, 41), memory_format=memory_format, boxes=True, resampled=resampled).to(device)
    assert inputs.box is not None
    alone = [
        replace(inputs, target=pool, target_crops=crops, lam=torch.ones_like(inputs.lam), box=None).call(ops.mix)
        for pool, crops in ((inputs.target, inputs.target_crops), (inputs.aux, inputs.aux_crops))
    ]
    inside = reference.inside(inputs.box, inputs.size).unsqueeze(1)
    assert inside.any() and not inside.all()
    assert torch.equal(inputs.call(ops.mix), alone[1].where(inside, alone[0]))


@pytest.mark.parametrize("size", [(7, 5), (64, 80)])
def test_resampling_is_torchvisions(device: torch.device, size: tuple[int, int]) -> None:
    from torchvision.transforms.v2.functional import resized_crop

    inputs = MixInputs.make(6, size, [(40, 50), (31, 33)], resampled=(True, True)).to(device)
    inputs.lam.fill_(1)
    inputs.target_crops.flip.fill_(False)
    mixed = inputs.call(ops.mix, mean=(0, 0, 0), std=(1 / 255,) * 3)
    for b, (index, window) in enumerate(zip(inputs.target_crops.index, inputs.target_crops.window, strict=True)):
        image = inputs.target[int(index)].permute(2, 0, 1).float()
        expected = resized_crop(image, *window.tolist(), size=list(size), antialias=False)
        torch.testing.assert_close(mixed[b], expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((2, 70001), (3, 16384)),
        ((70001, 2), (1500, 3)),
        ((2, 16383), (2, 16384)),
        ((5, 7), (700, 900)),
        ((3, 3), (1, 1)),
    ],
)
def test_resampling_is_as_exact_as_it_says(
    device: torch.device, window: tuple[int, int], size: tuple[int, int]
) -> None:
    # Black and white pixels in turn: the steepest images there are, on which a wrong place shows most.
    black = torch.arange(window[0])[:, None, None] + torch.arange(window[1])[:, None] & 1
    pool = ImagePool.from_images([(black * 255).byte().expand(*window, 3)])
    whole = torch.tensor([[0, 0, *window]], dtype=torch.int32)
    crops = Crops(torch.zeros(1, dtype=torch.int64), whole, torch.tensor([False]))
    inputs = MixInputs(pool, crops, pool, crops._replace(flip=~crops.flip), torch.tensor([0.75]), size).to(device)
    levels = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
    mixed, exact = inputs.call(ops.mix, **levels), inputs.exact(**levels)
    assert is_within(mixed, exact, inputs.error(**levels))


def test_resampling_at_the_same_size_is_the_crop(device: torch.device) -> None:
    """A side that is a crop has the same bits whether or not the other side is resampled."""
    inputs = MixInputs.make(6, (9, 41), resampled=(False, True)).to(device)
    inputs.lam.fill_(1)
    alone = inputs.call(ops.mix)
    inputs.lam.fill_(torch.finfo(torch.float32).tiny)  # not 1, so that both are rows of floats, but all is aux
    torch.testing.assert_close(inputs.swapped().call(ops.mix), alone, rtol=0, atol=1e-6)


def test_channel_constants_may_be_any(device: torch.device) -> None:
    inputs = MixInputs.make(3).to(device)
    constants = {"mean": (0, 0, 0), "std": (1 / 255, 0.5, 2)}
    mixed = inputs.call(ops.mix, **constants)
    torch.testing.assert_close(mixed, inputs.call(reference.mix, **constants), rtol=1e-6, atol=1e-4)


# --- the operator inside torch ---


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(memory_format: torch.memory_format, batch: int) -> None:
    inputs = MixInputs.make(batch, memory_format=memory_format, boxes=True, dtype=torch.bfloat16)
    last = inputs.memory_format == torch.channels_last
    mix, mix_out = torch.ops.xmixup_fast.mix.default, torch.ops.xmixup_fast.mix_out.default
    results = torch.library.opcheck(mix, (*inputs.raw(), inputs.dtype, last, False))
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(mix_out, (*inputs.raw(), last, False, inputs.empty_out()))
    assert set(results.values()) == {"SUCCESS"}


def test_compiles_to_one_graph_that_serves_every_step() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def step(inputs: tuple[ImagePool, Crops, ImagePool, Crops, torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        fresh = ops.mix(*inputs, size=(5, 7), **IMAGENET)
        return ops.mix(*inputs, size=(5, 7), **IMAGENET, out=out) + fresh

    for seed, batch in enumerate((3, 3, 3, 5, 6, 7)):
        inputs = MixInputs.make(batch, seed=seed)
        arguments = (inputs.target, inputs.target_crops, inputs.aux, inputs.aux_crops, inputs.lam)
        assert torch.equal(step(arguments, inputs.empty_out()), 2 * inputs.call(ops.mix))
        assert counter.frame_count == (1 if batch == 3 else 2)  # the second batch size makes a graph for all


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_alone(device: torch.device, dtype: torch.dtype) -> None:
    inputs = MixInputs.make().to(device)
    expected = inputs.call(ops.mix)
    with torch.autocast(device.type, dtype):
        mixed, out = inputs.call(ops.mix), inputs.call(ops.mix, out=inputs.empty_out())
    assert mixed.dtype == torch.float32 and torch.equal(mixed, expected) and torch.equal(out, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_fake_cuda_tensors_give_a_fake_cuda_batch(memory_format: torch.memory_format) -> None:
    inputs = MixInputs.make(memory_format=memory_format)
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = inputs.to(torch.device("cuda"))
        mixed = inputs.call(ops.mix)
        assert mixed.device.type == "cuda" and mixed.shape == (3, 3, 5, 7) and mixed.dtype == torch.float32
        assert mixed.is_contiguous(memory_format=memory_format)
        out = inputs.empty_out()
        assert inputs.call(ops.mix, out=out) is out
