"""The memory that `mix` reads: none outside of the pool, and pools of more bytes than 32 bits count."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace
from itertools import product

import pytest
import torch
from samples import FORMATS, MixInputs, is_within, make_boxes, make_pool
from torch import Tensor

from xmixup_fast import Crops, ImagePool, ops

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
    assert is_within(whole.call(ops.mix), whole.exact(), whole.error())


def test_windows_of_more_than_2_to_the_24_pixels_are_refused() -> None:
    width = 2**24 + 1
    pixels = large_pixels(torch.device("cpu"), 3 * width)
    for sizes in ([[1, width]], [[width, 1]]):
        pool = ImagePool(pixels, torch.tensor([0]), torch.tensor(sizes).int(), torch.tensor([0]))
        crops = Crops(torch.tensor([0]), torch.tensor([[0, 0, *sizes[0]]]).int(), torch.tensor([False]))
        inputs = MixInputs(pool, crops, pool, crops, torch.ones(1), (2, 2))
        with pytest.raises(RuntimeError, match=r"target_window\[0\]: .* at most 16777216 pixels a side, got \[0, 0, "):
            inputs.call(ops.mix)
