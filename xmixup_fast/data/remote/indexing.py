"""Makes the index of tar shards; what an index is, :mod:`.index` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote

from ...runtime.files import check_file_writable, check_replaceable, file_digest, readable_bytes
from ..bad_files import refuse_bad_files, skipped
from ..dataset import Dataset
from ..readers.tar_shards import ShardImage, read_open_shards, read_shards
from .files import RemoteFiles
from .index import NAME, Row, write_index

Shards = dict[str, dict[str, int | str]]
"""``size`` and ``md5`` or ``etag`` of each shard."""
_READ_AHEAD = 2048
"""Bytes of a header and what is often read next: a label, and the headers before and after it."""


def index_shards(
    name: str, output: Path | None, image_field: str | None, bad_files: str, log: Callable[[str], object]
) -> Path:
    """Writes the index of the training images in tar shards; returns its path.

    Args:
        name: the shards, as :func:`.read_shards` takes them, or the URL of a folder, a file or a pattern.
        output: the file to write; index.parquet in the folder of the shards, or for a URL in the current one, if not
            given.
        image_field: the field of the images, where samples have several.
        bad_files: "error" refuses shards and samples that cannot be used, "skip" leaves them out.
        log: gets lines for the user.

    Raises OSError and ValueError as :func:`.read_shards` does, and ValueError for bad files that are not to be
    skipped.
    """
    is_remote = "://" in name
    beside = "" if is_remote else name if os.path.isdir(name) else os.path.dirname(name)
    check_file_writable(output or Path(beside, NAME))
    check_replaceable(output or Path(beside, NAME), "PAR1", "an index")
    dataset, shards = _remote(name, image_field, log) if is_remote else _local(name, image_field, log, output)
    for guess in dataset.findings.guesses:
        log(guess)
    bad = refuse_bad_files(dataset.bad, bad_files, "writes an index without them")
    rows = []
    for sample in dataset.train:
        image = cast(ShardImage, sample.image)
        shard = image.shard.relative_to(dataset.root).as_posix()
        rows.append(Row(dataset.classes[sample.label], shard, image.member, image.offset, image.size))
    used = {row.shard for row in rows}
    path = output or Path("" if is_remote else dataset.root, NAME)
    is_beside = is_remote or os.path.realpath(path.parent) == os.path.realpath(dataset.root)
    folder = None if is_beside else os.path.realpath(dataset.root)
    write_index(path, rows, {shard: told for shard, told in shards.items() if shard in used}, folder)
    left = len(dataset.val) + len(dataset.test)
    log(
        f"{path}: {len(rows)} images of {len(dataset.classes)} classes in {len(used)} shards"
        + (f"; {left} images of val and test left out" if left else "")
        + (f"; {skipped(bad)}" if bad else "")
        + ("; upload it beside the shards" if is_remote else "")
    )
    return path


def _local(
    name: str, image_field: str | None, log: Callable[[str], object], output: Path | None
) -> tuple[Dataset, Shards]:
    """The images of shards on this machine, and the shards of training images.

    Raises OSError where the index cannot be written, before sums are computed.
    """
    dataset = read_shards(name, image_field)
    if output is None:
        check_file_writable(Path(dataset.root, NAME))
    paths = sorted({cast(ShardImage, sample.image).shard for sample in dataset.train})
    sizes = {path: path.stat().st_size for path in paths}
    log(f"computing the MD5 sums of {len(paths)} shards, {readable_bytes(sum(sizes.values()))}")
    shards: Shards = {
        path.relative_to(dataset.root).as_posix(): {"size": sizes[path], "md5": file_digest(path, "md5")}
        for path in paths
    }
    return dataset, shards


def _remote(url: str, image_field: str | None, log: Callable[[str], object]) -> tuple[Dataset, Shards]:
    """The images of shards at a URL, of which headers and labels are read by ranges, and the shards."""
    files = RemoteFiles(url)
    infos = [info for info in files.infos(files.find()) if info.path.lower().endswith(".tar")]
    if not infos:
        raise FileNotFoundError(f"{files.url}: no tar shards there; expected a folder, a file or a pattern of them")
    levels = zip(*(info.path.split("/")[:-1] for info in infos), strict=False)
    base = "/".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    is_http = files.protocol.startswith("http")
    names = [info.path.removeprefix(f"{base}/") for info in infos]
    names = [unquote(name) if is_http else name for name in names]
    log(f"{files.url}: reading headers and labels of {len(infos)} shards, by one request or more for each image")

    def opens(path: str) -> Callable[[], BinaryIO]:
        return lambda: cast(BinaryIO, files.file(path, _READ_AHEAD))

    opened = {Path(name): opens(info.path) for name, info in zip(names, infos, strict=True)}
    dataset = read_open_shards(files.url, opened, image_field)
    for info in infos:
        files.check_unchanged(info)
    return dataset, {
        name: {"size": info.size, **({"etag": info.version} if info.version else {})}
        for name, info in zip(names, infos, strict=True)
    }
