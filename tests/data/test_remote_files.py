"""Remote files over HTTP and S3: ranges are retried and verified, several at a time; errors say what to do."""

from __future__ import annotations

import importlib
import os
import resource
import socket
import ssl
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from class_tars import made_images, tar_of
from range_server import Fault, RangeServer

from xmixup_fast.data.remote import files as module
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.errors import explained, is_of_connection, is_transient
from xmixup_fast.data.remote.files import NoNetwork, Range, RemoteFiles
from xmixup_fast.settings.values import public_url

DATA = bytes(range(256)) * 4000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    (tmp_path / "a.tar").write_bytes(DATA)
    with RangeServer(tmp_path) as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries, in seconds; no time passes."""
    waited: list[float] = []
    monkeypatch.setattr("xmixup_fast.data.remote.files.time.sleep", waited.append)
    return waited


def test_ranges_are_the_files_bytes_in_one_request_each(server: RangeServer) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    info = files.info()
    assert info.size == len(DATA) and info.version and info.path == files.path == f"{server.url}/a.tar"
    for begin, end in ((0, 1), (0, 1000), (5, 6), (1000, 300_000), (len(DATA) - 1, len(DATA))):
        server.forget()
        assert files.read(files.path, begin, end) == DATA[begin:end]
        assert [(one.begin, one.end) for one in server.requests] == [(begin, end)]
    server.forget()
    assert files.read(files.path, 7, 7) == b"" and not server.requests


def test_many_ranges_come_in_few_requests_eight_at_a_time(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmixup_fast.data.remote.ranges.LARGEST_BLOCK", 50_000)
    server.rate = 4e6
    files = RemoteFiles(f"{server.url}/a.tar")
    size = files.info().size
    ranges = [Range(files.path, begin, begin + 990) for begin in range(0, size - 1000, 1000)]
    ranges += [Range(files.path, 0, size), Range(files.path, 5, 5)]
    come: list[int] = []
    got = dict(files.read_ranges(ranges, come.append))
    assert [got[i] for i in range(len(ranges))] == [DATA[one.begin : one.end] for one in ranges]
    assert sum(come) == server.sent and len(server.gets) < 2.5 * size / 50_000
    assert server.most_in_flight == module.IN_FLIGHT


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(status=status) for status in (408, 429, 500, 502, 503, 504)),
        Fault(cut=0),
        Fault(cut=500),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(server: RangeServer, waits: list[float], fault: Fault) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    files.info()
    server.fault = lambda request: fault if request.number < 3 else None
    assert files.read(files.path, 100, 2000) == DATA[100:2000]
    assert len(server.gets) == 3 and len(waits) == 2
    assert 0.5 <= waits[0] <= 0.75 and 1 <= waits[1] <= 1.5


def test_five_tries_are_made_and_a_server_may_ask_to_wait(server: RangeServer, waits: list[float]) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    files.info()
    server.fault = lambda request: Fault(status=503, headers={"Retry-After": "7" if request.number % 2 else "900"})
    with pytest.raises(OSError, match=r"a\.tar: no answer in 5 tries \(HTTP status 503\): run it again"):
        files.read(files.path, 100, 200)
    assert len(server.gets) == 5 and waits == [7, 30, 7, 30]


def test_a_date_to_wait_for_is_obeyed(server: RangeServer, waits: list[float]) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    files.info()
    dates = [formatdate(time.time() + seconds, usegmt=True) for seconds in (5, 900, -900)]
    faults = iter([*(Fault(status=429, headers={"Retry-After": date}) for date in [*dates, "soon"]), None])
    server.fault = lambda request: next(faults)
    assert files.read(files.path, 100, 2000) == DATA[100:2000]
    assert 3 <= waits[0] <= 5 and waits[1:] == [30, 0, 1]


def test_after_an_error_nothing_goes_on(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmixup_fast.data.remote.ranges.LARGEST_BLOCK", 10_000)
    files = RemoteFiles(f"{server.url}/a.tar")
    ranges = [Range(files.path, 0, files.info().size)]
    # One block is refused; others would be tried again for more than a minute.
    refused = iter([Fault(status=403)])
    server.fault = lambda request: next(refused, Fault(status=503, headers={"Retry-After": "20"}))
    started = time.monotonic()
    with pytest.raises(PermissionError):
        list(files.read_ranges(ranges))
    assert time.monotonic() - started < 10
    asked = len(server.gets)
    time.sleep(0.3)
    assert len(server.gets) == asked


def test_a_certificate_that_cannot_be_verified_is_told_at_once() -> None:
    error = ssl.SSLCertVerificationError("self-signed")
    assert not is_transient(error) and not is_of_connection(error)
    wrapped = FileNotFoundError("https://host/x")
    wrapped.__cause__ = error
    assert "certificate cannot be verified" in str(explained(wrapped, "https://host/x"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@host:8/a/b.tar?sig=x#y", "https://host:8/a/b.tar"),
        ("http://host?sig=x", "http://host"),
        ("ftp://me:pw@host/a", "ftp://host/a"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("hf://datasets/a/b@main/c", "hf://datasets/a/b@main/c"),
        ("/a/b?c.tar", "/a/b?c.tar"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, PermissionError, "access refused.*401.*credentials"),
        (403, PermissionError, "access refused.*403.*signature"),
        (404, FileNotFoundError, "no such file"),
        (416, OSError, "has changed"),
        (400, OSError, "HTTP status 400"),
    ],
)
def test_what_will_not_pass_is_tried_once(
    server: RangeServer, waits: list[float], status: int, kind: type[OSError], message: str
) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    files.info()
    server.fault = lambda request: Fault(status=status)
    with pytest.raises(kind, match=message):
        files.read(files.path, 100, 200)
    assert len(server.gets) == 1 and not waits
    server.forget()
    server.heads = False
    with pytest.raises(kind, match=message):
        files.info()
    assert len(server.gets) == 1 and not waits


def test_a_range_behind_the_end_is_an_error_at_once(server: RangeServer, waits: list[float]) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    with pytest.raises(OSError, match="ends before the bytes asked for"):
        files.read(files.path, len(DATA) + 5, len(DATA) + 9)
    with pytest.raises(OSError, match="got 10 of 20 bytes"):
        files.read(files.path, len(DATA) - 10, len(DATA) + 10)


def test_a_server_without_ranges_sends_small_files_whole_and_no_large_ones(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fault = lambda request: Fault(whole=True)
    files = RemoteFiles(f"{server.url}/a.tar")
    for begin, end in ((1000, 3000), (5, 9), (0, 4)):
        assert files.read(files.path, begin, end) == DATA[begin:end]
    assert len(server.gets) == 2, "the range that is no range, and the file"
    server.forget()
    monkeypatch.setattr(module, "LARGEST_WHOLE", 1_000_000)
    with pytest.raises(OSError, match=r"has no ranges, and would send all \d+(\.\d)? MB"):
        RemoteFiles(f"{server.url}/a.tar").read(files.path, 1000, 3000)


def test_a_full_disk_names_the_folder_for_files_without_ranges(server: RangeServer) -> None:
    server.fault = lambda request: Fault(whole=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # files cannot be longer, as on a full disk
    try:
        with pytest.raises(OSError, match=rf"a\.tar: fetched whole into {tempfile.gettempdir()}: .*set TMPDIR"):
            RemoteFiles(f"{server.url}/a.tar").read(f"{server.url}/a.tar", 1000, 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_missing_network_is_known_at_once_and_a_lost_one_is_tried_again(
    server: RangeServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.tar"
    for url in (address, "http://no-such-host.invalid/a.tar"):
        with pytest.raises(NoNetwork, match="nothing answers there"):
            RemoteFiles(url).info()
    assert not waits
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.2)
    server.fault = lambda request: Fault(stall=True)
    started = time.monotonic()
    with pytest.raises(NoNetwork):
        RemoteFiles(f"{server.url}/a.tar").read(f"{server.url}/a.tar", 0, 5)
    assert time.monotonic() - started < 5
    files = RemoteFiles(f"{server.url}/a.tar")
    files.info()
    server.__exit__(None, None, None)
    with pytest.raises(OSError, match="no answer in 5 tries"):
        files.read(files.path, 0, 5)
    assert len(waits) == 4
    server.__enter__()


def test_signatures_and_passwords_go_along_and_are_never_shown(server: RangeServer, waits: list[float]) -> None:
    url = f"{server.url.replace('//', '//me:secret1@')}/a.tar?signature=secret2"
    server.heads = False
    files = RemoteFiles(url)
    info = files.info()
    assert info.size == len(DATA) and files.read(files.path, 3, 9) == DATA[3:9]
    assert {one.path for one in server.requests} == {"/a.tar?signature=secret2"}
    shown = [repr(info), files.path, files.url, files.shown(files.path)]
    for pattern in ("", "*.tar"):
        folder = RemoteFiles(url.replace("a.tar", pattern))
        shown += folder.find()
        assert folder.find() == [files.path] and folder.read(files.path, 3, 9) == DATA[3:9]
    assert {one.login for one in server.requests} == {f"Basic {b64encode(b'me:secret1').decode()}"}
    for fault in (Fault(status=403), Fault(status=503), Fault(status=404), Fault(cut=1)):
        server.fault = lambda request, fault=fault: fault
        with pytest.raises(OSError) as raised:
            files.read(files.path, 3, 9)
        shown.append(f"{raised.value} {raised.value.__cause__} {raised.value.__suppress_context__}")
    assert not any("secret" in text for text in shown), shown


def test_a_file_that_changes_while_it_is_read_is_told(server: RangeServer, tmp_path: Path) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    info = files.info()
    files.check_unchanged(info)
    (tmp_path / "a.tar").write_bytes(DATA[:-1])
    with pytest.raises(OSError, match=r"a\.tar: changed while it was read"):
        files.check_unchanged(info)


def test_files_are_found_by_folder_pattern_and_braces(server: RangeServer, tmp_path: Path) -> None:
    for name in ("x/a-08.tar", "x/a-09.tar", "x/a-10.tar", "x/b.txt", "x/odd name.tar", "x/deep/c.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DATA[:9])
    for root in (server.url, str(tmp_path), f"file://{tmp_path}"):

        def found(pattern: str, root: str = root) -> list[str]:
            files = RemoteFiles(f"{root}/{pattern}")
            return [files.name(path) for path in files.find()]

        assert found("x") == found("x/") == ["a-08.tar", "a-09.tar", "a-10.tar", "b.txt", "odd name.tar"]
        assert found("x/a-*.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
        assert found("x/a-{10..11}.tar") == ["a-10.tar", "a-11.tar"], "missing ones, too"
        files = RemoteFiles(f"{root}/x/a-0{{8..9}}.tar")
        assert [info.size for info in files.infos(files.find())] == [9, 9]
        files = RemoteFiles(f"{root}/x")
        assert files.read(files.join("odd name.tar"), 1, 5) == DATA[1:5]
        assert files.file(files.join("a-08.tar")).read() == DATA[:9]


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/k", "s3fs", "s3"), ("gs://b/k", "gcsfs", "gs")])
def test_a_missing_package_names_the_extra(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    known = importlib.import_module("fsspec.registry")
    monkeypatch.setattr(known, "_registry", {})
    monkeypatch.setattr(known, "registry", {})
    with pytest.raises(ImportError, match=rf"pip install 'xmixup_fast\[{extra}\]'"):
        RemoteFiles(url)


def test_an_unknown_protocol_names_those_that_do() -> None:
    with pytest.raises(ValueError, match="nosuch://x/y: expected https://, s3://"):
        RemoteFiles("nosuch://x/y")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 bucket of a server on the loopback address."""
    pytest.importorskip("s3fs", reason="needs s3fs")
    fsspec = pytest.importorskip("fsspec")
    server = pytest.importorskip("moto.server", reason="needs moto[server]").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("bucket")
    yield filesystem
    filesystem.rm("bucket", recursive=True)  # moto keeps buckets for the whole process
    server.stop()


