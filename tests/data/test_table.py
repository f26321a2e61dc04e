"""Tables of paths and labels: which images are listed, and which tables are refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import listing, write, write_table

from xmixup_fast.data.bad_files import list_bad
from xmixup_fast.data.layout import SPLITS
from xmixup_fast.data.sources import read_dataset

ROWS = [
    {"path": "a/1.jpg", "label": "cat", "split": "train"},
    {"path": "a/2.jpg", "label": "çay, 大", "split": "train"},
    {"path": "a/3.jpg", "label": "cat", "split": "valid"},
    {"path": "Größe 1.png", "label": "cat", "split": "test"},
]


@pytest.fixture(params=[".csv", ".tsv", ".parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
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
    (root / "link.jpg").symlink_to(tmp_path / "absent.jpg")
    paths = ["absent.jpg", "far.jpg", "link.jpg", "..", "good.jpg/x.jpg", "n" * 300 + ".jpg"]
    paths += ["nul\0.jpg"] if suffix == ".parquet" else []  # the csv module of Python 3.10 refuses it
    rows = [{"path": path, "label": "a"} for path in ["good.jpg", *paths]]
    dataset = read_dataset(write_table(root / f"images{suffix}", rows))
    assert listing(dataset)["train"] == [("good.jpg", "a")]
    found = [file.reason.split(" (")[0] for file in dataset.bad]
    assert [file.name for file in dataset.bad] == [str(root / path) for path in paths]
    folder = "a folder, not a file"
    assert found[:6] == ["no such file", folder, "no such file", folder, "Not a directory", "File name too long"]
    assert all("null" in reason for reason in found[6:])
    assert ("row 2)" if suffix == ".parquet" else "line 3)") in dataset.bad[0].reason


def test_tables_and_links_may_lead_anywhere(tmp_path: Path, suffix: str) -> None:
    root = write(tmp_path / "data", "good.jpg", "sub/in.jpg")
    far = write(tmp_path, "up.jpg", "elsewhere/x.jpg", "elsewhere/y.jpg") / "elsewhere"
    (root / "link.jpg").symlink_to(tmp_path / "up.jpg")
    (root / "folder").symlink_to(far)
    (far / "linked.jpg").symlink_to(tmp_path / "up.jpg")
    paths = ["good.jpg", "sub/../sub/in.jpg", "../up.jpg", str(far / "x.jpg"), "folder/y.jpg", "link.jpg"]
    paths.append(str(far / "linked.jpg"))
    dataset = read_dataset(write_table(root / f"images{suffix}", [{"path": path, "label": "a"} for path in paths]))
    names = {dataset.name_of(sample.image) for sample in dataset.train} - {str(far / "linked.jpg")}
    assert len(dataset.train) == len(paths)
    assert names == {"good.jpg", "sub/in.jpg", str(tmp_path / "up.jpg"), str(far / "x.jpg"), f"{far}/y.jpg", "link.jpg"}
    assert not dataset.bad
    (said,) = dataset.findings.guesses
    assert said.startswith(f"{root}: 2 links lead out of it and are followed, such as {root}/folder -> {far}")


def test_rows_that_repeat_an_image_are_its_weight(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = [("1.jpg", "a"), ("2.jpg", "b"), ("./1.jpg", " a"), ("x/../1.jpg", "a"), ("3.jpg", "b")]
    (tmp_path / "x").mkdir()
    table = write_table(tmp_path / f"t{suffix}", [{"path": path, "label": label} for path, label in rows])
    dataset = read_dataset(table)
    assert {dataset.name_of(s.image): (s.label, s.weight) for s in dataset.train} == {
        "1.jpg": (0, 3),
        "2.jpg": (1, 1),
        "3.jpg": (1, 1),
    }
    assert (
        f"{table}: 1 listed several times, which training shows as often: {tmp_path}/1.jpg" in dataset.findings.guesses
    )
    both = read_dataset(
        [
            str(table),
            str(
                write_table(tmp_path / "other.csv", [{"path": write(tmp_path / "o", "4.jpg") / "4.jpg", "label": "c"}])
            ),
        ]
    )
    assert sorted(sample.weight for sample in both.train) == [1, 1, 1, 3]


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
        f"{table}: {at[2]}: split: expected one of {', '.join(SPLITS)}, got 'trian'",
        f"{table}: {at[3]}: has no label",
        f"{table}: {at[4]}: has no path",
        f"{tmp_path / '0.jpg'}: listed twice, in class a of train ({at[1]}) and in class b of test ({at[5]})",
        f"{tmp_path / 'gone.jpg'}: no such file ({table}, {at[7]})",
        f"{table}: class b has no training image",
        f"{table}: class c has no training image, but 1 in val: add some to train, or take the class out",
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
        (
            "a.csv",
            b"path,label\nx.jpg,a, b\n",
            "line 2: expected 2 cells, got 3: put a cell that holds the delimiter in",
        ),
        ("a.csv", b"path,label, Label\n", "expected the columns .* got label twice: path, label, Label"),
        (
            "a.csv",
            b"path,label\n\nx.jpg,NaN\n",
            "line 3: label: expected a class, got 'NaN', which programs write where",
        ),
        ("a.csv", b"path,label\nnan,a\n", "line 2: path: expected a file, got 'nan'"),
        ("a.csv", b"path,label\nx.jpg, \n", "line 2: has no label"),
        (
            "a.csv",
            b"path,label,split\nx.jpg,a,\n",
            "line 2: split: expected train, val or test, got an empty cell: fill",
        ),
        ("a.csv", b"path,label,split\nx.jpg,a,NaN\n", "line 2: split: expected train, val or test, got 'NaN': fill"),
        (
            "a.csv",
            b"path label\nx.jpg a\n",
            r"got path label: let the first line name them, with commas, semicolons, tabs or \|",
        ),
        ("a.csv", b"sep=;\npath;label\nx.jpg;\n", "line 3: has no label"),
        ("a.csv", b"path,label,split\nx.jpg,a,dev\ny.jpg,a,val\n", "dev and val are both a val split"),
        ("a.csv", b"path,label,split\nx.jpg,a,test\n", "has test but no train split"),
        ("a.csv", None, "a.csv: no such file"),
        ("a.parquet", b"not a table", "not a Parquet file that pyarrow reads"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError if content is not None else FileNotFoundError, match=expected):
        read_dataset(tmp_path / name)


def test_what_spreadsheets_write_is_a_table(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbfpath,label\r\n1.jpg,a\r\n\r\n2.jpg,b\r\n")
    assert listing(read_dataset(tmp_path / "a.CSV"))["train"] == [("1.jpg", "a"), ("2.jpg", "b")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.TSV"])
@given(data=st.data())
def test_tables_are_read_however_programs_write_them(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Delimiter, header, byte order mark, index column, line ends and quotes do not matter."""
    root = write(tmp_path_factory.mktemp("t"), "a/1.jpg", "a/2, x.jpg", "3.jpg")
    draw = data.draw
    delimiter, end = draw(st.sampled_from([",", ";", "\t", "|"])), draw(st.sampled_from(["\n", "\r\n"]))
    columns = ["path", "label", "split"]
    rows = [["a/1.jpg", "cat", "Train"], ["a/2, x.jpg", "dog, big", "training"], ["3.jpg", " cat ", "TEST"]]
    rows[1][2] = "train"
    header = [draw(st.sampled_from([c, c.upper(), f" {c}", f"{c} "])) for c in columns]
    table = [header, *rows]
    if draw(st.booleans()):
        unnamed = draw(st.sampled_from(["", "Unnamed: 0", "index"]))
        table = [[str(i - 1) if i else unnamed, *row] for i, row in enumerate(table)]
    order = draw(st.permutations(range(len(table[0]))))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows([[row[i] for i in order] for row in table])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    excels = draw(st.sampled_from(["", f"sep={delimiter}{end}", f'"SEP={delimiter}"{end}']))
    (root / name).write_bytes((excels + text.getvalue()).encode(encoding))
    assert listing(read_dataset(root / name)) == {
        "train": [("a/1.jpg", "cat"), ("a/2, x.jpg", "dog, big")],
        "val": [],
        "test": [("3.jpg", "cat")],
    }


