"""Tars at a URL whose server tells little: folders that cannot be listed, refusals, and what was fetched before."""

from __future__ import annotations

import resource
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase

import pytest
from class_tars import JPEG, Images, contents, made_images, tar_of, write_class_tars, write_large_tar
from range_server import RangeServer

from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.class_tars import ClassTar, ClassTars
from xmixup_fast.data.remote.errors import NoNetwork, NoRanges, ShortAnswer
from xmixup_fast.data.remote.layout import Options
from xmixup_fast.data.remote.parts import all_parts, parts_of

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


@pytest.mark.parametrize("named", ["large.tar.001", "large.tar.00*", ""])
def test_the_parts_beside_the_first_are_taken(server: RangeServer, images: Images, tmp_path: Path, named: str) -> None:
    catalog = open_remote(f"{server.url}/parts/{named}", tmp_path, print)
    assert catalog.classes == sorted(images)
    assert contents(catalog.fetch(CHOSEN, 2, print)) == first(images, CHOSEN)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("named", ["large.tar.001", "large.tar.00*", ""])
def test_a_part_that_is_missing_is_named(server: RangeServer, tmp_path: Path, missing: int, named: str) -> None:
    (server.root / "parts" / f"large.tar.00{missing}").unlink()
    with pytest.raises(FileNotFoundError, match=rf"large\.tar\.00{missing}: no such file"):
        open_remote(f"{server.url}/parts/{named}", tmp_path, print)


@pytest.mark.parametrize("count", [2, 11, 30])
@pytest.mark.parametrize("form", ["{:03d}", "{}", "letters"])
def test_parts_are_in_the_order_of_their_numbers(count: int, form: str) -> None:
    ends = [f"{a}{b}" for a in "ab" for b in ascii_lowercase] if form == "letters" else []
    there = [f"x/l.tar.{ends[i] if ends else form.format(i + 1)}" for i in range(count)]
    assert all_parts(parts_of([*sorted(there), "x/l.tar.gz"]), there.__contains__) == there
    assert all_parts(there[:1], there.__contains__) == there
    with pytest.raises(ValueError, match=r"m\.tar\.\*: several tars in parts"):
        all_parts(parts_of([*there, "x/m.tar.001"]), there.__contains__)


def test_what_lies_beside_a_source_and_is_no_part_of_it_is_said(
    server: RangeServer, images: Images, tmp_path: Path
) -> None:
    for name in ("table.parquet", "set.tgz", "large.tar.001", "1.jpg", "README.md"):
        (server.root / "tars" / name).write_bytes(b"x")
    lines: list[str] = []
    assert open_remote(f"{server.url}/tars", tmp_path, lines.append).classes == sorted(images)
    assert lines == [
        f"{server.url}/tars: takes class tars; 1.jpg, large.tar.001, set.tgz, table.parquet left out: name another "
        "kind by a pattern"
    ]


def test_where_class_tars_came_from_has_a_version(server: RangeServer, images: Images, tmp_path: Path) -> None:
    keys = []
    for labels in ([0], [0, 2], [2, 0]):
        catalog = open_remote(f"{server.url}/tars", tmp_path, print)
        catalog.fetch(labels, 2, print)
        keys.append(catalog.origins()[0]["key"])
    write_class_tars(server.root / "tars", made_images(CLASSES, 3, 3000, seed=1))
    catalog = open_remote(f"{server.url}/tars", tmp_path / "other", print)
    catalog.fetch([0], 2, print)
    keys.append(catalog.origins()[0]["key"])
    assert all(keys) and keys[1] == keys[2] and len(set(keys)) == 3
    assert keys[0].startswith(f"n00000000.tar {len(tar_of(images['n00000000']))} ")


@pytest.mark.parametrize("what", ["tars", "large.tar", "set.tgz"])
def test_a_full_disk_names_the_cache(server: RangeServer, tmp_path: Path, what: str) -> None:
    with tarfile.open(server.root / "set.tgz", "w:gz") as tar:
        tar.add(server.root / "large.tar", "set/a/1.jpg")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # files cannot be longer, as on a full disk
    try:
        with pytest.raises(OSError, match=rf"^cache: {tmp_path}/cache/sources/.*; name another folder, or none$"):
            open_remote(f"{server.url}/{what}", tmp_path / "cache", print).fetch([0], 2, print)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


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
