"""Archives that lie elsewhere: fetched whole, once, from where a fetch was interrupted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hub_server import jpeg
from range_server import Fault, RangeServer

from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.layout import Options

CLASSES = ["n01440764", "n02102040", "n02979186"]


def write_archive(path: Path, members: Sequence[str], side: int = 64) -> dict[str, bytes]:
    """Writes a .tgz of images, whose bytes it returns by their names."""
    images = {name: jpeg(i, side) for i, name in enumerate(members)}
    with tarfile.open(path, "w:gz") as tar:
        for name, data in [*images.items(), ("set/noise.csv", b"a,b")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return images


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    members = [f"set/{split}/{name}/{i}.JPEG" for split in ("train", "val") for name in CLASSES for i in range(4)]
    (tmp_path / "root").mkdir()
    return write_archive(tmp_path / "root" / "set.tgz", members)


@pytest.mark.parametrize("known", [True, False])
def test_the_training_images_of_all_classes_are_unpacked(tmp_path: Path, images: dict[str, bytes], known: bool) -> None:
    lines: list[str] = []
    with RangeServer(tmp_path / "root") as server:
        options = Options(CLASSES if known else None)
        catalog = open_remote(f"{server.url}/set.tgz", tmp_path / "cache", lines.append, name="set", options=options)
        size = (tmp_path / "root" / "set.tgz").stat().st_size
        assert catalog.classes == CLASSES and catalog.size == size
        assert (server.sent >= size) == (not known)
        first = catalog.fetch([1], 2, lines.append)
        sent = server.sent
        assert sent == size
        other = catalog.fetch([0, 2], None, lines.append)  # is there already
        assert server.sent == sent
        again = open_remote(f"{server.url}/set.tgz", tmp_path / "cache", lines.append, name="set", options=options)
        again.fetch([0], None, lines.append)
        assert server.sent == sent
    assert [one.label for one in first.train] == [1, 1] and [one.label for one in other.train] == [0] * 4 + [2] * 4
    assert other.train[0].image.read() == images["set/train/n01440764/0.JPEG"]
    assert any("fetching all of it" in line for line in lines)
    offline = open_remote(f"{server.url}/set.tgz", tmp_path / "cache", lines.append, name="set", options=options)
    assert len(offline.fetch([0, 1, 2], None, lines.append).train) == 12


def test_an_interrupted_fetch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmixup_fast.data.remote.whole.LARGEST_BLOCK", 2**14)
    monkeypatch.setattr("xmixup_fast.data.remote.whole.IN_FLIGHT", 1)
    (tmp_path / "root").mkdir()
    write_archive(tmp_path / "root" / "set.tar.gz", [f"{name}/{i}.jpg" for name in CLASSES for i in range(9)])
    size = (tmp_path / "root" / "set.tar.gz").stat().st_size
    with RangeServer(tmp_path / "root") as server:
        server.fault = lambda request: Fault(status=404) if len(server.gets) > 3 else None
        with pytest.raises(FileNotFoundError):
            open_remote(f"{server.url}/set.tar.gz", tmp_path / "cache", print)
        server.fault = lambda request: None
        before = server.sent
        catalog = open_remote(f"{server.url}/set.tar.gz", tmp_path / "cache", print)
        assert catalog.classes == CLASSES and server.sent - before < size - before + 2**15
    assert len(catalog.fetch([0, 1, 2], None, print).train) == 27


def test_a_class_that_the_archive_lacks_is_named(tmp_path: Path, images: dict[str, bytes]) -> None:
    with RangeServer(tmp_path / "root") as server:
        options = Options([*CLASSES, "n03000684"])
        catalog = open_remote(f"{server.url}/set.tgz", tmp_path / "cache", print, options=options)
        with pytest.raises(ValueError, match=r"set\.tgz: has no images of n03000684"):
            catalog.fetch([3], 1, print)
