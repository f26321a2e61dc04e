"""The commands select, evaluate, predict and, on photos, compare as functions.

All but ``compare``, which others may share and go on with, write files only to an ``output`` that is given.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from ..comparison.folds import changed
from ..data.dataset import BadFile
from ..report.results import EvaluationResult, SelectionResult
from ..settings.fields import Settings
from ..settings.given import given_settings
from ..settings.values import as_type, check_names
from ..training.given_network import named
from . import evaluate as evaluating
from . import predict as predicting
from . import select as selecting
from . import verdict as judging
from .predict import Prediction
from .predictions import Predictions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..comparison.verdict import Verdict
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


def compare(
    given: Settings | str | os.PathLike[str] | None = None,
    /,
    *,
    settings: Settings | None = None,
    methods: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    folds: int = 5,
    repeats: int | None = None,
    budget: str = "30m",
    results: str | os.PathLike[str] | None = None,
    table: bool = False,
    log: Callable[[str], object] = print,
    **overrides: Unpack[SettingsKwargs],
) -> Verdict:
    """Compares methods on one's own photos by cross-validation: ``compare("photos/", source="imagenet/")``.

    Target and settings are given as to :func:`xmixup_fast.fit`; settings that the comparison chooses itself, such as
    ``method``, ``seed`` and ``keep``, are refused.

    Args:
        given: the photos, or settings.
        settings: settings for all methods.
        methods: METHOD, METHOD-SELECTION or recipes; linear-probe, finetune, xmixup and xcutmix-l2sp if not given,
            without a source those that need none. finetune is always among them.
        rates: learning rates of every method, whose probabilities are averaged; each method's own rate if not given.
        folds: parts of the cross-validation.
        repeats: how often it is repeated; as often as the budget allows if not given.
        budget: time for all runs, such as "1h30m".
        results: file of results, with which another call goes on; in runs/ if not given.
        table: run nothing, judge the repeats that are complete.
        log: gets the lines that ``xmixup compare`` prints.

    Raises TypeError for a name that is no setting; ValueError and OSError, with a message for the user, before
    anything is trained, for what cannot be used. Runs that fail are counted in the result.
    """
    found = given_settings("compare", given, settings, overrides)
    hints = typing.get_type_hints(judging.PhotosOptions)
    values = {"folds": folds, "repeats": repeats, "budget": budget, "rates": rates}
    options = judging.PhotosOptions(**{name: as_type(name, value, hints[name]) for name, value in values.items()})
    return judging.verdict(
        found.target,
        changed(found) | {name: getattr(found, name) for name in overrides if name != "target"},
        options,
        methods=methods,
        results=None if results is None else os.fspath(results),
        table=table,
        log=log,
    )


def _as_list(function: Callable[P, Iterator[Prediction | BadFile]]) -> Callable[P, Predictions]:
    """The same function with a list for an iterator."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Predictions:
        return Predictions(function(*args, **kwargs))

    return run


predict = _as_list(predicting.predict)
