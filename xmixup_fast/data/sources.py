"""Every kind of dataset, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .dataset import Dataset
from .readers.folder import read_folder
from .readers.huggingface import read_huggingface
from .readers.listing import join
from .readers.table import SUFFIXES, read_manifest
from .readers.tar_shards import names_shards, read_shards
from .readers.torchvision_layouts import read_published

KINDS = "a folder, a table (.csv, .tsv, .parquet), tar shards (.tar), torchvision:NAME[:ROOT] or hf:NAME[:CONFIG]"
"""What a dataset's name may be."""


def read_dataset(name: str | os.PathLike[str] | Sequence[str]) -> Dataset:
    """Lists the images of a dataset, or of several as one, in which classes of one name are one class. Reads no image.

    A name is a folder of class folders; a CSV, TSV or Parquet table with the columns path, label and perhaps split; tar
    shards as of WebDataset (``a-{000..012}.tar``, ``a/*.tar``, or a folder of them); ``torchvision:NAME[:ROOT]``, a
    published dataset in the layout that torchvision gives it under ROOT; or ``hf:NAME[:CONFIG]``, what the datasets
    library loads.

    Raises ValueError or OSError for what cannot be used as a whole, or needs a package that is missing. Single images
    that cannot be used are in the dataset's ``bad``.
    """
    if isinstance(name, str | os.PathLike):
        return _read(os.fspath(name))
    return join([_read(os.fspath(one)) for one in name])


def _read(name: str) -> Dataset:
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        return read_published(rest)
    if kind == "hf":
        return read_huggingface(rest)
    path = Path(name)
    if not path.is_dir() and path.suffix.lower() in SUFFIXES:
        return read_manifest(path)
    if names_shards(name):
        return read_shards(name)
    if path.is_file():
        raise ValueError(f"{name}: expected {KINDS}")
    return read_folder(path)
