"""Pools of decoded images: their cache, the memory budget, and the memory that making a pool takes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from stores import Counted, Start, equal, pools, write_images

from xmixup_fast.data.dataset import Image, Sample
from xmixup_fast.data.decoding import decoder as decoder_module
from xmixup_fast.data.decoding import steps as steps_module
from xmixup_fast.data.decoding.pillow import Header, read_header
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.runtime.device import free_memory
from xmixup_fast.runtime.files import default_cache
from xmixup_fast.settings.values import parse_bytes

ROOT = Path(__file__).resolve().parents[2]


def test_collected_pools_are_those_of_their_images() -> None:
    for count in (0, 1, 5):
        images = [torch.randint(0, 256, (3, 5 + i, 3), dtype=torch.uint8) for i in range(count)]
        labels = list(range(count))
        expected = ImagePool.from_images(images, labels)
        size = sum(image.numel() for image in images)
        too_small = ImagePool.collect(zip(images, labels, strict=True), size // 2)
        for pool in (ImagePool.collect(zip(images, labels, strict=True), size), too_small):
            assert equal(pool, expected)
            assert torch.equal(pool.offsets, expected.offsets) and torch.equal(pool.sizes, expected.sizes)


def test_a_second_start_maps_the_cache_and_decodes_nothing(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    in_memory = Start(samples, None)
    first, second = Start(samples, tmp_path / "cache"), Start(samples, tmp_path / "cache")
    assert (in_memory.decoded, first.decoded, second.decoded) == (5, 5, 0)
    assert equal(first.pool, in_memory.pool) and equal(second.pool, in_memory.pool)
    assert second.pool.labels.tolist() == [0, 1, 2, 0, 1] and second.pool.sizes[1].tolist() == [8, 8]
    assert first.messages[0].startswith("images: 5 decoded in ")
    assert second.messages == [f"images: 5 from the cache, {pools(tmp_path / 'cache')[0]}"]


def test_a_build_reads_each_header_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_images(tmp_path)
    count = 0

    def counted(*arguments: Any) -> Header:
        nonlocal count
        count += 1
        return read_header(*arguments)

    for module in (steps_module, decoder_module):
        monkeypatch.setattr(module, "read_header", counted)
    for cache in (None, tmp_path / "cache"):
        count = 0
        Start(samples, cache)
        assert count == len(samples)


@pytest.mark.parametrize("cached", [False, True])
def test_what_exceeds_the_budget_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    samples = write_images(tmp_path)
    size = Start(samples, None).pool.pixels.numel()
    assert len(Start(samples, None, budget=size).pool) == 5
    cache = tmp_path / "cache"
    if cached:
        Start(samples, cache)
    monkeypatch.setattr(Counted, "noting", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"memory_budget: images need 1\.0 KiB, and the budget is") as caught:
        Start(samples, cache, budget=size - 1)
    assert "\n" not in str(caught.value)


def test_the_budget_is_for_all_pools_together(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    size = Start(samples, None).pool.pixels.numel()
    store = ImageStore(Counted(8, 1), None, 2 * size - 1, print)
    store.build(samples, "first images")
    with pytest.raises(ValueError, match=r"second images need .*, with those before them .*, and the budget is"):
        store.build(samples, "second images")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache: .*file/pools: .*; name another folder, or none"):
        Start(write_images(tmp_path), tmp_path / "file")


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_cache() == cache
    monkeypatch.delenv("XMIXUP_CACHE")
    assert default_cache() == Path.home() / ".cache" / "xmixup_fast"


MEMORY = """
import sys
from pathlib import Path
import torch
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.image_store import ImageStore

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

class Numbered(FileImage):
    # Bytes of its own, behind those of the photo.
    def read(self):
        return photo.read_bytes() + self.path.name.encode()
    def open(self):
        return photo.open("rb")
    def stamp(self):
        return self.path.name

photo, cache = Path(sys.argv[1]), sys.argv[2]
decoder = make_decoder("auto", 256, torch.device("cpu"), 2, print)
before = peak()
for count in (400, 1600):
    store = ImageStore(decoder, Path(cache) if cache != "none" else None, None, lambda line: None)
    pool = store.build([Sample(Numbered(photo.with_name(f"{count} {i}")), 0) for i in range(count)], "images")
    print(len(pool), pool.image_bytes / 2**20, peak() - before)
    del pool
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["file", "none"])
def test_memory_for_making_a_pool_grows_with_the_pool_alone(tmp_path: Path, kind: str) -> None:
    PIL.Image.new("RGB", (341, 256)).save(tmp_path / "photo.jpg")
    cache = "none" if kind == "none" else str(tmp_path / "cache")
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "photo.jpg"), cache]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    beyond = []  # memory beyond the size of the pool, in MiB
    for line, count in zip(done.stdout.splitlines(), (400, 1600), strict=True):
        images, size, grown = map(float, line.split())
        assert images == count and size > 0.24 * count
        beyond.append(grown - size if kind == "none" else grown)  # a cached pool is mapped, not read
    assert max(beyond) <= 300
    assert beyond[1] - beyond[0] <= 200  # DALI's buffers grow by up to 100 at first, and the pool by 300


def test_amounts_of_memory() -> None:
    amounts = {"4GiB": 4 << 30, "500MB": 500 * 10**6, "1.5G": 1500 * 10**6, "100": 100, "2 kib": 2048, "1TiB": 1 << 40}
    assert {text: parse_bytes(text) for text in amounts} == amounts
    for text in ("", "much", "-1GiB", "4GiBs", "GiB"):
        with pytest.raises(ValueError, match="expected an amount such as 4GiB or 500MB, got"):
            parse_bytes(text)
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_an_image_may_be_read_from_any_place(tmp_path: Path) -> None:
    class InMemory(Image):
        name = "here"

        def read(self) -> bytes:
            stream = io.BytesIO()
            PIL.Image.new("RGB", (9, 8), (5, 6, 7)).save(stream, "PNG")
            return stream.getvalue()

        def stamp(self) -> str:
            return "1"

    start = Start([Sample(InMemory(), 4)], tmp_path / "cache")
    assert start.pool[0].view(-1, 3).unique(dim=0).tolist() == [[5, 6, 7]] and start.pool.labels.tolist() == [4]
