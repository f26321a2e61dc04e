"""Runs a selection: makes the passes over images that its strategy needs, and reads no other image of the source.

The target's training images are passed over each time: they are few, and training has them decoded anyway. A pass over
the source is the costly part, so its result is cached (:mod:`.cache`), and one pass computes features and predictions
alike. With torch.distributed, batch b of a pass goes to rank b mod n. The sums of all ranks are merged in float64, and
nearest images by cosine and position, so the choice is the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from ..data.catalog import Catalog
from ..data.center_crops import center_crop_batches
from ..data.dataset import BadFile, Dataset, Sample
from ..data.decoding.decoder import Decoder
from ..models.network import NOTHING_PRETRAINED, Network
from ..ops.image_format import OutputBuffers
from ..ops.image_pool import ImagePool
from ..runtime import distributed
from ..runtime.files import readable_bytes
from ..runtime.progress import Progress
from ..settings.fields import Settings
from .cache import PassResult, cache_key, cached
from .choice import Selection, read_selection
from .doubt import judge
from .statistics import ClassMeans, LabelledBatches, class_means, nearest_images
from .strategies import (
    assignment_selection,
    check_top_k,
    cosine,
    least_similar,
    most_similar,
    random_classes,
    transport_package,
    transport_selection,
)


class AuxiliarySelector:
    """Chooses source classes or images for each target class, as the settings say.

    Args:
        settings: selection strategy, batch size, image size and cache.
        network: the network before training, on the settings' device.
        decoder: decodes the images of the source.
        log: is called with lines for the user.
        bad: a list to which images of the source are added that cannot be decoded; the selection leaves them out.
    """

    def __init__(
        self,
        settings: Settings,
        network: Network,
        decoder: Decoder,
        log: Callable[[str], object],
        bad: list[BadFile],
    ) -> None:
        self.settings = settings
        self.network = network
        self.decoder = decoder
        self.log = log
        self.bad = bad

    def select(self, target_images: LabelledBatches, target: Dataset, source: Catalog) -> Selection:
        """Selects for each class of ``target``.

        ``target_images`` gives one pass over the target's training images. The strategy `random` reads no image of the
        source, nor does `prediction` where enough source classes are outputs of the pretrained classifier. Every other
        strategy passes over the source's training images once, or over ``probe_images`` of each class where they have
        to be fetched.

        Raises ValueError where the source has too few classes or images, or a target class has no image that can be
        decoded; also what :func:`~xmixup_fast.selection.choice.read_selection` and
        :func:`~xmixup_fast.selection.cache.cached` raise.
        """
        settings, network = self.settings, self.network
        if settings.selection_file is not None:
            return _read_selection(settings.selection_file, target, source)
        check(settings, network, target, source)
        if settings.selection == "random":
            return random_classes(len(target.classes), len(source.classes), settings.top_k, settings.seed)
        similarity = settings.compared
        logits = self._predicted_logits(similarity, target, source)

        means = class_means(network, target_images, len(target.classes), logits)
        if not means.counts.all():
            name = target.classes[int(means.counts.argmin())]
            raise ValueError(f"class {name}: none of its training images can be decoded")
        if similarity == "sample":
            return self._nearest(means, target, self._looked_at(source))
        if logits == network.known_source_logits:
            assert means.probabilities is not None and network.source_matched is not None
            scores = means.probabilities.masked_fill(~network.source_matched.cpu(), -torch.inf)
        else:
            scores = _similarities(means, self._source_means(self._looked_at(source)))
        if settings.selection == "least":
            return least_similar(scores, settings.top_k)
        if similarity == "transport":
            selection = transport_selection(scores, settings.top_k)
        else:
            assign = settings.selection == "assignment"
            selection = assignment_selection(scores) if assign else most_similar(scores, settings.top_k)
        return judge(selection, scores, of_predictions=similarity == "prediction")

    def stream(self, samples: Sequence[Sample], title: str, bad: list[BadFile]) -> LabelledBatches:
        """One pass over encoded images: normalised centre crops with their labels, decoded as they are needed.

        Batches are float32[B, 3, image_size, image_size] and int64[B]. Of n processes, this one gets every n-th batch.
        Images that cannot be decoded are left out. After the last batch, those of all processes are added to ``bad``.
        ``title`` stands beside the progress bar.
        """
        settings, network = self.settings, self.network
        rank, processes = distributed.rank(), distributed.world_size()
        size = settings.batch_size
        batches = [samples[begin : begin + size] for begin in range(rank * size, len(samples), processes * size)]
        form, buffers = network.image_format(settings.crop_size), OutputBuffers()
        unreadable: list[BadFile] = []
        images = self.decoder.decode(sample.image for sample in chain.from_iterable(batches))
        with Progress(sum(map(len, batches)), title) as bar:
            for batch in batches:
                results = list(zip(islice(images, len(batch)), batch, strict=True))
                unreadable += [image for image, _ in results if isinstance(image, BadFile)]
                good = [(image, sample.label) for image, sample in results if isinstance(image, Tensor)]
                if good:
                    pool = ImagePool.from_images([image for image, _ in good], [label for _, label in good])
                    yield from center_crop_batches(pool.to(settings.device), form, size, buffers=buffers)
                bar.update(len(batch))
        if processes > 1:
            unreadable = sorted(chain.from_iterable(distributed.gather_objects(unreadable)))
        bad += unreadable

    def _looked_at(self, source: Catalog) -> Dataset:
        """The source's images for a pass over them: all, or some of each class where they have to be fetched."""
        if source.local is not None:
            return source.local
        dataset = source.fetch(range(len(source.classes)), self.settings.probe_images, self.log)
        self.bad += dataset.bad
        return dataset

    def _predicted_logits(self, similarity: str, target: Dataset, source: Catalog) -> Callable[[Tensor], Tensor] | None:
        """The function that maps features to the logits to be predicted for the target's images.

        Its outputs are the source classes where the pretrained classifier knows enough of them, otherwise all outputs
        of that classifier, which need a pass over the source. None for strategies that compare features.
        """
        network = self.network
        if similarity in ("sample", "feature", "transport"):
            return None
        known, needed = _known_classes(network), _classes_needed(self.settings, target)
        if known >= needed:
            return network.known_source_logits
        self.log(
            f"selection: prediction needs a pass over the source's images, since {known} of its {len(source.classes)} "
            "classes are outputs of the pretrained classifier"
        )
        return network.classifier_logits

    def _source_means(self, source: Dataset) -> ClassMeans:
        """Means of each source class; where there is a pretrained classifier, also of all of its outputs.

        Both come from one pass, so that after `prediction` the strategy `feature` finds its means in the cache.
        """
        network = self.network
        logits = None if network.classifier_weight is None else network.classifier_logits

        def compute(images: LabelledBatches) -> dict[str, Tensor]:
            means = class_means(network, images, len(source.classes), logits)
            return {name: tensor for name, tensor in means._asdict().items() if tensor is not None}

        tensors = self._pass_over_source(source.train, compute, [source.train], ["class means"])
        return ClassMeans(tensors["features"], tensors.get("probabilities"), tensors["counts"])

    def _nearest(self, means: ClassMeans, target: Dataset, source: Dataset) -> Selection:
        """Selects the source's images whose features are nearest to the mean features of each target class."""
        count = self.settings.top_images

        def compute(images: LabelledBatches) -> dict[str, Tensor]:
            nearest, cosines = nearest_images(self.network, images, means.features, count)
            return {"images": nearest, "cosines": cosines}

        numbered = [Sample(sample.image, position) for position, sample in enumerate(source.train)]
        # The means depend on which target images could be decoded, and their stamps do not tell; the counts do.
        parameters = ["nearest images", count, means.counts.tolist()]
        tensors = self._pass_over_source(numbered, compute, [target.train, source.train], parameters)
        return Selection("image", tensors["images"].tolist(), tensors["cosines"].tolist())

    def _pass_over_source(
        self,
        samples: Sequence[Sample],
        compute: Callable[[LabelledBatches], dict[str, Tensor]],
        key_samples: Sequence[Sequence[Sample]],
        key_parameters: Sequence[object],
    ) -> dict[str, Tensor]:
        """The tensors that ``compute`` makes of one pass over ``samples``, from the cache where it holds them.

        ``key_samples`` and ``key_parameters`` are what the tensors depend on, besides the preprocessing.
        """

        def run() -> PassResult:
            bad: list[BadFile] = []
            return PassResult(compute(self.stream(samples, "source images", bad)), bad)

        settings, network = self.settings, self.network
        if settings.cache_folder is None:
            result = run()
        else:
            preprocessing = [network.mean, network.std, settings.crop_size, self.decoder.key]
            device = torch.device(settings.device).type
            key = cache_key(network, key_samples, [*key_parameters, *preprocessing, device])
            result = cached(settings.cache_folder, key, run, partial(self.decoder.all_unreadable, samples))
        self.bad += result.bad
        return result.tensors


