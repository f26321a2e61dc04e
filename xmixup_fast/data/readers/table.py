"""Reads datasets that are tables of paths and labels: CSV, TSV and Parquet files."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ..dataset import BadFile, Dataset, FileImage, Findings
from ..layout import (
    SPLITS,
    is_missing,
    joins_others,
    name_splits,
    several_labels,
    some,
    split_faults,
    split_guesses,
    why_missing,
    why_several,
)
from .listing import Entry, Root, collect

COLUMNS = ("path", "label", "split")
EXAMPLES = 3
"""How many rows a message names."""

_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""The line by which Excel names the delimiter, before the header."""

_Row = tuple[str, dict[str, str]]
"""Where a row is, such as "line 7", and its cells by column, without spaces around labels and splits; "" for none."""


def read_table(path: str | Path, needs_train: bool = True) -> Dataset:
    """Lists the images of a table with the columns path, label and, optionally, split. Other columns are ignored.

    Spaces and case of the columns' names do not matter. Cells of text tables are separated by commas, semicolons,
    tabs or vertical bars, or as Excel's first line ``sep=;`` says. Paths are relative to the table's folder, or
    absolute; where there is no such file, backslashes are taken for slashes. Without the column split, all images are
    in train. Rows that repeat path, label and split are the image's weight. Bad files are files that are missing or not
    regular. ``needs_train`` tells whether each class needs a training image.

    Raises FileNotFoundError where there is no such table, and ValueError for a table that is malformed or lacks a
    column, and, listing all faults, for rows without a path or label or with an unknown split, two names for one split,
    a class without a training image, or a file with two labels or splits.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    files = _Files(path)
    rows = list(_rows(path))
    has_splits = bool(rows) and "split" in rows[0][1]
    splits = name_splits(dict.fromkeys(row["split"].casefold() for _, row in rows)) if has_splits else {}
    faults = split_faults(path, splits, needs_train)
    entries: list[Entry] = []
    bad: list[BadFile] = []
    classes: list[str] = []
    several = _several_labels(rows)
    faults += (f"{path}: {fault}" for fault in _several_said(rows, several))
    for where, row in rows:
        wrong = _wrong_cells(row)
        faults += (f"{path}: {where}: {fault}" for fault in wrong)
        if wrong or row["label"] in several:
            continue
        classes.append(row["label"])
        found = files.find(row["path"])
        if isinstance(found, BadFile):
            bad.append(BadFile(found.name, f"{found.reason} ({path}, {where})"))
        else:
            split = splits[row["split"].casefold()] if has_splits else "train"
            entries.append(Entry(found, row["label"], split, where))
    findings = Findings(guesses=[*split_guesses(path, splits), *files.said()])
    root = str(files.root.path)
    return collect(
        str(path),
        entries,
        bad,
        root=root,
        classes=classes,
        faults=faults,
        findings=findings,
        needs_train=needs_train,
    )


def read_paths(path: Path) -> Iterator[FileImage | BadFile]:
    """Yields the images that the column path of a table names, in its order; labels and splits need not be there.

    Raises ValueError for a table that cannot be read, or has no column path or two of them.
    """
    files = _Files(path)
    for where, cell in _path_cells(path):
        found = files.find(cell) if cell.strip() else BadFile(str(path), "has no path")
        yield BadFile(found.name, f"{found.reason} ({path}, {where})") if isinstance(found, BadFile) else found


def _path_cells(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the cells of a table's column path, with where each is."""
    names = _column_names(path)
    columns = list(map(_column, names))
    if columns.count("path") != 1:
        found = some(map(str.strip, names), 10) or "no column"
        raise ValueError(f"{path}: expected one column path, got {found}: let the first line name the columns")
    at = columns.index("path")
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as table:
            rows = (row for batch in table.iter_batches(columns=[names[at]]) for row in batch.to_pylist())
            for number, cell in enumerate((row[names[at]] for row in rows), start=1):
                yield f"row {number}", "" if cell is None else str(cell)
        return
    for line, cells in islice(_lines(path), 1, None):
        if cells:
            yield f"line {line}", cells[at] if at < len(cells) else ""


