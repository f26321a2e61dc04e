"""Class tars that lie elsewhere: the chosen images come as they are, little else moves, and nothing moves twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from class_tars import JPEG, Images, contents, made_images, tar_of, write_class_tars, write_large_tar
from hypothesis import given, settings
from hypothesis import strategies as st
from range_server import Fault, RangeServer, Request

from xmixup_fast.data.catalog import Catalog
from xmixup_fast.data.remote import class_tars
from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.files import NoNetwork

CLASSES, IMAGES = 200, 6
CHOSEN = [3, 50, 51, 120, 199]


@pytest.fixture(scope="module")
def images() -> Images:
    return made_images(CLASSES, IMAGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Path:
    """Holds tars/, a folder of class tars, large.tar, and large.tar in parts."""
    root = tmp_path_factory.mktemp("root")
    write_class_tars(root / "tars", images)
    write_large_tar(root / "large.tar", images)
    write_large_tar(root / "parts" / "large.tar", images, parts=3)
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as running:
        yield running


def first(images: Images, labels: Iterable[int], limit: int | None = None) -> Images:
    names = sorted(images)
    return {names[i]: dict(list(images[names[i]].items())[:limit]) for i in labels}


def size(images: Images) -> int:
    return sum(len(data) for members in images.values() for data in members.values())


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        *(("tars", limit) for limit in (1, 4, IMAGES, 100, None)),
        *((what, 4) for what in ("tars/n*.tar", "tars/n{00000000..00000199}.tar", "large.tar", "parts")),
    ],
)
def test_of_the_chosen_classes_little_more_than_their_images_moves(
    server: RangeServer, images: Images, tmp_path: Path, what: str, limit: int | None
) -> None:
    lines: list[str] = []
    catalog = open_remote(f"{server.url}/{what}", tmp_path, lines.append)
    assert catalog.classes == sorted(images)
    assert server.sent <= 513 * (CLASSES + 5)
    server.forget()
    got = catalog.fetch(CHOSEN, limit, lines.append)
    wanted = first(images, CHOSEN, limit)
    assert contents(got) == wanted and got.classes == catalog.classes and not got.bad
    assert server.sent <= 1.2 * size(wanted)
    assert any("5 classes, at most" in line and "MB" in line for line in lines)


def test_several_classes_come_at_a_time(folder: Path, images: Images, tmp_path: Path) -> None:
    with RangeServer(folder, rate=10e6) as server:
        catalog = open_remote(f"{server.url}/tars", tmp_path, print)
        assert contents(catalog.fetch(range(20), None, print)) == first(images, range(20))
        assert server.most_in_flight == 8


def test_what_is_there_is_never_fetched_again(server: RangeServer, images: Images, tmp_path: Path) -> None:
    def fetched(labels: list[int], limit: int | None) -> int:
        """Fetches with a new catalog; returns how many bytes of the class tars move."""
        catalog = open_remote(f"{server.url}/tars", tmp_path, print)
        server.forget()
        assert contents(catalog.fetch(labels, limit, print)) == first(images, labels, limit)
        return server.sent

    assert fetched([3, 7], 2) > 0 == fetched([7, 3], 2) == fetched([3], 1)
    assert fetched([3], 4) <= 1.1 * (size(first(images, [3], 4)) - size(first(images, [3], 2)))
    assert fetched([3, 9], None) > 0 == fetched([3, 9], None) == fetched([3, 9], 1000)
    assert fetched([9], 3) == 0
    next((tmp_path / "sources").glob("*/images/n00000009/*.JPEG")).unlink()
    assert fetched([3, 9], None) > 0, "a file that is gone comes again"


def test_without_a_network_what_was_fetched_is_taken(folder: Path, images: Images, tmp_path: Path) -> None:
    with RangeServer(folder) as server:
        url = f"{server.url}/tars"
        open_remote(url, tmp_path, print).fetch([3, 7], 2, print)
    lines: list[str] = []
    catalog = open_remote(f"{url}?signature=x", tmp_path, lines.append)
    assert len(lines) == 1 and "nothing answers; takes what was fetched before" in lines[0]
    assert catalog.classes == sorted(images)
    assert contents(catalog.fetch([3, 7], 2, lines.append)) == first(images, [3, 7], 2)
    for labels, limit in (([3], None), ([3], 3), ([3, 4], 2)):
        with pytest.raises(NoNetwork, match="not all images of n0000000"):
            catalog.fetch(labels, limit, lines.append)
    with pytest.raises(NoNetwork, match="nothing answers"):
        open_remote(url, tmp_path / "other", lines.append)


def moved_twice(images: Images, requests: list[Request]) -> list[str]:
    """Images all of whose bytes were sent more than once, of class tars."""
    found = []
    for name, members in images.items():
        sent = [(one.begin, one.begin + one.sent) for one in requests if one.path.endswith(f"/{name}.tar")]
        packed = tar_of(members) if sent else b""
        for member, data in members.items() if sent else ():
            begin = packed.index(data)
            edges = {begin, *(place for pair in sent for place in pair if begin < place < begin + len(data))}
            if all(sum(first <= place < last for first, last in sent) > 1 for place in edges):
                found.append(member)
    return found


@pytest.mark.parametrize("k", [1, 6, 11])
def test_an_interrupted_fetch_goes_on(
    server: RangeServer, images: Images, tmp_path: Path, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_tars, "PIECE", 100_000)
    catalog = open_remote(f"{server.url}/tars", tmp_path, print)
    server.forget()
    server.fault = lambda request: Fault(status=403) if len(server.gets) > k else None
    with pytest.raises(PermissionError):
        catalog.fetch(CHOSEN, None, print)
    server.fault = lambda request: None
    catalog = open_remote(f"{server.url}/tars", tmp_path, print)
    assert contents(catalog.fetch(CHOSEN, None, print)) == first(images, CHOSEN)
    assert not moved_twice(images, server.gets)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_fetch_ends_at_a_signal_and_goes_on(
    server: RangeServer, images: Images, tmp_path: Path, number: signal.Signals
) -> None:
    run = (
        "import sys; from pathlib import Path; from xmixup_fast.data.remote import catalog, class_tars\n"
        "class_tars.PIECE = 100_000\n"
        "catalog.open_remote(sys.argv[1], Path(sys.argv[2]), print).fetch([3, 50, 51, 120, 199], None, print)"
    )
    server.fault = lambda request: Fault(stall=True) if len(server.gets) > 12 else None
    command = [sys.executable, "-c", run, f"{server.url}/tars", str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(class_tars.__file__).parents[3], env=dict(os.environ))
    deadline = time.monotonic() + 60
    while len(server.gets) <= 16 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=15)  # although the server is silent
    before = list((tmp_path / "sources").glob("*/images/*/*.JPEG"))
    assert 0 < len(before) < 5 * IMAGES
    server.fault = lambda request: None
    catalog = open_remote(f"{server.url}/tars", tmp_path, print)
    assert contents(catalog.fetch(CHOSEN, None, print)) == first(images, CHOSEN)
    assert not moved_twice(images, server.gets)


def opened(root: Path, cache: Path) -> Catalog:
    """The catalog of a local folder, which goes the same way as a remote one."""
    return open_remote(str(root), cache, lambda line: None)


def test_broken_tars_and_members_are_bad_files(tmp_path: Path) -> None:
    good = made_images(1, 3, 2000)["n00000000"]
    names = list(good)
    packed = tar_of(good)
    second = packed.index(names[1].encode())
    odd = {"a.JPEG": b"not an image", "readme.txt": b"x", "e.jpg": b"", ".hidden.jpg": b"x", "x/b.jpg": b"yes"}
    tars = {
        "good": packed,
        "cut": packed[: second + 1000],
        "damaged": packed[:second] + b"?" * 512 + packed[second + 512 :],
        "no_tar": b"<html>not found</html>" * 100,
        "empty": b"",
        "odd": tar_of(odd),
    }
    for name, data in tars.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
    catalog = opened(tmp_path, tmp_path / "cache")
    assert catalog.classes == sorted(tars)
    dataset = catalog.fetch(range(len(tars)), None, lambda line: None)
    assert contents(dataset) == {
        "good": good,
        "cut": {names[0]: good[names[0]]},
        "damaged": {names[0]: good[names[0]]},
        "odd": {"a.JPEG": b"not an image", "b.jpg": b"yes"},  # decoding finds the first
    }
    reasons = {Path(bad.name).relative_to(tmp_path).as_posix(): bad.reason for bad in dataset.bad}
    assert reasons.pop("odd.tar/e.jpg") == "an empty file"
    assert reasons.pop(f"cut.tar/{names[1]}") == "the tar ends within it"
    assert f"neither a header nor the end at byte {second}" in reasons["damaged.tar"]
    assert set(reasons) == {"damaged.tar", "no_tar.tar", "empty.tar"}
    assert all("expected a whole, uncompressed tar file" in reason for reason in reasons.values())
    assert opened(tmp_path, tmp_path / "cache").fetch(range(len(tars)), None, lambda line: None).bad == dataset.bad


@pytest.mark.parametrize("k", [1, 3])
def test_a_tar_that_changes_while_it_is_fetched_is_an_error_and_comes_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(class_tars, "PIECE", 30_000)
    old, new = (made_images(2, 4, 20_000, seed) for seed in (1, 2))
    root = write_class_tars(tmp_path / "root", old)
    with RangeServer(root) as server:
        catalog = open_remote(server.url, tmp_path / "cache", print)
        server.forget()

        def change(request: Request) -> None:
            if len(server.gets) == k:
                write_class_tars(root, new)

        server.fault = change
        with pytest.raises(OSError, match=r"n0000000\d\.tar: changed while it was read"):
            catalog.fetch([0], None, print)
        for _ in range(2):
            assert contents(open_remote(server.url, tmp_path / "cache", print).fetch([0, 1], None, print)) == new


def test_other_things_at_a_url_are_told_with_what_helps(tmp_path: Path) -> None:
    photos = {f"{i}.jpg": b"x" for i in range(3)}
    samples = {f"{i}.{end}": b"7" for i in range(3) for end in ("jpg", "cls")}
    made = {"photos": photos, "shards": {"s-000.tar": tar_of(samples)}, "zip": {"a.zip": b"x"}, "empty": {}}
    for name, files in made.items():
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    expected = {
        "photos": r"got 3 files \(\.jpg\); a folder of images has to be downloaded",
        "shards": "looks like a tar shard.*xmixup index",
        "zip": "a compressed archive",
        "empty": "got no file",
    }
    with RangeServer(tmp_path) as server:
        for root in (server.url, str(tmp_path)):
            for name, message in expected.items():
                with pytest.raises(ValueError, match=message):
                    open_remote(f"{root}/{name}", tmp_path / "cache", print)
            with pytest.raises(FileNotFoundError, match=r"nothing\.tar: no such file"):
                open_remote(f"{root}/nothing.tar", tmp_path / "cache", print)


def test_what_is_secret_in_a_url_is_neither_said_nor_kept(server: RangeServer, images: Images, tmp_path: Path) -> None:
    url = f"{server.url.replace('//', '//me:hush@')}/tars?signature=hush"
    lines: list[str] = []
    catalog = open_remote(url, tmp_path, lines.append, name=url)
    assert contents(catalog.fetch([0], 1, lines.append)) == first(images, [0], 1)
    assert any("signature=hush" in one.path for one in server.requests)
    kept = [f"{path} {'' if path.is_dir() else path.read_bytes()!r}" for path in tmp_path.rglob("*")]
    assert not any("hush" in text for text in [catalog.name, *lines, *kept])


def test_two_tars_of_one_class_are_refused(tmp_path: Path) -> None:
    made = made_images(2, 1, 100)
    for split in ("train", "val"):
        write_class_tars(tmp_path / split, made)
    (tmp_path / "large.tar").write_bytes(tar_of({f"{split}/a.tar": tar_of({}) for split in ("train", "val")}))
    for what in ("*/n*.tar", "large.tar"):
        with pytest.raises(ValueError, match=r"val/\w+\.tar: the class \w+ has another tar, .*train/\w+\.tar"):
            opened(tmp_path / what, tmp_path / "cache")


def test_without_a_cache_a_temporary_folder_serves(folder: Path, images: Images) -> None:
    catalog = open_remote(f"{folder}/tars", None, print)
    dataset = catalog.fetch([0], 2, print)
    root = Path(dataset.root)
    assert contents(dataset) == first(images, [0], 2) and root.is_dir()
    del catalog
    assert contents(dataset) == first(images, [0], 2), "until the process ends"


SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=12)


@settings(max_examples=12)
@given(SIZES, st.lists(st.one_of(st.none(), st.integers(1, 14)), min_size=1, max_size=4), st.integers(200, 8000))
def test_several_fetches_give_what_one_gives(sizes: list[int], limits: list[int | None], piece: int) -> None:
    names = [f"{'x' * (i % 3) * 60}{i}.jpg" for i in range(len(sizes))]  # some do not fit into a header
    members = {name: JPEG + bytes([i + 1]) * size for i, (name, size) in enumerate(zip(names, sizes, strict=True))}
    packed = tar_of(members)
    read = bytearray(len(packed))

    def count(begin: int, end: int) -> bytes:
        for at in range(begin, end):
            read[at] += 1
        return packed[begin:end]

    tar = class_tars.ClassTar("a.tar", count, len(packed), "1")
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_tars, "PIECE", piece)
        folder = SourceFolder.make(Path(cache), "a", "a")
        folder.describe({"url": "a", "classes": ["a"]})
        for limit in limits:
            there = len(folder.held("a").files)
            read[:] = bytes(len(read))
            layout = class_tars.ClassTars(["a"], lambda name: tar, lambda names: None)
            if not folder.held("a").is_enough(limit):
                layout.fetch([0], limit, folder, lambda line: None)
            wanted = list(members.values())[:limit]
            held = folder.held("a")
            got = [(folder.class_folder("a") / name).read_bytes() for name, _ in held.files[:limit]]
            assert got == wanted and held.is_enough(limit)
            for i, data in enumerate(members.values()):
                begin = packed.index(data)
                assert min(read[begin : begin + len(data)]) <= (i >= there), "no whole image moves twice"


PROCESS = """
import json, sys
from pathlib import Path
from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.runtime import distributed

