"""Reads weights files as timm does, and finds the state dict in them."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from .file_kind import INCOMPLETE, foreign, is_safetensors

KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where checkpoints hold a state dict, in timm's order of precedence."""
LEVELS = 2
"""How many further levels of a checkpoint are looked into."""
AVERAGED = re.compile(r"(?<![a-z])(ema|swa|averaged?|avg|polyak)(?![a-z])", re.IGNORECASE)
"""How averaged weights are named."""
CUT_SHORT = ("truncated", "unexpected eof", "not fully covered", "invalid header length", "header too large")
"""What errors about incomplete files say."""
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


def _are_colors(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(one, int | float) for one in value)


def _are_classes(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return texts and len(set(value)) == len(value)


DESCRIBED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "classes": ("a JSON list of different texts", _are_classes),
    "mean": ("a JSON list of three numbers", _are_colors),
    "std": ("a JSON list of three numbers", _are_colors),
    "image_size": ("a number of pixels", lambda value: isinstance(value, int) and value > 0),
}
"""What metadata say of a trained network, what is expected of each of them, and whether a value fits that."""


class Weights(NamedTuple):
    """What a weights file holds."""

    state: dict[str, Tensor]
    metadata: dict[str, str]
    """Metadata of a .safetensors file; other files have none."""
    taken: str
    """What was taken of the file, for the user: "state_dict_ema of epoch 3 (resnet18)"."""
    model: str | None
    """The network that the file names; None where it names none."""


def trained_file(path: str | os.PathLike[str]) -> Path:
    """The path of the weights file in a run folder, or of the file itself. The file need not exist."""
    file = Path(path)
    return file / "model.safetensors" if file.is_dir() else file


def read_weights(path: Path) -> Weights:
    """Reads a weights file, or model.safetensors of a run folder, as ``timm.create_model(checkpoint_path=...)`` does.
    Of a run's checkpoint the network is taken, as it was after its step.

    Averaged weights (EMA, SWA) are taken where there are some. Up to two more levels of ``state_dict`` or ``model`` are
    followed, or the one entry that is a state dict. A file's content tells its format, not its name.

    Raises FileNotFoundError where there is no such file, and ValueError where it cannot be read, would run code, or
    holds no state dict.
    """
    file = trained_file(path)
    checkpoints = sorted(file.parent.glob("checkpoints/step-*.safetensors")) if path.is_dir() else []
    if checkpoints and not file.is_file():
        raise FileNotFoundError(
            f"weights: {path}: the run is not finished, and has no model.safetensors; finish it with --resume auto, or "
            f"take its newest checkpoint, --weights {checkpoints[-1]}"
        )
    if not file.is_file():
        raise FileNotFoundError(f"weights: {file}: no such file (and not timm, pip or none)")
    if is_safetensors(file):
        return _read_safetensors(file)
    if what := foreign(file):
        raise ValueError(f"weights: {file}: cannot be read: {what}")
    checkpoint = _reading(file, lambda: _load(file))
    state, keys, unread = _found(checkpoint, [], LEVELS + 1)
    if not _is_state_dict(state):
        raise _no_state_dict(file, state, keys)
    taken = ".".join(keys) or "its state dict"
    model, epoch = _names(checkpoint)
    taken += "" if epoch is None else f" of epoch {epoch}"
    taken += "" if model is None else f" ({model})"
    taken += f"; {listed(unread)} left out, as no state dict is in it" if unread else ""
    return Weights(clean_state_dict(dict(state)), {}, taken, model)


def _read_safetensors(file: Path) -> Weights:
    state, metadata = _reading(file, lambda: (load_file(file), _metadata(file)))
    for name, (expected, fits) in DESCRIBED.items():
        if name in metadata and not fits(_json(metadata[name])):
            raise ValueError(f"weights: {file}: metadata: {name}: expected {expected}, got {metadata[name]:.60}")
    if {"format", "run", "step", "notes"} <= metadata.keys():
        return _of_checkpoint(file, state, metadata)
    model = metadata.get("model")
    return Weights(clean_state_dict(state), metadata, "its weights" if model is None else f"weights of {model}", model)