def is_table(path: Path) -> bool:
    """Whether a file has columns of paths and labels."""
    with suppress(ValueError, OSError):
        return bool(_places(path, _column_names(path)))
    return False


def column_names(path: Path) -> list[str]:
    """The names of the columns that :func:`read_table` ignores. Raises ValueError and OSError for what is no table."""
    return [name.strip() for name in _column_names(path) if _column(name) not in COLUMNS]


def read_column(path: Path, column: str, setting: str) -> Iterator[tuple[str, str]]:
    """Yields the name of each image that a table lists and its cell in a column, without spaces around it.

    Rows whose image is not there are passed over. Raises ValueError, which names the ``setting``, where there is no
    such column, or two, and what :func:`read_table` raises for a table that cannot be read.
    """
    names = list(map(_column, _column_names(path)))
    if names.count(_column(column)) != 1:
        others = some(column_names(path), 10) or "no others"
        count = names.count(_column(column))
        raise ValueError(f"{setting}: {path}: expected one column {column}, got {count}; it has {others}")
    at, paths = names.index(_column(column)), names.index("path")
    files = _Files(path)
    for image, cell in _cells(path, paths, at):
        found = files.find(image)
        if isinstance(found, FileImage):
            yield found.name, cell.strip()


def _cells(path: Path, first: int, second: int) -> Iterator[tuple[str, str]]:
    """Yields the cells of each row of a table in two of its columns; "" for none."""
    if path.suffix.lower() != ".parquet":
        lines = _lines(path)
        next(lines)
        for _, cells in lines:
            if cells:
                padded = [*cells, *[""] * max(first, second)]
                yield padded[first], padded[second]
        return
    with _parquet_file(path) as table:
        columns = [table.schema_arrow.names[at] for at in (first, second)]
        for batch in table.iter_batches(columns=columns):
            for row in batch.to_pylist():
                image, cell = ("" if row[name] is None else str(row[name]) for name in columns)
                yield image, cell


class _Files:
    """Finds the files that a table names."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.root = Root(table.parent)
        self._respelled: list[str] = []

    def find(self, text: str) -> FileImage | BadFile:
        """The file at a path; where there is none, at the path without spaces around it and with slashes."""
        first = self.root.file(self.root.path / text, confined=False)
        if isinstance(first, FileImage):
            return first
        for path in dict.fromkeys((text.strip(), text.strip().replace("\\", "/"))):
            found = self.root.file(self.root.path / path, confined=False)
            if isinstance(found, FileImage):
                self._respelled.append(text)
                return found
        return first

    def said(self) -> list[str]:
        """Lines on links that lead out, and on paths that were found under another spelling."""
        if not self._respelled:
            return self.root.said()
        count = len(self._respelled)
        line = f"{self.table}: {count} path{'s' * (count > 1)} read without spaces, or with slashes for backslashes: "
        line += ascii(self._respelled[0])
        return [*self.root.said(), line]


def _several_labels(rows: list[_Row]) -> set[str]:
    """The labels that are several: by their signs, or joined by commas of labels that other rows have.

    Other labels with commas are one class each, as ImageNet's are: tench, Tinca tinca.
    """
    labels = {row["label"] for _, row in rows}
    return {label for label in labels if several_labels(label) or joins_others(label, labels, ",")}


def _several_said(rows: list[_Row], several: set[str]) -> Iterator[str]:
    """Yields a message where cells hold several labels, with their number and the first ones."""
    found = [f"{where} {row['label']!r}" for where, row in rows if row["label"] in several]
    if found:
        yield f"label: {why_several()} in {len(found)} of {len(rows)} rows: {some(found, EXAMPLES)}"


def _wrong_cells(row: dict[str, str]) -> list[str]:
    """What is wrong with the cells of a row, besides several labels in one."""
    absent = [name for name in ("path", "label") if not row[name].strip()]
    wrong = [f"has no {' and no '.join(absent)}"] if absent else []
    if row["path"].strip() and is_missing(row["path"]):
        wrong.append(
            f"path: expected a file, got {row['path']!r}, which programs write where a value is missing: fill it in, "
            "or remove the row"
        )
    if row["label"] and is_missing(row["label"]):
        wrong.append(f"label: {why_missing(row['label'])}")
    split = row.get("split", "train")
    if is_missing(split):
        found = repr(split) if split else "an empty cell"
        wrong.append(f"split: expected train, val or test, got {found}: fill it in, or remove the row or the column")
    elif split.casefold() not in SPLITS:
        wrong.append(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return wrong


def _rows(path: Path) -> Iterator[_Row]:
    """Yields each row. Raises ValueError for a table that cannot be read, or lacks a column."""
    return _parquet_rows(path) if path.suffix.lower() == ".parquet" else _text_rows(path)


def _column_names(path: Path) -> list[str]:
    """The names of a table's columns. Raises ValueError and OSError for a file that is no table."""
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as table:
            return list(table.schema_arrow.names)
    return next(_lines(path), (1, []))[1]


