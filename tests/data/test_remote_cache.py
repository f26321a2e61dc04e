"""The cache of remote sources: safe names, whole images, and pieces of remote files that are fetched into it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from class_tars import made_images, tar_of
from hypothesis import given
from hypothesis import strategies as st
from range_server import Fault, RangeServer

from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.remote import cache
from xmixup_fast.data.remote.cache import Held, SafeNames, SourceFolder
from xmixup_fast.data.remote.fetch import Piece, fetch_pieces
from xmixup_fast.data.remote.files import RemoteFiles

ODD = (
    "é",
    "e\u0301",
    "..",
    ".",
    "",
    "/",
    "a/../b",
    "../../etc/passwd",
    "CON",
    "nul.txt",
    "a\0b",
    "x" * 300 + ".jpg",
    ".hidden",
)


def quiet(line: str) -> None:
    """A log that drops its lines."""


@given(st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=8), st.sampled_from(["A.jpg", "a.jpg", "a.JPG"]))))
def test_names_are_safe_distinct_and_the_same_again(names: list[str]) -> None:
    first, again = SafeNames(), SafeNames()
    given = [first(name) for name in names]
    assert given == [again(name) for name in names]
    assert len({name.casefold() for name in given}) == len(given)
    for name in given:
        assert Path("folder", name).parent == Path("folder") and Path("folder", name).name == name
        assert name not in ("", ".", "..") and not name.startswith(".") and len(name.encode("utf-8")) <= 255
        assert not set(name) & set('/\\:*?"<>|\0')


def test_good_names_stay_and_changed_ones_keep_their_extension() -> None:
    names = SafeNames()
    assert names("n01440764_10026.JPEG") == "n01440764_10026.JPEG"
    assert names("Größe 大.jpg") == "Größe 大.jpg"
    for name in ("a/b.jpg", "N01440764_10026.jpeg", "x" * 300 + ".jpg"):
        assert names(name).endswith((".jpg", ".jpeg")) and names(name) != name


@pytest.fixture
def source(tmp_path: Path) -> SourceFolder:
    """A folder for two classes."""
    folder = SourceFolder.make(tmp_path / "cache", "https://host/a", "key")
    folder.describe({"url": "https://host/a", "classes": ["a", "b/.."]})
    return folder


def test_a_class_is_there_once_it_is_complete_and_while_its_files_are(source: SourceFolder) -> None:
    for name in ("a", "b/.."):
        assert not source.held(name).is_enough(1)
        source.write(name, "1.jpg", b"12345")
        bad = BadFile("x/2.jpg", "an empty file")
        source.complete(name, [bad, ("1.jpg", 5)], 10)
        held = source.held(name)
        assert held.files == [("1.jpg", 5)] and held.bad == [(0, bad)]
        assert held.is_enough(3) and held.is_enough(10) and not held.is_enough(11) and not held.is_enough(None)
        assert source.class_folder(name).parent == source.images
        source.write(name, "1.jpg", b"123")
        assert not source.held(name).is_enough(3)


def test_the_newest_folder_of_a_url_is_found(tmp_path: Path) -> None:
    for url, key in (("u", "1"), ("u", "2"), ("other", "3")):
        folder = SourceFolder.make(tmp_path, "name", key)
        folder.describe({"url": url, "classes": [key]})
    again = SourceFolder.make(tmp_path, "name", "1")
    again.describe({"url": "u", "classes": ["1"]})
    newest = SourceFolder.newest(tmp_path, "u")
    assert newest is not None and newest.path == again.path and newest.described()["classes"] == ["1"]
    assert SourceFolder.newest(tmp_path, "missing") is None
    assert len(list((tmp_path / "sources").iterdir())) == 3


@pytest.fixture
def members() -> dict[str, bytes]:
    return made_images(1, 40, 3000)["n00000000"]


@pytest.fixture
def server(tmp_path: Path, members: dict[str, bytes]) -> Iterator[RangeServer]:
    """Serves a shard of 40 members."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "s.tar").write_bytes(tar_of(members))
    with RangeServer(tmp_path / "root") as running:
        yield running


def pieces_of(files: RemoteFiles, members: dict[str, bytes]) -> list[Piece]:
    """The members of the shard, in turn of the classes a and b/.. ."""
    file, packed = files.info(), tar_of(members)
    places = {name: packed.index(data) for name, data in members.items()}
    return [
        Piece("a" if i % 2 else "b/..", name, file, places[name], len(data))
        for i, (name, data) in enumerate(members.items())
    ]


def test_pieces_come_whole_in_few_requests_and_once(
    server: RangeServer, members: dict[str, bytes], source: SourceFolder
) -> None:
    files = RemoteFiles(f"{server.url}/s.tar")
    pieces = pieces_of(files, members)
    lines: list[str] = []
    fetch_pieces(files, pieces, source, 20, lines.append)
    assert len(server.gets) == 1 and lines[0].startswith("fetching 40 images, 171 kB")
    for label in ("a", "b/.."):
        held = source.held(label)
        expected = [(piece.member, members[piece.member]) for piece in pieces if piece.class_name == label]
        assert [(name, (source.class_folder(label) / name).read_bytes()) for name, _ in held.files] == expected
        assert held.is_enough(20) and not held.is_enough(21)
    server.forget()
    fetch_pieces(files, pieces, source, None, lines.append)
    assert not server.gets and source.held("a").is_enough(None)


