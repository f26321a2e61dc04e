"""The target of a run: its images as they are cut for a new run, or as the manifest of a resumed run has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data.bad_files import refuse_bad_files
from ..data.contents import Contents, read_contents
from ..data.cut import OUT, Cut, cut
from ..data.dataset import SPLITS, BadFile, Content, Dataset, Sample
from ..data.decoding.choose import make_decoder
from ..data.decoding.reading import Reading
from ..data.duplicates import EXAMPLES
from ..data.groups import read_groups
from ..data.groups import said as groups_said
from ..data.layout import some
from ..data.manifest import Manifest, Match, Row, reasons
from ..data.near_duplicates import SHORT_SIDE, near_duplicates
from ..data.sources import read_target, real_name
from ..data.understood import class_counts, to_json, understood
from ..runtime.device import default_threads
from ..runtime.distributed import local_rank_zero_first
from ..settings.fields import Settings
from ..settings.identity import short_hash

FORMAT = 1
"""Version of data.json and manifest.csv."""


@dataclass(frozen=True)
class TargetData:
    """The target's images, as a run uses them."""

    dataset: Dataset
    """The images by split."""
    contents: Contents
    """Of all images that can be read."""
    listed: Dataset
    """The dataset before it was cut."""
    cut: Cut | None
    """How a new run cuts it; None for a run that is resumed."""
    recorded: Manifest | None
    """The manifest of a run that is resumed."""

    def manifest(self, bad: list[BadFile]) -> Manifest:
        """The run's manifest, in which files that cannot be used are marked."""
        if self.recorded is not None:
            return self.recorded
        assert self.cut is not None
        return Manifest.of(self.cut, self.listed, self.contents, reasons(bad))

    def description(self, settings: Settings, manifest: Manifest) -> dict[str, Any]:
        """The content of data.json: where the images are, how they were cut, and what was found besides."""
        assert self.cut is not None
        duplicates = self.cut.duplicates
        return {
            "format": FORMAT,
            "target": settings.target,
            "path": real_name(settings.target),
            "split_by": settings.split_by,
            **{name: getattr(settings, name) for name in ("seed", "val_fraction", "test_fraction", "shots", "test")},
            **{name: getattr(settings, name) for name in ("group_by", "group_regex") if getattr(settings, name)},
            "classes": class_counts(self.dataset),
            **to_json(self.listed.findings),
            "duplicates": {
                "policy": settings.duplicates,
                "two labels": duplicates.labels,
                "two splits": duplicates.splits,
                "copies": duplicates.copies,
            },
            "fingerprint": manifest.fingerprint,
            "data": self.listing,
        }

    @property
    def listing(self) -> str:
        """Identifies images, labels, weights and given splits, before anything is cut: 15 hexadecimal digits."""
        return _listing(self.listed, self.contents)


def _listing(listed: Dataset, contents: Contents) -> str:
    lines = sorted(
        f"{contents[one.image.name].digest} {split} {listed.classes[one.label]} {one.weight}"
        for split in SPLITS
        for one in getattr(listed, split)
        if one.image.name in contents
    )
    return short_hash("\n".join(lines))


def listing_now(settings: Settings) -> str:
    """:attr:`TargetData.listing` of the target as it is now. Raises what the target's reader raises."""
    listed = read_target(settings.target, settings.classes, settings.image_field)
    return _listing(listed, contents_of(listed, listed.samples, settings)[0])


def target_data(settings: Settings, log: Callable[[str], object], recorded: Manifest | None = None) -> TargetData:
    """Lists the target's images and hashes them; cuts them as the settings say, or finds those of a manifest.

    Says what it found. Raises what :func:`~xmixup_fast.data.sources.read_dataset`, :func:`contents_of` and
    :func:`~xmixup_fast.data.cut.cut` raise; and ValueError where the target differs from ``recorded``, and the setting
    ``data_changed`` is "error".
    """
    listed = read_target(settings.target, settings.classes, settings.image_field)
    contents, unreadable = contents_of(listed, listed.samples, settings)
    listed = replace(listed, bad=[*listed.bad, *unreadable])
    if recorded is not None:
        dataset = _recorded(Match.of(recorded, listed, contents), settings, log)
        return TargetData(dataset, contents, listed, None, recorded)
    refuse_bad_files(unreadable, settings.bad_files)
    groups = read_groups(listed, settings)
    try:
        done = cut(listed, contents, settings, groups)
    except ValueError as error:  # missing files may be why a class is too small
        missing = (f"{file.name}: {file.reason}" for file in listed.bad)
        raise ValueError("\n  ".join([*missing, str(error)])) from error
    for line in understood(settings.target, done.dataset, done.apart.values()):
        log(line)
    for line in done.duplicates.lines(settings.duplicates):
        log(line)
    for line in groups_said(done.dataset, settings, groups):
        log(line)
    for line in _seen_before(settings, done.dataset, contents):
        log(line)
    if settings.near_duplicates:
        threads = settings.threads or default_threads()
        reading = Reading.of(**settings.reading)
        decoder = make_decoder(settings.decoder, SHORT_SIDE, torch.device("cpu"), threads, log, reading=reading)
        for line in near_duplicates(done.dataset, contents, decoder):
            log(line)
    return TargetData(done.dataset, contents, listed, done, None)