def one(url, cache):
    try:
        catalog = open_remote(url, Path(cache) if cache else None, print)
        dataset = catalog.fetch([0, 1], 2, print)
    except (OSError, ValueError) as error:
        return str(error)
    return [len(catalog.classes), dataset.root, [sample.image.read().hex()[:64] for sample in dataset.train]]

with distributed.processes():
    said = distributed.gather_objects([one(*case) for case in json.loads(sys.argv[1])])
    if distributed.rank() == 0:
        print("RESULT" + json.dumps(said))
"""


def test_of_the_processes_of_a_machine_one_fetches(server: RangeServer, images: Images, tmp_path: Path) -> None:
    script, cache = tmp_path / "process.py", str(tmp_path / "cache")
    script.write_text(PROCESS)
    cases = [(f"{server.url}/tars", cache), (f"{server.url}/large.tar", ""), (str(tmp_path / "missing"), cache)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(class_tars.__file__).parents[3])
    done = subprocess.run(
        [*launcher, str(script), json.dumps(cases)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "RESULT" in line)
    first_process, second = json.loads(line.partition("RESULT")[2])
    assert first_process[:2] == second[:2]
    wanted = first(images, [0, 1], 2)
    expected = [data.hex()[:64] for members in wanted.values() for data in members.values()]
    assert all(classes == CLASSES and got == expected for classes, _, got in first_process[:2])
    assert server.sent <= 2 * 1.2 * size(wanted) + 513 * (CLASSES + 10)
    assert "no such file" in first_process[2] and "first process did not fetch it" in second[2]
