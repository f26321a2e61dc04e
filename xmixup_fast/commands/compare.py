"""Compare transfer methods: methods x targets x shots x seeds.

xmixup compare photos/ --source imagenet/train/
    do auxiliary images help on these photos? Cross-validation, repeated as often as --budget allows, a verdict in one
    sentence, and a page. Tunes nothing; --rates X Y averages the predictions of runs at several learning rates instead

xmixup compare docs/comparison.yaml --data DIR
    runs what is missing, each run in a process of its own; then prints the table and writes it beside the results, as
    Markdown, CSV and PNG. May be stopped and started again at any time, and started several times to share the work

xmixup compare --targets photos/ --source imagenet/train/ --model resnet50 --results photos.jsonl
    without a file: finetune and xmixup, with both controls (mixup, xmixup-random), five seeds

xmixup compare FILE.yaml --tune
    first: chooses settings out of the file's grid, as many for each method, by validation accuracy on other seeds

xmixup compare FILE.yaml --time
    beforehand or at the end, on an idle machine: times each method's steps and finetune's in turn

xmixup compare FILE.yaml --split val
    compares validation accuracies; test images are not looked at

A run is known by a hash of its settings, defaults included: where one changes, it is another run, and what does not
belong to the comparison stays in the file but out of the table. All settings of training are flags, too, for those that
are common to all runs. Targets that tuning is done on should have a test split of their own: of those that have none,
each seed cuts another one, and what tuning validates on may be tested on with other seeds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..cli import Parser, checked_options, exit_status, require_one_process
from ..comparison.plan import COMMON, Comparison, Run, Task, check_weights, read, timing_key, with_data_folder
from ..comparison.plot import plot
from ..comparison.results import Results, check_data
from ..comparison.tables import comma_separated, markdown, paired_table, rows
from ..comparison.tuning import choose, tuned
from ..comparison.workers import Workers
from ..runtime.files import around_markers, check_file_writable, write_between_markers, write_text
from ..runtime.signals import Interrupted
from . import verdict

WRITER = "xmixup compare"
"""What the tables of other people's pages are marked with."""

Chosen = Mapping[str, Mapping[str, Any]]
"""Settings that tuning has chosen, by method."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare, and what to do."""

    file: str | None = None
    """What to compare, or photos to compare on."""
    results: str | None = None
    """File of results, a JSON line a run, instead of the file's."""
    targets: list[str] | None = None
    """Some of the file's targets; without a file: datasets."""
    methods: list[str] | None = None
    """Some of the file's methods; without a file: METHOD, METHOD-SELECTION, or recipes."""
    shots: list[int] | None = None
    """Training images per class, instead of the file's."""
    seeds: list[int] | None = None
    """Seeds, instead of the file's."""
    split: Literal["val", "test"] = "test"
    """Images to compare on."""
    data: str | None = None
    """What {data} stands for in the file."""
    tune: bool = False
    """Choose settings out of the grid."""
    time: bool = False
    """Time steps in turn with finetune's."""
    table: bool = False
    """Run nothing, make the table of what is there."""
    versus: str | None = None
    """Add a table: this method minus each other one, in pairs."""
    markdown: str | None = None
    """Write the first table, and that of --versus, between the markers in this file."""

    def __post_init__(self) -> None:
        if self.tune + self.time + self.table > 1:
            raise ValueError("expected one of --tune, --time and --table, got several")


OPTIONS = tuple(field.name for field in fields(Options))
"""The names of these options."""


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup compare") -> int:
    """Runs the command; returns its exit status: 2 for an error that the user can mend, 1 where runs failed."""
    given = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        try:
            if (values := _values(given, prog)) and verdict.asks(values, OPTIONS):
                return verdict.command(values, prog)
            options, comparison = parse(given, prog)
            return _compare(comparison, options)
        except KeyboardInterrupt:
            raise Interrupted("stopped; the same command goes on", signal.SIGINT) from None

    return exit_status(work)


