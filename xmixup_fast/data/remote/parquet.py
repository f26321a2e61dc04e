"""Parquet files with a column of encoded images and one of labels, as the Hugging Face Hub holds most datasets.

pyarrow reads a column of a row group as a whole. So a plan says which row groups hold the images that are wanted, and
what else comes with them. Where the rows are sorted by class that is little. Where they are not, small files are
fetched whole, once, and large ones only if the user says so.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from ...runtime.files import readable_bytes, write_json, writing_to_cache
from ...runtime.progress import Progress
from ..catalog import Log
from ..dataset import BadFile
from ..formats import NOT_AN_IMAGE, extension_of
from ..layout import name_splits, some, split_parts
from . import shards
from .cache import Found, SafeNames, SourceFolder
from .columns import Columns
from .fetch import to_fetch
from .files import LARGEST_WHOLE, Range, RemoteFiles
from .layout import Layout, Options
from .schema import Schema
from .whole import Whole, fetch_whole

WASTE = 1.5
"""How many times the bytes of the wanted images may be read where rows are not sorted by class."""
WHOLE = "files"
"""Folder, in that of a source, of files that were fetched whole."""


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of Parquet files, of which the ends and the labels have been read.

    Args:
        files: reads them.
        paths: the files. Where their names tell splits, those of train are taken. An index of shards may be one.
        folder: may hold the files already; they are not asked for then.
        options: ``classes`` names integer labels; ``anyway`` reads however much comes with the images.
        log: gets lines for the user.

    Raises OSError, and ValueError for files that are damaged or have no such columns, or others than the first one.
    """
    paths = _of_train(files, paths, log)
    keep = folder.path / "ends"
    tables = whole(folder) or [_Table(files, Columns(files, file, keep)) for file in files.infos(paths)]
    if tables[0].columns.is_index:
        return shards.layout(files, paths[:1], folder, options, log)
    schema = Schema.of([table.columns for table in tables], options.classes)
    found = _Parquet(files.url, tables, schema, folder, anyway=options.anyway)
    if empty := schema.unused(found.classes):
        log(f"{files.url}: no rows of {some(empty)}: left out")
    return found


def whole(folder: SourceFolder) -> list[_Table] | None:
    """The files of a source that were fetched whole; None where they were not."""
    place = folder.path / WHOLE
    if not place.is_dir():  # it gets its name when all files are in it
        return None
    files = RemoteFiles(str(place))
    return [_Table(files, Columns(files, file)) for file in files.infos(map(str, sorted(place.iterdir())))]


def _of_train(files: RemoteFiles, paths: Sequence[str], log: Log) -> list[str]:
    """The paths of the train split, where names tell splits."""
    stems = {path: files.name(path).rpartition(".")[0] for path in paths}
    parts = {path: split_parts(stem) or split_parts(path.split("/")[-2:][0]) for path, stem in stems.items()}
    splits = name_splits(chain(*parts.values()))
    train = [path for path in paths if any(splits[part] == "train" for part in parts[path])]
    left = [files.name(path) for path in paths if train and path not in train]
    if left:
        log(f"{files.url}: {some(left)} left out, as not named train")
    return train or list(paths)


class _Table(NamedTuple):
    """A file, and what reads it."""

    files: RemoteFiles
    columns: Columns


class _Row(NamedTuple):
    """A row of all tables."""

    table: int
    group: int
    place: int
    """Position in the row group."""
    number: int
    """Position among all rows."""


@dataclass
class _Plan:
    """The rows that are wanted, and the row groups that hold them."""

    rows: dict[str, list[_Row]]
    """By class."""
    groups: dict[tuple[int, int], list[tuple[str, _Row]]] = field(default_factory=dict)
    """Of each table and group, the rows to fetch."""
    size: int = 0
    """Bytes of the images in these groups."""
    wanted: float = 0.0
    """Bytes of the rows, if images of a group have one size."""


