"""Imbalance: classes with many more training images than others, and the weights that balance their losses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..data.layout import some
from ..settings.fields import Settings

IMBALANCED = 3
"""How many times the smallest class's images the largest class has where it is said."""


def read_class_weights(
    settings: Settings, classes: Sequence[str], kept: Mapping[str, float] | None = None
) -> dict[str, float] | None:
    """The weights that the setting ``class_weights``, or the file it names, gives each class; None for other values.

    ``kept`` are the weights that a run began with, which is resumed: its file may be gone, but not have changed.

    Raises FileNotFoundError where there is no such file, and ValueError for one that is not a YAML or JSON mapping of
    every class, and no other, to a positive number, or that has changed.
    """
    given = settings.class_weights
    if given is None or given == "balanced":
        return None
    if kept is not None and isinstance(given, str) and not Path(given).exists():
        return {name: kept[name] for name in classes}
    where = f"class_weights: {given}" if isinstance(given, str) else "class_weights"
    weights = _checked(_read(given, where) if isinstance(given, str) else given, classes, where)
    changed = [
        f"{name} {kept[name]:g} (now {weights[name]:g})" for name in classes if kept and kept[name] != weights[name]
    ]
    if changed:
        raise ValueError(
            f"{where}: weights have changed since the run began: {some(changed, len(changed))}; restore them"
        )
    return weights


class _Twice(ValueError):
    """A class that a file names twice."""


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of distinct names. Raises _Twice, with both values, where a name comes again."""
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(f"{name} is there twice, with {found[name]} and {value}")
        found[name] = value
    return found


class _Loader(yaml.BaseLoader):
    """Takes a class 007 or no for text, which it is, and no class twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return _once(
            (self.construct_object(name), self.construct_object(value, deep=True)) for name, value in node.value
        )


def _read(path: str, where: str) -> Any:
    """The content of a YAML or JSON file. Raises FileNotFoundError and ValueError, which begin with ``where``."""
    expected = "expected balanced, or a YAML or JSON file"
    if not Path(path).is_file():
        is_folder = Path(path).is_dir()
        raise (ValueError if is_folder else FileNotFoundError)(
            f"{where}: {'a folder' if is_folder else 'no such file'}; {expected}"
        )
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # JSON that PowerShell wrote begins with a byte order mark
        if path.lower().endswith(".json"):
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _Loader)
    except _Twice as error:
        raise ValueError(f"{where}: {error}; expected each class once") from error
    except RecursionError as error:
        raise ValueError(f"{where}: expected a mapping of classes to numbers, got a deeply nested file") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: is neither YAML nor JSON ({str(error).splitlines()[0]})") from error


def _checked(given: Any, classes: Sequence[str], where: str) -> dict[str, float]:
    """The weights of the classes, in their order. Raises ValueError, which begins with ``where``."""
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected a mapping of classes to numbers, got {given!r}")
    weights = {name: _positive(value) for name, value in given.items()}
    problems = {
        "lacks": [name for name in classes if name not in weights],
        "names what is no class of the target:": [name for name in weights if name not in classes],
        "expected a positive number for": [name for name, value in weights.items() if value is None],
    }
    found = [f"{problem} {some(names, len(names))}" for problem, names in problems.items() if names]
    if found:
        raise ValueError(f"{where}: {'; '.join(found)}")
    return {name: weights[name] or 0.0 for name in classes}


def _positive(value: Any) -> float | None:
    """A positive number, or the text of one; None for what is neither."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf and not isinstance(value, bool) else None


def class_weights(counts: Tensor, given: Mapping[str, float] | None) -> Tensor:
    """The weight of each class in the loss, float32[K], with a mean of 1 over the samples of an epoch.

    ``counts``, [K], tells how often an epoch shows each class. The weights are n / (K counts), as scikit-learn's
    ``compute_class_weight("balanced", ...)`` gives them, or those of :func:`read_class_weights`, scaled to that mean:
    so a factor of all weights changes nothing, as in ``F.cross_entropy``, and the learning rate keeps its meaning.
    """
    counts = counts.double()
    weights = 1 / counts if given is None else torch.tensor(list(given.values()), device=counts.device).double()
    return (weights * counts.sum() / (weights * counts).sum()).float()


def imbalance(settings: Settings, classes: Sequence[str], counts: Sequence[int], weights: Tensor | None) -> str | None:
    """A line that says how imbalanced the training images are, and what helps or is done; None where they are not.

    ``counts`` are the training images of each class, ``weights``, float32[K], the weights of their losses.
    """
    most, least = (pick(range(len(counts)), key=counts.__getitem__) for pick in (max, min))
    if counts[most] < IMBALANCED * counts[least] and weights is None:
        return None
    done = ["each class is shown as often"] if settings.sampler == "balanced" else []
    if weights is not None:
        done.append(f"their losses weigh {weights[most]:.3g} and {weights[least]:.3g}")
    if settings.sampler == "balanced" and settings.class_weights == "balanced":
        done[1:] = ["so class_weights balanced has nothing to do"]
    advice = "--class-weights balanced weighs small classes more, --sampler balanced shows them as often as large ones"
    sizes = f"{classes[most]} has {counts[most]} training images, {classes[least]} {counts[least]}"
    return f"classes: {sizes}; {', '.join(done) or advice}"