def _values(arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """What the command line gives, by name. Exits for --help; ValueError for what cannot be used."""
    parser = Parser(prog, __doc__, of_training=True)
    parser.flags.title = "flags"
    names = {"results": "FILE", "targets": "NAME", "methods": "NAME", "data": "DIR", "markdown": "FILE"}
    parser.add_options(Options, positional={"file": "FILE.yaml|DATASET"}, metavars={**names, "versus": "METHOD"})
    parser.add_options(verdict.PhotosOptions, metavars={"budget": "TIME"})
    parser.add_settings(arguments, groups=(), only=[name for name in COMMON if name != "shots"])
    return parser.values(arguments)


def parse(arguments: Sequence[str], prog: str) -> tuple[Options, Comparison]:
    """What the command line asks for. Exits for --help; ValueError and FileNotFoundError for what cannot be used."""
    values = _values(arguments, prog)
    options = checked_options(Options, {name: value for name, value in values.items() if name in OPTIONS}, prog)
    comparison = read(
        options.file,
        settings={name: value for name, value in values.items() if name not in OPTIONS},
        results=options.results,
        targets=options.targets,
        methods=options.methods,
        shots=options.shots,
        seeds=options.seeds,
    )
    return options, comparison


def _compare(comparison: Comparison, options: Options) -> int:
    require_one_process()
    results = Results(comparison.results)
    page = None if options.markdown is None else Path(options.markdown)
    if options.versus is not None and options.versus not in comparison.methods:
        raise ValueError(f"versus: expected one of {', '.join(comparison.methods)}, got {options.versus}")
    check_file_writable(comparison.results, "results")  # this and what follows: refused now, not after hours of runs
    if page is not None:
        around_markers(page, WRITER)
        check_file_writable(page, "markdown")
    if not options.table:
        check_weights(comparison, options.data)
    if options.tune:
        if not comparison.grid:
            raise ValueError(f"{options.file or 'flags'}: grid: expected the settings to try, got none")
        wanted = [run for method in comparison.grid for point in comparison.tuning(method) for run in point]
        failures = Workers(results, options.data).train(wanted, "val")
        print(tuned(comparison, results.lines()))
        return int(failures > 0)
    chosen = choose(comparison, results.lines())
    runs = comparison.runs(chosen)
    check_data(results.lines(), {run.key for run in runs})
    if not options.table:
        _check_targets(runs, results.lines(), options.data)
    failures = 0
    if options.time:
        failures = Workers(results, options.data).time(comparison.pairs(chosen))
    elif not options.table:
        failures = Workers(results, options.data).train(runs, options.split)
    lines = results.lines()
    check_data(lines, {run.key for run in runs})
    summary = _write_tables(comparison, chosen, lines, options.split, options.versus)
    if page is not None:
        write_between_markers(page, WRITER, summary)
    return int(failures > 0)


def _check_targets(runs: Sequence[Run], lines: Sequence[dict[str, Any]], data: str | None) -> None:
    """Raises ValueError where the images of a target have changed since the first of its runs, before more are made."""
    from ..training.target import listing_now

    keys = {run.key for run in runs}
    recorded = {line["target"]: line["data"] for line in lines if line["key"] in keys and line.get("data")}
    first = {run.task.target: run for run in reversed(runs)}
    for target, listing in recorded.items():
        now = listing_now(with_data_folder(first[target].settings, data))
        if now != listing:
            raise ValueError(
                f"results: the images of target {target} have changed since its first runs (fingerprint {listing}, now "
                f"{now}); restore them, or make all runs anew with another --results"
            )


def _write_tables(
    comparison: Comparison, chosen: Chosen, lines: Sequence[dict[str, Any]], split: str, versus: str | None
) -> str:
    """Prints the tables, and writes Markdown, CSV and PNG beside the results.

    Returns a summary for other pages: the average over targets, or the table of the only target, with the table of
    ``versus``.
    """
    runs = comparison.runs(chosen)
    done = {line["key"]: line for line in lines if line.get(f"{split}_accuracy") is not None}
    timed = {line["key"]: line["relative_seconds"] for line in lines if "relative_seconds" in line}
    by_seed: dict[tuple[str, Task], dict[int, dict[str, Any]]] = {}
    for run in runs:
        if run.key in done:
            by_seed.setdefault((run.method, run.task), {})[run.settings.seed] = done[run.key]
    pairs = {(run.method, run.task): timing_key((base, run)) for base, run in comparison.pairs(chosen)}
    seconds = {place: timed[key] for place, key in pairs.items() if key in timed}
    table_rows = rows(by_seed, seconds, comparison.origins, comparison.tasks, split)

    keys = {run.key for run in runs}
    failed = {line["key"] for line in lines if "error" in line} & keys - done.keys()
    known = {*keys, *pairs.values()}
    if comparison.grid:
        known |= {run.key for method in comparison.grid for point in comparison.tuning(method) for run in point}
    others = sum(line["key"] not in known for line in lines)
    versions = sorted({_versions(done[key]) for key in keys & done.keys()})
    notes = [
        f"{len(keys & done.keys())} of {len(keys)} runs are done; {len(failed)} have failed.",
        f"{others} other lines of the file belong to other settings and are not in the table.",
        "Intervals are not corrected for the number of comparisons.",
        f"Made with {' and with '.join(versions)}." if versions else "",
    ]
    first, *per_target = markdown(table_rows, split)
    end = [" ".join(filter(None, notes))]
    if versus is not None:
        end.insert(0, paired_table(by_seed, versus, comparison.origins, comparison.tasks, split))
    choices = [tuned(comparison, lines)] if comparison.grid else []
    text = "\n\n".join([first, *per_target, *end, *choices])
    print(f"\n{text}", flush=True)
    base_name = comparison.results.with_suffix("" if split == "test" else f".{split}")
    write_text(Path(f"{base_name}.md"), text + "\n")
    write_text(Path(f"{base_name}.csv"), comma_separated(table_rows))
    plot(table_rows, split, Path(f"{base_name}.png"))
    return "\n\n".join([first, *end])


def _versions(line: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in line["versions"].items())
