"""Tars at a URL whose server tells little: folders that cannot be listed, refusals, and what was fetched before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from class_tars import JPEG, Images, contents, made_images, tar_of, write_class_tars, write_large_tar
from range_server import RangeServer

from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.class_tars import ClassTar, ClassTars
from xmixup_fast.data.remote.errors import NoNetwork, NoRanges, ShortAnswer
from xmixup_fast.data.remote.layout import Options

CLASSES = 6
CHOSEN = [0, 2, 5]


@pytest.fixture(scope="module")
def images() -> Images:
    return made_images(CLASSES, 3, 3000)


@pytest.fixture
def server(tmp_path: Path, images: Images) -> Iterator[RangeServer]:
    """Serves tars/, a folder of class tars, large.tar, and large.tar in parts."""
    root = tmp_path / "root"
    write_class_tars(root / "tars", images)
    write_large_tar(root / "large.tar", images)
    write_large_tar(root / "parts" / "large.tar", images, parts=3)
    with RangeServer(root) as running:
        yield running


def first(images: Images, labels: Iterable[int]) -> Images:
    """The first two images of some classes."""
    return {name: dict(list(images[name].items())[:2]) for name in (sorted(images)[label] for label in labels)}


@pytest.mark.parametrize("folders", [(403, ""), (404, ""), (200, "<html>no links</html>")], ids=["403", "404", "empty"])
@pytest.mark.parametrize("missing", [404, 403])
def test_names_are_tried_where_a_folder_cannot_be_listed(
    server: RangeServer, images: Images, tmp_path: Path, folders: tuple[int, str], missing: int
) -> None:
    server.folders, server.missing = folders, missing
    options = Options(tried=[*sorted(images), "n99999999"])
    lines: list[str] = []
    catalog = open_remote(f"{server.url}/tars", tmp_path, lines.append, options=options)
    assert lines == [
        f"{server.url}/tars: cannot be listed; n00000000.tar is there: takes n00000000, n00000001 and "
        f"{CLASSES - 1} more for its classes"
    ]
    assert catalog.classes == options.tried
    assert contents(catalog.fetch(CHOSEN, 2, print)) == first(images, CHOSEN)
    message = "the class n99999999 has no tar there" if missing == 404 else "access refused"
    with pytest.raises(OSError, match=rf"n99999999\.tar: .*{message}"):
        catalog.fetch([CLASSES], 2, print)
    expected = {200: ValueError, 403: PermissionError, 404: FileNotFoundError}[folders[0]]
    for other in (Options(), Options(tried=["n99999999", "n00000000"])):
        with pytest.raises(expected, match="/tars: "):
            open_remote(f"{server.url}/tars", tmp_path, print, options=other)


def test_names_are_not_tried_where_a_folder_is_listed(server: RangeServer, images: Images, tmp_path: Path) -> None:
    catalog = open_remote(f"{server.url}/tars", tmp_path, print, options=Options(tried=["n00000003", "n99999999"]))
    assert catalog.classes == sorted(images)


@pytest.mark.parametrize("what", ["tars/n*.tar", "large.tar"])
def test_a_refused_look_for_an_index_stops_no_tars(
    server: RangeServer, images: Images, tmp_path: Path, what: str
) -> None:
    server.missing = 403  # of S3, to those who may not list
    catalog = open_remote(f"{server.url}/{what}", tmp_path, print)
    assert contents(catalog.fetch([3], 2, print)) == first(images, [3])


def test_the_parts_of_a_large_tar_are_checked_once_however_many_classes_come(
    server: RangeServer, tmp_path: Path
) -> None:
    heads = []
    for labels in ([3], CHOSEN):
        catalog = open_remote(f"{server.url}/parts", tmp_path / str(len(labels)), print)
        server.forget()
        catalog.fetch(labels, 2, print)
        heads.append(sum(one.method == "HEAD" for one in server.requests))
    assert heads == [3, 3]


def test_compressed_tars_are_no_parts_of_a_large_one(tmp_path: Path) -> None:
    for end in ("gz", "xz", "bz"):
        (tmp_path / f"set.tar.{end}").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"a compressed archive|name each"):
        open_remote(str(tmp_path), tmp_path / "cache", print)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, None])
def test_bad_files_of_a_class_are_those_of_the_same_command_whatever_is_there(
    tmp_path: Path, limit: int | None
) -> None:
    members = {"1.jpg": JPEG, "2.jpg": b"", "3.jpg": JPEG, "4.jpg": b""}
    (tmp_path / "a.tar").write_bytes(tar_of(members)[:3072] + b"?" * 512)  # no header follows the members
    got = []
    for before in ([], [1], [3], [None], [2, None]):
        for count in [*before, limit]:
            catalog = open_remote(str(tmp_path / "a.tar"), tmp_path / f"cache{before}", print)
            dataset = catalog.fetch([0], count, print)
        got.append(([Path(one.image.name).name for one in dataset.train], dataset.bad))
    names, bad = got[0]
    assert got == [(names, bad)] * len(got)
    assert names == [name for name in list(members)[:limit] if members[name]]
    reasons = ["an empty file", "an empty file", "expected a whole, uncompressed tar file"]
    assert len(bad) == {1: 0, 2: 1, 3: 1, 4: 2, None: 3}[limit]
    assert all(one.reason.startswith(reason) for one, reason in zip(bad, reasons, strict=False))


@pytest.mark.parametrize("kind", [NoNetwork, NoRanges, ShortAnswer, PermissionError])
def test_what_cannot_be_reached_is_never_taken_for_damage(tmp_path: Path, kind: type[OSError]) -> None:
    def read(begin: int, end: int) -> bytes:
        raise kind("nothing answers")

    folder = SourceFolder.make(tmp_path, "a", "a")
    folder.name_classes(["a"])
    layout = ClassTars(["a"], lambda name: ClassTar("a.tar", read, 2048, "1"), lambda names: None)
    with pytest.raises(kind, match=r"^nothing answers$"):
        layout.fetch([0], None, folder, print)
    assert not folder.held("a").bad and not folder.held("a").is_whole
