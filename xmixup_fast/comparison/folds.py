"""The plan of a cross-validation on one's own photos: methods x repeats x folds, as a comparison; and its duration."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from ..settings.fields import Settings
from ..settings.identity import short_hash
from ..settings.yaml_file import read_recipe, recipes
from .plan import BASELINE, DATA, PER_RUN, Comparison, Run, Task, read
from .workers import Workers

DEFAULT_METHODS = ("linear-probe", BASELINE, "xmixup", "xcutmix-l2sp")
"""What is compared where no methods are given: without a source, those that need none."""
FIXED: Mapping[str, Any] = {
    "keep": "last",  # the weights of the best validation would be chosen by the very images that are predicted
    "patience": None,
    "val_fraction": Settings.val_fraction,
    "test_fraction": Settings.test_fraction,
    "split_by": "content",
    "val_fold": None,
    "shots": None,
}
"""Settings that a comparison on one's own photos takes no other value of."""
MOST_REPEATS = 20
"""Of five folds, an endless number of repeats would narrow the intervals by no more than 2 %."""
FEW_STEPS = {"first": 1, "second": 5}
"""Steps of the two short runs of each method that tell its duration: the first fills the cache, the second counts."""
WAIT_SECONDS = 2.0
"""How often it is looked whether another process has finished a short run."""


@dataclass(frozen=True)
class FoldPlan:
    """What is to be run: all methods, at each rate, on each fold of each repeat."""

    target: str
    methods: list[str]
    """Names of the methods; BASELINE is among them."""
    rates: list[float] | None
    """Learning rates whose predictions are averaged; None for each method's own rate."""
    folds: int
    given: Mapping[str, Any]
    """Training settings that the user has given, for all methods."""
    base: Comparison
    """The methods, read as those of any comparison without a file."""

    @classmethod
    def of(
        cls,
        target: str,
        given: Mapping[str, Any],
        *,
        methods: Sequence[str] | None = None,
        rates: Sequence[float] | None = None,
        folds: int = 5,
    ) -> FoldPlan:
        """Checks and completes what is asked for. Raises ValueError, which names it, for what cannot be used."""
        for name in PER_RUN:
            if name in given:
                raise ValueError(
                    f"{name}: expected nothing, as the comparison chooses it for each run, got {given[name]}"
                )
        wrong = [name for name, value in given.items() if name in FIXED and value != FIXED[name]]
        if wrong:
            raise ValueError(
                f"{wrong[0]}: expected {FIXED[wrong[0]]} in a comparison on one's own photos, whose folds are all that "
                f"is validated on, got {given[wrong[0]]}"
            )
        given = {name: value for name, value in given.items() if name not in FIXED}
        if folds < 2:
            raise ValueError(f"folds: expected 2 or more, got {folds}")
        if rates is not None and (not rates or any(not 0 < rate < math.inf for rate in rates)):
            raise ValueError(
                f"rates: expected positive numbers, got {', '.join(f'{rate:g}' for rate in rates) or 'none'}"
            )
        names = _with_baseline(methods or default_methods("source" in given))
        common = {"model": Settings.model, **given}
        base = read(None, settings=common, results="results.jsonl", targets=[DATA], methods=names, seeds=[0])
        return cls(target, names, sorted(set(rates)) if rates else None, folds, given, base)

    def labels(self, method: str) -> list[str]:
        """The names of a method's rows in the file of results: one for each rate."""
        return [f"{method} at lr {rate:g}" for rate in self.rates] if self.rates else [method]

    def comparison(self, repeats: int) -> Comparison:
        """The runs of so many repeats, as a comparison whose tasks are the folds and whose seeds are the repeats."""
        (common,) = self.base.settings.values()
        # A validation costs as much as many steps on few images, and no epoch's accuracy decides anything. Whether the
        # source may be downloaded is asked before; a worker could not ask.
        common = {**common, "test": "none", "val_interval": 10**9, "keep": FIXED["keep"], "yes": True}
        tasks = {
            Task(f"fold {part} of {self.folds}", None): {**common, "val_fold": f"{part}/{self.folds}"}
            for part in range(1, self.folds + 1)
        }
        each_rate: list[dict[str, Any]] = [{"lr": rate} for rate in self.rates] if self.rates else [{}]
        methods = {
            label: {**self.base.methods[method], **rate}
            for method in self.methods
            for label, rate in zip(self.labels(method), each_rate, strict=True)
        }
        seeds = list(range(repeats))
        return replace(
            self.base,
            tasks=list(tasks),
            settings=tasks,
            methods=methods,
            seeds=dict.fromkeys(methods, seeds),
            origins=dict.fromkeys(methods, ""),
        )

    @cached_property
    def first_repeat(self) -> list[Run]:
        """The runs of the first repeat, fold by fold."""
        return self.comparison(1).runs({})

    def settings_with_source(self) -> Settings | None:
        """Those of a method that needs auxiliary images, as they were given; None where none does."""
        from ..methods import METHODS

        for run in self.first_repeat:
            if METHODS[run.settings.method].uses_source:
                return replace(run.settings, target=self.target, yes=bool(self.given.get("yes")))
        return None

    def transfer_method(self, method: str) -> str:
        """The setting ``method`` of one of the methods: that of its recipe, or without its selection."""
        return str(self.base.methods[method]["method"])


