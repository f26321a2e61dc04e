"""All that comes before the first step of a run: datasets, network, selection, images in memory or streamed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batches.render import fetch
from ..batches.sampler import Sampler, run_steps
from ..data.bad_files import list_bad, without
from ..data.catalog import Catalog
from ..data.center_crops import center_crop_batches
from ..data.contents import Contents
from ..data.dataset import BadFile, Dataset, Sample
from ..data.duplicates import EXAMPLES, counted
from ..data.layout import some
from ..data.manifest import Manifest
from ..methods import L2SP, METHODS, REGULARIZERS
from ..methods.base import Batches, Method
from ..models.build import NoWeights, build
from ..models.class_names import readable_name
from ..models.network import Network
from ..ops.augmentation import Augmentation
from ..ops.auxiliary_index import AuxiliaryIndex
from ..ops.image_format import OutputBuffers
from ..ops.image_pool import ImagePool
from ..runtime import distributed
from ..runtime.progress import progress
from ..selection import selector
from ..selection.choice import Selection
from ..selection.selector import AuxiliarySelector
from ..settings.fields import Settings
from . import head_fit
from .amounts import amounts
from .batch_norm import check_renewal, check_smallest_part
from .head_init import check_target_head, freeze_source_head, pretrained_network, renew_source_head, start_target_head
from .images import SplitImages
from .imbalance import class_weights, imbalance, read_class_weights
from .optimizer import check_length, freeze
from .source import fetch_chosen, read_source
from .source_accuracy import SourceAccuracy
from .target import TargetData, contents_of, target_data
from .trainer import StepParts
from .ways import ways


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A run before its first step. Test images are on the CPU, all others on the run's device."""

    parts: StepParts
    """What the steps work on."""
    images: SplitImages
    """The target's images, by split."""
    data: TargetData
    """How the target was cut, or found again."""
    manifest: Manifest
    """The target's images by content, and what becomes of them."""
    source: Dataset | None
    """The source, as far as its images were chosen or are there; None for a method without a source."""
    source_classes: list[str]
    """Names of the source head's outputs; empty for a network without one."""
    auxiliary: ChosenImages | None
    """The auxiliary images; None for a method without a source."""
    source_accuracy: SourceAccuracy | None
    """Measures what the network knows of held-out source images, where the settings ask for it."""
    class_weights: dict[str, float] | None
    """Weights that were given for each class; None for balanced ones, and without."""

    @property
    def target(self) -> Dataset:
        """The target's images that are listed, by split."""
        return self.data.dataset

    @property
    def bad(self) -> list[BadFile]:
        """Images that are left out as they cannot be used."""
        return self.images.bad

    @property
    def report(self) -> dict[str, Any] | None:
        """The content of selection.json; None for a method without a source."""
        return self.auxiliary.report if self.auxiliary else None

    @property
    def selection(self) -> Selection | None:
        """What was selected; None for a method without a source."""
        return self.auxiliary.selection if self.auxiliary else None

    @property
    def selection_seconds(self) -> float:
        """Seconds that the selection took, without decoding the chosen images."""
        return self.auxiliary.seconds if self.auxiliary else 0.0

    def source_accuracies(self, trained: Network) -> dict[str, float]:
        """What summary.json says of held-out source images, in percent; nothing where they are not looked at."""
        measure = self.source_accuracy
        if measure is None:
            return {}
        after = round(measure.after(trained), 4)
        return {"source_accuracy_before": round(measure.before, 4), "source_accuracy": after}

    def samples(self, split: str) -> list[Sample]:
        """The images of a split that are used, in their order."""
        return without(getattr(self.target, split), self.bad)

    def first_batch(self) -> tuple[tuple[Tensor, ...], list[list[str]]]:
        """The batches that the first step looks at, each [B, 3, size, size], and the titles of their images."""
        parts, form = self.parts, self.parts.network.image_format(self.images.settings.crop_size)
        plans = [parts.method.plan(parts.sampler, 0)]
        ((plan, pools),) = fetch(parts.images, parts.auxiliary, plans, parts.sampler.augmentation)
        titles = parts.method.titles(plan, parts.network.classes, list(map(readable_name, self.source_classes)))
        return parts.method.images(plan, pools, form, OutputBuffers()), titles


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


