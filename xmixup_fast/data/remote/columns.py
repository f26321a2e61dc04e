"""Parquet files read by ranges: first their end, then chosen columns of chosen row groups, and no other byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.files import atomic_write, writing_to_cache
from .files import Range, RemoteFile, RemoteFiles
from .ranges import RangeFile

INDEX_KEY = b"xmixup_fast"
"""The text of an index of shards."""
_TAIL = 2**16
"""Bytes that are read first, from the end. What a file says of its row groups is mostly shorter."""


class Columns:
    """A Parquet file whose end has been read."""

    def __init__(self, files: RemoteFiles, file: RemoteFile, keep: Path | None = None) -> None:
        """Reads the end, which may have megabytes where it holds statistics of images.

        Args:
            files: reads the file.
            file: the file, as its server describes it.
            keep: a folder that keeps the ends of files of this version, if any.

        Raises OSError, and ValueError where it is no Parquet file.
        """
        self.name = files.shown(file.path)
        self.file = file
        import pyarrow
        from pyarrow import parquet

        kept = keep and keep / hashlib.blake2b(file.path.encode(), digest_size=16).hexdigest()
        end = kept.read_bytes() if kept and kept.is_file() else self._read_end(files)
        try:
            self._metadata = parquet.read_metadata(_pieces({file.size - len(end): end}, file.size))
            self.schema = self._metadata.schema.to_arrow_schema()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{self.name}: a Parquet file whose end is damaged: {error}") from error
        if kept and not kept.is_file():
            with writing_to_cache(kept.parent), atomic_write(kept) as aside:
                aside.write_bytes(end)
        groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
        self.rows = [group.num_rows for group in groups]
        """Rows of each row group."""

    def _read_end(self, files: RemoteFiles) -> bytes:
        """The bytes of the end, in one request or two."""
        path, size = self.file.path, self.file.size
        tail = files.read(path, max(size - _TAIL, 0), size)
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if tail[-4:] != b"PAR1" or length > size:
            raise ValueError(f"{self.name}: expected a Parquet file; it does not end as one: it may be cut short")
        return files.read(path, size - length, size - len(tail)) + tail

    @property
    def texts(self) -> dict[bytes, bytes]:
        """The texts that the file's writer added."""
        return self.schema.metadata or {}

    @property
    def is_index(self) -> bool:
        """Whether ``xmixup index`` wrote the file."""
        return INDEX_KEY in self.texts

    def constant(self, group: int, path: str) -> Any:
        """The value that all rows of a row group have in a column; None where the statistics do not tell of one."""
        row_group = self._metadata.row_group(group)
        chunks = (row_group.column(i) for i in range(row_group.num_columns))
        told: Any = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == path), None)
        is_one = told is not None and told.has_min_max and told.min == told.max and told.null_count == 0
        return told.min if is_one else None

    def ranges(self, group: int, paths: Iterable[str]) -> list[Range]:
        """Where some columns of a row group are. ``paths`` are of leaves, such as image.bytes."""
        wanted, found = set(paths), []
        row_group = self._metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if chunk.path_in_schema in wanted:
                starts = [
                    chunk.data_page_offset,
                    *([chunk.dictionary_page_offset] if chunk.has_dictionary_page else []),
                ]
                found.append(Range(self.file.path, min(starts), min(starts) + chunk.total_compressed_size))
        return found

    def values(self, group: int, paths: Sequence[str], data: Mapping[int, bytes]) -> list[list[Any]]:
        """The values of some columns of a row group.

        Args:
            group: the row group.
            paths: the leaves.
            data: the bytes of the ranges of these leaves, by where they begin.

        Returns a list of values for each leaf; the fields of a struct that is null are None. Raises ValueError where
        the bytes are damaged.
        """
        import pyarrow
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(_pieces(data, self.file.size), metadata=self._metadata, pre_buffer=False)
            table = file.read_row_group(group, columns=list(paths), use_threads=False)
            return [_leaf(table, path.split(".")) for path in paths]
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{self.name}: row group {group} is damaged: {error}") from error


def _leaf(table: Any, path: Sequence[str]) -> list[Any]:
    """The values of a column, or of a field of a struct."""
    import pyarrow.compute

    column = table[path[0]]
    values: list[Any] = (pyarrow.compute.struct_field(column, list(path[1:])) if path[1:] else column).to_pylist()
    return values


def _pieces(pieces: Mapping[int, bytes], size: int) -> RangeFile:
    """A file of which some pieces are there, by where they begin. Reading others raises ValueError."""

    def read(begin: int, end: int) -> bytes:
        for at, data in pieces.items():
            if at <= begin and end <= at + len(data):
                return data[begin - at : end - at]
        raise ValueError(f"bytes {begin} to {end} are in no column")

    return RangeFile(read, size, 0)
