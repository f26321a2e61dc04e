"""xmixup index: which images of tar shards it lists, and that only the rows that are asked for are read."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from listings import numbered, write_shard, write_table
from range_server import Fault, RangeServer

from xmixup_fast.__main__ import main
from xmixup_fast.data.remote.files import RemoteFiles
from xmixup_fast.data.remote.index import Index, Row, write_index


def opened(path: Path) -> Index:
    return Index.open(RemoteFiles(str(path)), str(path))


def rows(path: Path) -> dict[str, list[Row]]:
    """All rows of an index, by class."""
    index = opened(path)
    found = {name: index.rows([label], None) for label, name in enumerate(index.classes)}
    assert [len(rows) for rows in found.values()] == index.counts
    return found


def test_each_row_tells_where_an_image_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(
        tmp_path / "a-0.tar",
        [*numbered(3, label="dog"), *numbered(1), ("n" * 150 + ".jpg", "long"), ("n" * 150 + ".cls", "dog")],
    )
    write_shard(tmp_path / "a-1.tar", [*numbered(2), *numbered(4, label="dog")])
    assert main(["index", str(tmp_path)]) == 0
    assert "5 images of 2 classes in 2 shards" in capsys.readouterr().out
    found = rows(tmp_path / "index.parquet")
    assert {name: [row.member for row in of] for name, of in found.items()} == {
        "cat": ["1.jpg", "2.jpg"],
        "dog": ["3.jpg", "n" * 150 + ".jpg", "4.jpg"],
    }
    for row in (row for of in found.values() for row in of):
        content = (tmp_path / row.shard).read_bytes()[row.offset : row.offset + row.size]
        assert content == (b"long" if row.member.startswith("n") else row.member.encode())
    index = opened(tmp_path / "index.parquet")
    assert index.folder is None and list(index.shards) == ["a-0.tar", "a-1.tar"]
    content = (tmp_path / "a-0.tar").read_bytes()
    assert index.shards["a-0.tar"] == {"size": len(content), "md5": hashlib.md5(content).hexdigest()}


def test_an_index_elsewhere_names_the_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_shard(tmp_path / "shards" / split / "0.tar", numbered(1, 2))
    assert main(["index", str(tmp_path / "shards"), "--output", str(tmp_path / "other.parquet")]) == 0
    index = opened(tmp_path / "other.parquet")
    assert index.folder == os.path.realpath(tmp_path / "shards")
    assert index.counts == [2] and list(index.shards) == ["train/0.tar"]  # nothing of val


def test_no_file_of_the_user_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,class\n")
    assert main(["index", str(tmp_path), "--output", str(labels)]) == 2
    assert capsys.readouterr().err.startswith(f"error: output: {labels} holds something else than an index")
    assert labels.read_text() == "image,class\n"


def test_a_folder_without_shards_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: no tar shards in it\n"


def test_bad_files_stop_unless_they_are_to_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "a.tar", [*numbered(1), ("2.jpg", "without a label")])
    assert main(["index", str(tmp_path)]) == 2
    assert "2.jpg: an image without a label" in capsys.readouterr().err
    assert not (tmp_path / "index.parquet").exists()
    assert main(["index", str(tmp_path), "--bad-files", "skip"]) == 0
    assert "1 bad file skipped" in capsys.readouterr().out
    assert rows(tmp_path / "index.parquet").keys() == {"cat"}


def test_shards_elsewhere_are_indexed_by_their_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [
        (f"{i}.{end}", os.urandom(50_000) if end == "jpg" else "dog") for i in range(5) for end in ("jpg", "cls")
    ]
    for split in ("train", "val"):
        write_shard(tmp_path / "repo" / f"a b-{split}-0.tar", members)
    monkeypatch.chdir(tmp_path)
    with HubServer({"made/shards": tmp_path / "repo"}) as hub:
        address = hub.address("made/shards", "a%20b-{train,val}-0.tar")
        assert main(["index", address]) == 0
        assert hub.bytes < 10 * 5000
    out = capsys.readouterr().out
    assert "index.parquet: 5 images of 1 classes in 1 shards; 5 images of val and test left out; upload it" in out
    remote = opened(tmp_path / "index.parquet")
    assert main(["index", str(tmp_path / "repo")]) == 0
    local = opened(tmp_path / "repo" / "index.parquet")
    assert remote.rows([0], None) == local.rows([0], None) and remote.folder is local.folder is None
    assert remote.shards["a b-train-0.tar"].keys() == {"size", "etag"}


def test_a_server_that_fails_is_no_damaged_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "repo" / "a.tar", [(f"{i}.{end}", "x" * 5000) for i in range(5) for end in ("jpg", "cls")])
    monkeypatch.chdir(tmp_path)

    def fail(method: str, path: str) -> int | None:
        return 403 if method == "GET" and hub.count("GET") > 4 else None

    with HubServer({"made/shards": tmp_path / "repo"}, fail=fail) as hub:
        assert main(["index", hub.address("made/shards", "a.tar"), "--bad-files", "skip"]) == 2
    error = capsys.readouterr().err
    assert "access refused" in error and "expected a whole" not in error
    assert not (tmp_path / "index.parquet").exists()


def test_ctrl_c_waits_for_no_server(tmp_path: Path) -> None:
    for i in range(3):
        write_shard(tmp_path / f"a-{i}.tar", numbered(*range(20)))
    with RangeServer(tmp_path, fault=lambda request: Fault(stall=True) if request.number > 6 else None) as server:
        command = [sys.executable, "-m", "xmixup_fast", "index", server.url, "--output", str(tmp_path / "i.parquet")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(server.requests) <= 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
    assert process.returncode not in (0, None) and "Traceback" not in error


def test_what_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tmp_path / "none.tar")]) == 2
    assert "none.tar: no such file" in capsys.readouterr().err
    assert main(["index", f"file://{tmp_path}"]) == 2
    assert "no tar shards there" in capsys.readouterr().err


def test_only_the_rows_of_the_classes_that_are_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        Row(f"c{label:03d}", f"{os.urandom(20).hex()}.tar", f"{i}.jpg", i, 1)
        for label in range(200)
        for i in range(100)
    ]
    write_index(tmp_path / "index.parquet", made, {})
    count, read = [0], RemoteFiles.read

    def counted(files: RemoteFiles, path: str, begin: int, end: int, *more: Any) -> bytes:
        count[0] += end - begin
        return read(files, path, begin, end, *more)

    monkeypatch.setattr(RemoteFiles, "read", counted)
    index = opened(tmp_path / "index.parquet")
    assert index.classes == sorted({row.class_name for row in made}) and index.counts == [100] * 200
    expected = []
    for label in (7, 150, 8):
        of_class = [row for row in made if row.class_name == f"c{label:03d}"]
        expected += sorted(of_class, key=lambda row: (row.shard, row.offset))[:3]
    assert index.rows([7, 150, 8], 3) == expected
    assert count[0] < (tmp_path / "index.parquet").stat().st_size / 3


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data[:4] + bytes(len(data) - 12) + data[-8:], lambda data: b""]
)
def test_what_is_no_index_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "index.parquet"
    write_index(path, [Row("cat", "a.tar", "1.jpg", 512, 1)], {})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}: .*(expected a Parquet file|damaged)"):
        opened(path)
    table = write_table(tmp_path / "table.parquet", [{"path": "1.jpg", "label": "cat"}])
    with pytest.raises(ValueError, match="expected an index that xmixup index wrote, got a table of path, label"):
        opened(table)


def test_rows_that_are_damaged_are_found(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    write_index(path, [Row("cat", "a.tar", f"{i}.jpg", 512 * i, 1) for i in range(100)], {})
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(60) + data[64:])
    with pytest.raises(ValueError, match="row group 0 is damaged"):
        opened(path).rows([0], None)
