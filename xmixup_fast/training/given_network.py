"""Networks and weights that are given as objects: they become a name and a file, so that a run can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..models import classifiers
from ..models.network import Network
from ..models.weights import state_dict_in
from ..runtime.files import default_cache, writing_to_cache
from ..runtime.tensor_files import write_tensors
from ..settings.fields import Settings


def named(function: str, settings: Settings | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call, in which a module as ``model`` is a name, and tensors as ``weights`` are a file.

    The file lies in the cache, and is named by what it holds: the same weights are the same file.

    Args:
        function: whose call it is, for messages.
        settings: those on which the overrides come.
        overrides: settings by name. ``model`` may be a network of timm's or of an earlier run, whose weights are taken,
            and ``weights`` a state dict, or what holds one, or such a network.

    Raises TypeError for a module and weights besides, and ValueError for a module that timm cannot make again by its
    name, for weights that are no state dict, and without a cache.
    """
    given = dict(overrides)
    metadata: dict[str, str] = {}
    if isinstance(given.get("model"), nn.Module):
        if given.get("weights") is not None:
            raise TypeError(f"{function}: weights: expected none besides a module as model, whose weights are taken")
        module = _unwrapped(given["model"])
        given["model"], arguments, metadata = _description(module, given.get("model_args") or {})
        given["model_args"] = arguments or None
        given["weights"] = module
    weights = given.get("weights")
    if weights is None or isinstance(weights, str) or hasattr(weights, "__fspath__"):
        return given
    if isinstance(weights, nn.Module):
        weights = _unwrapped(weights)
        metadata = metadata or _of_network(weights)
        state = state_dict_in((weights.body if isinstance(weights, Network) else weights).state_dict())
    else:
        state = state_dict_in(weights)
    given["weights"] = str(_kept(state, metadata, given.get("cache") or (settings.cache if settings else None)))
    return given


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, without what DataParallel or torch.compile put around it."""
    while (inner := getattr(module, "_orig_mod", None) or _parallel(module)) is not None:
        module = inner
    return module


def _parallel(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    return None


def _description(module: nn.Module, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, str]]:
    """timm's name of a network, its further arguments, and what a weights file says of it."""
    if isinstance(module, Network):
        return module.model_name, {**module.model_arguments, **arguments}, _of_network(module)
    config = getattr(module, "pretrained_cfg", None) or {}
    name, tag = config.get("architecture"), config.get("tag")
    if not isinstance(name, str) or not timm.is_model(name) or not hasattr(module, "get_classifier"):
        raise ValueError(
            f"model: expected a network of timm, which a run can make again by its name, got a {type(module).__name__}"
            "; give the name of timm's network of this kind, and weights=module.state_dict()"
        )
    _check_same_layers(module, name, arguments)
    normalisation = {one: json.dumps(list(config[one])) for one in ("mean", "std")}
    return f"{name}.{tag}" if tag else name, dict(arguments), normalisation


def _check_same_layers(module: nn.Module, name: str, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError where timm makes other layers by this name, as where the module has further arguments."""
    with torch.random.fork_rng(devices=[]):
        made: Any = timm.create_model(name, **arguments)
    found, expected = (_layers(one) for one in (module, made))
    differing = [(line, other) for line, other in zip(found, expected, strict=False) if line != other]
    if differing or len(found) != len(expected):
        line, other = differing[0] if differing else (f"{len(found)} layers", f"{len(expected)} layers")
        raise ValueError(
            f"model: expected the layers that timm gives {name}, {other}, got {line}; give the arguments that made "
            "the module as model_args, or the state dict as weights"
        )


def _layers(module: Any) -> list[str]:
    """What a network prints of itself, without its classifier, and its dropout, which is mostly no layer."""
    heads = {id(layer) for head in classifiers.places(module) for layer in head.modules()}
    return [
        f"drop_rate={getattr(module, 'drop_rate', 0)}",
        *(
            f"{name} {type(one).__name__}({one.extra_repr()})"
            for name, one in module.named_modules()
            if id(one) not in heads
        ),
    ]


def _of_network(module: nn.Module) -> dict[str, str]:
    """What a weights file says of a trained network; nothing of other networks."""
    if not isinstance(module, Network):
        return {}
    lists = {name: json.dumps(list(getattr(module, name))) for name in ("classes", "mean", "std")}
    return {"model": module.model_name, **lists}


def _kept(state: Mapping[str, Tensor], metadata: Mapping[str, str], cache: str | None) -> Path:
    """The file of the cache that holds weights, which is written where it is not there yet."""
    if cache == "none":
        raise ValueError(
            "weights: tensors are kept in the cache, for the run to be resumed, and cache is none; save them with "
            "torch.save, and give the file"
        )
    if on_meta := next((name for name, tensor in state.items() if tensor.is_meta), None):
        raise ValueError(f"weights: {on_meta}: expected a tensor of numbers, got one on the device meta")
    digest = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    path = (Path(cache) if cache else default_cache()) / "weights" / f"{digest.hexdigest()}.safetensors"
    if not path.is_file():
        with writing_to_cache(path.parent):
            write_tensors(path, state, metadata)
    return path
