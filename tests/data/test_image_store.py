"""Pools of decoded images: their cache, the memory budget, and the memory that making a pool takes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from xmixup_fast.data.dataset import BadFile, FileImage, Image, Sample
from xmixup_fast.data.decoding import decoder as decoder_module
from xmixup_fast.data.decoding import steps as steps_module
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.decoding.pillow import Header, read_header
from xmixup_fast.data.formats import NOT_AN_IMAGE
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.runtime.device import free_memory
from xmixup_fast.runtime.files import default_cache
from xmixup_fast.settings.values import parse_bytes

ROOT = Path(__file__).resolve().parents[2]


class Counted(PillowDecoder):
    """A decoder that counts the images that it decodes."""

    count = 0

    def decode(self, images: Any, log: Any = None) -> Any:
        images = list(images)
        self.count += len(images)
        return super().decode(images, log)


class Start:
    """What one start of the program does: it makes a pool."""

    def __init__(
        self, samples: Sequence[Sample], cache: Path | None, *, short_side: int = 8, budget: int | None = None
    ) -> None:
        self.messages: list[str] = []
        decoder = Counted(short_side, 2)
        store = ImageStore(decoder, cache, budget, self.messages.append)
        self.pool = store.build(samples, "images")
        self.bad = store.bad
        self.decoded = decoder.count


def write_images(folder: Path, count: int = 5) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    for i in range(count):
        path = folder / f"{i:02d}.png"
        PIL.Image.fromarray(random.integers(0, 256, (10, 9 + i, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(FileImage(path), i % 3))
    return samples


def equal(first: ImagePool, second: ImagePool) -> bool:
    same = len(first) == len(second) and torch.equal(first.labels, second.labels)
    return same and all(torch.equal(first[i], second[i]) for i in range(len(first)))


def pools(cache: Path) -> list[Path]:
    return sorted((cache / "pools").glob("*.safetensors"))


def test_written_and_collected_pools_are_those_of_their_images(tmp_path: Path) -> None:
    for count in (0, 1, 5):
        images = [torch.randint(0, 256, (3, 5 + i, 3), dtype=torch.uint8) for i in range(count)]
        labels = list(range(count))
        expected = ImagePool.from_images(images, labels)
        ImagePool.write(tmp_path / "pool", zip(images, labels, strict=True))
        size = sum(image.numel() for image in images)
        too_small = ImagePool.collect(zip(images, labels, strict=True), size // 2)
        for pool in (
            ImagePool.load(tmp_path / "pool"),
            ImagePool.collect(zip(images, labels, strict=True), size),
            too_small,
        ):
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


def test_any_change_decodes_again(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    cache = tmp_path / "cache"
    Start(samples, cache)
    assert Start(samples[:-1], cache).decoded == 4
    assert Start([*samples, Sample(samples[0].image, 1)], cache).decoded == 6
    assert Start([sample._replace(label=0) for sample in samples], cache).decoded == 5
    assert Start(samples, cache, short_side=7).decoded == 5
    path = Path(samples[0].image.name)
    PIL.Image.new("RGB", (10, 9), (1, 2, 3)).save(path)
    changed = Start(samples, cache)
    assert changed.decoded == 5 and changed.pool[0].view(-1, 3).unique(dim=0).tolist() == [[1, 2, 3]]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert Start(samples, cache).decoded == 5
    assert Start(samples, cache).decoded == 0


def test_bad_files_are_remembered_and_looked_at_again(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    path = Path(samples[1].image.name)
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    os.utime(path, ns=(0, 0))
    for _ in range(2):
        start = Start(samples, tmp_path / "cache")
        assert start.bad == [BadFile(str(path), NOT_AN_IMAGE)]
        assert start.pool.labels.tolist() == [0, 2, 0, 1]
    assert start.decoded == 1  # the bad file, which is tried again
    path.write_bytes(good)
    os.utime(path, ns=(0, 0))  # so that its stamp does not change
    start = Start(samples, tmp_path / "cache")
    assert not start.bad and len(start.pool) == 5
    assert Start(samples, tmp_path / "cache").decoded == 0


def test_unreadable_and_absent_files_are_bad(tmp_path: Path) -> None:
    samples = [*write_images(tmp_path, 2), Sample(FileImage(tmp_path / "absent.png"), 0)]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        start = Start(samples, cache)
        assert start.bad == [BadFile(str(tmp_path / "absent.png"), "No such file or directory")]
        assert len(start.pool) == 2


@pytest.mark.parametrize("damage", ["pool", "list"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    samples = write_images(tmp_path)
    expected = Start(samples, tmp_path / "cache").pool
    (path,) = pools(tmp_path / "cache") if damage == "pool" else (tmp_path / "cache" / "pools").glob("*.json")
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()  # the old file is still mapped
    path.write_bytes(half)
    start = Start(samples, tmp_path / "cache")
    assert start.decoded == 5 and equal(start.pool, expected)


BUILD = """
import os, signal, sys
from pathlib import Path
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.image_store import ImageStore

class Deadly(FileImage):
    def read(self):
        os.kill(os.getpid(), signal.SIGKILL)

folder, cache, deadly = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
paths = sorted(folder.glob("*.png"))
samples = [Sample((Deadly if i == deadly else FileImage)(path), 0) for i, path in enumerate(paths)]
ImageStore(PillowDecoder(8, 2), cache, None, print).build(samples, "images")
"""


def build(folder: Path, cache: Path, deadly: int = -1) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BUILD, str(folder), str(cache), str(deadly)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    samples = [sample._replace(label=0) for sample in write_images(tmp_path, 20)]
    cache = tmp_path / "cache"
    killed = build(tmp_path, cache, deadly=19)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not pools(cache)
    (part,) = (cache / "pools").glob(".*.part")
    assert Start(samples, cache).decoded == 20
    assert part.exists()  # another process may still be writing it
    os.utime(part, (time.time() - 7200,) * 2)
    Start(samples[1:], cache)
    assert not part.exists() and len(pools(cache)) == 2


def test_processes_that_build_the_same_pool_do_not_collide(tmp_path: Path) -> None:
    samples = [sample._replace(label=0) for sample in write_images(tmp_path, 40)]
    cache = tmp_path / "cache"
    builds = [build(tmp_path, cache) for _ in range(2)]
    for process in builds:
        _, error = process.communicate()
        assert process.returncode == 0, error
    start = Start(samples, cache)
    assert start.decoded == 0 and equal(start.pool, Start(samples, None).pool)
    assert {path.name for path in (cache / "pools").iterdir()} == {
        pools(cache)[0].name,
        pools(cache)[0].with_suffix(".remarks.json").name,
    }
    assert json.loads(pools(cache)[0].with_suffix(".remarks.json").read_text()) == {"bad": [], "notes": []}


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
    monkeypatch.setattr(Counted, "decode", lambda *_: pytest.fail("decoded"))
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

class Repeated(FileImage):
    def stamp(self):
        return "fixed"

photo, cache = Path(sys.argv[1]), sys.argv[2]
decoder = make_decoder("auto", 256, torch.device("cpu"), 2, print)
before = peak()
for count in (400, 1600):
    store = ImageStore(decoder, Path(cache) if cache != "none" else None, None, lambda line: None)
    pool = store.build([Sample(Repeated(photo), 0)] * count, "images")
    print(len(pool), pool.pixels.numel() / 2**20, peak() - before)
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
