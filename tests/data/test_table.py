"""Tables of paths and labels: which images are listed, and which tables are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from listings import listing, write, write_table

from xmixup_fast.data.sources import read_dataset

ROWS = [
    {"path": "a/1.jpg", "label": "cat", "split": "train"},
    {"path": "a/2.jpg", "label": "çay, 大", "split": "train"},
    {"path": "a/3.jpg", "label": "cat", "split": "valid"},
    {"path": "Größe 1.png", "label": "cat", "split": "test"},
]


@pytest.fixture(params=[".csv", ".tsv", ".parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def test_a_table_names_images_beside_it(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, *(row["path"] for row in ROWS), "a/unlisted.jpg")
    table = write_table(tmp_path / f"images{suffix}", [{"size": 7, **row} for row in ROWS])
    expected = {
        "train": [("a/1.jpg", "cat"), ("a/2.jpg", "çay, 大")],
        "val": [("a/3.jpg", "cat")],
        "test": [("Größe 1.png", "cat")],
    }
    assert listing(read_dataset(str(table))) == expected
    monkeypatch.chdir(tmp_path)
    assert listing(read_dataset(table.name)) == expected
    unsplit = write_table(tmp_path / f"unsplit{suffix}", [{"path": row["path"], "label": 3} for row in ROWS])
    assert listing(read_dataset(unsplit)) == {
        "train": [(name, "3") for name in sorted(row["path"] for row in ROWS)],
        "val": [],
        "test": [],
    }


def test_rows_without_a_usable_file_are_bad_files(tmp_path: Path, suffix: str) -> None:
    root = write(tmp_path / "data", "good.jpg", "far.jpg/x")
    write(tmp_path, "secret.jpg", "elsewhere/x.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    paths = ["absent.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "far.jpg", "link.jpg", "folder/x.jpg", ".."]
    paths += ["good.jpg/x.jpg", "n" * 300 + ".jpg"]
    paths += ["nul\0.jpg"] if suffix == ".parquet" else []  # the csv module of Python 3.10 refuses it
    rows = [{"path": path, "label": "a"} for path in ["good.jpg", *paths]]
    dataset = read_dataset(write_table(root / f"images{suffix}", rows))
    assert listing(dataset)["train"] == [("good.jpg", "a")]
    found = [file.reason.split(" (")[0] for file in dataset.bad]
    assert [file.name for file in dataset.bad] == [str(root / path) for path in paths]
    up, elsewhere, secret = (
        f"leads to {tmp_path / name}, outside of {root}" for name in ("", "elsewhere", "secret.jpg")
    )
    assert found[:4] == ["no such file", up, up, "a folder, not a file"]
    assert found[4:7] == [secret, elsewhere, up]
    assert found[7:9] == ["Not a directory", "File name too long"] and all("null" in reason for reason in found[9:])
    assert ("row 2)" if suffix == ".parquet" else "line 3)") in dataset.bad[0].reason


def test_all_faults_of_a_table_are_listed(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, *(f"{i}.jpg" for i in range(5)), "deep/5.jpg")
    rows = [
        {"path": "0.jpg", "label": "a", "split": "train"},
        {"path": "1.jpg", "label": "a", "split": "trian"},
        {"path": "2.jpg", "label": "", "split": "train"},
        {"path": "", "label": "a", "split": "train"},
        {"path": "deep/../0.jpg", "label": "b", "split": "test"},
        {"path": "3.jpg", "label": "c", "split": "val"},
        {"path": "gone.jpg", "label": "a", "split": "val"},
    ]
    table = write_table(tmp_path / f"images{suffix}", rows)
    with pytest.raises(ValueError) as caught:
        read_dataset(table)
    at = [f"row {i}" if suffix == ".parquet" else f"line {i + 1}" for i in range(8)]
    assert str(caught.value).split("\n  ") == [
        f"{table}: {at[2]}: split: expected one of train, val, valid, validation, test, got 'trian'",
        f"{table}: {at[3]}: has no label",
        f"{table}: {at[4]}: has no path",
        f"{tmp_path / '0.jpg'}: listed twice, in class a of train ({at[1]}) and in class b of test ({at[5]})",
        f"{table}: class c has no training image",
        f"{tmp_path / 'gone.jpg'}: no such file ({table}, {at[7]})",
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "expected the columns path, label and perhaps split, got"),
        ("a.csv", b"a.jpg,cat\n", "expected the columns path, label and perhaps split, got a.jpg, cat"),
        ("a.csv", b"path,label\n", "a.csv: no images"),
        ("a.csv", b"path,label\nx.jpg\n", "line 2: has no label"),
        ("a.csv", b'path,label\n"x.jpg,a\n', "line 2: unexpected end of data"),
        ("a.csv", b"path,label\n\xff.jpg,a\n", "expected text in UTF-8"),
        ("a.csv", None, "a.csv: no such file"),
        ("a.parquet", b"not a table", "not a Parquet file that pyarrow reads"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError if content is not None else FileNotFoundError, match=expected):
        read_dataset(tmp_path / name)


def test_what_spreadsheets_write_is_a_table(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbfpath,label\r\n1.jpg,a\r\n\r\n2.jpg,b\r\n")
    assert listing(read_dataset(tmp_path / "a.CSV"))["train"] == [("1.jpg", "a"), ("2.jpg", "b")]
