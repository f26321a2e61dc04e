"""Decoding JPEG files of about 500 x 375 to a short side of 256: DALI, torchvision and Pillow; and making a pool.

`windows` are 224 x 224 pixels of images that are not resized, in batches as a stream decodes them: DALI decodes no more
than them, torchvision whole images.

`build` is all that a first start does: reading headers, decoding, and writing the cached pool to disk; `decode_only`
decodes the same files with the same decoder and drops the images.

python -m pytest bench/bench_decode.py --benchmark-only -s
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from conftest import THREADS, median_seconds_in_turn
from photos import all_cores, write_photos
from torch import Tensor

from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.image_store import ImageStore

SHORT_SIDE = 256
FILES, REPEATS, ROUNDS = 64, 4, 5
IMAGES = FILES * REPEATS
"""Every file is decoded several times."""
WINDOW, BATCH = 224, 32


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return [Sample(FileImage(path), 0) for path in write_photos(tmp_path_factory.mktemp("photos"), FILES)] * REPEATS


@pytest.fixture(autouse=True)
def decode_on_all_cores() -> Iterator[None]:
    with all_cores():
        yield


def with_library(name: str, samples: list[Sample]) -> Callable[[], list[Tensor]]:
    decoder = make_decoder(name, SHORT_SIDE, torch.device("cpu"), THREADS, print)

    def run() -> list[Any]:
        return list(decoder.decode(sample.image for sample in samples))

    return run


def with_pil(samples: list[Sample]) -> Callable[[], list[Tensor]]:
    def one(sample: Sample) -> Tensor:
        with PIL.Image.open(sample.image.name) as opened:
            image = PIL.ImageOps.exif_transpose(opened).convert("RGB")
        short, long = sorted(image.size)
        other = int(SHORT_SIDE * long / short)
        size = (other, SHORT_SIDE) if image.width >= image.height else (SHORT_SIDE, other)
        return torch.from_numpy(np.array(image.resize(size, PIL.Image.Resampling.BILINEAR)))

    def run() -> list[Tensor]:
        with ThreadPoolExecutor(THREADS) as workers:
            return list(workers.map(one, samples))

    return run


@pytest.mark.benchmark(group="decode")
def test_decode(benchmark: Any, samples: list[Sample]) -> None:
    sides = {name: with_library(name, samples) for name in ("dali", "torchvision")}
    sides["pil"] = with_pil(samples)
    results = {name: run() for name, run in sides.items()}
    for i, expected in enumerate(results["torchvision"]):
        assert torch.equal(results["dali"][i], expected)
        assert (results["pil"][i].int() - expected).abs().max() <= 1
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    rates = {name: IMAGES / seconds for name, seconds in medians.items()}
    benchmark.extra_info.update(seconds=medians, images_per_second=rates)
    print("\ndecode, images/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))


@pytest.mark.benchmark(group="windows")
def test_windows(benchmark: Any, samples: list[Sample]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [sample.image for sample in samples]
    decoders = {name: make_decoder(name, None, torch.device("cpu"), THREADS, print) for name in ("dali", "torchvision")}
    sizes = [image.shape[:2] for image in decoders["torchvision"].decode(images) if isinstance(image, Tensor)]
    windows = [
        [*(int(torch.randint(extent - WINDOW + 1, (), generator=generator)) for extent in size), WINDOW, WINDOW]
        for size in sizes
    ]
    with ThreadPoolExecutor(THREADS) as workers:
        crops = {name: decoder.window_decoder(workers) for name, decoder in decoders.items()}

        def batches(name: str) -> Iterator[Tensor]:
            for begin in range(0, IMAGES, BATCH):
                yield crops[name](images[begin : begin + BATCH], windows[begin : begin + BATCH])

        def run(name: str) -> int:
            return sum(map(len, batches(name)))

        for got, expected in zip(batches("dali"), batches("torchvision"), strict=True):
            assert torch.equal(got, expected)
        sides = {name: partial(run, name) for name in crops}
        medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS), rounds=1)
    ratio = medians["torchvision"] / medians["dali"]
    benchmark.extra_info.update(seconds=medians, whole_over_windows=ratio)
    print(f"\nwindows: whole images take {ratio:.2f} times as long")


@pytest.mark.benchmark(group="pool")
@pytest.mark.parametrize("name", ["dali", "torchvision"])
def test_pool(benchmark: Any, samples: list[Sample], name: str, tmp_path: Path) -> None:
    decoder = make_decoder(name, SHORT_SIDE, torch.device("cpu"), THREADS, print)

    def build() -> int:
        return len(ImageStore(decoder, tmp_path / "cache", 2**40, lambda line: None).build(samples, "photos"))

    def decode_only() -> int:
        return sum(1 for image in decoder.decode(sample.image for sample in samples) if isinstance(image, Tensor))

    def clear() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    assert build() == decode_only() == IMAGES
    sides: dict[str, Callable[[], object]] = {"build": build, "decode_only": decode_only}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, ROUNDS, clear), rounds=1)
    rates = {side: IMAGES / seconds for side, seconds in medians.items()}
    ratio = rates["build"] / rates["decode_only"]
    benchmark.extra_info.update(seconds=medians, images_per_second=rates, build_over_decode_only=ratio, decoder=name)
    print(
        f"\npool with {name}, images/s: build {rates['build']:.0f}, decode_only {rates['decode_only']:.0f}; {ratio:.3f}"
    )
