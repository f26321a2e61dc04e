"""Finds the reader of a dataset by the dataset's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .dataset import Dataset
from .readers.folder import read_folder
from .readers.huggingface import read_huggingface
from .readers.listing import join
from .readers.table import SUFFIXES, read_table
from .readers.tar_shards import names_shards, read_shards
from .readers.torchvision_layouts import read_torchvision

KINDS = "a folder, a table (.csv, .tsv, .parquet), tar shards (.tar), torchvision:NAME[:ROOT] or hf:NAME[:CONFIG]"
"""The kinds of datasets, as messages list them."""


def read_dataset(name: str | os.PathLike[str] | Sequence[str]) -> Dataset:
    """Lists the images of one dataset, or of several datasets as one. Reads no image.

    Classes of several datasets that have the same name are one class. The name of a dataset is

    - a folder of class folders,
    - a CSV, TSV or Parquet table with the columns path, label and, optionally, split,
    - tar shards in WebDataset's format: ``a-{000..012}.tar``, ``a/*.tar``, or a folder of shards,
    - ``torchvision:NAME[:ROOT]``, a published dataset in torchvision's layout in the folder ROOT, or
    - ``hf:NAME[:CONFIG]``, a dataset that the datasets library loads.

    The readers say what each of them expects.

    Raises ValueError or OSError for a dataset that cannot be used as a whole, or whose reader needs a package that is
    not installed. Single images that cannot be used are listed in the dataset's ``bad``.
    """
    if isinstance(name, str | os.PathLike):
        return _read(os.fspath(name))
    return join([_read(os.fspath(one)) for one in name])


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


def _read(name: str) -> Dataset:
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        return read_torchvision(rest)
    if kind == "hf":
        return read_huggingface(rest)
    path = Path(name)
    if not path.is_dir() and path.suffix.lower() in SUFFIXES:
        return read_table(path)
    if names_shards(name):
        return read_shards(name)
    if path.is_file():
        raise ValueError(f"{name}: expected {KINDS}")
    return read_folder(path)
