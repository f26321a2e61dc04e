"""Tar shards in WebDataset's format that have an index beside them, which ``xmixup index`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from ..catalog import Log
from ..layout import some
from .cache import SourceFolder
from .fetch import Piece, fetch_pieces
from .files import RemoteFile, RemoteFiles
from .index import Index
from .layout import Layout, Options


def layout(files: RemoteFiles, paths: Sequence[str], folder: SourceFolder, options: Options, log: Log) -> Layout:
    """The layout of shards, of which the end of the index has been read.

    Args:
        files: reads them.
        paths: of the index, which lies beside its shards, and of the shards to take; of the index alone for all.
        folder: not used, since nothing is kept but images.
        options: not used, since an index names its classes.
        log: gets a line on shards that were named and have no images in the index.

    Raises OSError, and ValueError where the index is damaged, names shards outside of its folder, or lists none of
    those to take.
    """
    index = Index.open(files, paths[0])
    outside = [name for name in index.shards if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise ValueError(f"{index.name}: names a shard outside of its folder, {outside[0]}")
    if index.folder is not None and files.protocol != "file":
        raise ValueError(
            f"{index.name}: was written for shards in {index.folder}, not beside it: run xmixup index "
            "without --output, and copy index.parquet to the shards"
        )
    base = index.folder or paths[0].rpartition("/")[0]
    names = [path.removeprefix(f"{base}/") for path in paths[1:]]
    names = [unquote(name) if files.protocol.startswith("http") else name for name in names] or list(index.shards)
    if unknown := [name for name in names if name not in index.shards]:
        if len(unknown) == len(names):
            raise ValueError(f"{index.name}: lists no images of {some(names)}: run xmixup index on all shards again")
        log(f"{index.name}: lists no images of {some(unknown)}: left out")
    return _Shards(files, index, base, frozenset(index.shards).intersection(names))


@dataclass
class _Shards(Layout):
    """Shards and their index."""

    files: RemoteFiles
    index: Index
    base: str
    """Folder of the shards."""
    taken: frozenset[str]
    """Names of the shards to take."""

    def __post_init__(self) -> None:
        counts = self.index.counts_of(self.taken)
        self.classes, self.counts = list(counts), list(counts.values())
        self.size = sum(int(self.index.shards[name]["size"]) for name in self.taken)

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        position = {name: label for label, name in enumerate(self.index.classes)}
        rows = self.index.rows([position[self.classes[label]] for label in labels], limit, self.taken)
        names = list(dict.fromkeys(row.shard for row in rows))
        shards = dict(zip(names, self._checked(names), strict=True))
        pieces = [Piece(row.class_name, row.member, shards[row.shard], row.offset, row.size) for row in rows]
        fetch_pieces(self.files, pieces, folder, limit, log)

    def _checked(self, names: Sequence[str]) -> list[RemoteFile]:
        """Size and version of some shards. Raises ValueError where the index is of others, or damaged."""
        if unknown := [name for name in names if name not in self.index.shards]:
            raise ValueError(f"{self.index.name}: damaged: rows are of {some(unknown)}, no shard that it lists")
        is_http = self.files.protocol.startswith("http")
        found = self.files.infos(f"{self.base}/{quote(name) if is_http else name}" for name in names)
        for name, shard in zip(names, found, strict=True):
            expected = self.index.shards[name]["size"]
            if shard.size != expected:
                raise ValueError(
                    f"{self.index.name}: the index is older than the shards: {name} has {shard.size} bytes, and "
                    f"had {expected} when xmixup index wrote it: run it again"
                )
        return found
