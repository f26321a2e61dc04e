"""Makes the index of tar shards that are on this machine; what an index is, :mod:`.index` says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ..bad_files import refuse_bad_files, skipped
from ..readers.tar_shards import ShardImage, read_shards
from .columns import pyarrow_parquet
from .index import NAME, Row, write_index


def index_shards(
    name: str, output: Path | None, image_field: str | None, bad_files: str, log: Callable[[str], object]
) -> Path:
    """Writes the index of the training images in tar shards; returns its path.

    Args:
        name: the shards, as :func:`.read_shards` takes them.
        output: the file to write; index.parquet in the folder of the shards if not given.
        image_field: the field of the images, where samples have several.
        bad_files: "error" refuses shards and samples that cannot be used, "skip" leaves them out.
        log: gets lines for the user.

    Raises OSError and ValueError as :func:`.read_shards` does, ValueError for bad files that are not to be skipped, and
    where pyarrow is not installed.
    """
    pyarrow_parquet(name)
    dataset = read_shards(name, image_field)
    for guess in dataset.findings.guesses:
        log(guess)
    bad = refuse_bad_files(dataset.bad, bad_files, "writes an index without them")
    folder = Path(dataset.root)
    path = output or folder / NAME
    rows, paths = [], {}
    for sample in dataset.train:
        image = sample.image
        assert isinstance(image, ShardImage)
        shard = image.shard.relative_to(folder).as_posix()
        paths[shard] = image.shard
        rows.append(Row(dataset.classes[sample.label], shard, image.member, image.offset, image.size))
    sizes = {shard: paths[shard].stat().st_size for shard in sorted(paths)}
    log(f"{len(paths)} shards ({sum(sizes.values()) / 1e6:.1f} MB): computing their MD5 sums")
    shards: dict[str, dict[str, int | str]] = {
        shard: {"size": size, "md5": _md5(paths[shard])} for shard, size in sizes.items()
    }
    is_beside = os.path.realpath(path.parent) == os.path.realpath(folder)
    write_index(path, rows, shards, None if is_beside else os.path.realpath(folder))
    left = len(dataset.val) + len(dataset.test)
    log(
        f"{path}: {len(rows)} images of {len(dataset.classes)} classes in {len(paths)} shards"
        + (f"; {left} images of val and test left out" if left else "")
        + (f"; {skipped(bad)}" if bad else "")
    )
    return path


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
