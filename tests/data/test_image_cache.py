"""The cache of decoded images: what it knows them by, what it survives, and who writes to it."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from stores import Counted, Start, equal, pools, write_images

from xmixup_fast.data import cache_entries, image_cache
from xmixup_fast.data.dataset import BadFile, FileImage, Sample
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.decoding.notes import Notes
from xmixup_fast.data.formats import NO_CAMERA_RAW, NOT_AN_IMAGE
from xmixup_fast.data.image_cache import Pack
from xmixup_fast.data.image_store import ImageStore

ROOT = Path(__file__).resolve().parents[2]


def test_images_are_known_by_content_alone(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    cache = tmp_path / "cache"
    Start(samples, cache)
    for others in (samples[:-1], samples[::-1], [*samples, Sample(samples[0].image, 1)], samples[3:]):
        start = Start(others, cache)
        assert start.decoded == 0 and equal(start.pool, Start(others, None).pool)
    relabelled = Start([sample._replace(label=7) for sample in samples], cache)
    assert relabelled.decoded == 0 and relabelled.pool.labels.tolist() == [7] * 5
    (tmp_path / "elsewhere").mkdir()
    copies = []
    for i, sample in enumerate(samples):
        copy = tmp_path / "elsewhere" / f"copy {i}.jpeg"  # the bytes tell the format
        copy.write_bytes(sample.image.read())
        copies.append(Sample(FileImage(copy), sample.label))
    moved = Start([*copies, *copies], cache)
    assert moved.decoded == 0 and len(moved.pool) == 10 and len(pools(cache)) == 1
    assert Start(samples, cache, short_side=7).decoded == 5 and len(pools(cache)) == 2


@pytest.mark.parametrize("times", ["new", "same"])
def test_other_bytes_are_other_images(tmp_path: Path, times: str) -> None:
    samples = write_images(tmp_path)
    Start(samples, tmp_path / "cache")
    path = Path(samples[0].image.name)
    before = path.stat()
    stream = io.BytesIO()
    PIL.Image.new("RGB", (10, 9), (1, 2, 3)).save(stream, "PNG")
    path.write_bytes(stream.getvalue().ljust(before.st_size, b"\0"))
    if times == "same":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    changed = Start(samples, tmp_path / "cache")
    assert changed.decoded == 1 and changed.pool[0].view(-1, 3).unique(dim=0).tolist() == [[1, 2, 3]]
    assert equal(changed.pool, Start(samples, None).pool)
    assert Start(samples, tmp_path / "cache").decoded == 0


def test_bytes_that_change_after_they_were_hashed_are_not_kept(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    contents = {sample.image.name: sample.image.content() for sample in samples}
    path = Path(samples[2].image.name)
    old = path.read_bytes()
    PIL.Image.new("RGB", (10, 9), (1, 2, 3)).save(path)
    store = ImageStore(Counted(8, 2), tmp_path / "cache", None, lambda line: None)
    store.know(contents)
    assert len(store.build(samples, "images")) == 4
    assert store.bad == [BadFile(str(path), "has been changed since this run began")]
    path.write_bytes(old)
    again = Start(samples, tmp_path / "cache")
    assert again.decoded == 1 and equal(again.pool, Start(samples, None).pool)


def test_all_splits_of_a_dataset_share_a_pack(tmp_path: Path) -> None:
    samples = write_images(tmp_path, 12)
    contents = {sample.image.name: sample.image.content() for sample in samples}
    decoded = []
    for seed in range(4):
        cut = np.random.default_rng(seed).permutation(12)
        store = ImageStore(Counted(8, 2), tmp_path / "cache", None, lambda line: None)
        store.know(contents)
        for part in (cut[:7], cut[7:9], cut[9:]):
            chosen = [samples[i] for i in part]
            assert equal(store.build(chosen, "images"), Start(chosen, None).pool)
        assert isinstance(store.decoder, Counted)
        decoded.append(store.decoder.count)
    assert decoded == [12, 0, 0, 0] and len(pools(tmp_path / "cache")) == 1
    size = sum(Start([sample], None).pool.image_bytes for sample in samples)
    assert pools(tmp_path / "cache")[0].stat().st_size == size
    more = [*samples, *[Sample(FileImage(path), 0) for path in (tmp_path / "new.png",)]]
    PIL.Image.new("RGB", (10, 9), (1, 2, 3)).save(tmp_path / "new.png")
    assert Start(more, tmp_path / "cache").decoded == 1 and len(pools(tmp_path / "cache")) == 1


def test_a_pool_of_a_part_of_a_pack_is_copied_without_the_rest(tmp_path: Path) -> None:
    samples = write_images(tmp_path, 9)
    Start(samples, tmp_path / "cache")
    some = [samples[i] for i in (7, 2, 2, 4)]
    part, alone = Start(some, tmp_path / "cache").pool, Start(some, None).pool
    assert part.pixels.numel() > part.image_bytes == alone.image_bytes == alone.pixels.numel()
    part.save(tmp_path / "part.safetensors")
    alone.save(tmp_path / "alone.safetensors")
    assert (tmp_path / "part.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
    assert part.to("meta").pixels.numel() == alone.image_bytes
    assert len(part.to("meta")) == 4 and torch.equal(part.means, alone.means)


def test_bad_files_are_looked_at_again(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    path = Path(samples[1].image.name)
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    for _ in range(2):
        start = Start(samples, tmp_path / "cache")
        assert start.bad == [BadFile(str(path), NOT_AN_IMAGE)]
        assert start.pool.labels.tolist() == [0, 2, 0, 1]
    assert start.decoded == 1  # the bad file, which is tried again
    path.write_bytes(good)
    start = Start(samples, tmp_path / "cache")
    assert not start.bad and len(start.pool) == 5 and start.decoded == 1
    assert Start(samples, tmp_path / "cache").decoded == 0


def test_camera_raw_is_bad_whatever_the_cache_has(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    Start(samples, tmp_path / "cache")
    raw = tmp_path / "a.nef"
    raw.write_bytes(samples[0].image.read())
    for cache in (None, tmp_path / "cache"):
        start = Start([Sample(FileImage(raw), 0), samples[0]], cache)
        assert start.bad == [BadFile(str(raw), NO_CAMERA_RAW)] and len(start.pool) == 1


def test_unreadable_and_absent_files_are_bad(tmp_path: Path) -> None:
    samples = [*write_images(tmp_path, 2), Sample(FileImage(tmp_path / "absent.png"), 0)]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        start = Start(samples, cache)
        assert start.bad == [BadFile(str(tmp_path / "absent.png"), "No such file or directory")]
        assert len(start.pool) == 2


@pytest.mark.parametrize("cut", ["half", "a byte", "all", "gone"])
@pytest.mark.parametrize("what", ["pixels", "index", "notes", "json", "lock"])
def test_a_damaged_cache_is_mended(tmp_path: Path, what: str, cut: str) -> None:
    samples = write_images(tmp_path)
    expected = Start(samples, None).pool
    Start(samples[:3], tmp_path / "cache")
    path = pools(tmp_path / "cache")[0].with_suffix(f".{what}")
    if path.exists():
        data = path.read_bytes()
        path.unlink()  # the old file is still mapped
        if cut != "gone":
            path.write_bytes(data[: {"half": len(data) // 2, "a byte": max(len(data) - 1, 0), "all": 0}[cut]])
    for decoded in (None, 0):
        start = Start(samples, tmp_path / "cache")
        assert equal(start.pool, expected) and decoded in (None, start.decoded)


BUILD = """
import os, signal, sys
from pathlib import Path
from xmixup_fast.data.dataset import Content, FileImage, Sample
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.image_store import ImageStore

