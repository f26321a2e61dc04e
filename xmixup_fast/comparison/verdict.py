"""The verdict of a cross-validation on one's own photos: whether auxiliary images help there, and what to do next."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..settings.values import public_url
from ..settings.yaml_file import recipes
from .folds import FoldPlan, complete_repeats, duration
from .plan import BASELINE, Run
from .resampled import LEVEL, PairedDifference, holm
from .tables import table

SIGNIFICANT = 1 - LEVEL
"""A corrected p-value below it tells a difference."""
MORE = 4
"""As many times the repeats the smallest difference is told for, too."""

Lines = Sequence[Mapping[str, Any]]
"""Lines of the file of results."""


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What a method made of the photos, each predicted once a repeat by a network that has not seen it."""

    name: str
    uses_source: bool
    """Whether it takes auxiliary images."""
    accuracy: float
    """Percentage of the predictions that are right."""
    accuracy_interval: tuple[float, float]
    """Wilson's 95 % interval of the accuracy on other such photos, in percent."""
    seconds: float
    """Mean duration of a run, with all of its rates, start of its processes included."""
    difference: PairedDifference | None
    """Accuracy minus the baseline's; None for the baseline."""
    p: float | None
    """Of no difference, corrected by Holm for the number of methods; None for the baseline."""

    @property
    def is_better(self) -> bool:
        """Whether it is told to be better than the baseline."""
        return self._is_told and self.difference is not None and self.difference.mean > 0

    @property
    def is_worse(self) -> bool:
        """Whether it is told to be worse than the baseline."""
        return self._is_told and self.difference is not None and self.difference.mean < 0

    @property
    def _is_told(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        """What ``--format json`` prints of the method."""
        found: dict[str, Any] = {
            "method": self.name,
            "uses_source": self.uses_source,
            "accuracy": round(self.accuracy, 4),
            "accuracy_interval": [round(end, 4) for end in self.accuracy_interval],
            "seconds": round(self.seconds, 3),
        }
        if (difference := self.difference) is not None and self.p is not None:
            found |= {
                "difference": round(difference.mean, 4),
                "difference_interval": [round(difference.low, 4), round(difference.high, 4)],
                "p": round(difference.p, 6),
                "p_holm": round(self.p, 6),
            }
        return found


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Verdict:
    """The result of a comparison of methods on one's own photos. ``repr`` tells it in a few lines."""

    plan: FoldPlan
    classes: list[str]
    repeats: int
    """Repeats that are complete; all figures are theirs."""
    methods: list[MethodResult]
    """In the order in which they were asked for; empty where no repeat is complete."""
    photos: list[str]
    """The photos that were predicted, by the hash of their content."""
    labels: NDArray[np.int64]
    """int64[photos]: their classes."""
    right: Mapping[str, NDArray[np.float64]]
    """float64[photos]: how often a method's predictions of each photo are right, from 0 to 1, by the method's name."""
    seconds: float
    """What all runs took together."""
    estimated_seconds: float | None = None
    """What was estimated for them; None where nothing was run."""
    failures: int = 0
    """Runs that failed."""
    page: Path | None = field(default=None)
    """Where the page is; None where no repeat is complete."""

    @property
    def baseline(self) -> MethodResult:
        """The method that every other is compared with."""
        return next(one for one in self.methods if one.name == BASELINE)

    @property
    def others(self) -> list[MethodResult]:
        """The methods but the baseline, the one with the largest difference first."""
        rest = [one for one in self.methods if one.difference is not None]
        return sorted(rest, key=lambda one: -one.difference.mean if one.difference else 0.0)

    @property
    def asked(self) -> MethodResult:
        """The method that the verdict is about: the best one with auxiliary images, or the best one without any.

        A method that is told to be better comes before one with a larger difference that is not.
        """
        auxiliary = [one for one in self.others if one.uses_source]
        return sorted(auxiliary or self.others, key=lambda one: not one.is_better)[0]

    @property
    def winner(self) -> MethodResult:
        """The method to train with: the best of those that are told to be better than the baseline, or the baseline."""
        return next((one for one in self.others if one.is_better), self.baseline)

    @property
    def answer(self) -> Literal["help", "hurt", "cannot tell"]:
        """What the method of :attr:`asked` does here."""
        return "help" if self.asked.is_better else "hurt" if self.asked.is_worse else "cannot tell"

    def smallest_difference(self, repeats_factor: int = 1) -> float:
        """The smallest difference, in points, that would be told: with so many times the repeats, or with these.

        It is told at the level that Holm's correction asks of the smallest p-value. One photo is the least there is.
        """
        assert self.asked.difference is not None
        level = 1 - SIGNIFICANT / len(self.others)
        return max(self.asked.difference.half_width(level, repeats_factor), 100 / len(self.photos))

    @cached_property
    def sentence(self) -> str:
        """The verdict in a sentence or two."""
        if not self.methods:
            return "no repeat is complete yet, so there is nothing to tell; the same command, without --table, goes on"
        asked, count = self.asked, len(self.photos)
        subject = "auxiliary images help" if asked.uses_source else f"{asked.name} helps"
        if self.answer == "help":
            said = f"{subject} here: {asked.difference} over fine-tuning"
            said += f", with {asked.name}" if asked.uses_source else ""
        elif self.answer == "hurt":
            said = f"{'they hurt' if asked.uses_source else f'{asked.name} hurts'} here: {asked.difference}"
            said += f" against fine-tuning, with {asked.name}" if asked.uses_source else " against fine-tuning"
        else:
            now, later = self.smallest_difference(), self.smallest_difference(MORE)
            more = f"four times as many repeats would bring that to {later:.1f}"
            if f"{later:.1f}" == f"{now:.1f}":
                more = "more repeats would not lower that, more photos would"
            said = f"these {count} photos cannot tell: a difference below {now:.1f} points would not show; {more}"
        if self.winner not in (asked, self.baseline):
            said += f"; the best here is {self.winner.name}: {self.winner.difference} over fine-tuning"
        return said

    @property
    def commands(self) -> list[str]:
        """The command that trains with the winner on all photos but those that validation needs; one for each rate."""
        if not self.methods:
            return []
        name = self.winner.name
        values = {**({} if name in recipes() else self.plan.base.methods[name]), **self.plan.given}
        flags = [f"--recipe {name}"] if name in recipes() else []
        flags += [_flag(setting, value) for setting, value in values.items()]
        flags += ["--keep last", "--no-test", "--val-fraction 0.01"]  # one photo of a small class
        start = f"xmixup train {shlex.quote(self.plan.target)}"
        rates = [f"--lr {rate:g}" for rate in self.plan.rates or []] or [""]
        return [" ".join(filter(None, [start, *flags, rate])) for rate in rates]

    def table(self) -> str:
        """The methods as a Markdown table."""
        head = (
            "method",
            "accuracy, % (95 % interval)",
            "minus fine-tuning's, points (95 % interval)",
            "p (Holm)",
            "seconds a run",
        )
        cells = []
        for one in self.methods:
            low, high = one.accuracy_interval
            difference = "" if one.difference is None else str(one.difference).replace(" points", "")
            p = "" if one.p is None else "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
            cells.append(
                (one.name, f"{one.accuracy:.1f} ({low:.1f} to {high:.1f})", difference, p, f"{one.seconds:.0f}")
            )
        return table(head, cells)

    def title(self) -> str:
        """What was compared, in a line."""
        many = f"{self.repeats} repeat{'s' * (self.repeats != 1)} of {self.plan.folds} folds"
        return f"{self.plan.target}: {len(self.photos)} photos of {len(self.classes)} classes, {many}"

    def __repr__(self) -> str:
        if not self.methods:
            return f"{self.plan.target}: {self.sentence}"
        lines = [self.title(), "", self.table(), "", self.sentence]
        if self.estimated_seconds is not None:
            lines.append(f"{duration(self.seconds)} of runs, estimated {duration(self.estimated_seconds)}")
        if self.failures:
            lines.append(f"{self.failures} runs have failed")
        if self.plan.rates:
            lines.append("train at each rate, and average the probabilities:")
        return "\n".join([*lines, *self.commands, *([str(self.page)] if self.page else [])])

    def _repr_html_(self) -> str:
        from ..report.notebook import fragment

        return fragment(repr(self))

    def to_json(self) -> dict[str, Any]:
        """What ``--format json`` prints."""
        told = bool(self.methods)
        return {
            "target": self.plan.target,
            "photos": len(self.photos),
            "classes": len(self.classes),
            "folds": self.plan.folds,
            "repeats": self.repeats,
            "rates": self.plan.rates,
            "answer": self.answer if told else None,
            "sentence": self.sentence,
            "asked": self.asked.name if told else None,
            "winner": self.winner.name if told else None,
            "smallest_difference": round(self.smallest_difference(), 4) if told else None,
            "smallest_difference_with_four_times_the_repeats": (
                round(self.smallest_difference(MORE), 4) if told else None
            ),
            "methods": [one.to_json() for one in self.methods],
            "commands": self.commands,
            "seconds": round(self.seconds, 3),
            "estimated_seconds": None if self.estimated_seconds is None else round(self.estimated_seconds, 3),
            "failures": self.failures,
            "page": None if self.page is None else str(self.page),
        }


def _flag(name: str, value: Any) -> str:
    """A setting as a flag of the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    values = value if isinstance(value, list) else [value]
    values = list(map(public_url, values)) if name == "source" else values
    return " ".join([f"--{flag}", *(shlex.quote(f"{one:g}" if isinstance(one, float) else str(one)) for one in values)])


def judge(
    plan: FoldPlan,
    runs: Sequence[Run],
    lines: Lines,
    classes: Sequence[str],
    labels: Mapping[str, int],
    **more: Any,
) -> Verdict:
    """The verdict of the repeats that are complete.

    Args:
        plan: what was to be run.
        runs: those of the repeats that were asked for.
        lines: those of the file of results.
        classes: names of the classes, as the predictions have them.
        labels: the class of each photo, by the hash of its content.
        more: further fields of :class:`Verdict`.
    """
    by_key = {line["key"]: line for line in lines if line.get("predictions") is not None}
    complete = complete_repeats(runs, by_key)
    by_run = {(run.method, run.settings.seed, run.task): by_key[run.key] for run in runs if run.key in by_key}
    seconds = sum(line["run_seconds"] for line in by_run.values())
    folds = [(seed, task) for seed in complete for task in dict.fromkeys(run.task for run in runs)]
    right = {method: [_right(plan, method, fold, by_run, labels) for fold in folds] for method in plan.methods}
    photos = sorted({digest for fold in right[BASELINE] for digest in fold})
    share = {method: _mean_right(of_folds, photos) for method, of_folds in right.items()}
    differences = {
        method: _difference(right[method], right[BASELINE], plan.folds, 100 * (share[method] - share[BASELINE]))
        for method in plan.methods
        if folds
    }
    others = [method for method in differences if method != BASELINE]
    corrected = dict(zip(others, holm([differences[name].p for name in others]), strict=True))
    methods = [
        MethodResult(
            name=method,
            uses_source=_uses_source(plan, method),
            accuracy=100 * float(share[method].mean()),
            accuracy_interval=_wilson(float(share[method].mean()), len(photos)),
            seconds=statistics.fmean(
                sum(line["run_seconds"] for line in _of(plan, method, fold, by_run)) for fold in folds
            ),
            difference=differences[method] if method != BASELINE else None,
            p=corrected.get(method),
        )
        for method in differences
    ]
    return Verdict(
        plan=plan,
        classes=list(classes),
        repeats=len(complete),
        methods=methods,
        photos=photos,
        labels=np.array([labels[digest] for digest in photos], np.int64),
        right=share,
        seconds=seconds,
        **more,
    )


_Fold = tuple[int, Any]
"""Repeat and task."""
_ByRun = Mapping[tuple[str, int, Any], Mapping[str, Any]]
"""Lines by row, repeat and task."""


def _of(plan: FoldPlan, method: str, fold: _Fold, by_run: _ByRun) -> list[Mapping[str, Any]]:
    """The lines of a method on a fold, one for each rate."""
    return [by_run[label, fold[0], fold[1]] for label in plan.labels(method)]


def _right(plan: FoldPlan, method: str, fold: _Fold, by_run: _ByRun, labels: Mapping[str, int]) -> dict[str, bool]:
    """Whether the mean of a method's probabilities, over its rates, is right, for each photo of a fold."""
    predictions = [line["predictions"] for line in _of(plan, method, fold, by_run)]
    found = {}
    for digest in predictions[0]:
        mean = np.mean([one[digest] for one in predictions], axis=0)
        found[digest] = int(mean.argmax()) == labels[digest]
    return found


def _mean_right(folds: Sequence[Mapping[str, bool]], photos: Sequence[str]) -> NDArray[np.float64]:
    """How often each photo is right, from 0 to 1."""
    times = [[fold[digest] for fold in folds if digest in fold] for digest in photos]
    return np.array([sum(each) / len(each) for each in times], np.float64)


def _difference(
    own: Sequence[Mapping[str, bool]],
    base: Sequence[Mapping[str, bool]],
    folds: int,
    of_photos: NDArray[np.float64],
) -> PairedDifference:
    pairs = [(a, b) for a, b in zip(own, base, strict=True) if a]
    differences = [100 * (sum(a.values()) - sum(b.values())) / len(a) for a, b in pairs]
    return PairedDifference.of(differences, [len(a) for a, _ in pairs], folds, of_photos.tolist())


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of so many photos, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(math.floor(share * count + 0.5), count).proportion_ci(LEVEL, "wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def _uses_source(plan: FoldPlan, method: str) -> bool:
    from ..methods import METHODS

    return METHODS[plan.transfer_method(method)].uses_source