class _Parquet(Layout):
    """Parquet files."""

    def __init__(self, url: str, tables: list[_Table], schema: Schema, folder: SourceFolder, *, anyway: bool) -> None:
        """Reads the labels. Raises OSError, and ValueError where they are damaged or no row has one."""
        self._url, self._tables, self._schema, self._anyway = url, tables, schema, anyway
        self.bad: list[BadFile] = []
        self._rows: dict[str, array[int]] = {}
        self._groups = [(table, group) for table, one in enumerate(tables) for group in range(len(one.columns.rows))]
        self._ends = list(accumulate(tables[table].columns.rows[group] for table, group in self._groups))
        self._names, labels = _labels(tables, schema.label, folder)
        rows = enumerate(chain.from_iterable(labels))
        reasons: dict[str, list[int]] = {}
        for number, label in rows:
            name, reason = schema.class_of(label)
            if name is None:
                reasons.setdefault(reason, []).append(number)
            else:
                self._rows.setdefault(name, array("q")).append(number)
        for reason, found in reasons.items():
            where = self._names[self._row(found[0]).table]
            self.bad.append(BadFile(where, f"rows without a class ({len(found)}, such as row {found[0]}): {reason}"))
        if not self._rows:
            raise ValueError(f"{url}: no row has a class: {self.bad[0].reason if self.bad else 'there are no rows'}")
        self.classes = sorted(self._rows)
        self.counts = [len(self._rows[name]) for name in self.classes]
        self.size = sum(self._bytes(*key) for key in self._groups)
        self._is_sorted = all(rows[-1] - rows[0] < len(rows) for rows in self._rows.values())

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        chosen = [self.classes[label] for label in labels]
        plan = self._plan(chosen, limit, folder)
        self._decide(plan, folder, log)
        reasons = self._fetch(plan, folder, log)
        for table in dict.fromkeys(table for table, _ in plan.groups):
            files, columns = self._tables[table]
            files.check_unchanged(columns.file)
        for name in chosen:
            there = _there(folder, name)
            found: list[Found] = []
            for row in plan.rows[name]:
                path, where = there.get(row.number), f"{self._names[row.table]}/{row.number}"
                found.append((path.name, path.stat().st_size) if path else BadFile(where, reasons[row.number]))
            folder.complete(name, found, limit)

    def _row(self, number: int) -> _Row:
        """Where a row is."""
        at = bisect_right(self._ends, number)
        table, group = self._groups[at]
        return _Row(table, group, number - self._ends[at] + self._tables[table].columns.rows[group], number)

    def _range(self, table: int, group: int) -> Range:
        """Where the images of a row group are."""
        (found,) = self._tables[table].columns.ranges(group, [self._schema.image])
        return found

    def _bytes(self, table: int, group: int) -> int:
        found = self._range(table, group)
        return found.end - found.begin

    def _plan(self, chosen: Sequence[str], limit: int | None, folder: SourceFolder) -> _Plan:
        """The first rows of some classes, without groups for those whose images are there."""
        plan = _Plan({name: list(map(self._row, self._rows[name][:limit])) for name in chosen})
        for name, rows in plan.rows.items():
            there = _there(folder, name)
            for row in rows:
                if row.number not in there:
                    plan.groups.setdefault((row.table, row.group), []).append((name, row))
        for (table, group), wanted in plan.groups.items():
            size = self._bytes(table, group)
            plan.size += size
            plan.wanted += size * len(wanted) / self._tables[table].columns.rows[group]
        return plan

    def _decide(self, plan: _Plan, folder: SourceFolder, log: Log) -> None:
        """Fetches the files whole where that is better than the plan.

        Raises ValueError where the plan reads far more than is wanted, and the files are large.
        """
        is_local = all(files.protocol == "file" for files, _ in self._tables)
        if is_local or self._is_sorted or self._anyway or plan.size <= WASTE * plan.wanted:
            return
        total = sum(columns.file.size for _, columns in self._tables)
        if total <= LARGEST_WHOLE:
            self._tables = _fetch_whole(self._tables, folder, log)
            return
        images = sum(map(len, plan.groups.values()))
        raise ValueError(
            f"{self._url}: its rows are not sorted by class: {images} images of {len(plan.rows)} classes, "
            f"{readable_bytes(plan.wanted)}, lie in {len(plan.groups)} of {len(self._groups)} row groups, "
            f"{readable_bytes(plan.size)}: read them with --fetch-anyway, or name another source"
        )

    def _fetch(self, plan: _Plan, folder: SourceFolder, log: Log) -> dict[int, str]:
        """Fetches the row groups of a plan; returns why rows have no image, by their number."""
        reasons: dict[int, str] = {}
        remote = [key for key in plan.groups if self._tables[key[0]].files.protocol != "file"]
        if remote:
            log(to_fetch(sum(len(plan.groups[key]) for key in remote), sum(self._bytes(*key) for key in remote)))
        with Progress(sum(self._bytes(*key) for key in remote), "fetching", unit="B") as bar:
            for files in {id(table.files): table.files for table in self._tables}.values():
                keys = [key for key in plan.groups if self._tables[key[0]].files is files]
                said: Callable[[int], object] = bar.update if files.protocol != "file" else lambda count: None
                for i, data in files.read_ranges([self._range(*key) for key in keys], said):
                    reasons |= self._keep(keys[i], data, plan.groups[keys[i]], folder)
        return reasons

    def _keep(
        self, key: tuple[int, int], data: bytes, wanted: Sequence[tuple[str, _Row]], folder: SourceFolder
    ) -> dict[int, str]:
        """Writes the wanted images of a row group; returns why others have none, by their number."""
        table, group = key
        try:
            begin = self._range(table, group).begin
            (images,) = self._tables[table].columns.values(group, [self._schema.image], {begin: data})
        except ValueError as error:
            reason = str(error).replace(self._tables[table].columns.name, self._names[table])  # not of the cache
            return {row.number: reason for _, row in wanted}
        reasons = {}
        for name, row in wanted:
            image: bytes | None = images[row.place]
            extension = extension_of(image or b"")
            if not image:
                reasons[row.number] = "no image: expected its bytes in the table"
            elif extension is None:
                reasons[row.number] = NOT_AN_IMAGE
            else:
                folder.write(name, f"{row.number:08d}{extension}", image)
        return reasons


