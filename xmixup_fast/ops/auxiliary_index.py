"""Which auxiliary images each target class may be mixed with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import as_integer, as_list, describe, is_integer
from .image_pool import ImagePool

Relatives = Mapping[int, Iterable[int]] | Sequence[Iterable[int]] | Tensor
"""Source classes for each of K target classes: K rows, or a mapping from 0, 1, ... K - 1 to rows."""


class AuxiliaryIndex(NamedTuple):
    """The auxiliary images, and which of them each target class may be mixed with."""

    labels: Tensor
    """int64[n]: source class of each image."""
    sizes: Tensor
    """int32[n, 2]: height and width."""
    offsets: Tensor
    """int64[K_t + 1]: where each target class begins in ``members``."""
    members: Tensor
    """int64[M]: images of each target class."""
    means: Tensor | None = None
    """uint8[n, 8, 8, 3]: mean colours of parts of each image, for changes of contrast; see :attr:`ImagePool.means`."""

    @classmethod
    def of(cls, pool: ImagePool, source_classes: Relatives) -> AuxiliaryIndex:
        """The images of a labelled pool: target class j may be mixed with those of ``source_classes[j]``.

        Raises ValueError for a pool without labels, for a mapping whose keys are not 0 to K - 1, and for a row that
        names no label of the pool, another number, or one twice; TypeError for what is neither rows nor integers.
        """
        rows = _rows(source_classes)
        known = _known_labels(pool)
        labels = [_row_labels(f"source_classes[{target}]", row, known) for target, row in enumerate(rows)]
        wanted = (torch.tensor(row, device=pool.device) for row in labels)
        return cls.of_images(pool, [torch.isin(pool.labels, row).nonzero().flatten() for row in wanted])

    @classmethod
    def of_images(cls, pool: ImagePool, images: Sequence[Sequence[int] | Tensor]) -> AuxiliaryIndex:
        """Target class j may be mixed with the images at the positions ``images[j]`` of a labelled pool."""
        lengths = torch.tensor([0, *map(len, images)], device=pool.device)
        rows = [torch.as_tensor(row, dtype=torch.int64, device=pool.device) for row in images]
        members = torch.cat(rows) if rows else lengths[:0]
        return cls(pool.labels, pool.sizes, lengths.cumsum(0), members)

    def to(self, device: torch.device) -> AuxiliaryIndex:
        """The index on another device."""
        return AuxiliaryIndex(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]

    def as_one_class(self) -> AuxiliaryIndex:
        """The images of all target classes, each once, as those of a single class."""
        members = self.members.unique()
        return self._replace(offsets=torch.tensor([0, len(members)], device=members.device), members=members)


NO_AUXILIARY = AuxiliaryIndex(
    torch.empty(0, dtype=torch.int64),
    torch.empty((0, 2), dtype=torch.int32),
    torch.zeros(1, dtype=torch.int64),
    torch.empty(0, dtype=torch.int64),
)
"""The index of methods that use no auxiliary images."""


def _rows(source_classes: Any) -> list[Any]:
    """The row of each target class, in the order of the classes."""
    expected = "a list of source classes for each target class"
    if not isinstance(source_classes, Mapping):
        rows = as_list("source_classes", source_classes, expected)
    else:
        keys = [as_integer("source_classes: key", key, 0, 2**63 - 1) for key in source_classes]
        if sorted(keys) != list(range(len(keys))):
            last = max(len(keys) - 1, 0)
            raise ValueError(
                f"source_classes: expected the keys 0 to {last}, a target class each, got {describe(sorted(keys))}"
            )
        by_class = dict(zip(keys, source_classes.values(), strict=True))
        rows = [by_class[target] for target in range(len(keys))]
    if not rows:
        raise ValueError(f"source_classes: expected {expected}, got none")
    return rows


def _known_labels(pool: ImagePool) -> set[int]:
    """The labels of a pool whose images all have one."""
    unlabelled = (pool.labels < 0).nonzero().flatten().tolist()
    if unlabelled:
        raise ValueError(
            f"aux: expected images with source classes from 0 on, got {int(pool.labels[unlabelled[0]])} for image "
            f"{unlabelled[0]}; make the pool with labels"
        )
    if not len(pool):
        raise ValueError("aux: expected auxiliary images, got a pool without images")
    return set(pool.labels.unique().tolist())


def _row_labels(name: str, row: Any, known: set[int]) -> list[int]:
    """A row as distinct labels of the auxiliary images."""
    if is_integer(row):
        raise TypeError(f"{name}: expected a list of source classes, got {int(row)}; write [{int(row)}]")
    labels = [as_integer(name, label, 0, 2**63 - 1) for label in as_list(name, row, "a list of source classes")]
    if not labels:
        raise ValueError(f"{name}: expected at least one source class, got none")
    for label in labels:
        if label not in known:
            raise ValueError(
                f"{name}: no auxiliary image has label {label}; the labels of aux are {describe(sorted(known))}"
            )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"{name}: expected distinct source classes, got {twice} twice")
    return labels
