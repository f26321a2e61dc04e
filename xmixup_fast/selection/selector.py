"""Runs a selection: the passes that its strategy needs, and no other image of the source is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from ..data.center_crops import center_crop_batches
from ..data.dataset import BadFile, Dataset, Sample
from ..data.decoding.decoder import Decoder
from ..models.network import Network
from ..ops.image_format import OutputBuffers
from ..ops.image_pool import ImagePool
from ..runtime import distributed
from ..settings.fields import Settings
from .cache import PassResult, cache_key, cached
from .choice import Selection, read_selection
from .statistics import ClassMeans, LabelledBatches, class_means, nearest_images
from .strategies import assignment_selection, check_top_k, cosine, most_similar, random_classes


class AuxiliarySelector:
    """Chooses source classes or images for each target class, as the settings say.

    ``log`` gets lines for the user; ``bad`` gets the images of the source that cannot be decoded, which are left out.
    What passes over the source find is kept in the cache. Where torch.distributed is initialised, the processes share
    the images.
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

    def select(self, target_images: LabelledBatches, target: Dataset, source: Dataset) -> Selection:
        """Selects for the classes of ``target``, of which ``target_images`` gives the training images, normalised.

        `random`, and `prediction` where enough source classes are outputs of the pretrained classifier, read no image
        of the source; all others pass over its training images once.

        Raises ValueError where the source has too few classes or images, or a target class no image, and what
        :func:`~xmixup_fast.selection.choice.read_selection` and the cache raise.
        """
        settings, network = self.settings, self.network
        if settings.selection_file is not None:
            return read_selection(settings.selection_file, target.classes, source)
        check(settings, network, target, source)
        if settings.selection == "random":
            return random_classes(len(target.classes), len(source.classes), settings.top_k, settings.seed)
        assign = settings.selection == "assignment"
        similarity = settings.similarity if assign else settings.selection
        logits = self._logits(similarity, target, source)

        means = class_means(network, target_images, len(target.classes), logits)
        if not means.counts.all():
            name = target.classes[int(means.counts.argmin())]
            raise ValueError(f"class {name}: none of its training images can be decoded")
        if similarity == "sample":
            return self._nearest(means, target, source)
        if logits == network.known_source_logits:
            assert means.probabilities is not None and network.source_matched is not None
            values = means.probabilities.masked_fill(~network.source_matched.cpu(), -torch.inf)
        else:
            values = _similarities(means, self._source_means(source))
        return assignment_selection(values) if assign else most_similar(values, settings.top_k)

    def stream(self, samples: Sequence[Sample], what: str, bad: list[BadFile]) -> LabelledBatches:
        """One pass over encoded images: normalised centre crops with their labels, decoded as they are needed.

        Where torch.distributed is initialised, this process gets every n-th batch. ``what`` names the images in the
        progress bar. Images that cannot be decoded are left out, and added to ``bad`` after the last batch: those of
        all processes.
        """
        from tqdm import tqdm

        settings, network = self.settings, self.network
        rank, processes = distributed.rank(), distributed.world_size()
        size = settings.batch_size
        batches = [samples[begin : begin + size] for begin in range(rank * size, len(samples), processes * size)]
        form, buffers = network.image_format(settings.image_size), OutputBuffers()
        found: list[BadFile] = []
        images = self.decoder.decode(sample.image for sample in chain.from_iterable(batches))
        total, hide = sum(map(len, batches)), rank > 0 or None  # None: no bar where stderr is not a terminal
        with tqdm(total=total, desc=what, unit=" images", leave=False, disable=hide) as bar:
            for batch in batches:
                results = list(zip(islice(images, len(batch)), batch, strict=True))
                found += [image for image, _ in results if isinstance(image, BadFile)]
                good = [(image, sample.label) for image, sample in results if isinstance(image, Tensor)]
                if good:
                    pool = ImagePool.from_images([image for image, _ in good], [label for _, label in good])
                    yield from center_crop_batches(pool.to(settings.device), form, size, buffers=buffers)
                bar.update(len(batch))
        bad += sorted(chain.from_iterable(distributed.gather_objects(found))) if processes > 1 else found

    def _logits(self, similarity: str, target: Dataset, source: Dataset) -> Callable[[Tensor], Tensor] | None:
        """What is to be predicted for the target's images, if anything."""
        network = self.network
        if similarity in ("sample", "feature"):
            return None
        known, needed = _known(network), _classes_needed(self.settings, target)
        if known >= needed:
            return network.known_source_logits
        self.log(
            f"selection: prediction needs a pass over the source's images, since {known} of its {len(source.classes)} "
            "classes are outputs of the pretrained classifier"
        )
        return network.classifier_logits

    def _source_means(self, source: Dataset) -> ClassMeans:
        """Of each source class; predictions are of all outputs of the pretrained classifier, where there is one."""
        network = self.network
        logits = None if network.classifier_weight is None else network.classifier_logits

        def compute(images: LabelledBatches) -> dict[str, Tensor]:
            means = class_means(network, images, len(source.classes), logits)
            return {name: tensor for name, tensor in means._asdict().items() if tensor is not None}

        found = self._over_source(source.train, compute, [source.train], ["class means"])
        return ClassMeans(found["features"], found.get("probabilities"), found["counts"])

    def _nearest(self, means: ClassMeans, target: Dataset, source: Dataset) -> Selection:
        """The source's images that are nearest to each target class."""
        count = self.settings.top_images

        def compute(images: LabelledBatches) -> dict[str, Tensor]:
            nearest, cosines = nearest_images(self.network, images, means.features, count)
            return {"images": nearest, "cosines": cosines}

        numbered = [Sample(sample.image, position) for position, sample in enumerate(source.train)]
        # The counts: a target image that was bad may no longer be.
        parameters = ["nearest images", count, means.counts.tolist()]
        found = self._over_source(numbered, compute, [target.train, source.train], parameters)
        return Selection("image", found["images"].tolist(), found["cosines"].tolist())

    def _over_source(
        self,
        samples: Sequence[Sample],
        compute: Callable[[LabelledBatches], dict[str, Tensor]],
        key_samples: Sequence[Sequence[Sample]],
        key_parameters: Sequence[object],
    ) -> dict[str, Tensor]:
        """What ``compute`` finds in a pass over the source, or what the cache has."""

        def run() -> PassResult:
            bad: list[BadFile] = []
            return PassResult(compute(self.stream(samples, "source images", bad)), bad)

        settings, network = self.settings, self.network
        if settings.cache_folder is None:
            found = run()
        else:
            # What makes an image's features, besides the image and the network's weights.
            preprocessing = [network.mean, network.std, settings.image_size, settings.short_side, self.decoder.name]
            device = torch.device(settings.device).type
            key = cache_key(network, key_samples, [*key_parameters, *preprocessing, device])
            found = cached(settings.cache_folder, key, run, partial(self.decoder.all_unreadable, samples))
        self.bad += found.bad
        return found.tensors


