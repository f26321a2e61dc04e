"""The operator `mix`, on every backend, against its definition in xmixup_fast.reference."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import IMAGENET, MixInputs, Numbers, is_within, make_boxes, make_pool, unchecked_pool
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import Crops, ImagePool, ops, reference

FORMATS = [torch.channels_last, torch.contiguous_format]
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
        draw(st.integers(0, 4)),
        size,
        sizes,
        draw(st.sampled_from(FORMATS)),
        draw(st.integers(0, 2**31)),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from([(False, False), (False, False), (True, False), (False, True), (True, True)])),
        draw(st.booleans()),
    )
    ends = draw(st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=len(inputs.lam), max_size=len(inputs.lam)))
    for b, lam in enumerate(ends):
        if lam is not None:
            inputs.lam[b] = lam
    return inputs


def exact_mix(inputs: MixInputs, mean: Numbers = IMAGENET["mean"], std: Numbers = IMAGENET["std"]) -> Tensor:
    """The definition in float64: float64[batch, 3, height, width]."""

    def resample(image: Tensor, dim: int, extent: int) -> Tensor:
        last = image.shape[dim] - 1
        place = (torch.arange(extent, dtype=torch.float64) + 0.5) * (last + 1) / extent - 0.5
        place = place.clamp(0, last).to(image.device)
        before = place.long()
        weight = (place - before).view(-1, *[1] * (2 - dim))
        first, second = (image.index_select(dim, i).double() for i in (before, (before + 1).clamp(max=last)))
        return first + weight * (second - first)

    def cut(pool: ImagePool, crops: Crops) -> Tensor:
        views = []
        for index, (top, left, height, width), flip in zip(*(t.tolist() for t in crops), strict=True):
            view = pool[index][top : top + height, left : left + width]
            view = resample(resample(view, 0, inputs.size[0]), 1, inputs.size[1])
            views.append((view.flip(1) if flip else view).permute(2, 0, 1))
        return torch.stack(views) if views else torch.empty(0, 3, *inputs.size, device=pool.device)

    target, aux = cut(inputs.target, inputs.target_crops), cut(inputs.aux, inputs.aux_crops)
    lam = inputs.lam.double().view(-1, 1, 1, 1)
    if inputs.box is not None:
        lam = 1 - reference.inside(inputs.box, inputs.size).unsqueeze(1).double()
    means, deviations = (torch.tensor(v, dtype=torch.float64, device=lam.device).view(3, 1, 1) for v in (mean, std))
    return ((lam * target + (1 - lam) * aux) / 255 - means) / deviations


@given(inputs=mix_inputs())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mix_equals_the_reference(device: torch.device, inputs: MixInputs) -> None:
    inputs = inputs.to(device)
    mixed = inputs.call(ops.mix)
    assert is_within(mixed, exact_mix(inputs), inputs.error())
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
    swapped = replace(
        inputs,
        target=inputs.aux,
        target_crops=inputs.aux_crops,
        aux=inputs.target,
        aux_crops=inputs.target_crops,
        lam=1 - inputs.lam,
    )
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
    mixed, exact = inputs.call(ops.mix, **levels), exact_mix(inputs, **levels)
    assert is_within(mixed, exact, inputs.error(**levels))


def test_resampling_at_the_same_size_is_the_crop(device: torch.device) -> None:
    """A side that is a crop has the same bits whether or not the other side is resampled."""
    inputs = MixInputs.make(6, (9, 41), resampled=(False, True)).to(device)
    inputs.lam.fill_(1)
    alone = inputs.call(ops.mix)
    inputs.lam.fill_(torch.finfo(torch.float32).tiny)  # not 1, so that both are rows of floats, but all is aux
    swapped = replace(
        inputs,
        target=inputs.aux,
        target_crops=inputs.aux_crops,
        aux=inputs.target,
        aux_crops=inputs.target_crops,
    )
    torch.testing.assert_close(swapped.call(ops.mix), alone, rtol=0, atol=1e-6)


def test_channel_constants_may_be_any(device: torch.device) -> None:
    inputs = MixInputs.make(3).to(device)
    constants = {"mean": (0, 0, 0), "std": (1 / 255, 0.5, 2)}
    mixed = inputs.call(ops.mix, **constants)
    torch.testing.assert_close(mixed, inputs.call(reference.mix, **constants), rtol=1e-6, atol=1e-4)


# --- memory that must not be touched ---

PAGE = mmap.PAGESIZE


def between_guards(content: torch.Tensor, at_end: bool) -> torch.Tensor:
    """A copy of bytes whose first byte follows, or whose last byte precedes, a page that may not be read."""
    pages = -(-content.numel() // PAGE)
    region = mmap.mmap(-1, (pages + 2) * PAGE)
    memory = torch.frombuffer(region, dtype=torch.uint8)
    begin = PAGE + (pages * PAGE - content.numel() if at_end else 0)
    place = memory[begin : begin + content.numel()].copy_(content)
    for page in (0, pages + 1):
        forbid(memory[page * PAGE :].data_ptr(), PAGE)
    return place


def forbid(address: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), 0) == 0, ctypes.get_errno()


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("width", [1, 5, 6, 16, 33, 128])
def test_no_byte_outside_the_pool_is_read(
    device: torch.device, width: int, memory_format: torch.memory_format, at_end: bool, resampled: bool
) -> None:
    if device.type == "cuda":
        pytest.skip("guard pages are host memory")
    inputs = MixInputs.make(6, (3, width), [(3, width)], memory_format)
    if resampled:
        inputs.size = (4, width + 1)
    guarded = [replace(pool, pixels=between_guards(pool.pixels, at_end)) for pool in (inputs.target, inputs.aux)]
    assert torch.equal(replace(inputs, target=guarded[0], aux=guarded[1]).call(ops.mix), inputs.call(ops.mix))


@pytest.mark.parametrize("resampled", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("boxes", [False, True])
def test_lam_one_reads_no_auxiliary_byte(device: torch.device, resampled: tuple[bool, bool], boxes: bool) -> None:
    """Nor do empty boxes."""
    if device.type == "cuda":
        pytest.skip("guard pages are host memory")
    inputs = MixInputs.make(6, (3, 40), resampled=resampled)
    if boxes:
        inputs.box = make_boxes(6, (3, 40), torch.Generator().manual_seed(0)) * torch.tensor([1, 1, 0, 1]).int()
    else:
        inputs.lam.fill_(1)
    size = inputs.aux.pixels.numel()
    region = torch.frombuffer(mmap.mmap(-1, -(-size // PAGE) * PAGE), dtype=torch.uint8)
    forbid(region.data_ptr(), region.numel())
    forbidden = replace(inputs, aux=replace(inputs.aux, pixels=region[:size]))
    assert torch.equal(forbidden.call(ops.mix), inputs.call(ops.mix))


# --- pools of more bytes than 32 bits count ---

MAP_NORESERVE = 0x4000  # on Linux: pages take memory when they are first written


def large_pixels(device: torch.device, size: int) -> Tensor:
    """Zeros; on the CPU, only pages that are written to take memory."""
    if device.type == "cuda":
        if torch.cuda.mem_get_info()[0] < size + 2**30:
            pytest.skip(f"needs {size / 2**30 + 1:.0f} GiB of free GPU memory")
        return torch.zeros(size, dtype=torch.uint8, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=torch.uint8)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("resampled", [False, True])
def test_images_beyond_4_gib(device: torch.device, resampled: bool, memory_format: torch.memory_format) -> None:
    size = 2**32 + 2**26
    inputs = MixInputs.make(12, (9, 41), [(20, 50)] * 5, memory_format, resampled=(resampled, resampled)).to(device)
    inputs.target_crops.index.copy_(torch.arange(12) % 5)
    image_bytes = 3 * 20 * 50
    offsets = torch.tensor([0, 2**31 - 1500, 2**31 + 2**30, 2**32 - 1501, size - image_bytes])
    pixels = large_pixels(device, size)
    for i, offset in enumerate(offsets.tolist()):
        pixels[offset : offset + image_bytes] = inputs.target[i].flatten()
    pool = ImagePool(pixels, offsets.to(device), inputs.target.sizes, inputs.target.labels)
    expected = inputs.call(ops.mix)
    assert torch.equal(replace(inputs, target=pool).call(ops.mix), expected)
    swapped = replace(inputs, aux=pool, aux_crops=inputs.target_crops, lam=torch.zeros_like(inputs.lam))
    alone = replace(swapped, aux=inputs.target)
    assert torch.equal(swapped.call(ops.mix), alone.call(ops.mix))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_an_image_of_more_than_2_gib(device: torch.device, memory_format: torch.memory_format) -> None:
    side, begin = 30000, 1001
    pixels = large_pixels(device, begin + 3 * side * side + 7)
    generator = torch.Generator().manual_seed(0)
    corner = make_pool([(40, 60)], generator)
    image = pixels[begin:-7].view(side, side, 3)
    image[-40:, -60:] = corner[0].to(device)
    tables = torch.tensor([begin]), torch.tensor([[side, side]], dtype=torch.int32), torch.tensor([0])
    large = ImagePool(pixels, *(table.to(device) for table in tables))

    windows = torch.tensor([[0, 19, 9, 41], [31, 0, 9, 41], [31, 19, 9, 41], [0, 0, 40, 60]], dtype=torch.int32)
    crops = Crops(torch.zeros(4, dtype=torch.int64), windows, torch.tensor([False, True, False, True]))
    lam = torch.tensor([1.0, 0.5, 0.25, 0.0])
    inputs = MixInputs(corner, crops, corner, crops, lam, (9, 41), memory_format).to(device)

    def in_large(windows: Tensor) -> MixInputs:
        crops = inputs.target_crops._replace(window=windows)
        return replace(inputs, target=large, target_crops=crops, aux=large, aux_crops=crops)

    shift = torch.tensor([side - 40, side - 60, 0, 0], dtype=torch.int32, device=device)
    assert torch.equal(in_large(inputs.target_crops.window + shift).call(ops.mix), inputs.call(ops.mix))

    # Almost the whole image, resampled; what is read of it gets some colour.
    rows, columns = (
        ((torch.arange(n) + 0.5) * extent / n - 0.5).long() + begin
        for n, begin, extent in ((9, 1, side - 1), (41, 2, side - 2))
    )
    for y, x in product((0, 1), (0, 1)):
        colours = torch.randint(0, 256, (9, 41, 3), dtype=torch.uint8, generator=generator)
        image[(rows + y)[:, None].to(device), (columns + x).to(device)] = colours.to(device)
    whole = in_large(torch.tensor([[1, 2, side - 1, side - 2]] * 4, dtype=torch.int32, device=device))
    assert is_within(whole.call(ops.mix), exact_mix(whole), whole.error())


def test_windows_of_more_than_2_to_the_24_pixels_are_refused() -> None:
    width = 2**24 + 1
    pixels = large_pixels(torch.device("cpu"), 3 * width)
    for sizes in ([[1, width]], [[width, 1]]):
        pool = ImagePool(pixels, torch.tensor([0]), torch.tensor(sizes).int(), torch.tensor([0]))
        crops = Crops(torch.tensor([0]), torch.tensor([[0, 0, *sizes[0]]]).int(), torch.tensor([False]))
        inputs = MixInputs(pool, crops, pool, crops, torch.ones(1), (2, 2))
        with pytest.raises(RuntimeError, match=r"target_window\[0\]: .* at most 16777216 pixels a side, got \[0, 0, "):
            inputs.call(ops.mix)


# --- the operator inside torch ---


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(memory_format: torch.memory_format, batch: int) -> None:
    inputs = MixInputs.make(batch, memory_format=memory_format, boxes=True, dtype=torch.bfloat16)
    last = inputs.memory_format == torch.channels_last
    mix, mix_out = torch.ops.xmixup_fast.mix.default, torch.ops.xmixup_fast.mix_out.default
    results = torch.library.opcheck(mix, (*inputs.raw(), inputs.dtype, last))
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(mix_out, (*inputs.raw(), last, inputs.empty_out()))
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


# --- wrong arguments ---

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
    if by_value and ops._library is not torch.ops.xmixup_fast:
        with pytest.raises(RuntimeError, match=r"device-side assert triggered: mix: an? .*outside"):
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
    values = (*inputs.raw(), inputs.memory_format == torch.channels_last, inputs.empty_out())
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
        ops._library.mix_out(**arguments)


@pytest.mark.parametrize("name", [name for name in TENSORS if name not in ("box", "out")])
def test_none_is_named(device: torch.device, name: str) -> None:
    arguments = named_tensors(MixInputs.make(3).to(device))
    with pytest.raises(RuntimeError, match=f"xmixup_fast.mix: {name}: expected a tensor, got None"):
        ops._library.mix_out(**{**arguments, name: None})


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