def _text_rows(path: Path) -> Iterator[_Row]:
    """Yields each row of a CSV or TSV file, with the number of its last line."""
    lines = _lines(path)
    _, names = next(lines, (1, []))
    places = _places(path, names)
    for line, cells in lines:
        if any(cells[len(names) :]):
            raise ValueError(
                f"{path}: line {line}: expected {len(names)} cells, got {len(cells)}: put a cell that holds the "
                "delimiter in quotes"
            )
        if cells:
            row = {name: cells[at] if at < len(cells) else "" for name, at in places.items()}
            yield f"line {line}", {name: cell if name == "path" else cell.strip() for name, cell in row.items()}


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the cells of each row of a text table, the header first, with the number of the row's last line.

    The text is UTF-8, with or without a byte order mark, or UTF-16 with one, as spreadsheets write it.
    """
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    line = 1
    try:
        with path.open(newline="", encoding="utf-16" if is_utf16 else "utf-8-sig") as text:
            header = text.readline()
            named = _SEPARATOR.fullmatch(header.rstrip("\r\n"))
            delimiter = named[1] if named else _delimiter(header)
            before = 1 if named else 0
            if not named:
                text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
            while True:
                line = before + reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                yield before + reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{path}: line {line}: {error}") from error
    except UnicodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error}); save the table as UTF-8") from error


def _delimiter(header: str) -> str:
    """The delimiter that finds the most of our columns in the first line; a comma where none does."""

    def found(delimiter: str) -> int:
        cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        return len(set(map(_column, cells)) & set(COLUMNS))

    return max(",;\t|", key=found)


def _parquet_rows(path: Path) -> Iterator[_Row]:
    """Yields each row of a Parquet file, with its number, counted from 1."""
    with _parquet_file(path) as table:
        names = table.schema_arrow.names
        columns = {name: names[at] for name, at in _places(path, names).items()}
        count = 0
        for batch in table.iter_batches(columns=list(columns.values())):
            for cells in batch.to_pylist():
                count += 1
                row = {name: "" if cells[column] is None else str(cells[column]) for name, column in columns.items()}
                yield f"row {count}", {name: cell if name == "path" else cell.strip() for name, cell in row.items()}


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """Opens a Parquet file. Raises ValueError where it cannot be read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file that pyarrow reads ({error})") from error


def _column(name: str) -> str:
    return name.strip().casefold()


def _places(path: Path, names: list[str]) -> dict[str, int]:
    """The position of each of our columns. Raises ValueError where one is missing, or there twice."""
    columns = list(map(_column, names))
    twice = [name for name in COLUMNS if columns.count(name) > 1]
    if twice or not {"path", "label"} <= set(columns):
        found = f"{twice[0]} twice: " if twice else ""
        raise ValueError(
            f"{path}: expected the columns path, label and perhaps split, got {found}"
            f"{some(map(str.strip, names), 10) or 'no column'}: let the first line name them, with commas, "
            "semicolons, tabs or | between them"
        )
    return {name: columns.index(name) for name in COLUMNS if name in columns}