def check(settings: Settings, network: Network, target: Dataset, source: Dataset) -> None:
    """What can be said of a selection before an image is read.

    Raises ValueError where the source has too few classes or images or the network no classifier to choose with, and
    what :func:`~xmixup_fast.selection.choice.read_selection` raises.
    """
    if settings.selection_file is not None:
        read_selection(settings.selection_file, target.classes, source)
    elif settings.selection == "random":
        check_top_k(settings.top_k, len(source.classes))
    elif settings.selection == "sample":
        if len(source.train) < settings.top_images:
            raise ValueError(
                f"top_images: expected at most {len(source.train)}, the source's training images, "
                f"got {settings.top_images}"
            )
    else:
        _check_classes(settings, network, target, source)


def _check_classes(settings: Settings, network: Network, target: Dataset, source: Dataset) -> None:
    needed, text = _classes_needed(settings, target), f"top_k = {settings.top_k}"
    if settings.selection == "assignment":
        text = f"{needed}, the number of target classes,"
    if len(source.classes) < needed:
        raise ValueError(
            f"selection: {settings.selection} needs at least {text} source classes, and there are {len(source.classes)}"
        )
    how = settings.similarity if settings.selection == "assignment" else settings.selection
    if how == "prediction" and _known(network) < needed and network.classifier_weight is None:
        raise ValueError(
            "selection: prediction needs a network with a pretrained classifier, and this one has none; name its "
            "--weights, or use --selection random"
        )


def _classes_needed(settings: Settings, target: Dataset) -> int:
    return len(target.classes) if settings.selection == "assignment" else settings.top_k


def _known(network: Network) -> int:
    """How many source classes are outputs of the pretrained classifier."""
    return 0 if network.source_matched is None else int(network.source_matched.sum())


def _similarities(target: ClassMeans, source: ClassMeans) -> Tensor:
    """Of each target class to each source class, float64[K_t, K_s]; -inf for a source class without images.

    Cosines, of the mean predictions where the target has them, else of the mean features. For a source class that is
    output i, and always predicted as such, the cosine with mean prediction P[j] is P[j, i] / |P[j]|: the order is that
    of P[j], as where source classes are known outputs. An inner product would also give P[j, i]; but it prefers source
    classes of which the classifier is certain, whatever they are: few of them, for many target classes.
    """
    if target.probabilities is not None and source.probabilities is not None:
        values = cosine(target.probabilities, source.probabilities)
    else:
        values = cosine(target.features, source.features)
    return values.masked_fill(source.counts == 0, -torch.inf)


def report(settings: Settings, selection: Selection, target: Dataset, source: Dataset) -> dict[str, Any]:
    """What selection.json holds: how it was selected, and what."""
    how: dict[str, Any] = {"how": settings.selection, "top_k": settings.top_k}
    if settings.selection_file is not None:
        how = {"how": "file", "selection_file": settings.selection_file}
    elif settings.selection == "assignment":
        how["similarity"] = settings.similarity
    elif settings.selection == "sample":
        how = {"how": "sample", "top_images": settings.top_images}
    return {**how, "classes": selection.to_json(target.classes, source)}