def _there(folder: SourceFolder, name: str) -> dict[int, Path]:
    """The images of a class that are there, by the numbers of their rows.

    Empty ones, and those that are not as long as the list of the class says, are removed, so that they come anew.
    """
    place, sizes = folder.class_folder(name), folder.sizes(name)
    found: dict[int, Path] = {}
    for path in place.iterdir() if place.is_dir() else ():
        if not path.stem.isdecimal():
            continue
        size = path.stat().st_size
        if size and size == sizes.get(path.name, size):
            found[int(path.stem)] = path
        else:
            path.unlink()
    return found


def _labels(tables: Sequence[_Table], label: str, folder: SourceFolder) -> tuple[list[str], list[list[Any]]]:
    """The name of each table where it was first read, for messages, and its labels, which the folder keeps."""
    kept = folder.path / "labels.json"
    if not kept.is_file():
        found = [(columns.name, _labels_of(files, columns, label)) for files, columns in tables]
        with writing_to_cache(folder.path):
            write_json(kept, found)
    read = json.loads(kept.read_text(encoding="utf-8"))
    return [name for name, _ in read], [labels for _, labels in read]


def _labels_of(files: RemoteFiles, columns: Columns, label: str) -> list[Any]:
    """The labels of a table. Reads those alone that the statistics of row groups do not tell."""
    groups = range(len(columns.rows))
    found = [[columns.constant(group, label)] * columns.rows[group] for group in groups]
    unknown = [group for group in groups if columns.constant(group, label) is None]
    ranges = [one for group in unknown for one in columns.ranges(group, [label])]
    for i, data in files.read_ranges(ranges):
        (found[unknown[i]],) = columns.values(unknown[i], [label], {ranges[i].begin: data})
    return list(chain.from_iterable(found))


def _fetch_whole(tables: Sequence[_Table], folder: SourceFolder, log: Log) -> list[_Table]:
    """Fetches whole files, going on where that was interrupted; returns them as they are in the folder.

    Raises OSError where a file is not what its server says it is.
    """
    aside, names = folder.path / f"{WHOLE}.part", SafeNames()
    total = sum(columns.file.size for _, columns in tables)
    log(f"fetching {len(tables)} files whole, {readable_bytes(total)}, as their rows are not sorted by class")
    targets = [aside / f"{i:05d}-{names(files.name(columns.file.path))}" for i, (files, columns) in enumerate(tables)]
    fetch_whole([Whole(table.files, table.columns.file, file) for table, file in zip(tables, targets, strict=True)])
    with writing_to_cache(folder.path):
        aside.rename(folder.path / WHOLE)
    found = whole(folder)
    assert found is not None
    return found
