"""Reads weights files as timm does, finds the state dict in them, and fits it to a network."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor

from . import classifiers

KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where checkpoints hold a state dict, in timm's order of precedence."""
LEVELS = 2
"""How many further levels of a checkpoint are looked into."""
LISTED = 3
"""How many names a message lists."""
NUMBERS = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
SAFE_GLOBALS = [
    argparse.Namespace,  # timm's training arguments
    np.float64(0).__reduce__()[0],  # the three of a NumPy scalar, such as a best accuracy
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    *sorted({type(np.dtype(code)) for code in NUMBERS}, key=str),
]
"""What a checkpoint may hold besides tensors and plain Python values; anything else is refused, and never run."""


class Weights(NamedTuple):
    """What a weights file holds."""

    state: dict[str, Tensor]
    metadata: dict[str, str]
    """Metadata of a .safetensors file; other files have none."""
    taken: str
    """What was taken of the file, for the user: "state_dict_ema of epoch 3 (resnet18)"."""
    model: str | None
    """The network that the file names; None where it names none."""


class Fit(NamedTuple):
    """How a state dict was loaded."""

    has_classifier: bool
    """Whether the classifier's weights were among them."""
    notes: list[str]
    """What was left out or renamed, for the user."""


def trained_file(path: str | os.PathLike[str]) -> Path:
    """The path of the weights file in a run folder, or of the file itself. The file need not exist."""
    file = Path(path)
    return file / "model.safetensors" if file.is_dir() else file


def read_weights(path: Path) -> Weights:
    """Reads a weights file, or model.safetensors of a run folder, as ``timm.create_model(checkpoint_path=...)`` does.

    Averaged weights (EMA) are taken where there are some. Up to two more levels of ``state_dict`` or ``model`` are
    followed, or the one entry that is a state dict.

    Raises FileNotFoundError where there is no such file, and ValueError where it cannot be read, would run code, or
    holds no state dict.
    """
    file = trained_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights: {file}: no such file (and not timm, pip or none)")
    if file.suffix == ".safetensors":
        state, metadata = _reading(file, lambda: (load_state_dict(str(file)), _metadata(file)))
        model = metadata.get("model")
        return Weights(state, metadata, "its weights" if model is None else f"weights of {model}", model)
    # On the meta device no tensor is read: this tells what stands beside the state dict.
    checkpoint = _reading(file, lambda: torch.load(file, map_location="meta", weights_only=True))
    key = _checked_key(file, checkpoint)
    loaded: Any = _reading(file, lambda: load_state_dict(str(file), use_ema=True, weights_only=True))
    state, keys = _state_dict(file, loaded, [key] if key else [])
    model = checkpoint.get("arch") or getattr(checkpoint.get("args"), "model", None)
    epoch = checkpoint.get("epoch")
    taken = ".".join(keys) or "its state dict"
    taken += f" of epoch {epoch}" if isinstance(epoch, (int, np.integer)) else ""
    return Weights(state, {}, taken + (f" ({model})" if isinstance(model, str) else ""), model)


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


Result = TypeVar("Result")


def _reading(file: Path, read: Callable[[], Result]) -> Result:
    """What ``read`` makes of a file. Raises ValueError with the cause where the file cannot be read."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):  # type: ignore[no-untyped-call]
            return read()
    except Exception as error:  # torch.load raises almost anything for a file that is no weights file
        raise _unusable(file, f"cannot be read ({_reason(file, error)})") from error


def _unusable(file: Path, problem: str) -> ValueError:
    return ValueError(
        f"weights: {file}: {problem}; save the state dict alone: torch.save(model.state_dict(), FILE), or take a "
        ".safetensors file"
    )


def _reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words: what it would have run is named."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):  # type: ignore[no-untyped-call]
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # it lists what an archive of torch.save holds; of other files the error names the first one
        refused = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"it holds {_listed(sorted(set(refused)))}, with which loading could run code; nothing was run"
    _, _, cause = str(error).partition("WeightsUnpickler error:")
    return ((cause or str(error)).strip() or type(error).__name__).split(". ")[0].splitlines()[0]


def _no_state_dict(file: Path, found: Any, where: str) -> ValueError:
    """The error for a file that holds no state dict, or several of which none is the one to take."""
    got = type(found).__name__
    if isinstance(found, Mapping):
        got = f"a dictionary of {_listed(list(map(str, found))) or 'nothing'}"
    expected = f"a state dict, alone or under one of {', '.join(KEYS)}"
    return _unusable(file, f"expected {expected}; got {got}{where}")


def _checked_key(file: Path, checkpoint: Any) -> str | None:
    """The entry of a checkpoint that timm takes, None where timm takes all of it."""
    if not isinstance(checkpoint, Mapping):
        raise _no_state_dict(file, checkpoint, "")
    key = next((name for name in KEYS if checkpoint.get(name) is not None), None)
    if key is not None and not isinstance(checkpoint[key], Mapping):
        raise _no_state_dict(file, checkpoint[key], f" under {key}")
    return key


def _state_dict(file: Path, checkpoint: Mapping[str, Any], keys: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Finds the state dict at some level of a checkpoint. Returns it with the names of the levels."""
    for level in range(LEVELS + 1):
        if _is_state_dict(checkpoint):
            return dict(checkpoint), keys
        if level == LEVELS:
            break
        inner = [name for name in KEYS if isinstance(checkpoint.get(name), Mapping)][:1]
        inner = inner or [name for name, value in checkpoint.items() if _is_state_dict(value)]
        if len(inner) != 1:
            break
        keys = [*keys, inner[0]]
        checkpoint = clean_state_dict(checkpoint[inner[0]])
    raise _no_state_dict(file, checkpoint, f" under {'.'.join(keys)}" if keys else "")


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


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
    if body.state_dict().keys() - state.keys():
        state = _converted(state, body)
    layers = classifiers.names(body, classifiers.output_layers(body))
    rows = {len(state[name]) for name in layers if name in state}
    has_classifier = bool(rows)
    if has_classifier:
        classifiers.reset(body, rows.pop())
    else:
        own = classifiers.names(body, classifiers.heads(body))
        state = state | {name: tensor for name, tensor in body.state_dict().items() if name in own}
    expected = body.state_dict()
    if any(name in state and state[name].shape != tensor.shape for name, tensor in expected.items()):
        state = _converted(state, body)
    if differences := _differences(expected, state):
        named = f" (it is of {weights.model})" if weights.model not in (None, model) else ""
        raise ValueError(f"weights: {file}{named} does not fit {model}: {'; '.join([differences, *notes])}")
    body.load_state_dict(state)
    return Fit(has_classifier, notes)


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
    return "; ".join(f"{len(found)} {kind}: {_listed(found)}" for kind, found in differences.items() if found)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


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
    prefix = min((prefix for prefix, count in fitting.items() if count == best), key=len)
    if not prefix:
        return state, []
    others = [name for name in state if not name.startswith(prefix)]
    notes = [f"the names' prefix {prefix} comes off"]
    if others:
        notes.append(f"tensors without it are left out, {len(others)}: {_listed(others)}")
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
