"""The index of tar shards: a Parquet file that tells which images each class has, and where they lie in which shard.

Rows are sorted by class, shard and offset. Row groups are cut at classes, and the metadata hold each class's number of
images: so the end of the file tells where a class is, and only the groups of the classes that are asked for are read.
The key ``xmixup_fast`` of the metadata holds JSON: ``format`` (1), ``folder`` (where the shards are; null if they lie
beside the index), ``classes`` (images by class) and ``shards`` (size and, where it is known, md5 or etag by name).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from ...runtime.files import atomic_write
from ..layout import some
from .columns import INDEX_KEY, Columns
from .files import RemoteFiles

NAME = "index.parquet"
"""Name of the index of a folder of shards."""
_COLUMNS = ("class", "shard", "member", "offset", "size")
_GROUP_ROWS = 1000
"""Rows of a row group, at least, but for the last one."""


class Row(NamedTuple):
    """An image in a shard."""

    class_name: str
    shard: str
    """Name of the shard below the folder of the shards, with slashes."""
    member: str
    offset: int
    """Position of the image's first byte in the shard. Its tar header is in the 512 bytes before."""
    size: int
    """Number of bytes."""


def write_index(
    path: Path, rows: Iterable[Row], shards: Mapping[str, Mapping[str, int | str]], folder: str | None = None
) -> None:
    """Writes an index, in one piece.

    Args:
        path: the file.
        rows: the images, in any order.
        shards: of each shard ``size`` and, where it is known, ``md5`` or ``etag``.
        folder: of the shards, a path or URL, if it is not the index's.
    """
    from pyarrow import parquet

    rows = sorted(rows, key=lambda row: (row.class_name, row.shard, row.offset))
    classes = Counter(row.class_name for row in rows)
    about = {"format": 1, "folder": folder, "classes": dict(classes), "shards": shards}
    schema = _schema().with_metadata({INDEX_KEY: json.dumps(about, ensure_ascii=False, separators=(",", ":"))})
    group: list[Row] = []
    with (
        atomic_write(path) as aside,
        parquet.ParquetWriter(aside, schema, compression="zstd", write_statistics=False) as writer,
    ):
        for _, same in groupby(rows, key=lambda row: row.class_name):
            group += same
            if len(group) >= _GROUP_ROWS:
                writer.write_table(_table(group, schema), row_group_size=len(group))
                group = []
        if group:
            writer.write_table(_table(group, schema), row_group_size=len(group))


def _schema() -> Any:
    """Names and types of the columns."""
    import pyarrow

    kinds = [pyarrow.string()] * 3 + [pyarrow.int64()] * 2
    return pyarrow.schema(list(zip(_COLUMNS, kinds, strict=True)))


def _table(rows: Sequence[Row], schema: Any) -> Any:
    import pyarrow

    return pyarrow.table([list(column) for column in zip(*rows, strict=True)], schema=schema)


@dataclass(frozen=True)
class Index:
    """An index whose end has been read; its rows have not."""

    name: str
    classes: list[str]
    """Sorted class names."""
    counts: list[int]
    """Images of each class."""
    shards: dict[str, dict[str, Any]]
    """``size`` of each shard by its name, and ``md5`` or ``etag`` where it is known."""
    folder: str | None
    """Where the shards are; None if they lie beside the index."""
    _files: RemoteFiles
    _columns: Columns

    @classmethod
    def open(cls, files: RemoteFiles, path: str) -> Index:
        """Reads the end of an index. Raises OSError, and ValueError for a file that is no index, or is damaged."""
        columns = Columns(files, files.info(path))
        if not columns.is_index or columns.schema.remove_metadata() != _schema():
            expected, names = "expected an index that xmixup index wrote", some(columns.schema.names, 10)
            raise ValueError(f"{columns.name}: {expected}, got a table of {names or 'no column'}")
        counts, shards = {}, {}
        try:
            about = json.loads(columns.texts[INDEX_KEY])
            version, folder = about["format"], about["folder"]
            if version == 1:
                counts = {name: int(count) for name, count in about["classes"].items()}
                shards = {name: {**told, "size": int(told["size"])} for name, told in about["shards"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{columns.name}: damaged metadata ({error!r}): write it with xmixup index anew"
            ) from error
        if version != 1:
            raise ValueError(f"{columns.name}: has format {version}, but this version reads 1: update it")
        return cls(columns.name, list(counts), list(counts.values()), shards, folder, files, columns)

    def counts_of(self, shards: Collection[str]) -> dict[str, int]:
        """Images of each class in some shards, sorted by class; classes without any are left out.

        Reads nothing for all shards, and else two columns. Raises OSError, and ValueError where the index is damaged.
        """
        if len(shards) == len(self.shards):
            return dict(zip(self.classes, self.counts, strict=True))
        read = self._read(range(len(self._columns.rows)), _COLUMNS[:2])
        found = Counter(name for rows in read.values() for name, shard in rows if shard in shards)
        return {name: found[name] for name in self.classes if name in found}

    def rows(self, labels: Sequence[int], limit: int | None, shards: Collection[str] | None = None) -> list[Row]:
        """The first ``limit`` images, or all, of some classes. ``labels`` are positions in ``classes``.

        Where ``shards`` are given, images of other listed shards are left out. Reads only the row groups of these
        classes. Raises OSError, and ValueError where the index is damaged.
        """
        ends, group_ends = list(accumulate(self.counts)), list(accumulate(self._columns.rows))
        groups = {label: bisect_left(group_ends, ends[label]) for label in labels}
        if any(group == len(group_ends) for group in groups.values()):
            raise ValueError(f"{self.name}: damaged: has {sum(self._columns.rows)} rows, and should have {ends[-1]}")
        read = self._read(sorted(set(groups.values())), _COLUMNS)
        of_group = {group: [Row(*row) for row in rows] for group, rows in read.items()}
        found: list[Row] = []
        for label, group in groups.items():
            start = ends[label] - self.counts[label] - group_ends[group] + self._columns.rows[group]
            rows = of_group[group][max(start, 0) : start + self.counts[label]]
            is_complete = [row.class_name for row in rows] == [self.classes[label]] * self.counts[label]
            if not is_complete or any(None in row for row in rows):
                raise ValueError(f"{self.name}: damaged: its rows of {self.classes[label]} are not where it says")
            wanted = (row for row in rows if shards is None or row.shard in shards or row.shard not in self.shards)
            found += islice(wanted, limit)
        return found

    def _read(self, groups: Sequence[int], names: Sequence[str]) -> dict[int, list[tuple[Any, ...]]]:
        """The values of some columns in the rows of some row groups."""
        ranges = [one for group in groups for one in self._columns.ranges(group, names)]
        data = {ranges[i].begin: part for i, part in self._files.read_ranges(ranges)}
        columns = {group: self._columns.values(group, names, data) for group in groups}
        return {group: list(zip(*values, strict=True)) for group, values in columns.items()}
