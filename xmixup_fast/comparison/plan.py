"""The plan of a comparison: its methods, targets and runs, read from a YAML file and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..settings.fields import Settings
from ..settings.identity import run_hash, short_hash
from ..settings.values import check_names
from ..settings.yaml_file import load_yaml, read_recipe, recipes

BASELINE = "finetune"
"""The method with which every other method is compared."""
DATA = "{data}"
"""Placeholder for the data folder in settings that name files."""
NAMING_FILES = ("target", "source", "weights", "selection_file")
"""Settings in which the placeholder is replaced."""
PER_RUN = ("seed", "method", "output", "test", "resume", "report")
"""Settings that the comparison itself chooses for each run."""
COMMON = [item.name for item in fields(Settings) if item.name not in (*PER_RUN, "target")]
"""Settings that a plan may give for all runs together."""
TUNING = ("grid", "tune_seeds", "tune_targets")
"""Keys of a plan for tuning: the settings to try, the seeds, and the targets (all targets if not given)."""
CHANGEABLE = [name for name in (*COMMON, "method") if name != "shots"]
"""Settings that a plan may give for one method alone."""
METHOD_NAMES: tuple[str, ...] = get_args(get_type_hints(Settings)["method"])
"""The methods that the setting ``method`` takes."""
WEIGHTS_FROM = "weights_from"
"""Key of a plan: the command that makes its weights, which a message names where they are missing."""
ORIGINS = ("paper", "baseline", "ours")
"""Where a method of a plan comes from: XMixup's paper, another publication, or this project."""


@dataclass(frozen=True)
class Task:
    """A target, by its name in the plan, and the number of training images per class; None for all images."""

    target: str
    shots: int | None

    def __str__(self) -> str:
        return self.target if self.shots is None else f"{self.target}, {self.shots} shot{'s' * (self.shots > 1)}"


@dataclass(frozen=True)
class Run:
    """One training run."""

    method: str
    """The method's name in the plan, such as xmixup-random."""
    task: Task
    settings: Settings
    """All settings of the run, with DATA in place of the data folder."""

    def __str__(self) -> str:
        return f"{self.method} on {self.task}, seed {self.settings.seed}"

    @cached_property
    def key(self) -> str:
        """Identifies the run in the file of results: :func:`~xmixup_fast.settings.identity.run_hash`."""
        return run_hash(self.settings)


def timing_key(pair: tuple[Run, Run]) -> str:
    """The key of a timing: the keys of both runs, hashed."""
    return short_hash(" ".join(run.key for run in pair))


