"""All that comes before the first step of a run: datasets, network, selection, images in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batches.render import fetch
from ..batches.sampler import Sampler, run_steps
from ..data.bad_files import without
from ..data.catalog import Catalog
from ..data.center_crops import center_crop_batches
from ..data.dataset import BadFile, Dataset, Sample
from ..data.manifest import Manifest
from ..methods import L2SP, METHODS, REGULARIZERS
from ..methods.base import Method
from ..models.build import NoWeights, build
from ..models.class_names import readable_name
from ..models.network import Network
from ..ops.augmentation import Augmentation
from ..ops.image_format import OutputBuffers
from ..runtime import distributed
from ..runtime.progress import progress
from ..selection import selector
from ..selection.choice import Selection
from ..selection.selector import AuxiliarySelector
from ..settings.fields import Settings
from . import head_fit
from .amounts import amounts
from .auxiliary import AuxiliaryChoice, ChosenImages
from .batch_norm import check_renewal, check_smallest_part
from .head_init import check_target_head, freeze_source_head, pretrained_network, renew_source_head, start_target_head
from .images import SplitImages
from .imbalance import class_weights, imbalance, read_class_weights
from .optimizer import check_length, freeze
from .source import read_source
from .source_accuracy import SourceAccuracy
from .target import TargetData, target_data
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
        return {} if self.source_accuracy is None else self.source_accuracy.summary(trained)

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
        auxiliary = AuxiliaryChoice(settings, data, source, images, log).choose(chooser, batches, resumed)
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
