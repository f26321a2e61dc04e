"""Reads datasets with Hugging Face's datasets library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset import BadFile, Dataset, Findings, Image
from ..layout import name_splits, named_in_part, split_faults, split_guesses, why_no_class
from .listing import Entry, Root, collect, refuse
from .tree import is_silent

_LABELS = ("label", "labels", "fine_label")
"""Names of label columns; the first one that a table has is taken."""


_Label = tuple[str | None, str]
"""The class of a row, or None and the reason why it has none."""


@dataclass(frozen=True)
class TableImage(Image):
    """An encoded image in a row of a table."""

    where: str
    """Name of the table."""
    row: int
    table: Any = field(compare=False, repr=False)
    """A datasets.Dataset with one column, whose images are not decoded."""
    version: str = field(repr=False)
    """Changes when the table's files change: the library's fingerprint."""

    @property
    def name(self) -> str:
        return f"{self.where}/{self.row:08d}"

    def read(self) -> bytes:
        (image,) = self.table[self.row].values()
        return bytes(image["bytes"])

    def stamp(self) -> str:
        return f"{self.version} {self.row}"


def read_huggingface(name: str, needs_train: bool = True) -> Dataset:
    """Lists the images of ``NAME[:CONFIG]``, a dataset of the Hugging Face hub or a local folder.

    The library downloads a dataset that is not in its cache. A local folder may be one that ``save_to_disk`` wrote. The
    dataset needs one column of images, and one of labels: label, labels or fine_label, with names or class labels, or
    else its only column of class labels. Splits are named as folders of splits are. A split of another name, or without
    any label, as datasets of the hub often hide the labels of test, is left out and said. Bad files are images without
    a label, and images that are files outside of both the local folder and the library's cache. ``needs_train`` tells
    whether each class needs a training image.

    Raises ValueError where the library is not installed, where it cannot load the dataset, where no column, or more
    than one, may be the images or the labels, for two names of one split, no train split, or a class without a training
    image.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"hf:{name}: needs the datasets library: pip install 'xmixup_fast[hf]'") from error
    path, _, config = name.partition(":")
    if not path:
        raise ValueError("hf: expected hf:NAME[:CONFIG], a dataset of the hub or a local folder, got no name")
    local = Path(path)
    refuse(_capitals(f"hf:{name}", local), [])
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config or None)
    except (OSError, ValueError) as error:  # the library's own errors are subclasses of these
        raise ValueError(f"hf:{name}: {' '.join(str(error).split())}") from error
    roots = [*([Root(local)] if local.is_dir() else []), Root(datasets.config.HF_DATASETS_CACHE)]
    entries: list[Entry] = []
    bad: list[BadFile] = []
    tables = loaded if isinstance(loaded, dict) else {"train": loaded}
    where = f"hf:{name}"
    splits = name_splits(tables)
    unnamed = [f"{where}: expected a split train, got {', '.join(tables)}: name one train"]
    refuse(split_faults(where, splits, needs_train) if splits else unnamed, [])
    guesses = split_guesses(where, splits)
    for split, table in tables.items():
        if split not in splits:
            guesses.append(f"{where}: {split} (rows: {len(table)}) is left out, as it is named like no split")
            continue
        image_column, label_column, others = _columns(table, f"{where}: {split}")
        if others:
            guesses.append(
                f"{where}: {label_column} is learned, not {', '.join(others)}; to learn another column, rename it"
            )
        labels = _labels(table, label_column)
        if any(class_name is not None for class_name, _ in labels):
            images = list(_images(table, image_column, f"{where}/{split}", roots))
            refuse(_all_absent(f"{where}: {split}", images), [])
            entries += _entries(images, labels, splits[split], bad)
        else:
            guesses.append(f"{where}: {split} (rows: {len(table)}) is left out, as none has a label")
    guesses += [line for root in roots for line in root.said()]
    return collect(
        where,
        entries,
        bad,
        root=where,
        findings=Findings(guesses=list(dict.fromkeys(guesses))),
        needs_train=needs_train,
    )


def _capitals(where: str, folder: Path) -> list[str]:
    """A message where a local folder's splits have capitals, as the library would take them for no splits."""
    for place in (folder, folder / "data"):
        items = [item for item in place.iterdir() if not is_silent(item.name)] if place.is_dir() else []
        names = sorted(item.name if item.is_dir() else item.stem for item in items)
        found = [name for name in name_splits(names) or named_in_part(names) if name != name.lower()]
        if found:
            return [
                f"{where}: {', '.join(found)} look like splits, but the datasets library knows lower-case names "
                f"only, and would mix them: rename them {', '.join(map(str.lower, found))}, or drop hf: if these are "
                "folders of images"
            ]
    return []


def _all_absent(where: str, images: Sequence[Image | BadFile]) -> list[str]:
    """A message where no image of a split can be used, as where its table holds paths that lead nowhere."""
    bad = [image for image in images if isinstance(image, BadFile)]
    if not bad or len(bad) < len(images):
        return []
    return [
        f"{where}: none of its images ({len(bad)}) can be used, such as {bad[0].name}: {bad[0].reason}: expected "
        "their bytes in the table, or files in its folder; for a table of paths drop hf: and name the table, with the "
        "columns path and label"
    ]


def _entries(
    images: Sequence[Image | BadFile], labels: Sequence[_Label], split: str, bad: list[BadFile]
) -> Iterator[Entry]:
    """Yields the rows of one split that have an image and a label. The other rows are appended to ``bad``."""
    for row, (image, (class_name, reason)) in enumerate(zip(images, labels, strict=True)):
        if isinstance(image, BadFile):
            bad.append(image)
        elif class_name is None:
            bad.append(BadFile(image.name, reason))
        else:
            yield Entry(image, class_name, split, f"row {row}")


def _columns(table: Any, where: str) -> tuple[str, str, list[str]]:
    """The names of the image column, of the label column, and of other columns that may be labels."""
    import datasets

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    class_labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = [name for name in _LABELS if name in features] or class_labels
    if len(images) != 1:
        paths = "; for a table of paths drop hf: and name the table, with the columns path and label"
        raise ValueError(
            f"{where}: expected one column of images among {', '.join(features)}, found {len(images)}"
            + (paths if not images else ": remove what is not to be learned")
        )
    if not labels or (labels is class_labels and len(labels) > 1):
        raise ValueError(f"{where}: expected a column label, or one of class labels, among {', '.join(features)}")
    others = dict.fromkeys([*labels, *class_labels])
    return images[0], labels[0], [name for name in others if name != labels[0]]


def _images(table: Any, column: str, where: str, roots: list[Root]) -> Iterator[Image | BadFile]:
    """Yields the image of each row, or a BadFile. Only paths are read, and whether a row has bytes."""
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


def _labels(table: Any, column: str) -> list[_Label]:
    """The label of each row. A row without a label has a negative number among class labels."""
    import datasets

    feature = table.features[column]
    labels = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()  # row by row is slow
    if isinstance(feature, datasets.ClassLabel):
        names = {label: None if label is None or label < 0 else feature.int2str(label) for label in set(labels)}
        return [(names[label], "no label") for label in labels]
    texts = ["" if label is None else str(label) for label in labels]
    return [(None, fault) if (fault := why_no_class(text)) else (text, "") for text in texts]
