"""Runs a selection: the passes that its strategy needs, and no other image of the source is read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .class_statistics import Images, cache_key, cached, class_means, nearest_images
from .data.dataset import BadFile, Dataset, Sample
from .data.decode import make_decoder
from .models import Network
from .pool import ImagePool
from .rendering import Renderer
from .selection import Selection, at_random, cosine, most_similar, one_to_one, read_selection
from .settings import Settings


def select(settings: Settings, network: Network, target_images: Images, target: Dataset, source: Dataset) -> Selection:
    """Chooses source classes or images for each target class, as the settings say.

    ``target_images`` gives the training images of ``target``, normalised, with their labels. `prediction` and `random`
    read no image of the source; `feature` and `sample` pass over all its training images once, and keep what they find
    in the cache. Where torch.distributed is initialised, the processes share the source's images.

    Raises ValueError where the source has too few classes or images, or an image cannot be decoded, and what
    :func:`~xmixup_fast.selection.read_selection` and the cache raise.
    """
    if settings.selection_file is not None:
        return read_selection(settings.selection_file, target.classes, source)
    classes = len(target.classes)
    if settings.selection == "random":
        return at_random(classes, len(source.classes), settings.top_k, settings.seed)
    assign = settings.selection == "assignment"
    similarity = settings.similarity if assign else settings.selection
    _check(settings, network, similarity, target, source)

    means = class_means(network, target_images, classes, predictions=similarity == "prediction")
    if similarity == "sample":
        images, cosines = _nearest_images(settings, network, means.features, target, source)
        return Selection("image", images.tolist(), cosines.tolist())
    if similarity == "feature":
        values = cosine(means.features, _source_features(settings, network, source))
    else:
        assert means.probabilities is not None and network.source_matched is not None
        values = means.probabilities.masked_fill(~network.source_matched.cpu(), -torch.inf)
    return one_to_one(values) if assign else most_similar(values, settings.top_k)


def _check(settings: Settings, network: Network, similarity: str, target: Dataset, source: Dataset) -> None:
    """Finds out before the first pass whether the source has enough to choose from."""
    if similarity == "sample":
        if len(source.train) < settings.top_images:
            raise ValueError(
                f"top_images: expected at most {len(source.train)}, the source's training images, "
                f"got {settings.top_images}"
            )
        return
    needed, text = settings.top_k, f"top_k = {settings.top_k}"
    if settings.selection == "assignment":
        needed, text = len(target.classes), f"{len(target.classes)}, the number of target classes,"
    if similarity == "prediction":
        known = 0 if network.source_matched is None else int(network.source_matched.sum())
        if known == 0 or known < needed:
            raise ValueError(
                f"selection: prediction needs at least {text} source classes that are outputs of the pretrained "
                f"classifier, and {known} are; name their folders as the classifier does, or use --selection random"
            )
    elif len(source.classes) < needed:
        raise ValueError(
            f"selection: {settings.selection} needs at least {text} source classes, and there are {len(source.classes)}"
        )


def _source_features(settings: Settings, network: Network, source: Dataset) -> Tensor:
    """The mean features of each source class, float64[K_s, D]."""

    def compute() -> dict[str, Tensor]:
        images = stream(settings, network, source.train, "source images")
        return {"features": class_means(network, images, len(source.classes), predictions=False).features}

    return cached(cache_key(network, [source.train], ["class means", *_preprocessing(settings, network)]), compute)[
        "features"
    ]


def _nearest_images(
    settings: Settings, network: Network, class_features: Tensor, target: Dataset, source: Dataset
) -> tuple[Tensor, Tensor]:
    """Positions and cosines of the source's images that are nearest to each target class."""

    def compute() -> dict[str, Tensor]:
        numbered = [Sample(sample.image, position) for position, sample in enumerate(source.train)]
        images = stream(settings, network, numbered, "source images")
        nearest, cosines = nearest_images(network, images, class_features, settings.top_images)
        return {"images": nearest, "cosines": cosines}

    parameters = ["nearest images", settings.top_images, *_preprocessing(settings, network)]
    found = cached(cache_key(network, [target.train, source.train], parameters), compute)
    return found["images"], found["cosines"]


def _preprocessing(settings: Settings, network: Network) -> list[object]:
    """What makes an image's features, besides the image and the network's weights."""
    device = torch.device(settings.device).type
    return [network.mean, network.std, settings.image_size, settings.short_side, device]


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


def stream(settings: Settings, network: Network, samples: Sequence[Sample], what: str) -> Images:
    """One pass over encoded images: normalised centre crops with their labels, decoded as they are needed.

    Where torch.distributed is initialised, this process gets every n-th batch. ``what`` names the images in the
    progress bar. Raises ValueError, after the last batch, which lists every image that cannot be decoded; where the
    settings say to skip them, it is a warning.
    """
    from tqdm import tqdm

    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    size = settings.batch_size
    batches = [samples[begin : begin + size] for begin in range(rank * size, len(samples), processes * size)]
    renderer = Renderer(ImagePool.from_images([]), None, network.mean, network.std, settings.image_size)
    bad: list[BadFile] = []
    device = torch.device(settings.device)
    decoder = make_decoder(settings.decoder, settings.short_side, device, torch.get_num_threads(), lambda line: None)
    images = decoder.decode(sample.image for sample in chain.from_iterable(batches))
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=sum(map(len, batches)), desc=what, unit=" images", leave=False, disable=rank > 0 or None) as bar:
        for batch in batches:
            results = list(zip(islice(images, len(batch)), batch, strict=True))
            bad += [image for image, _ in results if isinstance(image, BadFile)]
            good = [(image, sample.label) for image, sample in results if isinstance(image, Tensor)]
            if good:
                pool = ImagePool.from_images([image for image, _ in good], [label for _, label in good])
                yield from renderer.batches(pool.to(settings.device), size)
            bar.update(len(batch))
    if dist.is_initialized():
        lists: list[Any] = [None] * processes
        dist.all_gather_object(lists, bad)
        bad = list(chain.from_iterable(lists))
    if bad:
        text = f"{len(bad)} of {len(samples)} {what} cannot be decoded:"
        text += "".join(f"\n  {item.name}: {item.reason}" for item in bad)
        if settings.bad_files == "error":
            raise ValueError(text)
        if rank == 0:
            warnings.warn(text, stacklevel=2)