def default_methods(has_source: bool) -> list[str]:
    """The methods that are compared where none are given; without a source, those that need none."""
    from ..methods import METHODS

    names = {name: str(read_recipe(name)["method"] if name in recipes() else name) for name in DEFAULT_METHODS}
    known = {name: METHODS[method] for name, method in names.items() if method in METHODS}
    return [name for name, method in known.items() if has_source or not method.uses_source]


def _with_baseline(methods: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(methods))
    names = names if BASELINE in names else [BASELINE, *names]
    if len(names) < 2:
        raise ValueError(
            f"methods: expected one besides {BASELINE}, which every other is compared with, got none; name some with "
            "--methods, or give auxiliary images with --source"
        )
    return names


def parse_budget(text: str) -> float:
    """Seconds of a time such as 30m, 1h30m, 90s or 2h. Raises ValueError for other texts, and for none at all."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise ValueError(f"budget: expected a time such as 30m, 1h30m or 90s, got {text!r}")
    return seconds


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Estimate:
    """How long the runs take, from a few steps of each method."""

    run_seconds: Mapping[str, float]
    """Of a run of each method, by its name, with all of its rates."""
    folds: int

    @classmethod
    def of(cls, plan: FoldPlan, workers: Workers, log: Callable[[str], object]) -> Estimate:
        """Times a few steps of each method, or finds what was timed before.

        Raises ValueError where a method cannot be run at all, which its first steps show.
        """
        runs = [run for run in plan.first_repeat if run.task == plan.first_repeat[0].task]
        keys = {kind: {timing_key(run, kind): run for run in runs} for kind in FEW_STEPS}
        lines = _timed(workers)
        if missing := sum(key not in lines for of_kind in keys.values() for key in of_kind):
            log(f"timing a few steps of each method, in {missing} short runs")
        for kind, steps in FEW_STEPS.items():
            before = len(workers.results.lines())
            while any(key not in lines for key in keys[kind]):
                workers.few_steps(keys[kind], steps)
                for line in workers.results.lines()[before:]:
                    if line["key"] in keys[kind] and "error" in line:
                        log_file = workers.results.work / f"{line['key']}.log"
                        raise ValueError(f"{line['method']}: {line['error']}; {log_file} tells more")
                lines = _timed(workers)
                if any(key not in lines for key in keys[kind]):
                    time.sleep(WAIT_SECONDS)  # another process is at it
        seconds = {run.method: _run_seconds(lines[key]) for key, run in keys["second"].items()}
        of_methods = {method: sum(seconds[label] for label in plan.labels(method)) for method in plan.methods}
        return cls(of_methods, plan.folds)

    @property
    def repeat_seconds(self) -> float:
        """Of all folds of all methods."""
        return self.folds * sum(self.run_seconds.values())

    def repeats(self, budget: str) -> int:
        """As many repeats as a budget allows. Raises ValueError where it is too small for one."""
        count = int(parse_budget(budget) / self.repeat_seconds)
        if count < 1:
            raise ValueError(
                f"budget: expected {duration(self.repeat_seconds)} at least, which one repeat takes ({self.each()}), "
                f"got {budget}; give --budget {math.ceil(self.repeat_seconds / 60)}m, fewer --methods, a smaller "
                "--model or fewer --epochs"
            )
        return min(count, MOST_REPEATS)

    def each(self) -> str:
        """What a run of each method takes, in words."""
        times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.run_seconds.items())
        return f"a run of {times}; {self.folds} folds"


def timing_key(run: Run, kind: str) -> str:
    """The key of a short run in the file of results."""
    return short_hash(f"few steps, {kind}: {run.key}")


def _timed(workers: Workers) -> dict[str, dict[str, Any]]:
    return {line["key"]: line for line in workers.results.lines() if "full_steps" in line}


def _run_seconds(line: Mapping[str, Any]) -> float:
    """Seconds of a whole run: those of a short one, with the steps of the whole one in place of its own."""
    if not line["full_steps"]:
        return float(line["run_seconds"])
    return float(line["run_seconds"] - line["train_seconds"] + line["full_steps"] * line["seconds_per_step"])


def complete_repeats(runs: Iterable[Run], done: Container[str]) -> list[int]:
    """The repeats of which every run is done; ``done`` holds the runs' keys."""
    is_done: dict[int, bool] = {}
    for run in runs:
        is_done[run.settings.seed] = is_done.get(run.settings.seed, True) and run.key in done
    return [seed for seed, complete in is_done.items() if complete]


def changed(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults, without the target."""
    values = {item.name: getattr(settings, item.name) for item in fields(Settings) if item.name != "target"}
    defaults = {item.name: item.default for item in fields(Settings)}
    return {name: value for name, value in values.items() if value != defaults[name]}
