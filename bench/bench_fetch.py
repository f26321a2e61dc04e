"""Fetching 5 of 200 classes against downloading all, over a line of 50 Mbit/s.

The server throttles all answers together, as a line would; it is on the loopback address, and so adds no latency.
`download` takes each file whole, in blocks, eight at a time. The headers of the large tar, a request for each of its
200 class tars, are read once, and kept from a run that is not timed.

python -m pytest bench/bench_fetch.py --benchmark-only -s
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from class_tars import Images, made_images, write_class_tars, write_large_tar
from conftest import median_seconds_in_turn
from range_server import RangeServer

from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.files import Range, RemoteFiles

CLASSES, IMAGES, SIZE = 200, 2, 20_000
"""Images of 20 to 30 kB: in all 10 MB, which a short pass can wait for."""
CHOSEN = (3, 50, 51, 120, 199)
RATE = 50e6 / 8


@pytest.fixture(scope="module")
def images() -> Images:
    return made_images(CLASSES, IMAGES, SIZE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[RangeServer]:
    root = tmp_path_factory.mktemp("source")
    write_class_tars(root / "tars", images)
    write_large_tar(root / "large.tar", images)
    with RangeServer(root, rate=RATE) as running:
        yield running


@pytest.mark.benchmark(group="fetch")
@pytest.mark.parametrize("what", ["tars", "large.tar"])
def test_fetch(benchmark: Any, server: RangeServer, images: Images, tmp_path: Path, what: str) -> None:
    names = sorted(images)
    wanted = {member: data for i in CHOSEN for member, data in images[names[i]].items()}
    there = sorted((server.root / "tars").iterdir()) if what == "tars" else [server.root / what]

    def forget() -> None:
        for folder in tmp_path.glob("sources/*/*/"):
            shutil.rmtree(folder)
        server.forget()

    def chosen() -> None:
        catalog = open_remote(f"{server.url}/{what}", tmp_path, lambda line: None)
        dataset = catalog.fetch(CHOSEN, None, lambda line: None)
        assert {Path(sample.image.name).name: sample.image.read() for sample in dataset.train} == wanted
        moved["chosen"] = server.sent

    def download() -> None:
        files = RemoteFiles(f"{server.url}/{what}")
        found = files.infos(files.find())
        got = dict(files.read_ranges([Range(file.path, 0, file.size) for file in found]))
        assert all(got[i] == path.read_bytes() for i, path in enumerate(there))
        moved["download"] = server.sent

    moved: dict[str, int] = {}
    sides = {"chosen": chosen, "download": download}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, 1, forget), rounds=1)
    benchmark.extra_info.update(source=what, seconds=medians, bytes=moved)
    print(f"\nfetch from {what}: ", end="")
    print(", ".join(f"{side} {seconds:.2f} s, {moved[side] / 1e6:.2f} MB" for side, seconds in medians.items()))
    assert medians["chosen"] < medians["download"]
