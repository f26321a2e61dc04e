"""The commands select, evaluate and predict as functions. They write files only to an ``output`` that is given."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from ..data.dataset import BadFile
from ..report.results import EvaluationResult, SelectionResult
from ..settings.fields import Settings
from ..settings.given import given_settings
from ..settings.values import as_type, check_names
from ..training.given_network import named
from . import evaluate as evaluating
from . import predict as predicting
from . import select as selecting
from .predict import Prediction
from .predictions import Predictions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings.kwargs import SettingsKwargs

P = ParamSpec("P")


def select(
    given: Settings | str | os.PathLike[str] | None = None,
    /,
    *,
    settings: Settings | None = None,
    log: Callable[[str], object] = print,
    **overrides: Unpack[SettingsKwargs],
) -> SelectionResult:
    """Selects auxiliary classes or images for each target class, without training: ``select("photos/", source=...)``.

    Target and settings are given as to :func:`xmixup_fast.fit`. selection.json and the contact sheets are written to
    the folder ``output``, if one is given. ``log`` gets the lines that ``xmixup select`` prints.

    Raises as :func:`xmixup_fast.fit` does.
    """
    of_call = given if isinstance(given, Settings) else settings
    return selecting.run(given_settings("select", given, settings, named("select", of_call, overrides)), log)


def evaluate(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    split: Literal["test", "val", "train", "unused", "new", "all"] | None = None,
    *,
    log: Callable[[str], object] = print,
    **options: Any,
) -> EvaluationResult:
    """Evaluates a trained network on labelled images: ``evaluate(result.folder)`` on the run's own test images.

    Args:
        run: a run folder, or the model.safetensors of one.
        target: images, as :func:`xmixup_fast.fit` takes them; the run's own if not given.
        split: which of them; by default the test images, or all where there is no test split.
        log: gets the lines that ``xmixup evaluate`` prints.
        options: the flags of ``xmixup evaluate`` by name, such as ``batch_size`` and ``bad_files``. evaluation.json and
            confusion.png are written to the folder ``output``, if one is given.

    Raises TypeError for a name that is no option; ValueError and OSError, with a message for the user, for what cannot
    be used.
    """
    hints = typing.get_type_hints(evaluating.Options)
    check_names("evaluate", options, list(hints), TypeError)
    values = {"model": run, "target": target, "split": split, **options}
    return evaluating.run(
        evaluating.Options(**{name: as_type(name, value, hints[name]) for name, value in values.items()}),
        log,
        writes=False,
    )


def _as_list(function: Callable[P, Iterator[Prediction | BadFile]]) -> Callable[P, Predictions]:
    """The same function with a list for an iterator."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Predictions:
        return Predictions(function(*args, **kwargs))

    return run


predict = _as_list(predicting.predict)