def _of_checkpoint(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Weights:
    """The weights of a run's checkpoint, after its step: averaged ones where there are some.

    Raises ValueError for a checkpoint that does not name its network and classes.
    """
    if not {"model", "classes", "mean", "std"} <= metadata.keys():
        run = file.resolve().parent.parent if file.resolve().parent.name == "checkpoints" else "RUN"
        raise ValueError(
            f"weights: {file}: is a checkpoint that does not name its classes; expected the run folder, --weights "
            f"{run}, which holds model.safetensors once the run is finished"
        )
    averaged = any(name.startswith("average.") for name in state)
    prefix = "average.body." if averaged else "network.body."
    body = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    model = json.loads(metadata["model"])
    kind = "averaged weights" if averaged else "weights"
    kept = {name: metadata[name] for name in DESCRIBED if name in metadata}
    return Weights(clean_state_dict(body), kept, f"{kind} of step {metadata['step']} of {model}", model)


def _load(file: Path) -> Any:
    with file.open("rb") as opened:  # given a path, torch goes by its suffix
        return torch.load(opened, map_location="cpu", weights_only=True)


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _names(checkpoint: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The network and the epoch that a checkpoint names; None for what it does not name."""
    places = (checkpoint.get("arch"), getattr(checkpoint.get("args"), "model", None), checkpoint.get("model"))
    epoch = checkpoint.get("epoch")
    model = next((place for place in places if isinstance(place, str)), None)
    return model, int(epoch) if isinstance(epoch, (int, np.integer)) else None


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
        return f"it holds {listed(sorted(set(refused)))}, with which loading could run code; nothing was run"
    text = str(error).lower()
    if isinstance(error, EOFError) or any(sign in text for sign in CUT_SHORT):
        return INCOMPLETE
    _, _, cause = str(error).partition("WeightsUnpickler error:")
    return ((cause or str(error)).strip() or type(error).__name__).split(". ")[0].splitlines()[0]


def _no_state_dict(file: Path, found: Any, keys: list[str]) -> ValueError:
    """The error for a file that holds no state dict, or several of which none is the one to take."""
    several = [name for name, value in found.items() if _is_state_dict(value)] if isinstance(found, Mapping) else []
    if len(several) > 1:
        inner = "".join(f'["{key}"]' for key in (*keys, several[-1]))
        return ValueError(
            f"weights: {file}: expected one state dict, got {len(several)}: {listed(several)}; where you trust the "
            f"file, save the one to take (a teacher is the average of its student), such as {several[-1]}: "
            f'torch.save(torch.load("{file.name}", weights_only=False){inner}, "{several[-1]}.pth")'
        )
    got = f"{_kind(found)}{_under(keys)}"
    return _unusable(file, f"expected a state dict, alone or under one of {', '.join(KEYS)}; got {got}")


def _kind(found: Any) -> str:
    """What stands in the place of a state dict, for messages."""
    if isinstance(found, Mapping):
        return f"a dictionary of {listed(list(map(str, found))) or 'nothing'}"
    return type(found).__name__


def _under(keys: list[str]) -> str:
    return f" under {'.'.join(keys)}" if keys else ""


def _found(checkpoint: Any, keys: list[str], levels: int) -> tuple[Any, list[str], list[str]]:
    """Finds the state dict at some level of a checkpoint, averaged weights before others.

    Returns it, or what is there where none is found; the names of the levels; and entries named as averaged weights
    are that hold no state dict.
    """
    if levels == 0 or not isinstance(checkpoint, Mapping) or _is_state_dict(checkpoint):
        return checkpoint, keys, []
    unread = []
    for name in sorted(filter(is_averaged, checkpoint), key=lambda name: (*KEYS, name).index(name)):
        state, inner, _ = _found(checkpoint[name], [*keys, name], levels - 1)
        if _is_state_dict(state):
            return state, inner, []
        if isinstance(checkpoint[name], (Mapping, list)) and checkpoint[name]:
            unread.append(name)
    known = [name for name in KEYS if not is_averaged(name) and checkpoint.get(name) is not None]
    known = [name for name in known if not isinstance(checkpoint[name], str)]
    others = [name for name, value in checkpoint.items() if _is_state_dict(value)]
    if not known and len(others) != 1:
        return checkpoint, keys, unread
    name = (known or others)[0]
    state, inner, more = _found(checkpoint[name], [*keys, name], levels - 1)
    return state, inner, [*unread, *more]


def state_dict_in(checkpoint: Any) -> dict[str, Tensor]:
    """The state dict that ``checkpoint`` is, or holds as a weights file does. Raises ValueError where there is none."""
    state, keys, _ = _found(checkpoint, [], LEVELS + 1)
    if _is_state_dict(state):
        return dict(state)
    got = f"{_kind(state)}{_under(keys)}"
    expected = f"expected a name, a file, or a state dict, alone or under one of {', '.join(KEYS)}"
    raise ValueError(f"weights: {expected}; got {got}")


def is_averaged(name: object) -> bool:
    """Whether an entry or a prefix is named as averaged weights are: state_dict_ema, ema_model, swa."""
    return isinstance(name, str) and AVERAGED.search(name) is not None


def listed(names: list[str]) -> str:
    """Names in a message, the first three of them."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