class Deadly(FileImage):
    def content(self):
        return Content.of(self.path.read_bytes())
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
    start = Start(samples, cache)
    assert start.decoded == 20 and equal(start.pool, Start(samples, None).pool)
    assert Start(samples, cache).decoded == 0


def test_what_was_recorded_before_a_kill_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_images(tmp_path, 20)
    monkeypatch.setattr(image_cache, "FLUSH_BYTES", 1)

    class Dying(PillowDecoder):
        def noting(self, images: Any, notes: Notes) -> Any:
            results = super().noting(images, notes)
            yield from (next(results) for _ in range(12))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageStore(Dying(8, 2), tmp_path / "cache", None, print).build(samples, "images")
    with pools(tmp_path / "cache")[0].open("ab") as file:
        file.write(b"what a killed process has no record of")
    start = Start(samples, tmp_path / "cache")
    assert start.decoded == 8 and equal(start.pool, Start(samples, None).pool)
    assert any("12 of 20 from the cache" in line for line in start.messages)


def test_processes_that_build_the_same_pool_share_the_work(tmp_path: Path) -> None:
    samples = [sample._replace(label=0) for sample in write_images(tmp_path, 40)]
    cache = tmp_path / "cache"
    builds = [build(tmp_path, cache) for _ in range(2)]
    said = []
    for process in builds:
        output, error = process.communicate()
        assert process.returncode == 0, error
        said.append(output)
    assert sum(" decoded in " in output for output in said) == 1
    start = Start(samples, cache)
    assert start.decoded == 0 and equal(start.pool, Start(samples, None).pool)
    assert len(pools(cache)) == 1


def test_a_process_that_waits_for_another_one_says_so(tmp_path: Path) -> None:
    samples = write_images(tmp_path)
    Start(samples[:2], tmp_path / "cache")
    lines: list[str] = []
    pack = Pack(pools(tmp_path / "cache")[0].with_suffix(""))
    with ThreadPoolExecutor(1) as workers:
        with pack.appending(lines.append):
            later = workers.submit(Start, samples, tmp_path / "cache")
            time.sleep(0.3)
            assert not later.done()
        messages = later.result().messages
    assert messages[0].startswith("cache: another process is decoding the same images: waiting for it (") and not lines


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_images(tmp_path)
    Start(samples, tmp_path / "cache")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Pack, "append", refused)
    assert Start(samples, tmp_path / "cache").decoded == 0


@pytest.mark.parametrize("added", [1, 1 << 30])
def test_a_run_says_once_that_it_adds_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: int) -> None:
    monkeypatch.setattr(cache_entries, "ADDED_BYTES", 700 if added == 1 else added)
    samples = write_images(tmp_path)
    lines: list[str] = []
    store = ImageStore(Counted(8, 2), tmp_path / "cache", None, lines.append)
    for sample in samples:
        store.build([sample], "images")
    said = [line for line in lines if line.startswith("cache: this run adds more than ")]
    assert len(said) == (added == 1)
    assert all(str(tmp_path / "cache") in line and "--cache-size" in line for line in said)
    again = ImageStore(Counted(8, 2), tmp_path / "cache", None, lines.append)
    for sample in samples:
        again.build([sample], "images")
    assert len([line for line in lines if "adds more" in line]) == len(said)