@dataclass(frozen=True)
class Comparison:
    """Runs of methods x tasks x seeds.

    A run's settings are those of its task, then those of its method, then those that tuning chose for the method;
    where several give the same setting, the last one counts.
    """

    results: Path
    """File of results."""
    tasks: list[Task]
    """The tasks that are compared."""
    settings: dict[Task, dict[str, Any]]
    """The settings of each task, those for tuning included."""
    methods: dict[str, dict[str, Any]]
    """The settings of each method, by its name in the plan."""
    seeds: dict[str, list[int]]
    """The seeds of each method."""
    origins: dict[str, str]
    """The origin of each method, one of ORIGINS; empty where the plan does not say it."""
    tune_tasks: list[Task] = field(default_factory=list)
    """The tasks for tuning. Flags do not limit them, so the choice does not depend on which tasks are compared."""
    tune_seeds: list[int] = field(default_factory=list)
    grid: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The points of each method's grid, which are settings to try; empty without tuning."""
    weights_from: str = ""
    """The command that makes the weights, with DATA in place of the data folder; empty where the plan does not say."""

    def runs(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """All runs, seed by seed. ``chosen`` holds the settings that tuning chose, by method."""
        seeds = sorted({seed for method_seeds in self.seeds.values() for seed in method_seeds})
        return [
            self.run(method, task, seed, chosen.get(method, {}))
            for seed, task, method in product(seeds, self.tasks, self.methods)
            if seed in self.seeds[method]
        ]

    def tuning(self, method: str) -> list[list[Run]]:
        """For each point of a method's grid, its runs on all tasks and seeds of tuning."""
        return [
            [self.run(method, task, seed, point) for seed, task in product(self.tune_seeds, self.tune_tasks)]
            for point in self.grid[method]
        ]

    def pairs(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[tuple[Run, Run]]:
        """The pairs of runs whose steps are timed in turn: on each task, the baseline and each other method.

        Both have the other method's first seed.
        """
        return [
            (
                self.run(BASELINE, task, self.seeds[method][0], chosen.get(BASELINE, {})),
                self.run(method, task, self.seeds[method][0], chosen.get(method, {})),
            )
            for task, method in product(self.tasks, self.methods)
            if method != BASELINE
        ]

    def run(self, method: str, task: Task, seed: int, extra: Mapping[str, Any]) -> Run:
        """A run with the ``extra`` settings. Raises ValueError, which names method and task, for invalid settings."""
        place = (method, task, seed, repr(sorted(extra.items())))
        if place not in self._made:
            values = {**self.settings[task], **self.methods[method], **extra, "shots": task.shots, "seed": seed}
            try:
                self._made[place] = Run(method, task, Settings(**values))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{method} on {task}: {error}") from None
        return self._made[place]

    @cached_property
    def _made(self) -> dict[tuple[str, Task, int, str], Run]:
        """The runs so far: tables ask for each one several times, and checking and hashing settings takes a while."""
        return {}


def with_data_folder(settings: Settings, data: str | None) -> Settings:
    """The settings with ``data`` in place of DATA. Raises ValueError where a setting needs it and it is None."""

    def fill(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [fill(name, item) for item in value]
        if value is None or DATA not in value:
            return value
        if data is None:
            raise ValueError(f"{name}: {value} needs the data folder; give --data DIR")
        return value.replace(DATA, data)

    return replace(settings, **{name: fill(name, getattr(settings, name)) for name in NAMING_FILES})


def check_weights(comparison: Comparison, data: str | None) -> None:
    """Raises FileNotFoundError, before the first run, where the weights of a run are neither there nor downloaded."""
    tuned = [run for method in comparison.grid for point in comparison.tuning(method) for run in point]
    for weights in dict.fromkeys(with_data_folder(run.settings, data).weights for run in comparison.runs({}) + tuned):
        if weights not in ("timm", "pip", "none") and not Path(weights).exists():
            way = comparison.weights_from.replace(DATA, data or DATA)
            raise FileNotFoundError(
                f"weights: {weights}: no such file or run" + (f"; make it with: {way}" if way else "")
            )


def read(
    file: str | None,
    *,
    settings: Mapping[str, Any],
    results: str | None = None,
    targets: list[str] | None = None,
    methods: list[str] | None = None,
    shots: list[int] | None = None,
    seeds: list[int] | None = None,
    tune_targets: list[str] | None = None,
) -> Comparison:
    """Reads the plan of a comparison from a YAML file or, where ``file`` is None, makes one from the other arguments.

    Args:
        file: name of the YAML file.
        settings: training settings that replace those of the file for all runs and for targets, but not those that the
            file gives for one method.
        results: file of results, in place of the plan's.
        targets: with a file, names of targets in it to which the comparison is limited; without one, datasets.
        methods: with a file, names of methods in it, likewise; without one, METHOD, METHOD-SELECTION or
            the name of a recipe.
        shots: training images per class, in place of the plan's.
        seeds: seeds of all methods, in place of the plan's.
        tune_targets: names of targets to tune on, in place of the plan's.

    Raises ValueError, which says where in the plan what is wrong, and FileNotFoundError for a missing file.
    """
    if file:
        plan = _Plan(file, load_yaml(file), settings)
    else:
        plan = _Plan("flags", _from_flags(targets, methods), settings)
        targets = methods = None  # the plan has no others
    check_names(plan.where, plan.content, [*COMMON, "results", "targets", "methods", "seeds", WEIGHTS_FROM, *TUNING])
    results_file = plan.results(results)
    tasks = plan.tasks(targets, shots)
    origins = plan.origins()
    method_settings, method_seeds = plan.methods(methods, seeds)
    grid, tune_tasks, tune_seeds = plan.tuning(method_settings, method_seeds, tune_targets)
    comparison = Comparison(
        results=results_file,
        tasks=list(tasks),
        settings={**tune_tasks, **tasks},
        methods=method_settings,
        seeds=method_seeds,
        origins={name: origins[name] for name in method_settings},
        tune_tasks=list(tune_tasks),
        tune_seeds=tune_seeds,
        grid=grid,
        weights_from=str(plan.content.get(WEIGHTS_FROM) or ""),
    )
    comparison.runs({})  # raises ValueError for invalid settings of a method or task
    for method in grid:
        comparison.tuning(method)
    return comparison


def _from_flags(targets: list[str] | None, methods: list[str] | None) -> dict[str, Any]:
    """The plan of a comparison without a file. A target's name is the last part of its path."""
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


def _by_name(name: str) -> dict[str, Any]:
    """The settings that the name METHOD or METHOD-SELECTION stands for; a method's own name may have a dash."""
    known = [method for method in METHOD_NAMES if name == method or name.startswith(f"{method}-")]
    method = max(known, key=len, default=name.partition("-")[0])
    selection = name[len(method) + 1 :]
    return {"method": method, "selection": selection} if selection else {"method": method}


_Named = dict[str, dict[str, Any]]
"""Settings by the name of a target or a method."""


@dataclass(frozen=True)
class _Plan:
    """The content of a plan. The methods check and read one part each; ValueError says what is wrong and where."""

    where: str
    """Name of the file, or "flags"; messages begin with it."""
    content: Mapping[str, Any]
    settings: Mapping[str, Any]
    """Settings from flags, which replace those of all runs and of targets."""

    def results(self, flag: str | None) -> Path:
        """The file of results."""
        name = flag or self.content.get("results")
        if not isinstance(name, str):
            raise ValueError(f"{self.where}: results: expected the name of a file, got {name!r}; give --results FILE")
        return Path(name)

    def tasks(self, targets: list[str] | None, shots: list[int] | None) -> dict[Task, dict[str, Any]]:
        """The tasks of the wanted targets, all if None, with each number of shots; and the settings of each task."""
        common = {name: value for name, value in self.content.items() if name in COMMON}
        tasks = {}
        for name, values in self._wanted("targets", self._named("targets"), targets).items():
            check_names(f"{self.where}: targets: {name}", values, [*COMMON, "target"])
            merged = {**common, **values, **self.settings}
            for needed in ("target", "model"):
                if needed not in merged:
                    raise ValueError(f"{self.where}: targets: {name}: {needed} is not given")
            counts = shots or merged.get("shots")
            for count in counts if isinstance(counts, list) else [counts]:
                tasks[Task(name, count)] = merged
        return tasks

    def origins(self) -> dict[str, str]:
        """The origin of each method in the plan."""
        found = {name: values.get("origin", "") for name, values in self._named("methods").items()}
        for name, origin in found.items():
            if origin not in ("", *ORIGINS):
                expected = f"expected one of {', '.join(ORIGINS)}"
                raise ValueError(f"{self.where}: methods: {name}: origin: {expected}, got {origin!r}")
        return found

    def methods(self, wanted: list[str] | None, seeds: list[int] | None) -> tuple[_Named, dict[str, list[int]]]:
        """The settings and the seeds of the wanted methods, all if None. A method's name may be METHOD-SELECTION."""
        settings, method_seeds = {}, {}
        for name, values in self._wanted("methods", self._named("methods"), wanted).items():
            check_names(f"{self.where}: methods: {name}", values, [*CHANGEABLE, "seeds", "origin", "recipe"])
            values.pop("origin", None)
            if "recipe" in values:
                values = {**read_recipe(values.pop("recipe")), **values}
                check_names(f"{self.where}: methods: {name}", values, [*CHANGEABLE, "seeds"])
            plan_seeds = values.pop("seeds", self.content.get("seeds"))
            method_seeds[name] = self._integers("seeds", seeds or plan_seeds)
            by_name = _by_name(name)
            settings[name] = values if "method" in values else {**by_name, **values}
        if BASELINE not in settings:
            raise ValueError(
                f"{self.where}: methods: expected {BASELINE} among them, which every other is compared with"
            )
        return settings, method_seeds

    def tuning(
        self, methods: _Named, seeds: Mapping[str, list[int]], targets: list[str] | None
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[Task, dict[str, Any]], list[int]]:
        """The grid of each method, the tasks of tuning with their settings, and the seeds of tuning.

        ``targets`` takes the place of the plan's targets for tuning.

        All are empty in a plan without a grid. A method without a grid of its own gets one point, the plan's settings.
        """
        if "grid" not in self.content:
            if targets is not None:
                raise ValueError(f"{self.where}: tune_targets: expected none in a plan without a grid, got {targets}")
            return {}, {}, []
        lists = self._named("grid")
        self._wanted("grid", self._named("methods"), list(lists))
        grid = {name: self._points(name, lists.get(name, {})) for name in methods}
        tasks = self.tasks(targets or self.content.get("tune_targets"), None)
        tune_seeds = self._integers("tune_seeds", self.content.get("tune_seeds"))
        if both := sorted({seed for method_seeds in seeds.values() for seed in method_seeds} & set(tune_seeds)):
            raise ValueError(f"{self.where}: tune_seeds: expected other seeds than the comparison's, got {both}")
        if len({len(points) for points in grid.values()}) > 1:
            counts = ", ".join(f"{name} {len(points)}" for name, points in grid.items())
            raise ValueError(
                f"{self.where}: grid: expected as many points for each method as for any other, got {counts}"
            )
        return grid, tasks, tune_seeds

    def _named(self, key: str) -> _Named:
        """A part of the plan that maps names to settings, with underscores for dashes in the settings' names."""
        value = self.content.get(key)
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{self.where}: {key}: expected names, each with its settings, got {value!r}")
        for name, settings in value.items():
            if not isinstance(settings, dict | None):
                raise ValueError(f"{self.where}: {key}: {name}: expected lines of 'name: value', got {settings!r}")
        return {
            str(name): {str(setting).replace("-", "_"): item for setting, item in (settings or {}).items()}
            for name, settings in value.items()
        }

    def _wanted(self, key: str, known: _Named, wanted: list[str] | None) -> _Named:
        """The entries of ``known`` with wanted names, all if None, in the order of ``known``."""
        for name in wanted or []:
            if name not in known:
                raise ValueError(f"{self.where}: {key}: expected some of {', '.join(known)}; got {name}")
        return {name: values for name, values in known.items() if wanted is None or name in wanted}

    def _integers(self, key: str, value: Any) -> list[int]:
        """A list of whole numbers, sorted, each once."""
        if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
            raise ValueError(f"{self.where}: {key}: expected a list of whole numbers, got {value!r}")
        return sorted(set(value))

    def _points(self, method: str, lists: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The points of a method's grid: all combinations of the listed values of settings."""
        where = f"{self.where}: grid: {method}"
        check_names(where, lists, CHANGEABLE)
        for name, values in lists.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"{where}: {name}: expected a list of values, got {values!r}")
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
