"""Streamed images on a GPU: batches are made on a stream of their own, and whoever uses them waits for them.

Most tests run on a GPU that does nothing before somebody waits for it (``late_gpu``), with a DALI that decodes there.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from late_dali import LatePipeline
from late_gpu import GPU, LateGPU
from test_decoding import HAS_DALI, made_decoder
from test_streamed import JPEGS, SIZE, made_images, shown
from torch import Tensor

from xmixup_fast import Crops, ImagePool
from xmixup_fast.data import streamed
from xmixup_fast.data.decoding import choose
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.streamed import StreamedImages
from xmixup_fast.runtime import side_stream
from xmixup_fast.runtime.device import upload
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.images import SplitImages

DECODERS = ["torchvision", pytest.param("dali", marks=pytest.mark.skipif(not HAS_DALI, reason="needs DALI"))]
SHORT_SIDE = 40
BATCHES = 4


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateGPU]:
    side_stream.side_stream.cache_clear()
    late = LateGPU()
    with monkeypatch.context() as patch:
        late.install(patch)
        yield late
    side_stream.side_stream.cache_clear()


def gpu_decoder(name: str, short_side: int | None, monkeypatch: pytest.MonkeyPatch, device: torch.device = GPU) -> Any:
    if name == "dali":
        from xmixup_fast.data.decoding import dali

        monkeypatch.setattr(dali, "Pipeline", LatePipeline)
        monkeypatch.setattr(dali, "fn", MagicMock())
    return make_decoder(name, short_side, device, 2, print)


def made_crops() -> list[Crops]:
    """Crops of all images, a window of which comes twice."""
    batches = []
    for number in range(BATCHES):
        index = torch.tensor([number, 5, 0, 3, 0, number])
        corner = torch.tensor([[number, 1], [0, 0], [2, number], [4, 2], [2, number], [0, 3]])
        window = torch.cat([corner, torch.full_like(corner, SIZE)], dim=1).int()
        batches.append(Crops(index, window, torch.arange(6) % 2 == 1))
    return batches


def wanted(short_side: int | None) -> list[tuple[list[Tensor], Tensor, Tensor]]:
    """Pixels, labels and flips of each batch, from images in memory."""
    samples = made_images(JPEGS)
    pool = ImagePool.from_images(whole_images(short_side), [sample.label for sample in samples])
    return [(shown(pool, crops), pool.labels[crops.index], crops.flip) for crops in made_crops()]


def whole_images(short_side: int | None) -> list[Tensor]:
    found = made_decoder("torchvision", short_side).decode(sample.image for sample in made_images(JPEGS))  # type: ignore[arg-type]
    return [image for image in found if isinstance(image, Tensor)]


def images_on_cpu(decoder: Any, short_side: int | None) -> StreamedImages:
    sizes = torch.tensor([image.shape[:2] for image in whole_images(short_side)], dtype=torch.int32)
    return StreamedImages(made_images(JPEGS), sizes, decoder)


def images_on_gpu(decoder: Any, short_side: int | None, gpu: LateGPU) -> StreamedImages:
    images = images_on_cpu(decoder, short_side)
    images.labels, images.sizes = gpu.tensor(images.labels), gpu.tensor(images.sizes)
    return images


def used(images: StreamedImages, crops: Sequence[Crops]) -> list[tuple[ImagePool, Crops]]:
    """What a caller reads of all batches, on the CPU: it queues its work on each, and waits once, at the end."""
    copies = []
    for pool, of_pool in images.fetch(crops):
        tensors = (pool.pixels, pool.offsets, pool.sizes, pool.labels, *of_pool)
        copies.append([tensor.clone() for tensor in tensors])
        del pool, of_pool, tensors
    read = [[tensor.cpu() for tensor in batch] for batch in copies]
    return [(ImagePool(*batch[:4]), Crops(*batch[4:])) for batch in read]


def agrees(batches: Sequence[tuple[ImagePool, Crops]], short_side: int | None) -> bool:
    """Whether a caller has seen what it has to see. On a GPU resizing rounds otherwise."""
    expected = wanted(short_side)
    assert len(batches) == len(expected)
    for (pool, crops), (pixels, labels, flip) in zip(batches, expected, strict=True):
        if not (pool.sizes.all() and torch.equal(pool.labels[crops.index], labels) and torch.equal(crops.flip, flip)):
            return False
        for got, window in zip(shown(pool, crops), pixels, strict=True):
            if got.shape != window.shape or (got.int() - window.int()).abs().max() > (0 if short_side is None else 1):
                return False
    return True


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("short_side", [None, SHORT_SIDE])
@pytest.mark.parametrize("own_stream", [False, True])
def test_a_caller_sees_whole_batches_and_nothing_comes_back_to_the_host(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, name: str, short_side: int | None, own_stream: bool
) -> None:
    images = images_on_gpu(gpu_decoder(name, short_side, monkeypatch), short_side, gpu)
    stream = gpu.new_stream(GPU) if own_stream else gpu.current_stream(GPU)
    with gpu.stream(stream):
        batches = used(images, made_crops())
    assert gpu.reads == 7 * BATCHES  # by the caller itself
    assert agrees(batches, short_side)
    assert not gpu.faults
    assert gpu.current_device() == 0 and all(one.device == GPU for one in gpu.streams)


@pytest.mark.parametrize("name", DECODERS)
def test_all_streams_of_images_share_one_stream_of_the_gpu(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Memory that the allocator keeps for a stream is of use to that stream alone."""
    for _ in range(3):
        used(images_on_gpu(gpu_decoder(name, None, monkeypatch), None, gpu), made_crops())
    assert len(gpu.streams) == 1


