"""Fits a state dict, or a NumPy file, to a network: prefixes, other names, the classifier's size, what is left over."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import classifiers
from .weights import Weights, is_averaged, listed

COUNTERS = ("total_ops", "total_params")
"""Names of the numbers that thop puts beside a layer's weights."""
STEPS = "num_batches_tracked"
"""Batch normalisation's counter, which files from before PyTorch 0.4.1 lack, and which no output depends on."""
PROJECTORS = r"(proj|pred|prototype|queue|contrast|decoder)"
"""How parts begin that self-supervised training puts behind a network."""
CLASSIFIERS = r"(head|fc|classifier|mlp|linear)"
"""The same, for names that classifiers have as well."""


class Fit(NamedTuple):
    """How a state dict was loaded."""

    has_classifier: bool
    """Whether the classifier's weights were among them."""
    notes: list[str]
    """What was left out or renamed, for the user."""


def load_weights(body: Any, weights: Weights, file: str, model: str) -> Fit:
    """Loads a state dict into a timm model, whose classifier is resized to the classifier in the state dict.

    A prefix of the names (``model.``, ``backbone.``) comes off where more of them fit so; names and shapes of the
    network's original code are converted as timm does. Without a classifier in the state dict, the model keeps its own.
    ``file`` and ``model`` name both in messages.

    Raises ValueError, which lists the differences, where they do not fit each other.
    """
    if not classifiers.heads(body):
        classifiers.reset(body, 1)
    state, notes = _without_prefix(weights.state, body.state_dict())
    if any(not name.endswith(STEPS) for name in body.state_dict().keys() - state.keys()):
        state = _converted(state, body)
    if fault := _no_numbers(body.state_dict(), state):
        raise ValueError(f"weights: {file}: {fault}")
    layers = classifiers.names(body, classifiers.output_layers(body))
    rows = {len(state[name]) if state[name].dim() else 0 for name in layers if name in state}
    if 0 in rows:
        raise ValueError(f"weights: {file}: expected a classifier with a row for each output, got one without any")
    has_classifier = bool(rows)
    if has_classifier:
        classifiers.reset(body, rows.pop())
    else:
        own = classifiers.names(body, classifiers.heads(body))
        state = state | {name: tensor for name, tensor in body.state_dict().items() if name in own}
    expected = body.state_dict()
    if any(name in state and state[name].shape != tensor.shape for name, tensor in expected.items()):
        state = _converted(state, body)
    state = {name: tensor for name, tensor in expected.items() if name.endswith(STEPS)} | state
    if extra := [name for name in state if name not in expected and _is_extra(name, state[name], has_classifier, body)]:
        state = {name: tensor for name, tensor in state.items() if name not in extra}
        notes.append(f"tensors that {model} has no place for are left out, {len(extra)}: {listed(extra)}")
    if differences := _differences(expected, state):
        named = f" (it is of {weights.model})" if weights.model not in (None, model) else ""
        raise ValueError(f"weights: {file}{named} does not fit {model}: {'; '.join([differences, *notes])}")
    body.load_state_dict(state)
    return Fit(has_classifier, notes)


def load_numpy(body: Any, file: Path, model: str) -> Fit:
    """Loads a file of JAX's format into a timm model that reads such files itself, with the file's classifier if any.

    Raises FileNotFoundError where there is no such file, and ValueError where it cannot be loaded.
    """
    if not file.is_file():
        raise FileNotFoundError(f"weights: {file}: no such file (and not timm, pip or none)")
    if not hasattr(body, "load_pretrained"):
        raise ValueError(f"weights: {file}: timm reads NumPy files for some networks, and {model} is none of them")
    try:
        classifiers.reset(body, _rows(file))
        # timm passes over a classifier in silence: what is still NaN afterwards was not in the file.
        tensors = [tensor for head in classifiers.heads(body) for tensor in head.parameters()]
        with torch.no_grad():
            for tensor in tensors:
                tensor.fill_(torch.nan)
        body.load_pretrained(str(file))
    except Exception as error:  # the file is of another network, or none at all
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"weights: {file}: timm cannot load it into {model} ({reason})") from error
    has_classifier = bool(tensors) and not any(tensor.isnan().any() for tensor in tensors)
    if not has_classifier:
        classifiers.reset(body, 1)
    return Fit(has_classifier, [])


