"""Archives that lie elsewhere: fetched whole, once, from where a fetch was interrupted."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hub_server import jpeg
from range_server import Fault, RangeServer

from xmixup_fast.data.remote import whole
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.layout import Options
from xmixup_fast.runtime.progress import Progress

CLASSES = ["n01440764", "n02102040", "n02979186"]


def write_archive(path: Path, members: Sequence[str], side: int = 64, mode: str = "w:gz") -> dict[str, bytes]:
    """Writes a .tgz of images, whose bytes it returns by their names."""
    images = {name: jpeg(i, side) for i, name in enumerate(members)}
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
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
    monkeypatch.setattr(whole, "LARGEST_BLOCK", 2**14)
    monkeypatch.setattr(whole, "IN_FLIGHT", 1)
    bars: list[Progress] = []
    monkeypatch.setattr(whole, "Progress", lambda *a, **more: bars.append(Progress(*a, **more)) or bars[-1])
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
        assert 0 < bars[0].done < bars[1].done == size, "what is there counts in the bar"
    assert len(catalog.fetch([0, 1, 2], None, print).train) == 27


def test_a_class_that_the_archive_lacks_is_named(tmp_path: Path, images: dict[str, bytes]) -> None:
    with RangeServer(tmp_path / "root") as server:
        options = Options([*CLASSES, "n03000684"])
        catalog = open_remote(f"{server.url}/set.tgz", tmp_path / "cache", print, options=options)
        with pytest.raises(ValueError, match=r"set\.tgz: has no images of n03000684"):
            catalog.fetch([3], 1, print)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def spoilt(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(200) + data[len(data) // 2 + 200 :]


def page(data: bytes) -> bytes:
    return b"<html>moved</html>" * 100


def no_tar(data: bytes) -> bytes:
    return gzip.compress(b"<html>moved</html>" * 100)


def with_spoilt_header(data: bytes) -> bytes:
    """A whole .tgz of a tar file of which a header in the middle is damaged."""
    plain = gzip.decompress(data)
    at = plain.index(b"n02102040/2")
    return gzip.compress(plain[:at] + b"?" * 100 + plain[at + 100 :])


def with_an_empty_header(data: bytes) -> bytes:
    """A whole .tgz of a tar file of which a header in the middle was zeroed, which tarfile takes for the end."""
    plain = gzip.decompress(data)
    at = plain.index(b"n02102040/2")
    return gzip.compress(plain[:at] + bytes(512) + plain[at + 512 :])


def with_other_bytes(data: bytes) -> bytes:
    """A .tgz with a wrong checksum."""
    return data[:-8] + bytes(4) + data[-4:]


@pytest.mark.parametrize(
    ("end", "spoil"),
    [
        *((end, spoil) for end in ("tgz", "tar.xz", "tar.bz2") for spoil in (cut, spoilt, page)),
        *(("tgz", spoil) for spoil in (no_tar, with_spoilt_header, with_an_empty_header, with_other_bytes)),
    ],
)
def test_a_damaged_archive_is_said_and_comes_anew(tmp_path: Path, end: str, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"set.{end}"
    write_archive(
        path,
        [f"{name}/{i}.JPEG" for name in CLASSES for i in range(4)],
        mode={"tgz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[end],
    )
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with pytest.raises(ValueError, match=rf"set\.{end}: expected a whole archive .* a new run fetches it anew"):
        open_remote(str(path), tmp_path / "cache", print)
    assert not list((tmp_path / "cache").rglob("archive*")) and not list((tmp_path / "cache").rglob("*.JPEG"))
    path.write_bytes(good)
    assert open_remote(str(path), tmp_path / "cache", print).classes == CLASSES


def test_an_archive_without_class_folders_is_refused(tmp_path: Path) -> None:
    for members in (["1.jpg", "2.jpg"], ["photos/1.jpg", "photos/2.jpg"], ["notes/a.txt"]):
        write_archive(tmp_path / "a.tgz", members)
        with pytest.raises(ValueError, match="no images in class folders"):
            open_remote(str(tmp_path / "a.tgz"), tmp_path / "cache", print)


@pytest.mark.parametrize(
    ("train", "others"),
    [
        (["set/Training/{}"], ["set/Test/{}", "set/README"]),
        (["TRAIN/{}"], ["Val/{}"]),
        (["set/data/training/{}"], ["set/data/dev/{}", "docs"]),
        (["set/train.X1/{}", "set/train.X2/{}"], ["set/val.X/{}"]),
        (["set/{}"], []),
        (["{}"], []),
        (["set/inner/{}"], []),
    ],
)
def test_splits_are_found_as_in_folders(tmp_path: Path, train: list[str], others: list[str]) -> None:
    members = [f"{where.format(name)}/{i}.JPEG" for where in train for name in CLASSES for i in range(2)]
    more = [f"{where.format(name)}/{i}.JPEG" for where in others for name in CLASSES for i in (8, 9)]
    images = write_archive(tmp_path / "a.tgz", list(dict.fromkeys([*more, *members])), 16)
    lines: list[str] = []
    catalog = open_remote(str(tmp_path / "a.tgz"), tmp_path / "cache", lines.append)
    assert catalog.classes == CLASSES
    found = [one.image.read() for one in catalog.fetch([0, 1, 2], None, print).train]
    assert sorted(found) == sorted(images[name] for name in members)
    assert any("others left out" in line for line in lines) == bool(others)


def test_splits_without_train_are_an_error(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tgz", [f"set/{split}/{name}/1.jpg" for split in ("Val", "Test") for name in CLASSES])
    with pytest.raises(ValueError, match="has Test, Val but no train split"):
        open_remote(str(tmp_path / "a.tgz"), tmp_path / "cache", print)


def test_a_member_that_cannot_be_used_is_a_bad_file_and_others_are_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {"s/a/1.jpg": b"1", "s/a/2.jpg": b"", "s/b/1.jpg": b"3", "s/b/._1.jpg": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("s/b/2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("../s/b/3.jpg"))
    catalog = open_remote(str(path), tmp_path / "cache", print)
    found = catalog.fetch([0, 1], None, print)
    assert [(one.label, one.image.read()) for one in found.train] == [(0, b"1"), (1, b"3")]
    assert {Path(one.name).relative_to(path).as_posix(): one.reason for one in found.bad} == {
        "s/a/2.jpg": "an empty file",
        "s/b/2.jpg": "a link or special member, not a plain file",
        "../s/b/3.jpg": "its name leads out of the archive",
    }
    assert catalog.fetch([0], 1, print).bad == []
    (origin,) = catalog.origins()
    assert origin["url"] == str(path) and origin["kind"] == "archive" and origin["key"]


def test_classes_that_an_archive_should_not_have_are_left_out(tmp_path: Path, images: dict[str, bytes]) -> None:
    lines: list[str] = []
    options = Options(CLASSES[:2])
    catalog = open_remote(str(tmp_path / "root" / "set.tgz"), tmp_path / "cache", lines.append, options=options)
    assert len(catalog.fetch([0, 1], None, lines.append).train) == 8
    assert any("n02979186 left out" in line for line in lines)
