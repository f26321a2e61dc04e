"""Reads datasets that are tables of paths and labels: CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..dataset import BadFile, Dataset
from .folder import SPLITS
from .listing import Entry, Root, collect

SUFFIXES = {".csv", ".tsv", ".parquet"}
"""How the names of tables end, in lower case."""


def read_table(path: str | Path) -> Dataset:
    """Lists the images of a table with the columns path, label and, optionally, split. Other columns are ignored.

    Paths are relative to the table's folder. Without the column split, all images are in train. Bad files are files
    that are missing, not regular, or outside of the table's folder.

    Raises FileNotFoundError where there is no such table, and ValueError for a Parquet file without pyarrow, for a
    table that is malformed or lacks a column, and, listing all faults, for rows without a path or label or with an
    unknown split, a class without a training image, or a file in two rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    root = Root(path.parent)
    entries: list[Entry] = []
    bad: list[BadFile] = []
    faults: list[str] = []
    for where, row in _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path):
        split = SPLITS.get(str(row.get("split", "train")).lower())
        if split is None:
            faults.append(f"{path}: {where}: split: expected one of {', '.join(SPLITS)}, got {row['split']!r}")
        absent = [name for name in ("path", "label") if row[name] in (None, "")]
        if absent:
            faults.append(f"{path}: {where}: has no {' and no '.join(absent)}")
        if split is None or absent:
            continue
        found = root.file(root.path / str(row["path"]))
        if isinstance(found, BadFile):
            bad.append(BadFile(found.name, f"{found.reason} ({path}, {where})"))
        else:
            entries.append(Entry(found, str(row["label"]), split, where))
    return collect(str(path), entries, bad, root=str(root.path), faults=faults)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row, as values by column, with the number of its last line in the file."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            _check_columns(path, list(rows.fieldnames or []))
            for row in rows:
                yield f"line {rows.line_num}", row
        except csv.Error as error:
            raise ValueError(f"{path}: line {rows.reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8 ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row, as values by column, with its number, counted from 1."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install 'xmixup_fast[parquet]'") from error
    try:
        table = ParquetFile(path)
        names = table.schema_arrow.names
        _check_columns(path, names)
        count = 0
        for batch in table.iter_batches(columns=[name for name in names if name in ("path", "label", "split")]):
            for row in batch.to_pylist():
                count += 1
                yield f"row {count}", row
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file that pyarrow reads ({error})") from error


def _check_columns(path: Path, names: list[str]) -> None:
    if not {"path", "label"} <= set(names):
        raise ValueError(f"{path}: expected the columns path, label and perhaps split, got {', '.join(names)}")
