"""Writes datasets in which an image's bytes are its name, and lists what a reader found in them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from xmixup_fast.data.dataset import Dataset, Sample

Listing = dict[str, list[tuple[str, str]]]
"""For each split, the name and the class of each image."""


def write(folder: Path, *names: str) -> Path:
    """Writes a file for each name, with the name as its bytes, and returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def listing(dataset: Dataset) -> Listing:
    """The images of each split, sorted: the bytes of each, which are its name, and its class."""

    def names_and_classes(samples: Sequence[Sample]) -> list[tuple[str, str]]:
        return sorted((sample.image.read().decode(), dataset.classes[sample.label]) for sample in samples)

    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {split: names_and_classes(samples) for split, samples in splits.items()}


def reasons(dataset: Dataset, root: Path) -> dict[str, str]:
    """The reason of each bad file, by the file's path in the dataset."""
    assert len({file.name for file in dataset.bad}) == len(dataset.bad)
    return {os.path.relpath(file.name, root): file.reason for file in dataset.bad}


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes a table in the format that the end of the path names, and returns the path."""
    columns = list(rows[0])
    if path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({name: [row[name] for row in rows] for name in columns}), path)
        return path
    separator = "\t" if path.suffix == ".tsv" else ","
    lines = [columns, *([str(row[name]) for name in columns] for row in rows)]
    text = "\n".join(separator.join(f'"{cell}"' for cell in line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def write_shard(path: Path, members: Sequence[tuple[str, str | bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """Writes a tar file of these names and contents, in one of tarfile's formats, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            encoded = content.encode() if isinstance(content, str) else content
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


def numbered(*numbers: int, label: str = "cat") -> list[tuple[str, str]]:
    """The members of one sample for each number: an image and its label."""
    return [pair for i in numbers for pair in ((f"{i}.jpg", f"{i}.jpg"), (f"{i}.cls", label))]