def prepare(
    settings: Settings,
    log: Callable[[str], object],
    *,
    resumed: Path | None = None,
    recorded: Manifest | None = None,
    kept_weights: Mapping[str, float] | None = None,
) -> TrainingSetup:
    """Makes a run ready.

    Args:
        settings: resolved settings.
        log: gets lines for the user.
        resumed: the folder of a run that is resumed: its selection is read there, and the method, whose state is to be
            loaded, measures nothing.
        recorded: the manifest of a run that is resumed, whose images the target has to hold.
        kept_weights: the weights of its classes, which ``class_weights`` must not have changed.

    Raises ValueError, FileNotFoundError and OSError as :func:`xmixup_fast.fit` does.
    """
    data = target_data(settings, log, recorded)
    source, source_classes = _source(settings, log)
    network = _network(settings, data.dataset, source_classes, log)
    method = METHODS[settings.method](settings, network)
    _check_settings(settings, network, method, data.dataset)
    pretrained = None
    if settings.head_init == "source":
        check_target_head(network)
        pretrained = pretrained_network(settings, network.classes, None, "head_init: source")
    given_weights = read_class_weights(settings, data.dataset.classes, kept_weights)
    if source and resumed is None:
        selector.check(settings, network, data.dataset, source)
    images = SplitImages(settings, data.dataset, log, data.contents)
    if source and source.local:
        images.listed += source.local.bad

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        form = network.image_format(settings.crop_size)
        crops = center_crop_batches(images.train, form, settings.batch_size)
        return progress(crops, len(images.train), "looking at training images", count=lambda batch: len(batch[1]))

    auxiliary = None
    if source:
        chooser = AuxiliarySelector(settings, network, images.store.decoder, log, images.store.bad)
        auxiliary = _Choice(settings, data, source, images, log).choose(chooser, batches, resumed)
    images.check()
    log(images.store.storage())
    source_accuracy = None
    if settings.source_accuracy:
        source_accuracy = SourceAccuracy(settings, network, source, images.store, log)
    if resumed is None:
        method.measure(network, batches)
        if pretrained is not None:
            start_target_head(network, pretrained, batches)
    if settings.source_head == "fresh":
        renew_source_head(network, settings.seed)
    weights = [sample.weight for sample in without(data.dataset.train, images.bad)]
    log(_counts(settings, images, sum(weights)))
    for length in amounts(settings, sum(weights)):
        log(length)
    index = auxiliary.index if auxiliary else None
    if auxiliary and index and Augmentation.of(**settings.augmentation).needs_means:
        index = index._replace(means=auxiliary.pool.means)
    rank, world_size = distributed.rank(), distributed.world_size()
    sampler = Sampler(images.train, index, settings, rank=rank, world_size=world_size, weights=weights)
    if settings.class_weights is not None:
        method.weigh_classes(class_weights(sampler.class_counts, given_weights).to(settings.device))
    counts = images.train.labels.bincount(minlength=len(data.dataset.classes)).tolist()
    if line := imbalance(settings, data.dataset.classes, counts, method.class_weights):
        log(line)
    parts = StepParts(
        network=network,
        method=method,
        regularizer=_regularizer(settings, network, log),
        sampler=sampler,
        images=images.train,
        auxiliary=auxiliary.pool if auxiliary else None,
    )
    return TrainingSetup(
        parts=parts,
        images=images,
        data=data,
        manifest=data.manifest(images.bad),
        source=auxiliary.source if auxiliary else None,
        source_classes=source_classes or [],
        auxiliary=auxiliary,
        source_accuracy=source_accuracy,
        class_weights=given_weights,
    )


def _source(settings: Settings, log: Callable[[str], object]) -> tuple[Catalog | None, list[str] | None]:
    """The source, for a method that uses its images; and the names of its classes, for one that uses those."""
    method = METHODS[settings.method]
    if not (method.uses_source or (method.uses_classifier and settings.source is not None)):
        return None, None
    source = read_source(settings, log)
    return (source if method.uses_source else None), source.classes


def _check_settings(settings: Settings, network: Network, method: Method, target: Dataset) -> None:
    """Raises ValueError for a length, batch size or way to start the head with which the network cannot be trained."""
    head_fit.check(settings, network)
    if not method.takes_steps:
        return
    epoch_length = sum(sample.weight for sample in target.train)
    check_length(settings, epoch_length, method.source_phase_steps(run_steps(settings, epoch_length)))
    check_smallest_part(settings, network, len(method.shows), distributed.world_size())
    if settings.renew_batch_norm:
        check_renewal(network)


def _counts(settings: Settings, images: SplitImages, epoch_length: int) -> str:
    """A line that says what is trained on; ``epoch_length`` counts the training images by weight."""
    train = len(images.train)
    shown = "" if epoch_length == train else f", which a table's repeated rows show {epoch_length} times an epoch"
    return (
        f"{settings.method} on {settings.target}: {len(images.target.classes)} classes, {train} training, "
        f"{len(images.val)} validation and {len(images.splits.get('test', images.target.test))} test images{shown}"
    )


def _regularizer(settings: Settings, network: Network, log: Callable[[str], object]) -> L2SP | None:
    """The run's regularizer, which draws to the network's weights as they are now."""
    if settings.regularizer == "none":
        return None
    if settings.weight_decay not in (0, Settings.weight_decay):
        log(f"weight_decay {settings.weight_decay:g} is not used: regularizer {settings.regularizer} takes its place")
    return REGULARIZERS[settings.regularizer](settings, network)


def _network(
    settings: Settings, target: Dataset, source_classes: Sequence[str] | None, log: Callable[[str], object]
) -> Network:
    """The network at its start, on the run's device, with what the settings freeze excluded from training."""
    if settings.model == Settings.model:
        log(f"network: {settings.model} by timm, the default; --model takes any other")
    try:
        network = build(
            settings.model,
            settings.weights,
            target.classes,
            source_classes=source_classes,
            seed=settings.seed,
            keep_classifier=METHODS[settings.method].uses_classifier,
            image_size=settings.crop_size,
            model_args=settings.model_args,
            weights_classes=settings.weights_classes,
            log=log,
        )
    except NoWeights as error:
        raise ValueError(f"{error}\n{ways(settings)}") from error
    freeze(network, settings.freeze)
    if settings.source_head == "frozen":
        freeze_source_head(network)
    return network.to_device(settings.device)


@dataclass(frozen=True)
class _Choice:
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
