"""Networks by name: timm's own, those of the Hugging Face Hub, and those in a folder; made for an image size."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path

from . import small  # noqa: F401  # timm knows its network from now on
from .hub import reachable_hub


@dataclass(frozen=True)
class Architecture:
    """How timm makes a network."""

    name: str
    """timm's name of the network."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network, which the Hub or a folder names."""
    source: str | None = None
    """The name with its source, such as ``hf-hub:timm/resnet18.a1_in1k``; None for timm's own networks."""
    config: dict[str, Any] | None = None
    """The Hub's or the folder's pretrained_cfg; None for timm's own networks."""

    @property
    def title(self) -> str:
        """The name, as the user gave it."""
        return self.source or self.name


def find(model: str) -> Architecture:
    """Looks a network up: ``resnet50``, ``hf-hub:USER/NAME``, or ``local-dir:FOLDER`` with a config.json.

    The Hub's config.json is downloaded, or taken from the Hub's cache.

    Raises ValueError where there is no such network, or no network to ask.
    """
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


def create(architecture: Architecture, image_size: int | None, *, pretrained: bool = False) -> Any:
    """Creates a timm model, for images of ``image_size`` pixels a side where the model has a fixed input size.

    Raises ValueError where such a model cannot be made for this size, or has no head, and OSError where weights cannot
    be downloaded.
    """
    body = _create(architecture, image_size, pretrained)
    if not all(hasattr(body, name) for name in ("forward_features", "forward_head", "get_classifier")):
        raise ValueError(
            f"model: {architecture.title} is an encoder without a place for a classifier; take a network whose timm "
            "model has get_classifier()"
        )
    return body


def _create(architecture: Architecture, image_size: int | None, pretrained: bool) -> Any:
    arguments = {"pretrained": pretrained, **({} if architecture.source else architecture.arguments)}
    name = architecture.title
    config = architecture.config
    if config is None:
        known = timm.get_pretrained_cfg(name)
        config = known.to_dict() if known else {}
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
            body.eval().forward_features(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # a network that is made for larger images, or for one size, may raise anything
        raise _wrong_size(model, image_size, error) from error
    body.train()


def _wrong_size(model: str, image_size: int, error: Exception) -> ValueError:
    return ValueError(f"image_size: {model} cannot take images of {image_size} x {image_size} ({_reason(error)})")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return (str(error).splitlines() or [type(error).__name__])[0]