def test_broken_pieces_are_bad_files(server: RangeServer, members: dict[str, bytes], source: SourceFolder) -> None:
    files = RemoteFiles(f"{server.url}/s.tar")
    good = pieces_of(files, members)
    pieces = [
        good[0]._replace(member="other.jpg"),
        good[1]._replace(size=good[1].size - 1),
        good[2]._replace(offset=good[2].offset + 512),
        good[3]._replace(size=0),
        good[4]._replace(offset=good[4].file.size - 10),
        good[5]._replace(offset=0),
        *good[6:],
    ]
    fetch_pieces(files, pieces, source, None, quiet)
    held = [source.held(label) for label in ("a", "b/..")]
    found = {item.name: item for one in held for _, item in one.bad}
    bad = [found[f"{files.url}/{piece.member}"] for piece in pieces[:6]]
    assert len(found) == 6
    assert all("index is older than the shards" in item.reason for item in bad[:3])
    assert bad[3].reason == "an empty file" and "ends within it" in bad[4].reason
    assert sorted(name for one in held for name, _ in one.files) == sorted(piece.member for piece in good[6:])


def test_members_with_long_names_are_checked_as_far_as_headers_tell(tmp_path: Path, source: SourceFolder) -> None:
    names = ["n" * 98 + ".jpg", "d/" * 80 + "x.jpg", "Größe 大.jpg"]
    members = {name: bytes([i + 65]) * 900 for i, name in enumerate(names)}
    (tmp_path / "s.tar").write_bytes(tar_of(members))
    files = RemoteFiles(str(tmp_path / "s.tar"))
    pieces = [piece._replace(class_name="a") for piece in pieces_of(files, members)]
    fetch_pieces(files, pieces, source, None, quiet)
    assert [size for _, size in source.held("a").files] == [900] * 3


@pytest.mark.parametrize("k", [1, 2, 5])
def test_an_interrupted_fetch_of_pieces_goes_on(
    server: RangeServer, members: dict[str, bytes], source: SourceFolder, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr("xmixup_fast.data.remote.ranges.LARGEST_BLOCK", 10_000)
    files = RemoteFiles(f"{server.url}/s.tar")
    pieces = pieces_of(files, members)
    server.fault = lambda request: Fault(status=404) if len(server.gets) == k else None
    with pytest.raises(FileNotFoundError):
        fetch_pieces(files, pieces, source, None, quiet)
    assert not source.held("a").is_whole
    server.fault = lambda request: None
    server.forget()
    there = sum(1 for _ in source.images.rglob("*.JPEG"))
    fetch_pieces(files, pieces, source, None, quiet)
    total = sum(map(len, members.values()))
    assert server.sent <= 1.4 * total * (40 - there) / 40 and source.held("a").is_enough(None)


def test_a_file_that_changes_while_its_pieces_come_leaves_none_of_them(
    server: RangeServer, members: dict[str, bytes], source: SourceFolder
) -> None:
    files = RemoteFiles(f"{server.url}/s.tar")
    pieces = pieces_of(files, members)
    path = server.root / "s.tar"
    server.fault = lambda request: path.write_bytes(path.read_bytes() + b"more") and None
    with pytest.raises(OSError, match="changed while it was read"):
        fetch_pieces(files, pieces, source, None, quiet)
    assert not list(source.images.rglob("*.JPEG")) and not source.held("a").is_whole


def test_one_process_of_a_machine_fetches_at_a_time_and_the_other_says_that_it_waits(
    source: SourceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    order: list[str] = []

    def other() -> None:
        with SourceFolder(source.path).locked(order.append):
            order.append("other")

    with source.locked(order.append):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == [
        f"{source.path}: another process fetches into this folder: waiting for it to end",
        "first",
        "other",
    ]


FOUND = st.lists(st.booleans(), max_size=9)


@given(FOUND, st.integers(0, 9), st.integers(0, 9))
def test_images_and_bad_files_of_a_class_do_not_depend_on_what_was_fetched_before(
    good: list[bool], limit: int, more: int
) -> None:
    found: list[tuple[str, int] | BadFile] = [
        (f"{i}.jpg", 1) if is_good else BadFile(f"{i}.jpg", "odd") for i, is_good in enumerate(good)
    ]
    one, other = Held(), Held()
    for held, count in ((one, limit), (other, limit + more)):
        for item in found[:count]:
            held.add(item)
    assert one.first(limit) == other.first(limit) == one.first(None)
    names, bad = one.first(limit)
    assert len(names) + len(bad) == min(limit, len(found))
