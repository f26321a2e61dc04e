"""Networks by name: timm's own, those of the Hugging Face Hub, and those in a folder; made for an image size."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path

from . import small  # noqa: F401  # timm knows its network from now on
from .hub import reachable_hub

NOT_TAKEN = {
    "num_classes": "the classes are those of the target",
    **dict.fromkeys(("img_size", "input_size"), "--image-size tells the size"),
    **dict.fromkeys(
        ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), "--weights tells it"
    ),
    **dict.fromkeys(("features_only", "out_indices"), "the network needs its classifier"),
}
"""Arguments of timm that cannot be given, and why."""
CHANNELS = 3
"""Channels of the images: decoding makes all of them RGB."""


@dataclass(frozen=True)
class Architecture:
    """How timm makes a network."""

    name: str
    """timm's name of the network."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network, which the Hub, a folder or a file of its weights names."""
    source: str | None = None
    """The name with its source, such as ``hf-hub:timm/resnet18.a1_in1k``; None for timm's own networks."""
    config: dict[str, Any] | None = None
    """The Hub's or the folder's pretrained_cfg; None for timm's own networks."""
    given: dict[str, Any] = field(default_factory=dict)
    """Arguments that the user gives, which count before the others."""

    @property
    def title(self) -> str:
        """The name, as the user gave it."""
        return self.source or self.name

    @property
    def given_text(self) -> str:
        """The arguments that the user gives, as on the command line."""
        return " ".join(f"{name}={value}" for name, value in self.given.items())

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm knows of the pretrained weights, and so of the images that the network was made for."""
        if self.config is not None:
            return self.config
        known = timm.get_pretrained_cfg(self.title)
        return known.to_dict() if known else {}

    @property
    def own_size(self) -> int | None:
        """Height and width, in pixels, of the images that the network was made for; None where timm does not know."""
        size = self.pretrained_cfg.get("input_size")
        return min(size[1:]) if size else None


def find(model: str, given: Mapping[str, Any] | None = None) -> Architecture:
    """Looks a network up: ``resnet50``, ``hf-hub:USER/NAME``, or ``local-dir:FOLDER`` with a config.json.

    The Hub's config.json is downloaded, or taken from the Hub's cache. ``given`` are further arguments of the network.

    Raises ValueError where there is no such network, no network to ask, or an argument that cannot be given.
    """
    _check_arguments(given or {})
    return replace(_find(model), given=dict(given or {}))


def _check_arguments(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in NOT_TAKEN:
            raise ValueError(f"model_args: {name}={value} cannot be given, as {NOT_TAKEN[name]}")
        if name == "in_chans" and value != CHANNELS:
            raise ValueError(
                f"model_args: in_chans: expected {CHANNELS}, as images are decoded to RGB, grey ones to three equal "
                f"channels, got {value}; leave it out"
            )


def _find(model: str) -> Architecture:
    try:
        source, name = parse_model_name(model)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"model: timm has no {model!r} ({_reason(error)})") from error
    if source is None:
        if not timm.is_model(model):
            raise ValueError(
                f"model: timm has no {model!r}; see timm.list_models(), or give hf-hub:ID or local-dir:FOLDER"
            )
        return Architecture(model)
    is_hub, unreachable = source == "hf-hub", ""
    try:
        with reachable_hub() if is_hub else nullcontext("") as unreachable:
            read = load_model_config_from_hf if is_hub else load_model_config_from_path
            config, architecture, arguments = read(name)
    except Exception as error:  # no network, no such repository, no file, no JSON, other JSON
        reason = (isinstance(error, OSError) and unreachable) or _reason(error)
        if source == "local-dir":
            expected = "expected a folder with the config.json of timm.models.save_for_hf"
            raise ValueError(f"model: {model} cannot be read ({reason}); {expected}") from error
        raise ValueError(
            f"model: {model} cannot be read ({reason}); connect to huggingface.co once, or give local-dir:FOLDER with "
            "its config.json and weights"
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"model: {model} is a network {architecture!r}, which timm {timm.__version__} does not have")
    arguments = {name: value for name, value in (arguments or {}).items() if name != "num_classes"}
    return Architecture(architecture, arguments, f"{source}:{name}", config)


def weights_are_here(model: str) -> bool:
    """Whether timm would find a model's pretrained weights without a network: in a folder, or in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    source, _, name = model.partition(":")
    if source == "local-dir":
        return True
    config = timm.get_pretrained_cfg(model) if not name else None
    repository = name or (config.hf_hub_id if config else None)
    files = ("model.safetensors", "pytorch_model.bin")
    return repository is not None and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def image_size(model: str) -> int:
    """Height and width, in pixels, of the images that a network was made for: 224 for resnet50, 299 for inception_v3.

    Raises ValueError as :func:`find` does, and where that is not known.
    """
    size = find(model).own_size
    if size is None:
        raise ValueError(f"image_size: must be given, as timm does not know which size {model} was made for")
    return size