def _rows(file: Path) -> int:
    """The number of outputs of the classifier in a file of JAX's format; 0 where there is none."""
    loaded = np.load(file)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is one array; expected the .npz of all weights")
    with loaded as arrays:
        biases = [name for name in arrays.files if re.search(r"(^|/)head/(.*/)?bias$", name)]
        return int(arrays[biases[0]].shape[-1]) if len(biases) == 1 else 0


def _is_extra(name: str, tensor: Tensor, has_classifier: bool, body: Any) -> bool:
    """Whether a tensor that the network has no place for may be left out, as no output of the backbone needs it.

    These are numbers that are no weights, such as ``n_averaged``, and a projector behind the backbone in place of the
    classifier. Anything else, such as a gain inside a block, tells of another network.
    """
    first, _, rest = name.partition(".")
    if tensor.numel() == 1 and (not rest or not tensor.is_floating_point() or name.endswith(COUNTERS)):
        return True
    if has_classifier or name in body.state_dict():
        return False
    own = {layer.partition(".")[0] for layer in classifiers.names(body, classifiers.heads(body))}
    inside = first in own and not any(parameter.startswith(f"{first}.") for parameter in _backbone(body))
    return inside or (not hasattr(body, first) and re.match(f"{PROJECTORS}|{CLASSIFIERS}", first) is not None)


def _backbone(body: Any) -> list[str]:
    """Names of the tensors that are not the classifier's."""
    own = classifiers.names(body, classifiers.heads(body))
    return [name for name in body.state_dict() if name not in own]


def _no_numbers(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Which tensor cannot become the network's, whatever its shape, and why; empty where none is such."""
    for name, tensor in state.items():
        if name not in expected:
            continue
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "one on the device meta, which holds none" if tensor.is_meta else str(tensor.layout)
            return f"{name}: expected a tensor of numbers, got {kind}"
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"{name}: expected floating-point numbers, got {kind}; take weights that are not quantised"
    return ""


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What differs in names and shapes, in words; empty where nothing does."""
    shared = expected.keys() & state.keys()
    shapes = {
        f"{name} {list(expected[name].shape)}, not {list(state[name].shape)}"
        for name in shared
        if expected[name].shape != state[name].shape
    }
    differences = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(shapes),
    }
    return "; ".join(f"{len(found)} {kind}: {listed(found)}" for kind, found in differences.items() if found)


def _without_prefix(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the prefix with which most names are the expected ones, and what is said of it."""
    fitting: dict[str, int] = {"": sum(name in expected for name in state)}
    for name in state:
        parts = name.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in expected:
                prefix = ".".join(parts[:i]) + "."
                fitting[prefix] = fitting.get(prefix, 0) + 1
    best = max(fitting.values())
    equal = [prefix for prefix, count in fitting.items() if count == best]
    prefix = min(equal, key=lambda prefix: (not is_averaged(prefix), len(prefix)))
    if not prefix:
        return state, []
    others = [name for name in state if not name.startswith(prefix)]
    averaged = "averaged weights are taken: " if is_averaged(prefix) else ""
    notes = [f"{averaged}the names' prefix {prefix} comes off"]
    if others:
        notes.append(f"tensors without it are left out, {len(others)}: {listed(others)}")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}, notes


def _converted(state: dict[str, Tensor], body: Any) -> dict[str, Tensor]:
    """The state dict with names and shapes as timm converts them, or unchanged where fewer of them fit then."""
    expected = body.state_dict()

    def fitting(names: Mapping[str, Tensor]) -> int:
        return sum(name in expected and expected[name].shape == tensor.shape for name, tensor in names.items())

    try:
        converted: dict[str, Tensor] = sys.modules[type(body).__module__].checkpoint_filter_fn(dict(state), body)
    except Exception:  # the weights belong to another network; the caller lists the differences
        return state
    return converted if fitting(converted) > fitting(state) else state
