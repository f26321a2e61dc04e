"""All that comes before the first step of a run: datasets, network, selection, and images in pools or streams."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batches.render import Renderer
from ..batches.sampler import Sampler, run_steps
from ..data.bad_files import list_bad, without
from ..data.dataset import BadFile, Dataset, Sample
from ..data.sources import read_dataset
from ..data.streamed import StreamedImages
from ..methods import METHODS, Method
from ..methods.base import Batches
from ..models.build import build
from ..models.class_names import readable_name
from ..models.network import Network
from ..ops.auxiliary_index import AuxiliaryIndex
from ..ops.image_pool import ImagePool
from ..runtime import distributed
from ..runtime.device import DTYPES
from ..selection import selector
from ..selection.choice import Selection
from ..settings.fields import Settings
from .images import SplitImages, read_datasets
from .optimizer import check_length, freeze


@dataclass(frozen=True)
class TrainingSetup:
    """A run before its first step. Test images are on the CPU, all others on the run's device."""

    network: Network
    method: Method
    sampler: Sampler
    renderer: Renderer
    train: ImagePool | StreamedImages
    val: ImagePool | StreamedImages
    test: ImagePool | StreamedImages
    source_classes: list[str]
    """Empty for a method without a source."""
    report: dict[str, Any] | None
    """What selection.json holds; None for a method without a source."""
    selection_seconds: float
    """What the selection took, without decoding what it chose."""
    bad: list[BadFile]
    """Images that are left out as they cannot be used."""
    target: Dataset
    source: Dataset | None
    selection: Selection | None
    """Of the source; None for a method without one."""

    def samples(self, split: str) -> list[Sample]:
        """The images of a split that are in its pool or stream, in their order."""
        return without(getattr(self.target, split), self.bad)

    def first_batch(self) -> tuple[tuple[Tensor, ...], list[list[str]]]:
        """The batches that the first step looks at, each [B, 3, H, W], and the titles of their images."""
        draw = next(self.renderer.feed([self.method.draw(self.sampler, 0)]))
        titles = self.method.titles(draw, self.network.classes, list(map(readable_name, self.source_classes)))
        return self.method.inputs(draw, self.renderer), titles


def prepare(settings: Settings, log: Callable[[str], object], resumed: Path | None = None) -> TrainingSetup:
    """Makes a run ready, by resolved settings; ``log`` gets lines for the user.

    For a run that goes on, ``resumed`` is its folder: what was selected is read there, and the method, whose state is
    to be loaded, measures nothing.

    Raises ValueError, FileNotFoundError and OSError as :func:`xmixup_fast.fit` does.
    """
    method_class = METHODS[settings.method]
    target, source = read_datasets(settings, uses_source=method_class.uses_source)
    source_classes = source.classes if source else None
    if method_class.uses_classifier and settings.source:
        source_classes = read_dataset(settings.source).classes
    network = build(
        settings.model,
        settings.weights,
        target.classes,
        source_classes=source_classes,
        seed=settings.seed,
        keep_classifier=method_class.uses_classifier,
        image_size=settings.image_size,
    )
    freeze(network, settings.freeze)
    network.to_device(settings.device)
    method = method_class(settings, network)
    check_length(settings, len(target.train), method.source_phase_steps(run_steps(settings, len(target.train))))
    if source and resumed is None:
        selector.check(settings, network, target, source)
    images = SplitImages(settings, target, source, log)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        train = images.of["train"]
        return Renderer(train, None, network.mean, network.std, settings.image_size).batches(train, settings.batch_size)

    chosen = _choose(settings, network, batches, target, source, images, log, resumed) if source else None
    images.check()
    log(images.builder.storage())
    if resumed is None:
        method.prepare(network, batches)
    if settings.weight_decay not in (method.weight_decay, Settings.weight_decay):
        log(f"weight_decay {settings.weight_decay:g} is not used: l2sp_alpha and l2sp_beta take its place")
    train, val, test = images.of.values()
    log(
        f"{settings.method} on {settings.target}: {len(target.classes)} classes, {len(train)} training, "
        f"{len(val)} validation and {len(test)} test images"
    )
    return TrainingSetup(
        network,
        method,
        Sampler(
            *(train.labels, train.sizes, chosen.index if chosen else None, settings),
            *(distributed.rank(), distributed.world_size()),
        ),
        Renderer(
            *(train, chosen.pool if chosen else None, network.mean, network.std, settings.image_size),
            dtype=DTYPES[settings.amp],
        ),
        *(train, val, test),
        source_classes or [],
        chosen.report if chosen else None,
        chosen.seconds if chosen else 0.0,
        images.bad,
        *(target, source),
        chosen.selection if chosen else None,
    )


@dataclass(frozen=True)
class _Chosen:
    """The auxiliary images of a run."""

    selection: Selection
    pool: ImagePool
    index: AuxiliaryIndex
    report: dict[str, Any]
    seconds: float


def _choose(
    settings: Settings,
    network: Network,
    batches: Batches,
    target: Dataset,
    source: Dataset,
    images: SplitImages,
    log: Callable[[str], object],
    resumed: Path | None,
) -> _Chosen:
    """Selects source classes or images, or reads what a run that goes on has; decodes what is chosen alone."""
    if resumed:
        settings = replace(settings, selection_file=str(resumed / "selection.json"))
    try:
        started = time.perf_counter()
        chooser = selector.AuxiliarySelector(settings, network, images.builder.decoder, log, images.builder.bad)
        selection = chooser.select(batches(), target, source)
        seconds = time.perf_counter() - started
        for line in selection.lines(target.classes, source):
            log(line)
        pool = images.auxiliary(selection, source)
    except ValueError as error:
        if settings.bad_files == "skip" or not images.bad or list_bad(images.bad) == str(error):
            raise
        raise ValueError(f"{list_bad(images.bad)}\n{error}") from error
    if selection.kind == "image":
        samples = selection.samples(source)
        places = _places_of_good(selection.places(), samples, images.bad, target.classes)
        index = AuxiliaryIndex.of_images(pool, places)
    else:
        index = AuxiliaryIndex.of(pool, selection.chosen)
    report = selector.report(settings, selection, target, source)
    if resumed:
        report = json.loads((resumed / "selection.json").read_text(encoding="utf-8"))
    return _Chosen(selection, pool, index, report, seconds)


def _places_of_good(
    places: Sequence[Sequence[int]], samples: Sequence[Sample], bad: Sequence[BadFile], classes: Sequence[str]
) -> list[list[int]]:
    """Positions among the samples as positions among those that are not bad. ValueError where a class has none."""
    names = {item.name for item in bad}
    good = [i for i, sample in enumerate(samples) if sample.image.name not in names]
    place = {i: position for position, i in enumerate(good)}
    kept = [[place[i] for i in row if i in place] for row in places]
    for name, row in zip(classes, kept, strict=True):
        if not row:
            raise ValueError(f"class {name}: none of its auxiliary images can be decoded\n{list_bad(bad)}")
    return kept