def _seen_before(settings: Settings, dataset: Dataset, contents: Contents) -> Iterator[str]:
    """Yields a line where the weights are of a run that was trained or validated on images that are held out now."""
    weights = Path(settings.weights)
    folder = weights if weights.is_dir() else weights.parent
    manifest = (folder.parent if folder.name == "checkpoints" else folder) / "manifest.csv"
    if settings.weights in ("timm", "pip", "none") or not manifest.is_file():
        return
    recorded = Manifest.read(manifest)
    trained, validated = ({row.blake2b for row in recorded.of_split(split)} for split in ("train", "val"))
    seen = {
        split: [dataset.name_of(one.image) for one in images if contents[one.image.name].digest in digests]
        for split, images, digests in (
            ("test", dataset.test, trained | validated),
            ("validation", dataset.val, trained),
        )
    }
    counts = [f"{len(names)} {split}" for split, names in seen.items() if names]
    if counts:
        yield (
            f"weights: {settings.weights} was trained or validated on {' and '.join(counts)} images of this run "
            f"({some([name for names in seen.values() for name in names], EXAMPLES)}), whose accuracy it flatters; "
            f"--target {manifest} keeps its splits"
        )


def contents_of(
    dataset: Dataset, samples: Sequence[Sample], settings: Settings
) -> tuple[dict[str, Content], list[BadFile]]:
    """The contents of images of a dataset, and those that cannot be read. OSError where the cache cannot be written."""
    with local_rank_zero_first():
        return read_contents(dataset, samples, settings.cache_folder, settings.threads or default_threads())


def _recorded(match: Match, settings: Settings, log: Callable[[str], object]) -> Dataset:
    """The images of a run that is resumed, wherever they are now."""
    differences = match.differences()
    if differences and settings.data_changed == "error":
        raise ValueError(
            f"resume: {settings.target} has changed since the run began: {', '.join(differences)}; "
            "--data-changed ignore goes on with the run's own images"
        )
    splits = {split: [sample for _, sample in match.of_split(split)] for split in SPLITS}
    if differences:
        log(f"{settings.target} has changed since the run began: {', '.join(differences)}")
        splits["train"] = _with_stand_ins(match, log)
    return replace(match.dataset, classes=match.manifest.classes, bad=_left_out(match)).with_splits(splits)


def _left_out(match: Match) -> list[BadFile]:
    """The files that the run has left out as they cannot be used."""
    prefix = "cannot be used: "
    rows = [row for row in match.manifest.of_split(OUT) if row.note.startswith(prefix)]
    return [BadFile(f"{match.dataset.root}/{row.name}", row.note.removeprefix(prefix)) for row in rows]


def _with_stand_ins(match: Match, log: Callable[[str], object]) -> list[Sample]:
    """The run's training images. Where one is missing, the next one of its class stands in, so that steps, order and
    draws stay what they were.

    Raises ValueError for a class of which none is left.
    """
    there = dict(match.of_split("train"))
    rows = match.manifest.of_split("train")
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.class_name, []).append(row)
    samples, stand_ins = [], 0
    for row in rows:
        own = by_class[row.class_name]
        start = own.index(row)
        found = next((one for one in own[start:] + own[:start] if one in there), None)
        if found is None:
            raise ValueError(f"resume: none of the run's training images of class {row.class_name} is left")
        stand_ins += found != row
        samples.append(there[found]._replace(weight=row.weight))
    if stand_ins:
        title = "missing training image" + "s" * (stand_ins > 1)
        log(f"{stand_ins} {title}: the next one of its class stands in")
    return samples
