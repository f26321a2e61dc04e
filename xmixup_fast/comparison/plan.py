"""What a comparison consists of: its runs, out of a YAML file and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ..settings.fields import Settings
from ..settings.identity import run_hash, short_hash
from ..settings.values import check_names
from ..settings.yaml_file import load_yaml, read_recipe, recipes

BASELINE = "finetune"
"""The method that every other is compared with."""
DATA = "{data}"
"""Stands for the data folder in the settings that name files."""
NAMING_FILES = ("target", "source", "weights", "selection_file")
OWN = ("seed", "method", "output", "test", "resume", "report")
"""Settings that the comparison gives each run."""
COMMON = [item.name for item in fields(Settings) if item.name not in (*OWN, "target")]
"""Settings that may be common to all runs."""
TUNING = ("grid", "tune_seeds", "tune_targets")
"""What a file says of tuning: the settings to try, with which seeds, and, unless on all, on which targets."""
CHANGEABLE = [name for name in (*COMMON, "method") if name != "shots"]
"""Settings that a method may have of its own."""


@dataclass(frozen=True)
class Task:
    """What is to be learned: a target, by its name in the comparison, with some training images per class."""

    target: str
    shots: int | None

    def __str__(self) -> str:
        return self.target if self.shots is None else f"{self.target}, {self.shots} shot{'s' * (self.shots > 1)}"


@dataclass(frozen=True)
class Run:
    """One training run."""

    method: str
    """Its name in the comparison."""
    task: Task
    settings: Settings
    """As the comparison gives them: DATA is not filled in."""

    def __str__(self) -> str:
        return f"{self.method} on {self.task}, seed {self.settings.seed}"

    @cached_property
    def key(self) -> str:
        """What tells it apart: see :func:`~xmixup_fast.settings.run_hash`."""
        return run_hash(self.settings)


def timing_key(pair: tuple[Run, Run]) -> str:
    """A hash of what is timed in turn."""
    return short_hash(" ".join(run.key for run in pair))


@dataclass(frozen=True)
class Comparison:
    """Methods x targets x shots x seeds. A method's settings come on top of the target's, those on the common ones."""

    results: Path
    """File of results."""
    tasks: list[Task]
    settings: dict[Task, dict[str, Any]]
    """Of each task, and of those of tuning."""
    methods: dict[str, dict[str, Any]]
    """With the settings of each."""
    seeds: dict[str, list[int]]
    """Of each method."""
    tune_tasks: list[Task] = field(default_factory=list)
    """The file's, so that what is chosen does not depend on which of them are compared."""
    tune_seeds: list[int] = field(default_factory=list)
    grid: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The settings that tuning tries for each method; empty without tuning."""

    def runs(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """All runs, seed by seed; ``chosen`` settings of methods come on top."""
        seeds = sorted({seed for own in self.seeds.values() for seed in own})
        return [
            self.run(method, task, seed, chosen.get(method, {}))
            for seed, task, method in product(seeds, self.tasks, self.methods)
            if seed in self.seeds[method]
        ]

    def tuning(self, method: str) -> list[list[Run]]:
        """The runs of each point of a method's grid."""
        return [
            [self.run(method, task, seed, point) for seed, task in product(self.tune_seeds, self.tune_tasks)]
            for point in self.grid[method]
        ]

    def pairs(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[tuple[Run, Run]]:
        """What is timed in turn: on each task the baseline and each other method, with the method's first seed."""
        return [
            (
                self.run(BASELINE, task, self.seeds[method][0], chosen.get(BASELINE, {})),
                self.run(method, task, self.seeds[method][0], chosen.get(method, {})),
            )
            for task, method in product(self.tasks, self.methods)
            if method != BASELINE
        ]

    def run(self, method: str, task: Task, seed: int, extra: Mapping[str, Any]) -> Run:
        """Raises ValueError for settings that cannot be."""
        values = {**self.settings[task], **self.methods[method], **extra, "shots": task.shots, "seed": seed}
        try:
            return Run(method, task, Settings(**values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{method} on {task}: {error}") from None


def with_data_folder(settings: Settings, data: str | None) -> Settings:
    """The settings with the data folder filled in. Raises ValueError where it is needed and not given."""

    def fill(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [fill(name, item) for item in value]
        if value is None or DATA not in value:
            return value
        if data is None:
            raise ValueError(f"{name}: {value} needs the data folder; give --data DIR")
        return value.replace(DATA, data)

    return replace(settings, **{name: fill(name, getattr(settings, name)) for name in NAMING_FILES})


def read(
    file: str | None,
    *,
    settings: Mapping[str, Any],
    results: str | None = None,
    targets: list[str] | None = None,
    methods: list[str] | None = None,
    shots: list[int] | None = None,
    seeds: list[int] | None = None,
) -> Comparison:
    """The comparison of a YAML file, or without one of flags alone; flags come on top of the file's.

    ``settings`` replaces common settings and those of targets, never a method's own. ``targets`` and ``methods`` are
    names in the file, of which no others are taken; without a file they are datasets, and methods as METHOD,
    METHOD-SELECTION or the name of a recipe.

    Raises ValueError, which names what is wrong, and FileNotFoundError.
    """
    where = file or "flags"
    if file:
        content = load_yaml(file)
    else:
        content = _from_flags(targets, methods)
        targets = methods = None  # all of them
    check_names(where, content, [*COMMON, "results", "targets", "methods", "seeds", *TUNING])
    results = results or content.get("results")
    if not isinstance(results, str):
        raise ValueError(f"{where}: results: expected the name of a file, got {results!r}; give --results FILE")

    tasks = _tasks(where, content, targets, shots, settings)
    all_methods = _mappings(where, "methods", content.get("methods"))
    overrides, own_seeds = {}, {}
    for name, values in _only(where, "methods", all_methods, methods).items():
        row = f"{where}: methods: {name}"
        check_names(row, values, [*CHANGEABLE, "seeds", "recipe"])
        if "recipe" in values:
            values = {**read_recipe(values.pop("recipe")), **values}
            check_names(row, values, [*CHANGEABLE, "seeds"])
        listed = values.pop("seeds", content.get("seeds"))
        own_seeds[name] = _integers(where, "seeds", seeds or listed)
        method, _, selection = name.partition("-")
        by_name = {"method": method, "selection": selection} if selection else {"method": method}
        overrides[name] = values if "method" in values else {**by_name, **values}
    if BASELINE not in overrides:
        raise ValueError(f"{where}: methods: expected {BASELINE} among them, which every other is compared with")

    grid, every_task, tune_seeds = {}, {}, []
    if "grid" in content:
        given = _mappings(where, "grid", content["grid"])
        _only(where, "grid", all_methods, list(given))
        grid = {name: _points(f"{where}: grid: {name}", given.get(name, {})) for name in overrides}
        every_task = _tasks(where, content, content.get("tune_targets"), None, settings)
        tune_seeds = _integers(where, "tune_seeds", content.get("tune_seeds"))
    if both := sorted({seed for own in own_seeds.values() for seed in own} & set(tune_seeds)):
        raise ValueError(f"{where}: tune_seeds: expected other seeds than the comparison's, got {both}")
    if len({len(points) for points in grid.values()}) > 1:
        counts = ", ".join(f"{name} {len(points)}" for name, points in grid.items())
        raise ValueError(f"{where}: grid: expected as many points for each method as for any other, got {counts}")
    comparison = Comparison(
        *(Path(results), list(tasks), {**every_task, **tasks}, overrides, own_seeds),
        *(list(every_task), tune_seeds, grid),
    )
    comparison.runs({})  # finds settings that cannot be
    for method in grid:
        comparison.tuning(method)
    return comparison


def _tasks(
    where: str,
    content: Mapping[str, Any],
    targets: list[str] | None,
    shots: list[int] | None,
    settings: Mapping[str, Any],
) -> dict[Task, dict[str, Any]]:
    """Each wanted target with each number of shots, and the settings of both."""
    common = {name: value for name, value in content.items() if name in COMMON}
    tasks = {}
    for name, values in _only(where, "targets", _mappings(where, "targets", content.get("targets")), targets).items():
        check_names(f"{where}: targets: {name}", values, [*COMMON, "target"])
        merged = {**common, **values, **settings}
        for needed in ("target", "model"):
            if needed not in merged:
                raise ValueError(f"{where}: targets: {name}: {needed} is not given")
        counts = shots or merged.get("shots")
        for count in counts if isinstance(counts, list) else [counts]:
            tasks[Task(name, count)] = merged
    return tasks


def _from_flags(targets: list[str] | None, methods: list[str] | None) -> dict[str, Any]:
    """What a file would say, where there is none. Targets get the names of their last folders."""
    if not targets:
        raise ValueError("expected FILE.yaml or --targets, got neither")
    names = [Path(target).name for target in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"targets: expected datasets of different names, got {', '.join(names)}")
    return {
        "targets": {name: {"target": target} for name, target in zip(names, targets, strict=True)},
        "methods": {
            name: {"recipe": name} if name in recipes() else {}
            for name in methods or (BASELINE, "mixup", "xmixup", "xmixup-random")
        },
        "seeds": [0, 1, 2, 3, 4],
    }


def _mappings(where: str, name: str, value: Any) -> dict[str, dict[str, Any]]:
    """A mapping of mappings, dashes in the names of settings replaced; an empty one may be left out."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: {name}: expected names, each with its settings, got {value!r}")
    for key, settings in value.items():
        if not isinstance(settings, dict | None):
            raise ValueError(f"{where}: {name}: {key}: expected lines of 'name: value', got {settings!r}")
    return {
        str(key): {str(name).replace("-", "_"): item for name, item in (settings or {}).items()}
        for key, settings in value.items()
    }


def _integers(where: str, name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise ValueError(f"{where}: {name}: expected a list of whole numbers, got {value!r}")
    return sorted(set(value))


def _only(where: str, what: str, known: Mapping[str, dict[str, Any]], wanted: list[str] | None) -> Any:
    """The wanted ones, in the order of those that are known. ValueError for a name that is not among them."""
    for name in wanted or []:
        if name not in known:
            raise ValueError(f"{where}: {what}: expected some of {', '.join(known)}; got {name}")
    return {name: values for name, values in known.items() if wanted is None or name in wanted}


def _points(where: str, lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of values of settings."""
    check_names(where, lists, CHANGEABLE)
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: {name}: expected a list of values, got {values!r}")
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
