"""Writes class tars as ImageNet is distributed, of members that are long enough to be counted."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

from xmixup_fast.data.dataset import Dataset

JPEG = b"\xff\xd8\xff\xe0"

Images = dict[str, dict[str, bytes]]
"""The images' bytes by class and member name."""


def made_images(classes: int, images: int, size: int = 30_000, seed: int = 0) -> Images:
    """Members of classes, of ``size`` to 1.5 times ``size`` random bytes that begin as a JPEG file does."""
    source = random.Random(seed)
    names = [f"n{i:08d}" for i in range(classes)]
    return {
        name: {f"{name}_{i}.JPEG": JPEG + source.randbytes(source.randint(size, size * 3 // 2)) for i in range(images)}
        for name in names
    }


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """An uncompressed tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def write_class_tars(folder: Path, images: Mapping[str, Mapping[str, bytes]]) -> Path:
    """Writes CLASS.tar for each class. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in images.items():
        (folder / f"{name}.tar").write_bytes(tar_of(members))
    return folder


def write_large_tar(path: Path, images: Mapping[str, Mapping[str, bytes]], parts: int = 1) -> Path:
    """Writes one tar of class tars; in several parts PATH.001, PATH.002 ... if asked for. Returns the path."""
    packed = tar_of({f"{name}.tar": tar_of(members) for name, members in images.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    if parts == 1:
        path.write_bytes(packed)
    for i in range(parts if parts > 1 else 0):
        begin, end = (len(packed) * k // parts for k in (i, i + 1))
        path.with_name(f"{path.name}.{i + 1:03d}").write_bytes(packed[begin:end])
    return path


def contents(dataset: Dataset) -> dict[str, dict[str, bytes]]:
    """The images' bytes by class and file name."""
    found: dict[str, dict[str, bytes]] = {}
    for sample in dataset.train:
        path = Path(sample.image.name)
        found.setdefault(dataset.classes[sample.label], {})[path.name] = sample.image.read()
        assert path.is_relative_to(dataset.root)
    return found