def create(architecture: Architecture, image_size: int | None, *, pretrained: bool = False) -> Any:
    """Creates a timm model, for images of ``image_size`` pixels a side where the model has a fixed input size.

    Raises ValueError where such a model cannot be made for this size or with the arguments that are given, or has no
    head, and OSError where weights cannot be downloaded.
    """
    if architecture.given:
        try:
            with torch.random.fork_rng(devices=[]):
                _create(architecture, image_size, False)
        except Exception as error:  # each network checks its arguments in its own way
            raise ValueError(
                f"model_args: timm cannot make {architecture.title} with {architecture.given_text} ({_reason(error)})"
            ) from error
    body = _create(architecture, image_size, pretrained)
    if not all(hasattr(body, name) for name in ("forward_features", "forward_head", "get_classifier")):
        raise ValueError(
            f"model: {architecture.title} is an encoder without a place for a classifier; take a network whose timm "
            "model has get_classifier()"
        )
    return body


def _create(architecture: Architecture, image_size: int | None, pretrained: bool) -> Any:
    of_file = {} if architecture.source else architecture.arguments
    arguments = {"pretrained": pretrained, **of_file, **architecture.given}
    name, config = architecture.title, architecture.pretrained_cfg
    fixed, size = config.get("fixed_input_size"), (config.get("input_size") or (3, None))[-1]
    if image_size is None or not fixed or (size == image_size and "img_size" not in architecture.arguments):
        return timm.create_model(name, **arguments)
    try:
        return timm.create_model(name, **arguments | {"img_size": image_size})
    except OSError:  # no network: some releases of huggingface_hub raise an OSError that is a ValueError too
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise _wrong_size(name, image_size, error) from error


def check_size(body: Any, model: str, image_size: int) -> None:
    """Sends one black image through the network's features.

    Raises ValueError where it cannot take images of this size.
    """
    try:
        with torch.no_grad():
            body.eval().forward_features(torch.zeros(1, CHANNELS, image_size, image_size))
    except Exception as error:  # a network that is made for larger images, or for one size, may raise anything
        raise _wrong_size(model, image_size, error) from error
    body.train()


def check_output(body: Any, architecture: Architecture, image_size: int) -> None:
    """Sends one black image through the whole network, whose arguments the user gives.

    Raises ValueError where the result is not a number for each class, as without pooling.
    """
    got: object
    try:
        with torch.no_grad():
            got = list(body.eval()(torch.zeros(1, CHANNELS, image_size, image_size)).shape)
    except Exception as error:  # layers that do not fit each other may raise anything
        got = _reason(error)
    body.train()
    if not (isinstance(got, list) and len(got) == 2):
        raise ValueError(
            f"model_args: expected a network with an output for each class, [1, K], got {got} of "
            f"{architecture.title} with {architecture.given_text}"
        )


def _wrong_size(model: str, image_size: int, error: Exception) -> ValueError:
    return ValueError(f"image_size: {model} cannot take images of {image_size} x {image_size} ({_reason(error)})")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return (str(error).splitlines() or [type(error).__name__])[0]