def check(settings: Settings, network: Network, target: Dataset, source: Catalog) -> None:
    """Checks, before an image is read, that the settings' selection is possible.

    Raises ValueError where the source has too few classes or images, where it would have to be downloaded to be looked
    at, or where the network has no pretrained classifier that the strategy needs; also what
    :func:`~xmixup_fast.selection.choice.read_selection` raises.
    """
    if settings.selection_file is not None:
        _read_selection(settings.selection_file, target, source)
    elif settings.selection == "random":
        check_top_k(settings.top_k, len(source.classes))
    elif settings.selection == "sample":
        _check_looks(settings, network, target, source)
        images = sum(source.counts or [])
        if images < settings.top_images:
            raise ValueError(
                f"top_images: expected at most {images}, the source's training images, got {settings.top_images}"
            )
    else:
        if settings.selection == "transport":
            transport_package()
        _check_classes(settings, network, target, source)
        _check_looks(settings, network, target, source)


def _check_looks(settings: Settings, network: Network, target: Dataset, source: Catalog) -> None:
    """Raises ValueError where the selection has to look at images of a source that is elsewhere, and may not."""
    strategy, similarity = settings.selection, settings.compared
    known = _known_classes(network)
    if source.local is not None or (similarity == "prediction" and known >= _classes_needed(settings, target)):
        return
    size = "of unknown size" if source.size is None else readable_bytes(source.size)
    reason = f"{strategy} looks at images of every class"
    if similarity == "prediction":
        reason = f"the pretrained classifier knows {known} of its {len(source.classes)} classes"
    whole = f"{source.name} is elsewhere, {size} in all, and {reason}"
    if strategy == "sample":
        raise ValueError(f"selection: {whole}: download it, and name the folder, or use --selection prediction")
    if settings.probe_images is None:
        raise ValueError(f"selection: {whole}: --probe-images N looks at N images of each class")


