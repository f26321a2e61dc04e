"""Datasets that Hugging Face's datasets library loads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset import BadFile, Dataset, Image
from .folder import SPLITS
from .listing import Entry, Root, collect

_LABELS = ("label", "labels", "fine_label")
"""Names of label columns, in the order in which they are tried."""


@dataclass(frozen=True)
class TableImage(Image):
    """An encoded image in a row of a table."""

    where: str
    row: int
    table: Any = field(compare=False, repr=False)
    """A datasets.Dataset whose one column holds images that are not decoded."""
    version: str = field(repr=False)
    """Of the table's files."""

    @property
    def name(self) -> str:
        return f"{self.where}/{self.row:08d}"

    def read(self) -> bytes:
        (image,) = self.table[self.row].values()
        return bytes(image["bytes"])

    def stamp(self) -> str:
        return f"{self.version} {self.row}"


def read_huggingface(name: str) -> Dataset:
    """Reads ``NAME[:CONFIG]``, a dataset of the hub or a local folder, with one image column and a label column.

    The library downloads what is not in its cache. A folder may be one that ``save_to_disk`` wrote. The labels are
    names or class labels in a column label, labels or fine_label, or else in the only column of class labels. A split
    of which no image has a label, as hub datasets hide those of test, is left out. Bad files: images without a label,
    and images that are files outside of the local folder and the library's cache.

    Raises ValueError without the library, for what it cannot load, for columns that do not tell images or labels, and
    for a class without a training image.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"hf:{name}: needs the datasets library: pip install 'xmixup_fast[hf]'") from error
    path, _, config = name.partition(":")
    local = Path(path)
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config or None)
    except (OSError, ValueError) as error:  # the library's own errors are of these
        raise ValueError(f"hf:{name}: {' '.join(str(error).split())}") from error
    roots = [*([Root(local)] if local.is_dir() else []), Root(datasets.config.HF_DATASETS_CACHE)]
    entries: list[Entry] = []
    bad: list[BadFile] = []
    for split, table in (loaded if isinstance(loaded, dict) else {"train": loaded}).items():
        if split.lower() in SPLITS:
            image, label = _columns(table, f"hf:{name}: {split}")
            where = f"hf:{name}/{split}"
            found = list(_images(table, image, where, roots))
            labels = _class_names(table, label)
            if any(class_name is not None for class_name in labels):
                for row, (one, class_name) in enumerate(zip(found, labels, strict=True)):
                    if isinstance(one, BadFile):
                        bad.append(one)
                    elif class_name is None:
                        bad.append(BadFile(one.name, "no label"))
                    else:
                        entries.append(Entry(one, class_name, SPLITS[split.lower()], f"row {row}"))
    return collect(f"hf:{name}", entries, bad)


def _columns(table: Any, where: str) -> tuple[str, str]:
    """The names of the image column and the label column."""
    import datasets

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    class_labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = [name for name in _LABELS if name in features] or class_labels
    if len(images) != 1:
        raise ValueError(f"{where}: expected one column of images among {', '.join(features)}, found {len(images)}")
    if not labels or (labels is class_labels and len(labels) > 1):
        raise ValueError(f"{where}: expected a column label, or one of class labels, among {', '.join(features)}")
    return images[0], labels[0]


def _images(table: Any, column: str, where: str, roots: list[Root]) -> Iterator[Image | BadFile]:
    """The images of all rows. Looks at their paths and whether there are bytes, but reads none."""
    import datasets

    images = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    row = 0
    for batch in images.with_format("arrow").iter(1000):
        for chunk in batch[column].chunks:
            embedded, paths = chunk.field("bytes").is_valid().to_pylist(), chunk.field("path").to_pylist()
            for has_bytes, path in zip(embedded, paths, strict=True):
                if has_bytes:
                    yield TableImage(where, row, images, str(table._fingerprint))
                elif path:
                    found = [root.file(Path(path)) for root in roots]
                    yield next((file for file in found if not isinstance(file, BadFile)), found[0])
                else:
                    yield BadFile(f"{where}/{row:08d}", "no image")
                row += 1


def _class_names(table: Any, column: str) -> list[str | None]:
    """The class of each row; None where it has none, which class labels say with a negative number."""
    import datasets

    feature, labels = table.features[column], table.with_format(None)[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if label is None or label < 0 else feature.int2str(label) for label in labels]
    return [None if label is None or label == "" else str(label) for label in labels]
