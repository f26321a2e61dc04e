"""Finds the reader of a dataset by the dataset's name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .dataset import SPLITS, BadFile, Dataset, Findings, Sample
from .layout import PACKED, TABLES, Classes
from .manifest import Manifest, is_manifest
from .readers.folder import read_folder
from .readers.huggingface import read_huggingface
from .readers.listing import join
from .readers.table import read_table
from .readers.tar_members import as_source
from .readers.tar_shards import names_shards, read_shards
from .readers.torchvision_layouts import read_torchvision
from .readers.tree import extension

_ARCHIVE = re.compile(r"\.(tgz|tar\.(gz|xz|bz2))$", re.IGNORECASE)
"""How the names of archives end that are read as remote sources are."""
KINDS = "a folder, a table (.csv, .tsv, .parquet), tar shards (.tar), torchvision:NAME[:ROOT] or hf:NAME[:CONFIG]"
"""The kinds of datasets, as messages list them."""


def read_dataset(
    name: str | os.PathLike[str] | Sequence[str],
    classes: Classes | None = None,
    image_field: str | None = None,
    *,
    needs_train: bool = True,
) -> Dataset:
    """Lists the images of one dataset, or of several datasets as one. Reads no image.

    Classes of several datasets that have the same name are one class. The name of a dataset is

    - a folder of class folders,
    - a CSV, TSV or Parquet table with the columns path, label and, optionally, split,
    - the manifest.csv of a run, for the same images in the same splits,
    - tar shards in WebDataset's format: ``a-{000..012}.tar``, ``a/*.tar``, or a folder of shards,
    - ``torchvision:NAME[:ROOT]``, a published dataset in torchvision's layout in the folder ROOT, or
    - ``hf:NAME[:CONFIG]``, a dataset that the datasets library loads.

    The readers say what each of them expects.

    Args:
        name: the dataset, or several.
        classes: which folders are classes, where that is not clear; see :func:`.read_folder`.
        image_field: the field of shards that holds the image, where samples have several; see :func:`.read_shards`.
        needs_train: whether each class needs a training image. If not, as for evaluation, any split will do.

    Raises ValueError or OSError for a dataset that cannot be used as a whole, or whose reader needs a package that is
    not installed. Single images that cannot be used are listed in the dataset's ``bad``.
    """
    names = [name] if isinstance(name, str | os.PathLike) else name
    return join([_read(os.fspath(one), classes, image_field, needs_train) for one in names], needs_train)


def real_name(name: str) -> str:
    """A dataset's name with the real path of its folder or file, which leads to it from everywhere."""
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        dataset, _, root = rest.partition(":")
        return f"torchvision:{dataset}:{os.path.realpath(root or 'data')}"
    if kind == "hf":
        path, colon, config = rest.partition(":")
        return f"hf:{os.path.realpath(path)}{colon}{config}" if os.path.exists(path) else name
    return os.path.realpath(name)


def read_target(name: str, classes: Classes | None = None, image_field: str | None = None) -> Dataset:
    """Lists the images of a dataset to learn.

    Raises ValueError for a dataset of one class, which teaches nothing, and what :func:`read_dataset` raises.
    """
    dataset = read_dataset(name, classes, image_field)
    if len(dataset.classes) < 2:
        raise ValueError(
            f"target: {name}: expected at least two classes, got one, {dataset.classes[0]}: name the folder "
            "that holds all class folders, or add a second class, such as images of anything else"
        )
    return dataset


def _read(name: str, classes: Classes | None, image_field: str | None, needs_train: bool) -> Dataset:
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        return read_torchvision(rest)
    if kind == "hf":
        return read_huggingface(rest, needs_train)
    path = Path(name)
    suffix = path.suffix.lower()
    if not path.is_dir() and suffix in TABLES:
        if path.is_file() and is_manifest(path):
            return _read_manifest(path, classes, image_field, needs_train)
        return read_table(path, needs_train)
    if names_shards(name):
        return read_shards(name, image_field, needs_train)
    if not path.is_dir() and suffix in PACKED:
        raise ValueError(
            f"{name}: {extension(path.name)} is a compressed archive, whose images cannot be read where they "
            "lie: unpack it, and name the folder; tar shards have to be uncompressed (.tar)"
            + (f"; {as_source(path)}" if _ARCHIVE.search(name) else "")
        )
    if path.is_file():
        is_part = re.search(r"\.tar\.?(\d+|[a-z]{2})$", name, re.IGNORECASE)
        advice = f"; {as_source(path)}" if is_part else ""
        raise ValueError(f"{name}: expected {KINDS}{advice}")
    return read_folder(path, classes, needs_train)


def _read_manifest(path: Path, classes: Classes | None, image_field: str | None, needs_train: bool) -> Dataset:
    """The images that a run's manifest names, in its splits and with its labels, where data.json says they are.

    Images that are not there any more are bad files. Raises FileNotFoundError where there is no data.json beside the
    manifest, and what the reader of the run's target raises.
    """
    manifest = Manifest.read(path)
    description = path.with_name("data.json")
    if not description.is_file():
        raise FileNotFoundError(f"{description}: no such file; it tells where the images of {path} are")
    listed = _read(json.loads(description.read_text(encoding="utf-8"))["path"], classes, image_field, needs_train)
    by_name = {listed.name_of(one.image): one for one in listed.samples}
    label = {name: position for position, name in enumerate(manifest.classes)}
    splits: dict[str, list[Sample]] = {}
    bad = []
    for split in SPLITS:
        rows = manifest.of_split(split)
        bad += [BadFile(row.name, "not there any more") for row in rows if row.name not in by_name]
        splits[split] = [
            Sample(by_name[row.name].image, label[row.class_name], row.weight) for row in rows if row.name in by_name
        ]
    return replace(listed, classes=manifest.classes, bad=bad, findings=Findings()).with_splits(splits)