def _check_classes(settings: Settings, network: Network, target: Dataset, source: Catalog) -> None:
    strategy, needed = settings.selection, _classes_needed(settings, target)
    if len(source.classes) < needed:
        count = f"{needed}, the number of target classes," if strategy == "assignment" else f"top_k = {needed}"
        raise ValueError(
            f"selection: {strategy} needs at least {count} source classes, and there are {len(source.classes)}"
        )
    if settings.compared == "prediction" and _known_classes(network) < needed and network.classifier_weight is None:
        way = "name its --weights, or use --selection random"
        if network.no_classifier != NOTHING_PRETRAINED:
            way = f"use --{'selection' if strategy == 'prediction' else 'similarity'} feature"
        raise ValueError(
            "selection: prediction needs a network with a pretrained classifier of one layer, and "
            f"{network.no_classifier}; {way}"
        )


def _classes_needed(settings: Settings, target: Dataset) -> int:
    """The smallest number of source classes that the strategy can choose from."""
    return len(target.classes) if settings.selection == "assignment" else settings.top_k


def _known_classes(network: Network) -> int:
    """The number of source classes that are outputs of the pretrained classifier."""
    return 0 if network.source_matched is None else int(network.source_matched.sum())


def _read_selection(path: str, target: Dataset, source: Catalog) -> Selection:
    """A selection in a file; single images are found where those of the source are there."""
    return read_selection(path, target.classes, source.local or Dataset(source.classes, [], [], []))


def _similarities(target: ClassMeans, source: ClassMeans) -> Tensor:
    """The similarity of each target class with each source class, float64[K_t, K_s]; -inf without source images.

    It is the cosine of mean predictions where the target has them, and of mean features otherwise. Let P[j] be the mean
    prediction for target class j. For a source class whose images are always predicted as output i, the cosine is
    P[j, i] / |P[j]|, so source classes are in the order of P[j], as if they were known outputs. The inner product would
    even be P[j, i] itself, but it favours the few source classes of which the classifier is most certain, for all
    target classes alike.
    """
    if target.probabilities is not None and source.probabilities is not None:
        values = cosine(target.probabilities, source.probabilities)
    else:
        values = cosine(target.features, source.features)
    return values.masked_fill(source.counts == 0, -torch.inf)


def report(settings: Settings, selection: Selection, target: Dataset, source: Dataset) -> dict[str, Any]:
    """The content of selection.json: the settings of the selection, and what is chosen for each target class."""
    options: dict[str, Any] = {"how": settings.selection, "top_k": settings.top_k}
    if settings.selection_file is not None:
        options = {"how": "file", "selection_file": settings.selection_file}
    elif settings.selection in ("assignment", "least"):
        options["similarity"] = settings.similarity
    elif settings.selection == "sample":
        options = {"how": "sample", "top_images": settings.top_images}
    return {**options, "classes": selection.to_json(target.classes, source)}
