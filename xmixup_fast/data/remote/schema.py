"""Which columns of Parquet files hold the images and the labels, and what the labels mean."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..layout import class_name, some, why_no_class
from .columns import Columns

_LABELS = ("label", "labels", "fine_label")
"""Names of label columns; the first one that a table has is taken."""


@dataclass(frozen=True)
class Schema:
    """The columns of a table of images."""

    image: str
    """Leaf of the encoded images, such as image.bytes."""
    label: str
    names: Sequence[str] | None
    """Class names by integer label; None where labels are names, or have none."""

    @classmethod
    def of(cls, tables: Sequence[Columns], names: Sequence[str] | None) -> Schema:
        """The columns of files that are one table. ``names`` are those of integer labels that have no others.

        Images are a struct with the field bytes, or plain bytes; labels are integers or strings, in the column label,
        labels or fine_label, or in the only one that is of class labels by its ``huggingface`` metadata.

        Raises ValueError where columns are missing or not clear, in the first file or another one.
        """
        first = tables[0]
        features = _features(first)
        image, label = _image(first, features), _label(first, features)
        for table in tables[1:]:
            types = [_types(one, image.partition(".")[0], label) for one in (first, table)]
            if types[0] != types[1]:
                raise ValueError(f"{table.name}: expected the columns of {first.name}, {types[0]}, got {types[1]}")
        told = features.get(label, {}).get("names")
        return cls(image, label, None if _is_text(first.schema.field(label).type) else told or names)

    def class_of(self, label: Any) -> tuple[str | None, str]:
        """The class of a row with this label, or None and the reason why it has none."""
        if label is None or (isinstance(label, int) and label < 0):
            return None, f"no label ({label})"
        if isinstance(label, int) and self.names is not None:
            if label >= len(self.names):
                return None, f"expected a label below {len(self.names)}, got {label}"
            return class_name(self.names[label]), ""
        text = str(label)
        fault = why_no_class(text)
        return (None, fault) if fault else (class_name(text), "")

    def unused(self, classes: Collection[str]) -> list[str]:
        """Names of classes that no row has."""
        return [name for name in self.names or () if class_name(name) not in classes]


def _features(table: Columns) -> dict[str, dict[str, Any]]:
    """What the datasets library wrote about columns."""
    try:
        features = json.loads(table.texts.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except ValueError as error:
        raise ValueError(f"{table.name}: its huggingface metadata are no JSON: {error}") from error
    return {name: told for name, told in features.items() if isinstance(told, dict)}


def _image(table: Columns, features: dict[str, dict[str, Any]]) -> str:
    """The leaf of the images."""
    import pyarrow

    leaves = {}
    for field in table.schema:
        if pyarrow.types.is_struct(field.type):
            inner = {one.name: one.type for one in field.type}
            if _is_bytes(inner.get("bytes")):
                leaves[field.name] = f"{field.name}.bytes"
        elif _is_bytes(field.type):
            leaves[field.name] = field.name
    named = [name for name in leaves if features.get(name, {}).get("_type") == "Image"] or list(leaves)
    if len(named) != 1:
        raise ValueError(
            f"{table.name}: expected one column of encoded images (bytes, or a struct with the field bytes), found "
            f"{some(named) or 'none'} among {some(table.schema.names, 10)}"
        )
    return leaves[named[0]]


def _label(table: Columns, features: dict[str, dict[str, Any]]) -> str:
    """The column of the labels."""
    import pyarrow

    class_labels = [name for name, told in features.items() if told.get("_type") == "ClassLabel"]
    found = [name for name in _LABELS if name in table.schema.names] or class_labels
    if not found or (found is class_labels and len(found) > 1):
        raise ValueError(
            f"{table.name}: expected a column label, or one of class labels, among {some(table.schema.names, 10)}"
        )
    kind = table.schema.field(found[0]).type
    if not (_is_text(kind) or pyarrow.types.is_integer(kind)):
        raise ValueError(f"{table.name}: {found[0]}: expected integers or strings, got {kind}")
    return found[0]


def _types(table: Columns, *columns: str) -> str:
    """The types of some columns, for people."""
    return ", ".join(
        f"{name} ({table.schema.field(name).type if name in table.schema.names else 'missing'})" for name in columns
    )


def _is_bytes(kind: Any) -> bool:
    import pyarrow

    return kind is not None and (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))
