"""What predict takes for images: lists, standard input, patterns, tables and URLs, besides files and folders."""

from __future__ import annotations

import codecs
import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from made import TARGET, write_folder
from pyarrow import parquet
from range_server import RangeServer

from xmixup_fast.commands.predict import Prediction, main, predict
from xmixup_fast.data.dataset import BadFile
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

HEADER = "file,class,description,probability,class_2,probability_2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(build("test_resnet", "none", sorted(TARGET)), path, image_size=32)
    return str(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/{blue,green,red}/00{0,1}.png, in the working folder, with a file beside that is no image."""
    monkeypatch.chdir(tmp_path)
    folder = write_folder(Path("photos"), TARGET, 2)
    (folder / "red" / "notes.txt").write_text("text")
    return folder


ALL = [f"photos/{name}/00{number}.png" for name in sorted(TARGET) for number in range(2)]
RED = [name for name in ALL if "red" in name]


def files(weights: str, *names: Any) -> list[str]:
    """The files that are predicted, in their order; none may be bad."""
    found = list(predict(weights, names, batch_size=4))
    assert all(isinstance(one, Prediction) for one in found), found
    return [one.file for one in found if isinstance(one, Prediction)]


def bad(weights: str, *names: Any) -> list[BadFile]:
    """What cannot be used."""
    return [one for one in predict(weights, names, bad_files="skip") if isinstance(one, BadFile)]


LISTS = {
    "lines": "\n".join(RED).encode(),
    "lines, ended": ("\n".join(RED) + "\n").encode(),
    "of Windows": ("\r\n".join(RED) + "\r\n").encode(),
    "empty lines": ("\n\n" + "\n  \n".join(RED)).encode(),
    "spaces": "\n".join(f"  {name} " for name in RED).encode(),
    "byte order mark": codecs.BOM_UTF8 + "\n".join(RED).encode(),
    "of PowerShell": "\r\n".join(RED).encode("utf-16"),
    "of find -print0": "\0".join([*RED, ""]).encode(),
    "a folder": b"photos/red",
    "a pattern": b"photos/r*/*.png",
    "absolute": b"{here}/photos/red",
}
"""Lists of the red photos."""


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("way", ["@list.txt", "@odd name", "-", "@-"])
def test_lists(weights: str, photos: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, way: str) -> None:
    content = LISTS[name].replace(b"{here}", os.fsencode(Path.cwd()))
    if way in ("-", "@-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    else:
        Path(way[1:]).write_bytes(content)
    assert [os.path.relpath(found) for found in files(weights, way)] == RED


def test_an_image_on_standard_input(weights: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(RED[0]).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    piped, (named,) = list(predict(weights, ["-", RED[0]])), list(predict(weights, [RED[0]]))
    assert piped[0] == Prediction("-", named.top)  # type: ignore[union-attr]


@pytest.mark.parametrize("stdin", [None, b""])
def test_nothing_on_standard_input(
    weights: str, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *, stdin: bytes | None
) -> None:
    given = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
    for way in ("-", "@-"):
        monkeypatch.setattr(sys, "stdin", given)
        assert main([weights, way]) == 2
        assert "standard input" in capsys.readouterr().err or stdin is not None


PATTERNS = {
    "photos/*/*.png": ALL,
    "photos/**/*.png": ALL,
    "photos/**": ALL,
    "photos/*": ALL,
    "photos/r??": RED,
    "photos/[qr]ed/*.png": RED,
    "photos/red/*": RED,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(weights: str, photos: Path, pattern: str) -> None:
    (photos / "red" / "notes.txt").unlink()
    assert files(weights, pattern) == PATTERNS[pattern]


def test_what_is_there_is_taken_as_it_is_called(weights: str, photos: Path) -> None:
    names = ["@odd.png", "[a].png", "*.png", "a\nb.png", "a://b.png"]
    for name in names[:4]:
        Path(name).write_bytes(Path(RED[0]).read_bytes())
    Path("a:").mkdir()
    Path(names[4]).write_bytes(Path(RED[0]).read_bytes())
    assert files(weights, *names) == ["@odd.png", "[a].png", "*.png", "a\nb.png", "a:/b.png"]
    assert files(weights, RED[0], RED[0]) == [RED[0]] * 2


TABLES = {
    "labels.csv": "path,label\nred/000.png,red\nred/001.png,red\n",
    "paths.csv": "path\nred/000.png\nred/001.png\n",
    "columns.csv": "id;Path ;note\n1;red/000.png;\n2;red/001.png;nan\n",
    "table.tsv": "split\tpath\ntest\tred/000.png\nnowhere\tred/001.png\n",
    "windows.csv": "path,label\r\nred\\000.png,\r\nred\\001.png,\r\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(weights: str, photos: Path, name: str) -> None:
    """Paths are relative to the table, and labels do not matter."""
    (photos / name).write_text(TABLES[name])
    assert files(weights, f"photos/{name}") == RED


def test_parquet(weights: str, photos: Path) -> None:
    table = pyarrow.table({"path": ["red/000.png", "red/001.png"], "n": [1, 2]})
    parquet.write_table(table, photos / "table.parquet")
    assert files(weights, "photos/table.parquet") == RED


@pytest.fixture
def server(photos: Path) -> Iterator[RangeServer]:
    with RangeServer(photos) as server:
        yield server


def test_urls(weights: str, server: RangeServer) -> None:
    url = f"{server.url}/red/000.png"
    found, local = list(predict(weights, [url, f"{url}?size=1"])), list(predict(weights, [RED[0]]))
    assert found == [Prediction(name, local[0].top) for name in (url, f"{url}?size=1")]  # type: ignore[union-attr]
    (gone,) = bad(weights, f"{server.url}/absent.png")
    assert gone.name == f"{server.url}/absent.png" and not gone.reason.startswith("http"), gone


BAD = {
    "absent.png": "no such file or folder",
    "empty": "holds no images",
    "photos/*.gif": "no file or folder fits this pattern",
    "list.txt": "a text; @list.txt takes it for a list of images",
    "nowhere://a/b.png": "",
    "http://127.0.0.1:9/a.png": "",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_there_is_named(weights: str, photos: Path, name: str) -> None:
    Path("list.txt").write_text("\n".join(RED))
    Path("empty").mkdir()
    (found,) = bad(weights, name, RED[0])
    assert found.name == name and found.reason.startswith(BAD[name]) and "\n" not in found.reason


ERRORS = {
    ("@absent.txt",): "error: images: @absent.txt: expected a list of images, a line each (No such file or directory)",
    ("@photos",): "error: images: @photos: expected a list of images, a line each (Is a directory)",
    ("odd.csv",): "error: odd.csv: expected one column path, got file, label: let the first line name the columns",
    (
        "empty/*",
    ): "error: 1 bad file; --bad-files skip predicts the others:\n  empty/*: no file or folder fits this pattern",
    ("empt[y]",): "error: images: expected files, or folders that hold some, found none",
    ("@image.jpg",): "error: images: @image.jpg: expected a list of images, a line each; line 2 is no text",
    ("@bytes.txt",): "error: images: @bytes.txt: expected a list of images, a line each; line 1 is no text",
    ("@empty.txt",): "error: images: expected files, or folders that hold some, found none",
}


@pytest.mark.parametrize("names", ERRORS)
def test_errors_are_one_line(weights: str, photos: Path, names: tuple[str, ...], capsys: Any) -> None:
    Path("odd.csv").write_text("file,label\na.png,a\n")
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n")
    Path("image.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1")
    Path("bytes.txt").write_bytes(bytes(range(1, 256)))
    assert main([weights, *names]) == 2
    said = capsys.readouterr()
    assert (said.err, said.out) == (ERRORS[names] + "\n", "")


@pytest.mark.parametrize("output", [None, "p.csv"])
def test_the_header_is_always_there(weights: str, photos: Path, capsys: Any, output: str | None) -> None:
    """Also where no image can be predicted."""
    to = [] if output is None else ["--output", output]
    assert main([weights, "absent.png", "--bad-files", "skip", "--top-k", "2", *to]) == 0
    said = capsys.readouterr()
    text = said.out if output is None else Path(output).read_text()
    assert text == f"{HEADER}\n" and "1 bad file skipped" in said.err
    assert main([weights, *RED, "--top-k", "2", *to]) == 0
    text = capsys.readouterr().out if output is None else Path(output).read_text()
    assert [row["file"] for row in csv.DictReader(io.StringIO(text))] == RED and text.count(HEADER) == 1


ODD = {
    "a\nb.png": r"a\nb.png",
    "a\x1b.png": r"a\x1b.png",
    "a\rb.png": r"a\rb.png",
    "👩\u200d🔬.png": "👩\u200d🔬.png",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_bad_file_is_one_line_whatever_its_name(weights: str, capsys: Any, name: str, policy: str) -> None:
    main([weights, name, "--bad-files", policy])
    said = capsys.readouterr().err
    assert f"{ODD[name]}: no such file or folder" in said.replace("  ", "").split("\n"), said


KEPT = {
    "images.csv": "path\nphotos/red/000.png\n",
    "labels.csv": "file,class,sex\n",
    "list.jsonl": "photos/red/000.png\n",
    "binary.csv": "\0\1",
}


@pytest.mark.parametrize("name", KEPT)
def test_no_file_of_the_user_is_replaced(weights: str, photos: Path, capsys: Any, name: str) -> None:
    Path(name).write_text(KEPT[name])
    assert main([weights, *RED, "--output", name]) == 2
    expected = f"error: output: {name} holds something else than predictions; name another file, or remove it\n"
    assert (capsys.readouterr().err, Path(name).read_text()) == (expected, KEPT[name])


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_predictions_are_replaced(weights: str, photos: Path, name: str) -> None:
    Path(name).touch()
    for top_k in ("1", "2"):
        assert main([weights, *RED, "--output", name, "--top-k", top_k]) == 0