# --- the same with a fault, which has to be seen ---


def without_wait(tensors: Sequence[Any], ready: Any) -> None:
    for tensor in tensors:
        tensor.record_stream(torch.cuda.current_stream(GPU))


def without_record(tensors: Sequence[Any], ready: Any) -> None:
    torch.cuda.current_stream(GPU).wait_event(ready)


def without_crops_recorded(tensors: Sequence[Any], ready: Any) -> None:
    torch.cuda.current_stream(GPU).wait_event(ready)
    without_wait(tensors[:4], ready)


def waiting_for_the_stream_before(tensors: Sequence[Any], ready: Any) -> None:
    without_wait(tensors, ready)
    ready.position = 0
    torch.cuda.current_stream(GPU).wait_event(ready)


def plain_threads(stream: Any, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


SLOT = torch.zeros(2**20, dtype=torch.uint8)


def through_one_slot(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies pixels through pinned memory that is written again before the copy is done."""
    if tensor.device.type == "cuda" or tensor.dtype != torch.uint8:
        return upload(tensor, device)
    slot: Any = SLOT[: tensor.numel()]
    slot.copy_(tensor)
    slot.pinned = True
    return slot.to(device, non_blocking=True)  # type: ignore[no-any-return]


def from_pageable_memory(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


FAULTS: list[tuple[str, Callable[..., Any]]] = [
    ("hand_over", without_wait),
    ("hand_over", without_record),
    ("hand_over", without_crops_recorded),
    ("hand_over", waiting_for_the_stream_before),
    ("threads_on", plain_threads),
    ("upload", through_one_slot),
    ("upload", from_pageable_memory),
]


@pytest.mark.parametrize(("function", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_a_faulty_handover_is_seen(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, function: str, faulty: Callable[..., Any]
) -> None:
    monkeypatch.setattr(streamed, function, faulty)
    images = images_on_gpu(gpu_decoder("torchvision", None, monkeypatch), None, gpu)
    try:
        with gpu.stream(gpu.new_stream(GPU)):
            right = agrees(used(images, made_crops()), None)
    except AssertionError as error:
        assert "pageable" in str(error)
        return
    assert gpu.faults or not right


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
@pytest.mark.parametrize("fault", ["host-synchronous", "copied elsewhere", "threads elsewhere", "read by the CPU"])
def test_a_faulty_handover_from_dali_is_seen(gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    from xmixup_fast.data.decoding import dali

    decoder = gpu_decoder("dali", SHORT_SIDE, monkeypatch)
    images = images_on_gpu(decoder, SHORT_SIDE, gpu)
    elsewhere = gpu.new_stream(GPU)
    original = dali._Pipeline.run
    if fault == "host-synchronous":  # bound to no stream: freed while the copy is queued
        monkeypatch.setattr(dali._Pipeline, "run", lambda self, jpegs, stream: original(self, jpegs))
    elif fault == "copied elsewhere":
        monkeypatch.setattr(dali._Pipeline, "run", lambda self, jpegs, stream: original(self, jpegs, elsewhere))
    elif fault == "threads elsewhere":
        monkeypatch.setattr(
            streamed,
            "threads_on",
            lambda stream, count: side_stream.threads_on(elsewhere if count > 1 else stream, count),
        )
    else:
        finish = decoder._steps
        monkeypatch.setattr(decoder, "_steps", lambda notes: _OnCPU(finish(notes)))
    batches = used(images, made_crops())
    assert gpu.faults or gpu.reads > 7 * BATCHES or not agrees(batches, SHORT_SIDE)


class _OnCPU:
    """Steps that bring each image to the CPU before it is cropped."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps
        self.read, self.decode = steps.read, steps.decode

    def crop_each(self, workers: Any, items: Any, windows: Any, device: torch.device) -> Any:
        items = [item.cpu() if isinstance(item, Tensor) else item for item in items]
        return self.steps.crop_each(workers, items, windows, device)


# --- other places ---


@pytest.mark.parametrize("name", DECODERS)
def test_crops_on_the_gpu_are_read_back_once_for_a_batch(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    images = images_on_gpu(gpu_decoder(name, None, monkeypatch), None, gpu)
    crops = [Crops(*map(gpu.tensor, batch)) for batch in made_crops()]
    batches = used(images, crops)
    assert gpu.reads == (1 + 7) * BATCHES
    assert agrees(batches, None) and not gpu.faults


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
def test_images_on_the_cpu_may_be_decoded_on_the_gpu(gpu: LateGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_on_cpu(gpu_decoder("dali", None, monkeypatch), None)
    batches = list(images.fetch(made_crops()))
    assert all(tensor.device.type == "cpu" for pool, crops in batches for tensor in (pool.pixels, *crops))
    assert agrees(batches, None)


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
@pytest.mark.parametrize("short_side", [None, SHORT_SIDE])
def test_whole_images_come_from_the_gpu_complete(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch, short_side: int | None
) -> None:
    decoder = gpu_decoder("dali", short_side, monkeypatch)
    found = list(decoder.decode(sample.image for sample in made_images(JPEGS)))
    for image, expected in zip(found, whole_images(short_side), strict=True):
        assert isinstance(image, Tensor) and image.device.type == "cpu" and image.shape == expected.shape
        assert (image.int() - expected.int()).abs().max() <= (0 if short_side is None else 1)


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
def test_dali_decodes_on_the_current_device_where_no_other_is_named(
    gpu: LateGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu.device(GPU):
        decoder = gpu_decoder("dali", None, monkeypatch, torch.device("cuda"))
    assert decoder.device == GPU
    assert agrees(used(images_on_gpu(decoder, None, gpu), made_crops()), None)


def test_auto_goes_on_without_a_dali_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    original = choose.import_module

    def broken(name: str) -> Any:
        if name.startswith("nvidia"):
            raise OSError("libcuda.so.1: cannot open shared object file\nmore")
        return original(name)

    monkeypatch.setattr(choose, "import_module", broken)
    said: list[str] = []
    assert not make_decoder("auto", None, torch.device("cpu"), 1, said.append).name.startswith("dali")
    assert "since DALI does not work here (libcuda.so.1: cannot open shared object file)" in said[0]


@pytest.mark.parametrize("place", ["streamed", "resident", "no graph", "decoded on the CPU"])
def test_no_graph_is_captured_while_a_gpu_decodes(place: str) -> None:
    """DALI may synchronise the device at any time, which ends a capture."""
    images = SplitImages.__new__(SplitImages)
    graph = place != "no graph"
    images.settings = Settings(target="t", model="m", method="finetune", cuda_graph=graph, device="cuda")
    device = torch.device("cpu" if place == "decoded on the CPU" else "cuda")
    decoder: Any = types.SimpleNamespace(device=device, name="dali cuda")
    images.store = types.SimpleNamespace(decoder=decoder, bad=[])  # type: ignore[assignment]
    images.listed, images.log = [], print
    stream = StreamedImages([], torch.empty(0, 2), decoder)
    images.splits = {"train": ImagePool.from_images([]) if place == "resident" else stream, "val": stream}
    if place == "streamed":
        with pytest.raises(ValueError, match=r"^decoder: expected torchcodec.* with cuda_graph.* got dali cuda"):
            images.check()
    else:
        images.check()


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("short_side", [None, SHORT_SIDE])
def test_batches_are_whole_under_a_callers_stream(name: str, short_side: int | None) -> None:
    """DALI decodes with nvJPEG, whose pixels differ by some levels."""
    images = images_on_cpu(make_decoder(name, short_side, torch.device("cuda"), 2, print), short_side).to("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)  # longer than decoding takes: batches are made and freed meanwhile
        batches = used(images, made_crops())
    for (pool, crops), (pixels, labels, flip) in zip(batches, wanted(short_side), strict=True):
        assert torch.equal(pool.labels[crops.index], labels) and torch.equal(crops.flip, flip)
        for got, window in zip(shown(pool, crops), pixels, strict=True):
            difference = (got.int() - window.int()).abs()
            assert difference.float().mean() < 3 if name == "dali" else difference.max() == 0
