"""The auxiliary images of a run: selected, fetched where they are elsewhere, and decoded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.bad_files import list_bad, without
from ..data.catalog import Catalog
from ..data.contents import Contents
from ..data.dataset import BadFile, Dataset, Sample
from ..data.duplicates import EXAMPLES, counted
from ..data.layout import some
from ..methods.base import Batches
from ..ops.auxiliary_index import AuxiliaryIndex
from ..ops.image_pool import ImagePool
from ..selection import selector
from ..selection.choice import Selection
from ..selection.selector import AuxiliarySelector
from ..settings.fields import Settings
from .images import SplitImages
from .source import fetch_chosen
from .target import TargetData, contents_of


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """What was selected for a run, and the auxiliary images."""

    selection: Selection
    source: Dataset
    """The source, as far as its images were chosen or are there."""
    fetched: dict[str, Any] | None
    """What data.json says of images that were fetched; None for others."""
    pool: ImagePool
    index: AuxiliaryIndex
    report: dict[str, Any]
    """The content of selection.json."""
    seconds: float
    """Seconds that the selection took, without decoding the chosen images."""


@dataclass(frozen=True)
class AuxiliaryChoice:
    """Selects the auxiliary images of a run, and decodes the chosen ones alone."""

    settings: Settings
    data: TargetData
    source: Catalog
    images: SplitImages
    log: Callable[[str], object]

    @property
    def target(self) -> Dataset:
        """The target, by split."""
        return self.data.dataset

    def choose(self, chooser: AuxiliarySelector, batches: Batches, resumed: Path | None) -> ChosenImages:
        """Selects source classes or images, or reads the selection of a run that is resumed; fetches what is chosen."""
        settings, images = self.settings, self.images
        if resumed:
            chooser.settings = replace(settings, selection_file=str(resumed / "selection.json"))
        try:
            started = time.perf_counter()
            selection = chooser.select(batches(), self.target, self.source)
            seconds = time.perf_counter() - started
            source = fetch_chosen(selection, self.source, settings, self.log)
            for line in selection.lines(self.target.classes, source):
                self.log(line)
            contents, _ = contents_of(source, selection.samples(source), settings)
            held = self._held(contents)
            if selection.kind == "class":
                self._check_held(selection.samples(source), source, held)
            pool = images.auxiliary(selection, source, held, contents)
        except ValueError as error:
            if resumed and str(error).startswith("selection_file"):
                raise ValueError(f"resume: the source has changed since the run began: {error}") from error
            if settings.bad_files == "skip" or not images.bad or list_bad(images.bad) == str(error):
                raise
            raise ValueError(f"{list_bad(images.bad)}\n{error}") from error
        report = selector.report(settings, selection, self.target, source)
        if resumed:
            report = json.loads((resumed / "selection.json").read_text(encoding="utf-8"))
        return ChosenImages(
            selection=selection,
            source=source,
            fetched=self._fetched(contents),
            pool=pool,
            index=self._index(selection, source, pool, held=held),
            report=report,
            seconds=seconds,
        )

    def _fetched(self, contents: Contents) -> dict[str, Any] | None:
        """What data.json says of auxiliary images that were fetched: where from, and which; None for others."""
        origins = self.source.origins()
        if not origins:
            return None
        images: dict[str, str] = {}
        for name, content in contents.items():
            short = "/".join(Path(name).parts[-2:])
            images[name if short in images else short] = content.digest  # two sources may have the same names
        return {"origins": origins, "images": images}

    def _held(self, contents: Contents) -> list[BadFile]:
        """The auxiliary images that are validation or test images of the target, too, which training must not see."""
        digests = self._digests_of([*self.target.val, *self.target.test])
        names = [name for name, content in contents.items() if content.digest in digests]
        if names:
            count = counted(names, "auxiliary image")
            self.log(f"{count} equal to validation or test images, and left out ({some(names, EXAMPLES)})")
        trained = self._digests_of(self.target.train)
        if shared := [name for name, content in contents.items() if content.digest in trained]:
            self.log(
                f"{len(shared)} of {len(contents)} auxiliary images are training images of the target, too, which help "
                f"little as relatives of themselves ({some(shared, EXAMPLES)}); another --source has other images"
            )
        return [BadFile(name, "equal to a validation or test image") for name in names]

    def _digests_of(self, samples: Sequence[Sample]) -> set[str]:
        known = self.data.contents
        return {known[one.image.name].digest for one in samples if one.image.name in known}

    def _check_held(self, samples: Sequence[Sample], source: Dataset, held: Sequence[BadFile]) -> None:
        """Raises ValueError for a chosen class of the source of which no image is left."""
        left = {sample.label for sample in without(samples, held)}
        if lost := [source.classes[label] for label in sorted({sample.label for sample in samples} - left)]:
            raise ValueError(
                f"source: all images of {some(lost)} are validation or test images of {self.settings.target}, and left "
                "out of training: name a source that has others"
            )

    def _index(
        self, selection: Selection, source: Dataset, pool: ImagePool, *, held: Sequence[BadFile]
    ) -> AuxiliaryIndex:
        """Which images of the pool each target class may be mixed with; ``held`` are not in it."""
        if selection.kind == "class":
            return AuxiliaryIndex.of(pool, selection.chosen)
        samples = selection.samples(source)
        bad = [*self.images.bad, *held]
        positions = _positions_of_usable(selection.sample_positions(), samples, bad, self.target.classes)
        return AuxiliaryIndex.of_images(pool, positions)


def _positions_of_usable(
    positions: Sequence[Sequence[int]], samples: Sequence[Sample], bad: Sequence[BadFile], classes: Sequence[str]
) -> list[list[int]]:
    """Positions among all samples, row by row, as positions among the samples that are not bad.

    Raises ValueError for a row, one for each class, of which nothing is left.
    """
    bad_names = {item.name for item in bad}
    usable = [i for i, sample in enumerate(samples) if sample.image.name not in bad_names]
    new_position = {i: position for position, i in enumerate(usable)}
    kept = [[new_position[i] for i in row if i in new_position] for row in positions]
    for name, row in zip(classes, kept, strict=True):
        if not row:
            raise ValueError(f"class {name}: none of its auxiliary images can be decoded\n{list_bad(bad)}")
    return kept
