"""Streamed images: the same pixels as in pools, decoded ahead, each image once per epoch; and bad files are named."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import PIL.Image
import pytest
import torch
from made import TARGET, write_folder
from safetensors.torch import load_file
from small_runs import arguments, flags, run, without_times
from test_decoding import DECODERS, HEIGHT, Bytes, encoded, kinds, made_decoder, photo
from torch import Tensor

from xmixup_fast import Crops, ImagePool
from xmixup_fast.batches.plan import Second
from xmixup_fast.batches.render import fetch, render
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.data.dataset import Sample
from xmixup_fast.data.decoding.steps import window_bytes, window_views
from xmixup_fast.data.streamed import AHEAD, StreamedImages
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.ops.image_pool import Images
from xmixup_fast.settings.fields import Settings
from xmixup_fast.train import main
from xmixup_fast.training.trainer import Trainer

SIZE = 32
WAIT = 30
"""Seconds after which a test fails."""


def turned(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", exif=exif)


JPEGS = [encoded(photo(HEIGHT + i, 101 - i, i), "JPEG") for i in range(6)]


class Counted(Bytes):
    """An image that counts how often it is read."""

    reads = 0

    def read(self) -> bytes:
        self.reads += 1
        return super().read()


def made_images(data: Sequence[bytes]) -> list[Sample]:
    return [Sample(Counted(f"{i}.jpg", item), i % 3) for i, item in enumerate(data)]


def made_stream(name: str, samples: Sequence[Sample], short_side: int | None) -> tuple[StreamedImages, ImagePool]:
    """A stream, and a pool of the same images."""
    decoder = made_decoder(name, short_side)
    images = list(decoder.decode(sample.image for sample in samples))
    pool = ImagePool.from_images(images, [sample.label for sample in samples])
    for sample in samples:
        sample.image.reads = 0
    return StreamedImages(samples, pool.sizes, decoder), pool


def shown(pool: ImagePool, crops: Crops) -> list[Tensor]:
    """The pixels that crops show, uint8[height, width, 3] each, not flipped."""
    views = zip(crops.index.tolist(), crops.window.tolist(), strict=True)
    return [pool[index][top : top + height, left : left + width] for index, (top, left, height, width) in views]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("short_side", [None, 40])
def test_windows_are_those_of_whole_images(name: str, short_side: int | None) -> None:
    files = [*kinds().values(), *(turned(orientation) for orientation in range(1, 9))]
    samples = made_images(files)
    decoder = made_decoder(name, short_side)
    wholes = list(decoder.decode(sample.image for sample in samples))
    jpegs = [i for i, data in enumerate(files) if data.startswith(b"\xff\xd8")]
    generator = torch.Generator().manual_seed(0)
    with ThreadPoolExecutor(decoder.threads) as workers:
        crop = decoder.window_decoder(workers)
        for positions in (range(len(files)), jpegs, jpegs[:3], jpegs * 6):  # all formats, then JPEG files only
            for height, width, odd in ((32, 32, 0), (7, 23, 0), (7, 23, 2)):
                images = [wholes[i] for i in positions]
                corners = [
                    [int(torch.randint(0, limit + 1, (), generator=generator)) for limit in (h - height, w - width)]
                    for h, w, _ in (image.shape for image in images)
                ]
                corners[0] = [0, 0]
                corners[-1] = [images[-1].shape[0] - height, images[-1].shape[1] - width]
                windows = [[top, left, height, width] for top, left in corners]
                windows[-1][0], windows[-1][2] = windows[-1][0] + odd, height - odd  # of another size than the others
                pixels = crop([samples[i].image for i in positions], windows)
                assert pixels.is_contiguous() and pixels.shape == (window_bytes(windows),)
                for got, image, (top, left, h, w) in zip(window_views(pixels, windows), images, windows, strict=True):
                    assert torch.equal(got, image[top : top + h, left : left + w])


@pytest.mark.parametrize("name", ["dali"])
def test_dalis_memory_goes_into_the_pool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dali = pytest.importorskip("xmixup_fast.data.decoding.dali")
    addresses = []

    def recorded(tensor: Any) -> Tensor:
        addresses.append(tensor.data_ptr())
        return from_dlpack(tensor)

    from_dlpack = dali.from_dlpack
    stream, pool = made_stream(name, made_images(JPEGS), None)
    monkeypatch.setattr(dali, "from_dlpack", recorded)
    batch = Crops(torch.arange(6), torch.tensor([[1, 2, SIZE, SIZE]] * 6).int(), torch.zeros(6, dtype=torch.bool))
    ((got, crops),) = stream.fetch([batch])
    assert addresses == [got.pixels.data_ptr()]
    assert all(torch.equal(a, b) for a, b in zip(shown(got, crops), shown(pool, batch), strict=True))


def made_sampler(images: Any, **settings: Any) -> Sampler:
    rank, world_size = settings.pop("rank", 0), settings.pop("world_size", 1)
    values = {"target": "t", "model": "m", "image_size": SIZE, "batch_size": 4, "epochs": 3, **settings}
    generator = torch.Generator().manual_seed(0)
    aux = ImagePool.from_images(
        [torch.randint(0, 256, (SIZE, 40, 3), dtype=torch.uint8, generator=generator)] * 2, [0, 1]
    )
    auxiliary = AuxiliaryIndex.of(aux, [[0], [1], [0, 1]])
    return Sampler(images, auxiliary, Settings(**values), rank=rank, world_size=world_size)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("short_side", [None, 40])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 8])
def test_a_stream_gives_a_pools_batches(name: str, short_side: int | None, batch_size: int) -> None:
    stream, pool = made_stream(name, made_images(JPEGS), short_side)
    sampler, form = made_sampler(pool, batch_size=batch_size), ImageFormat(SIZE, (0.5,) * 3, (0.5,) * 3)

    def batches(images: Images, second: Second) -> Iterator[tuple[Tensor, Tensor]]:
        plans = (sampler.plan(step, second=second) for step in range(sampler.steps))
        for plan, pools in fetch(images, pool, plans):
            out = OutputBuffers().get("test", len(plan), form, plan.lam.device)
            yield render(plan, pools, form, out), plan.label

    for second in get_args(Second):
        for streamed, resident in zip(batches(stream, second), batches(pool, second), strict=True):
            assert all(map(torch.equal, streamed, resident))
    passes = [list(map(clone, center_crop_batches(images, form, 4))) for images in (stream, pool)]
    assert [len(labels) for _, labels in passes[0]] == [4, 2]  # the last batch is smaller
    for got, expected in zip(*passes, strict=True):
        assert all(map(torch.equal, got, expected))


def clone(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 4, 5])
def test_every_image_is_read_once_per_epoch_by_all_processes_together(world_size: int, batch_size: int) -> None:
    stream, pool = made_stream("torchvision", made_images(JPEGS), None)
    alone = made_sampler(pool, batch_size=batch_size, steps=6)  # a whole number of epochs
    samplers = [
        made_sampler(pool, batch_size=batch_size, steps=6, rank=r, world_size=world_size) for r in range(world_size)
    ]
    feeds = [stream.fetch(plan.target_windows for plan in map(sampler.plan, range(6))) for sampler in samplers]
    for step, parts in enumerate(zip(*feeds, strict=True)):
        got = [window for pool_of_batch, crops in parts for window in shown(pool_of_batch, crops)]
        expected = alone.plan(step, second="auxiliary")
        assert all(torch.equal(a, b) for a, b in zip(got, shown(pool, expected.mix.target_crops), strict=True))
        plans = [sampler.plan(step, second="auxiliary") for sampler in samplers]
        assert torch.equal(torch.cat([plan.lam for plan in plans]), expected.lam)
        assert torch.equal(torch.cat([plan.mix.aux_crops.index for plan in plans]), expected.mix.aux_crops.index)
    assert [sample.image.reads for sample in stream.samples] == [batch_size] * 6


def test_a_stream_goes_on_in_the_middle_of_an_epoch() -> None:
    stream, pool = made_stream("torchvision", made_images(JPEGS), None)
    sampler = made_sampler(pool)
    all_of_them = list(stream.fetch(sampler.plan(step).target_windows for step in range(sampler.steps)))
    for sample in stream.samples:
        sample.image.reads = 0
    rest = list(stream.fetch(sampler.plan(step).target_windows for step in range(2, sampler.steps)))
    for (got, _), (expected, _) in zip(rest, all_of_them[2:], strict=True):
        assert torch.equal(got.pixels, expected.pixels)
    assert sum(sample.image.reads for sample in stream.samples) == 4 * (sampler.steps - 2)


@pytest.mark.parametrize("name", DECODERS)
def test_batches_are_decoded_while_one_is_in_use(name: str) -> None:
    samples = made_images(JPEGS)
    stream, _ = made_stream(name, samples, None)
    later = threading.Event()

    class Signal(Bytes):
        def read(self) -> bytes:
            later.set()
            return super().read()

    stream.samples = [*samples[:-1], Sample(Signal("5.jpg", JPEGS[5]), 0)]
    window, flip = torch.tensor([[0, 0, SIZE, SIZE]]).int(), torch.zeros(1, dtype=torch.bool)
    taken = []

    def crops() -> Any:
        for i in (0, *[5] * AHEAD, 1, 2, 3):
            taken.append(i)
            yield Crops(torch.tensor([i]), window, flip)

    batches = stream.fetch(crops())
    next(batches)
    assert later.wait(WAIT)  # though nobody has asked for the second batch
    assert len(taken) == AHEAD + 1  # and no more than that is decoded ahead
    batches.close()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("short_side", [None, 40])
def test_files_that_become_bad_are_named(name: str, short_side: int | None) -> None:
    stream, pool = made_stream(name, made_images(JPEGS), short_side)
    sampler = made_sampler(pool, batch_size=6)
    for i in (1, 4):
        stream.samples[i].image.data = JPEGS[i][: len(JPEGS[i]) // 2] if i == 1 else b"words"
    with pytest.raises(ValueError, match=r"(?s)no longer can:.*1\.jpg: .*4\.jpg: not a JPEG"):
        list(stream.fetch([sampler.plan(0).target_windows]))


@pytest.mark.parametrize("method", ["xmixup", "mixup"])
@pytest.mark.parametrize("resize", [37, "full"])
def test_storage_makes_no_difference_to_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, resize: Any
) -> None:
    results = {
        storage: run(data, tmp_path / storage, method=method, storage=storage, resize=resize)
        for storage in ("resident", "stream")
    }
    said = capsys.readouterr().out
    assert "storage: train, val, test images streamed" in said
    weights = [load_file(result.folder / "model.safetensors") for result in results.values()]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    summaries = [without_times(result.summary) for result in results.values()]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("budget", "streamed"),
    # Of 18 training images 80 KiB, of 6 to validate or to test on 27 each, of auxiliary ones 36.
    [("400KiB", ""), ("150KiB", "test images"), ("120KiB", "test, val images"), ("70KiB", "train, test images")],
)
def test_what_does_not_fit_the_budget_is_streamed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str, streamed: str
) -> None:
    whole = run(data, tmp_path / "whole", cache="none", resize=37, storage="resident")
    capsys.readouterr()
    result = run(data, tmp_path / "run", cache="none", resize=37, memory_budget=budget)
    (line,) = re.findall("storage: .*", capsys.readouterr().out)
    assert line.startswith(f"storage: {streamed} streamed, " if streamed else "storage: ") and " resident" in line
    assert line.count("streamed") == bool(streamed)
    assert without_times(result.summary) == without_times(whole.summary)


@pytest.mark.parametrize("bad_files", ["error", "skip"])
def test_bad_files_are_found_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad_files: str
) -> None:
    target = write_folder(tmp_path / "target", TARGET, 10)
    broken = sorted(target.rglob("*.png"))[::9]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-30])
    changes = {"target": str(target), "storage": "stream", "bad_files": bad_files, "cache": str(tmp_path / "cache")}
    for attempt in range(2):  # then from the cache
        status = main(flags(arguments(data, tmp_path / f"run-{attempt}", **changes)))
        shown = capsys.readouterr()
        assert (" image sizes read from the cache, " in shown.out) == bool(attempt)
        if bad_files == "error":
            assert status == 2 and f"{len(broken)} bad files" in shown.err
            assert all(str(path) in shown.err for path in broken) and "epoch" not in shown.out
        else:
            summary = json.loads((tmp_path / f"run-{attempt}" / "summary.json").read_text())
            assert status == 0 and {file["name"] for file in summary["bad_files"]["files"]} == set(map(str, broken))
            assert summary["num_train"] + summary["num_val"] + summary["num_test"] == 30 - len(broken)


def test_a_second_start_checks_only_what_has_changed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_folder(tmp_path / "target", TARGET, 10)
    settings = {"target": str(target), "storage": "stream", "cache": str(tmp_path / "cache"), "method": "finetune"}
    counts = []
    path = next(target.rglob("*.png"))
    for attempt in range(4):
        if attempt == 2:
            path.touch()
        if attempt == 3:
            path.write_bytes(path.read_bytes() + b"other bytes")
        run(data, tmp_path / str(attempt), **settings)
        counts.append(capsys.readouterr().out.count(" decoded in "))
    assert counts == [3, 0, 0, 1]


def test_a_file_that_breaks_in_training_ends_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_folder(tmp_path / "target", TARGET, 10)
    settings = {"target": str(target), "storage": "stream", "cache": str(tmp_path / "cache"), "method": "finetune"}

    def spoil(*prepared: Any) -> Trainer:
        for path in target.rglob("*.png"):
            path.write_bytes(b"\0" * path.stat().st_size)
        return Trainer(*prepared)

    monkeypatch.setattr("xmixup_fast.training.run.Trainer", spoil)
    assert main(flags(arguments(data, tmp_path / "again", **settings))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: images that could be decoded before no longer can:\n  ") and "not a JPEG" in error
