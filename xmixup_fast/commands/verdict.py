"""``xmixup compare photos/``: methods compared by cross-validation on one's own photos, and a verdict."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..cli import checked_options, require_one_process
from ..runtime.files import check_file_writable, check_writable

if TYPE_CHECKING:
    from ..comparison.results import Results
    from ..comparison.verdict import Verdict

SHARED = ("file", "results", "methods", "table")
"""Options of ``compare`` that count here, too."""
PLANS = (".yaml", ".yml")
"""How the names of plans end; all other names are datasets."""


@dataclass(frozen=True, kw_only=True)
class PhotosOptions:
    """How to compare on one's own photos; the defaults are those of ``compare`` as a function."""

    folds: int = 5
    """On photos: parts of the cross-validation."""
    repeats: int | None = None
    """On photos: repeats, instead of those that the budget allows."""
    budget: str = "30m"
    """On photos: time for all runs, such as 1h30m."""
    rates: list[float] | None = None
    """On photos: learning rates of every method, whose probabilities are averaged; each method's own if not given."""
    format: Literal["text", "json"] = "text"
    """On photos: how the verdict is printed."""

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < 1:
            raise ValueError(f"repeats: expected 1 or more, got {self.repeats}")


OWN = tuple(field.name for field in fields(PhotosOptions))
"""The names of these options."""


def asks(values: Mapping[str, Any], of_compare: Collection[str]) -> bool:
    """Whether a command line asks for a comparison on photos. ``of_compare`` are the options of other comparisons.

    Raises ValueError for options of the other kind.
    """
    file = values.get("file")
    on_photos = file is not None and (Path(file).is_dir() or Path(file).suffix.lower() not in PLANS)
    if on_photos:
        wrong = [name for name in values if name in of_compare and name not in SHARED]
        expected = f"a plan (FILE.yaml) or --targets, got {file}, whose photos are cross-validated"
    else:
        wrong = [name for name in values if name in OWN]
        expected = f"a folder of photos to compare on, got {file or 'none'}"
    if wrong:
        raise ValueError(f"{wrong[0]}: expected {expected}")
    return on_photos


def command(values: Mapping[str, Any], prog: str) -> int:
    """Runs the command; returns 1 where runs failed."""
    options = checked_options(PhotosOptions, {name: value for name, value in values.items() if name in OWN}, prog)
    prints = sys.stderr if options.format == "json" else sys.stdout
    found = verdict(
        values["file"],
        {name: value for name, value in values.items() if name not in (*OWN, *SHARED)},
        options,
        methods=values.get("methods"),
        results=values.get("results"),
        table=values.get("table", False),
        log=partial(print, file=prints, flush=True),
    )
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if options.format == "json" else f"\n{found!r}")
    return int(found.failures > 0)


def verdict(
    target: str,
    given: Mapping[str, Any],
    options: PhotosOptions,
    *,
    methods: Sequence[str] | None = None,
    results: str | None = None,
    table: bool = False,
    log: Callable[[str], object] = print,
) -> Verdict:
    """Makes the runs that are missing, and judges those of complete repeats; writes the page beside the results.

    Args:
        target: the photos, as ``train`` takes a target.
        given: training settings, for all methods.
        options: how to compare.
        methods: what to compare; the default methods if not given.
        results: file of results; one in runs/ if not given, which follows from the photos.
        table: run nothing, judge what is there.
        log: gets lines for the user.

    Raises ValueError, FileNotFoundError and OSError, before anything is trained, for what cannot be used.
    """
    from ..comparison.folds import Estimate, FoldPlan, duration, parse_budget
    from ..comparison.plan import with_data_folder
    from ..comparison.results import Results
    from ..comparison.verdict import judge
    from ..comparison.workers import Workers
    from ..training.source import read_source
    from ..training.target import target_data

    require_one_process()
    if results:
        check_file_writable(Path(results), "results")
    else:
        check_writable(Path("runs"), "results")
    plan = FoldPlan.of(target, given, methods=methods, rates=options.rates, folds=options.folds)
    parse_budget(options.budget)
    data = target_data(with_data_folder(plan.first_repeat[0].settings, target), log)
    if not table and (settings := plan.settings_with_source()) is not None:
        read_source(settings, log)  # a missing source is found, and a download asked for, before anything is run
    file = Results(Path(results) if results else _default_results(target, data.listing))
    keys = {run.key for run in plan.first_repeat}
    _check_photos(file, keys, target, data.listing)
    repeats = options.repeats or 1 + max((line.get("seed", 0) for line in file.lines()), default=0)
    estimated, failures = None, 0
    if not table:
        workers = Workers(file, target, log)
        estimate = Estimate.of(plan, workers, log)
        repeats = options.repeats or estimate.repeats(options.budget)
        estimated = repeats * estimate.repeat_seconds
        log(f"estimate: {duration(estimated)} for {repeats} repeat{'s' * (repeats > 1)} ({estimate.each()})")
        failures = workers.predict(plan.comparison(repeats).runs({}))
    labels = {data.contents[one.image.name].digest: one.label for one in data.dataset.samples}
    more = {"estimated_seconds": estimated, "failures": failures}
    runs = plan.comparison(repeats).runs({})
    _check_photos(file, {run.key for run in runs}, target, data.listing)
    found = judge(plan, runs, file.lines(), data.dataset.classes, labels, **more)
    if not found.methods:
        return found
    images = {data.contents[one.image.name].digest: one.image for one in reversed(data.dataset.samples)}
    return _with_page(found, images, file.path.with_suffix(".html"))


def _with_page(found: Verdict, images: Mapping[str, Any], path: Path) -> Verdict:
    from ..comparison.verdict_page import verdict_page
    from ..runtime.files import write_text

    write_text(path, verdict_page(found, images))
    return replace(found, page=path)


def _default_results(target: str, listing: str) -> Path:
    """A file that follows from the photos: other photos, or more of them, have other results."""
    name = re.sub(r"[^\w.-]+", "-", Path(target).resolve().name)
    return Path("runs", f"compare-{name}-{listing[:8]}", "results.jsonl")


def _check_photos(results: Results, keys: Collection[str], target: str, listing: str) -> None:
    """Raises ValueError where runs of the file were made on other photos."""
    found = {line["data"] for line in results.lines() if line["key"] in keys and line.get("data")}
    if other := sorted(found - {listing}):
        raise ValueError(
            f"results: {results.path} has runs on other images than {target} has now (fingerprint {other[0]}, now "
            f"{listing}); restore them, or name another file with --results"
        )
