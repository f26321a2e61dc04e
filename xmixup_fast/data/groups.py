"""Groups of images that go into one split, such as all photos of a patient; and columns that look like such groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from ..settings.fields import Settings
from .dataset import SPLITS, Dataset
from .duplicates import EXAMPLES, counted
from .layout import TABLES, is_missing, some
from .manifest import is_manifest
from .readers.table import column_names, read_column

Groups = Mapping[str, str]
"""The group of each image, by the image's name."""

LIKELY = {
    *("patient", "subject", "subj", "participant", "person", "individual", "identity", "animal", "donor"),
    *("case", "specimen", "family", "user", "owner", "author", "uploader", "photographer", "observer"),
    *("camera", "cam", "device", "scanner", "site", "hospital", "clinic", "center", "centre"),
    *("location", "station", "plot", "group", "burst", "session", "visit", "study", "sequence"),
    *("seq", "series", "video", "clip", "scene", "episode", "recording", "track", "slide"),
    *("id", "uid", "pid", "mrn"),
}
"""Words in the names of columns that may say which images belong together."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def read_groups(dataset: Dataset, settings: Settings) -> Groups:
    """The group of each image of a target, as the settings say; nothing where they say nothing.

    Raises ValueError where the target has no such column, where images have no group, and where the splits that the
    dataset has share one.
    """
    if settings.group_by is None and settings.group_regex is None:
        return {}
    if settings.group_by is not None:
        groups = _by_column(dataset, Path(settings.target), settings.group_by)
    else:
        groups = _by_pattern(dataset, re.compile(str(settings.group_regex)))
    name = "group_by" if settings.group_by is not None else "group_regex"
    if without := [dataset.name_of(one.image) for one in dataset.samples if one.image.name not in groups]:
        raise ValueError(f"{name}: {counted(without, 'image')} without a group, such as {some(without, EXAMPLES)}")
    places = _splits_of(dataset, groups)
    if shared := [group for group, splits in places.items() if len(splits) > 1]:
        raise ValueError(
            f"{name}: {counted(shared, 'group')} in two of the splits that {settings.target} has, such as "
            f"{shared[0]} in {' and '.join(sorted(places[shared[0]]))}: move its images into one, "
            "or take the splits out to have new ones cut"
        )
    return groups


def _by_column(dataset: Dataset, path: Path, column: str) -> Groups:
    if path.suffix.lower() not in TABLES or not path.is_file() or is_manifest(path):
        raise ValueError(f"group_by: expected a table, got {path}; --group-regex finds groups in the names of files")
    there = {one.image.name for one in dataset.samples}
    groups: dict[str, str] = {}
    for name, value in read_column(path, column, "group_by"):
        if name not in there or is_missing(value):
            continue
        if groups.setdefault(name, value) != value:
            raise ValueError(f"group_by: {name} is in two groups, {groups[name]} and {value}")
    return groups


def _by_pattern(dataset: Dataset, pattern: re.Pattern[str]) -> Groups:
    """What a pattern finds in the names of files, or in their paths below the dataset's where it has a slash."""
    groups = {}
    for sample in dataset.samples:
        name = dataset.name_of(sample.image)
        found = pattern.search(name if "/" in pattern.pattern else PurePosixPath(name).name)
        if found and (group := " ".join(part or "" for part in found.groups()) if found.groups() else found[0]).strip():
            groups[sample.image.name] = group
    return groups


def _splits_of(dataset: Dataset, groups: Groups) -> dict[str, set[str]]:
    """The splits in which the images of each group are."""
    places: dict[str, set[str]] = {}
    for split in SPLITS:
        for sample in getattr(dataset, split):
            if sample.image.name in groups:
                places.setdefault(groups[sample.image.name], set()).add(split)
    return places


def said(dataset: Dataset, settings: Settings, groups: Groups) -> Iterator[str]:
    """Yields lines on the groups of a dataset once it is cut, or on columns that look like groups and are ignored."""
    if groups:
        places = _splits_of(dataset, groups)
        counts = Counter(next(iter(splits)) for splits in places.values())
        each = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
        yield f"groups: {len(places)}, each in one split ({each})"
        return
    path = Path(settings.target)
    if path.suffix.lower() not in TABLES or not path.is_file() or is_manifest(path):
        return
    for column in column_names(path):
        if not LIKELY & {word.lower() for word in _WORD.findall(column)}:
            continue
        values = {name: value for name, value in read_column(path, column, "group_by") if not is_missing(value)}
        places = _splits_of(dataset, values)
        shared = [value for value, splits in places.items() if len(splits) > 1]
        if shared and len(places) > 1:
            yield (
                f"{path}: column {column} is ignored, and {len(shared)} of its {len(places)} values are in two splits, "
                f"such as {shared[0]}: where they stand for patients, cameras and the like, accuracies are too high; "
                f"--group-by {column!r} keeps each in one split"
            )