SEVERAL = [
    *("cat;dog", "cat|dog", "cat; dog", "cat |dog", ";cat", "a;b|c"),
    *("['cat', 'dog']", "['cat']", "['cat' 'dog']", "[1, 2]", "[1 0]", "[3]"),  # as Python and NumPy write lists
    *("('cat', 'dog')", "{'cat', 'dog'}", "{'cat': 1}", "(1, 2)", "{1: 0.5, 2: 0.5}"),
]


def test_several_labels_in_a_cell_are_refused_with_their_number(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    for label in SEVERAL:
        rows = [{"path": f"{i}.jpg", "label": label if i > 1 else "cat"} for i in (1, 2, 3)]
        with pytest.raises(
            ValueError, match=r"t\.\w+: label: expected one class for each image, got several"
        ) as caught:
            read_dataset(write_table(tmp_path / f"t{suffix}", rows))
        first = "row 2" if suffix == ".parquet" else "line 3"
        assert f"in 2 of 3 rows: {first} {label!r}, " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("joined", ["cat,dog", "dog, cat", "cat,dog,cow", "cow,cow ,dog"])
def test_labels_that_commas_join_of_others_are_several(tmp_path: Path, suffix: str, joined: str) -> None:
    labels = ["cat", joined, "dog", "cow", "cat, grey"]
    write(tmp_path, *(f"{i}.jpg" for i in range(len(labels))))
    table = write_table(
        tmp_path / f"t{suffix}", [{"path": f"{i}.jpg", "label": label} for i, label in enumerate(labels)]
    )
    with pytest.raises(ValueError, match="label: expected one class for each image, got several") as caught:
        read_dataset(table)
    assert "in 1 of 5 rows" in str(caught.value) and repr(joined) in str(caught.value)


def test_lists_of_labels_in_parquet_are_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table as write_parquet

    write(tmp_path, "1.jpg", "2.jpg")
    columns = {"path": ["1.jpg", "2.jpg"], "label": [["cat", "dog"], ["cat"]]}
    write_parquet(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"got several, .* in 2 of 2 rows: row 1 \"\['cat', 'dog'\]\""):
        read_dataset(tmp_path / "t.parquet")


def test_labels_with_other_signs_are_classes(tmp_path: Path, suffix: str) -> None:
    names = [
        "cat, grey",
        "cat/dog",
        "a & b",
        "[unknown]",
        "(none)",
        "(red, ripe)",
        "x: y",
        "tench, Tinca tinca",
        "cat,",
    ]
    write(tmp_path, *(f"{i}.jpg" for i in range(len(names))))
    rows = [{"path": f"{i}.jpg", "label": name} for i, name in enumerate(names)]
    assert read_dataset(write_table(tmp_path / f"t{suffix}", rows)).classes == sorted(names)


MISSING = [
    # what pandas reads as missing, besides an empty cell: pandas.io.parsers.readers.STR_NA_VALUES
    *(
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
    ),
    *("NaN", "None", "n/a", "nan", "null"),
    *(" n/a ", "NaT", "nil", r"\N", "#VALUE!", "#DIV/0!", "#REF!", "#NAME?"),  # databases and spreadsheets
]


@pytest.mark.parametrize("column", ["path", "label", "split"])
def test_what_programs_write_for_a_missing_value_is_none(tmp_path: Path, suffix: str, column: str) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    for missing in MISSING:
        rows = [{"path": f"{i}.jpg", "label": "a", "split": "train"} for i in (1, 2)]
        rows[1][column] = missing
        with pytest.raises(ValueError, match=rf"(line 3|row 2): {column}: expected .*, got .*: fill it in") as caught:
            read_dataset(write_table(tmp_path / f"t{suffix}", rows))
        assert "\n" not in str(caught.value)
        assert (column == "label") == ("if it is a class, rename the class" in str(caught.value))


def test_long_lists_are_cut(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": f"{i}.jpg", "label": "a" if i % 2 else "", "split": "train"} for i in range(3000)]
    with pytest.raises(ValueError) as caught:
        read_dataset(write_table(tmp_path / f"t{suffix}", rows))
    lines = str(caught.value).split("\n  ")
    assert (
        len(lines) == 23 and lines[10] == lines[21] == "... and 1490 more" and lines[22].endswith("no training image")
    )
    write(tmp_path, "1.jpg")
    dataset = read_dataset(write_table(tmp_path / f"u{suffix}", [row for row in rows if row["label"]]))
    assert len(dataset.bad) == 1499 and len(list_bad(dataset.bad).splitlines()) == 12


def test_spaces_and_backslashes_of_paths_are_forgiven_and_said(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "a/1.jpg", "a/2.jpg", "3.jpg", "b\\4.jpg")
    rows = [{"path": path, "label": "x"} for path in ("a\\1.jpg", " .\\a\\2.jpg ", "3.jpg ", "b\\4.jpg", "c\\5.jpg")]
    dataset = read_dataset(write_table(tmp_path / f"t{suffix}", rows))
    assert [name for name, _ in listing(dataset)["train"]] == ["3.jpg", "a/1.jpg", "a/2.jpg", "b\\4.jpg"]
    assert [Path(file.name).name for file in dataset.bad] == ["c\\5.jpg"]
    (said,) = dataset.findings.guesses
    assert "3 paths read without spaces, or with slashes for backslashes: 'a\\\\1.jpg'" in said


def test_missing_files_are_named_before_the_classes_that_lack_them(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "1.jpg")
    rows = [{"path": f"{i}.jpg", "label": "cat" if i == 1 else "dog"} for i in range(1, 7)]
    table = write_table(tmp_path / f"t{suffix}", rows)
    with pytest.raises(ValueError) as caught:
        read_dataset(table)
    *missing, last = str(caught.value).split("\n  ")
    assert [line.partition(":")[0] for line in missing] == [f"{tmp_path}/{i}.jpg" for i in range(2, 7)]
    assert all("no such file" in line for line in missing) and last == f"{table}: class dog has no training image"


def test_labels_that_differ_in_spaces_or_unicode_are_one_class_and_said(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = [{"path": f"{i}.jpg", "label": label} for i, label in enumerate((" cat", "\u00e9", "e\u0301"), start=1)]
    dataset = read_dataset(write_table(tmp_path / f"t{suffix}", rows))
    assert dataset.classes == ["cat", "\u00e9"]
    (said,) = dataset.findings.guesses
    assert said.endswith(": class \u00e9 joins 'e\\u0301', '\\xe9'")