def test_files_of_s3_are_read_by_ranges(bucket: Any) -> None:
    bucket.pipe_file("bucket/x/a.tar", DATA)
    bucket.pipe_file("bucket/x/b.tar", DATA[:50])
    files = RemoteFiles("s3://bucket/x")
    assert [files.name(path) for path in files.find()] == ["a.tar", "b.tar"]
    info = files.info(files.join("a.tar"))
    assert info.size == len(DATA) and info.version and files.shown(info.path) == "s3://bucket/x/a.tar"
    ranges = [Range(info.path, begin, begin + 999) for begin in range(0, 900_000, 3_000)]
    got = dict(files.read_ranges(ranges))
    assert [got[i] for i in range(len(ranges))] == [DATA[one.begin : one.end] for one in ranges]
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/x/c\.tar: no such file"):
        files.info(files.join("c.tar"))
    with pytest.raises(OSError, match=r"s3://bucket/x/b\.tar"):
        files.read(files.join("b.tar"), 60, 70)
    bucket.pipe_file("bucket/x/a.tar", DATA[:-1])
    with pytest.raises(OSError, match="changed while it was read"):
        files.check_unchanged(info)


def test_class_tars_of_s3_come_as_they_are(bucket: Any, tmp_path: Path) -> None:
    images = made_images(4, 3)
    for name, members in images.items():
        bucket.pipe_file(f"bucket/x/{name}.tar", tar_of(members))
    catalog = open_remote("s3://bucket/x", tmp_path, lambda line: None)
    assert catalog.classes == sorted(images)
    dataset = catalog.fetch([1, 3], 2, lambda line: None)
    expected = [images[name][f"{name}_{i}.JPEG"] for name in ("n00000001", "n00000003") for i in range(2)]
    assert [sample.image.read() for sample in dataset.train] == expected and not dataset.bad


def test_what_the_hub_says_of_a_file_is_asked_for_again(
    server: RangeServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles(f"{server.url}/a.tar")
    assert files.info().size and files.sha256(files.path) is None
    answers = iter([ConnectionError("lost"), {"lfs": SimpleNamespace(sha256="abc")}, {}])

    def info(path: str) -> dict[str, Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(files.fs, "info", info)
    files.protocol = "hf"
    assert files.sha256(files.path) == "abc" and len(waits) == 1
    assert files.sha256(files.path) is None


def test_fsspec_is_asked_for_no_more_than_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(DATA)
    files = RemoteFiles(os.fspath(tmp_path / "a.tar"))
    asked: list[Any] = []
    read = files.fs.cat_file
    monkeypatch.setattr(files.fs, "cat_file", lambda *a, **options: asked.append(options) or read(*a, **options))
    assert files.read(files.path, 10, 20) == DATA[10:20]
    assert asked == [{"start": 10, "end": 20, "cache_type": "none"}]
