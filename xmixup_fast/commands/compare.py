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

xmixup compare FILE.yaml --dry-run
    says which runs are missing, and how long they will take; also with --tune, --time and --leave-one-out

xmixup compare FILE.yaml --curve shots
    plots besides how gains over finetune change with a setting that has several values for each target, such as shots

xmixup compare FILE.yaml --leave-one-out
    makes as well, for each target, the runs at the settings that tuning on the other targets chose

A table of test accuracies is refused where settings were chosen after test runs: tuning went on, or a method was tested
with other settings before. With --post-hoc it is shown, and marked. The file of results keeps what chose what.

A run is known by a hash of its settings, defaults included: where one changes, it is another run, and what does not
belong to the comparison stays in the file but out of the table. All settings of training are flags, too, for those that
are common to all runs. Targets that tuning is done on should have a test split of their own: of those that have none,
each seed cuts another one, and what tuning validates on may be tested on with other seeds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..cli import Parser, checked_options, exit_status, require_one_process
from ..comparison.history import chosen_late, has_choice, record_choices, variants
from ..comparison.left_out import can_leave_out, left_out_missing, left_out_runs, left_out_table
from ..comparison.missing import missing, outlook
from ..comparison.plan import COMMON, Comparison, Run, check_weights, read, timing_key, with_data_folder
from ..comparison.plot import panels, plot, plot_curve
from ..comparison.results import Results, check_data
from ..comparison.tables import by_seed, comma_separated, markdown, paired_table, rows
from ..comparison.tuning import best_point, choose, tuned, with_complete_tuning
from ..comparison.workers import Workers
from ..runtime.files import around_markers, check_file_writable, write_between_markers, write_text
from ..runtime.signals import Interrupted
from ..settings.values import check_names
from . import verdict

WRITER = "xmixup compare"
"""What the tables of other people's pages are marked with."""

POST_HOC = (
    "**Post hoc**: where targets are named, settings were chosen after the method's test runs on them (tuning went "
    "on, or the method was tested with other settings before). These rows are no test of these settings."
)
"""What marks tables of settings that were chosen late."""


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
    dry_run: bool = False
    """Run nothing, say what is missing and how long it takes."""
    leave_one_out: bool = False
    """Run also each target at what the others chose."""
    tune_targets: list[str] | None = None
    """Targets to tune on, instead of the file's."""
    post_hoc: bool = False
    """Show and mark tests whose settings were chosen late."""
    versus: str | None = None
    """Add a table: this method minus each other one, in pairs."""
    curve: str | None = None
    """Plot gains against this setting, of which each target has several values."""
    markdown: str | None = None
    """Write the first table, and that of --versus, between the markers in this file."""

    def __post_init__(self) -> None:
        if self.tune + self.time + self.table > 1:
            raise ValueError("expected one of --tune, --time and --table, got several")
        if self.leave_one_out and (self.tune or self.time or self.table):
            raise ValueError("leave_one_out: expected neither --tune, --time nor --table beside it, got one of them")
        if self.table and self.dry_run:
            raise ValueError("expected one of --table and --dry-run, which both run nothing, got both")


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
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted("stopped; the same command goes on", number) from None

    return exit_status(work)


def _values(arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """What the command line gives, by name. Exits for --help; ValueError for what cannot be used."""
    parser = Parser(prog, __doc__, of_training=True)
    parser.flags.title = "flags"
    names = {"results": "FILE", "targets": "NAME", "methods": "NAME", "data": "DIR", "markdown": "FILE"}
    names |= {"tune_targets": "NAME", "versus": "METHOD", "curve": "SETTING"}
    parser.add_options(Options, positional={"file": "FILE.yaml|DATASET"}, metavars=names)
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
        tune_targets=options.tune_targets,
    )
    return options, comparison


def _compare(comparison: Comparison, options: Options) -> int:
    require_one_process()
    results = Results(comparison.results)
    page = None if options.markdown is None else Path(options.markdown)
    _check_options(comparison, options, page)
    if options.dry_run:
        print(_dry_run(comparison, options, results.lines()))
        return 0
    if not options.table:
        check_weights(comparison, options.data)
    if options.tune:
        failures = Workers(results, options.data).train(_tuning_runs(comparison), "val")
        record_choices(comparison, results)
        print(tuned(comparison, results.lines()))
        return int(failures > 0)
    shown = with_complete_tuning(comparison, results.lines()) if options.table else comparison
    chosen = choose(shown, results.lines())
    runs = shown.runs(chosen)
    check_data(results.lines(), {run.key for run in runs})
    _check_choices(shown, results.lines(), options)
    failures = 0
    if not options.table:
        _check_targets(runs, results.lines(), options.data)
        record_choices(comparison, results)
    if options.time:
        failures = Workers(results, options.data).time(comparison.pairs(chosen))
    elif not options.table:
        others = left_out_runs(comparison, results.lines()) if options.leave_one_out else []
        failures = Workers(results, options.data).train([*runs, *others], options.split)
    lines = results.lines()
    check_data(lines, {run.key for run in runs})
    summary = _write_tables(comparison, shown, lines, options)
    if page is not None:
        write_between_markers(page, WRITER, summary)
    return int(failures > 0)


def _check_options(comparison: Comparison, options: Options, page: Path | None) -> None:
    """Raises ValueError for what the comparison does not have: refused now, not after hours of runs."""
    if options.versus is not None and options.versus not in comparison.methods:
        raise ValueError(f"versus: expected one of {', '.join(comparison.methods)}, got {options.versus}")
    if options.curve is not None:
        check_names("curve", [options.curve], COMMON)
        panels(comparison, options.curve)
    check_file_writable(comparison.results, "results")
    if page is not None:
        around_markers(page, WRITER)
        check_file_writable(page, "markdown")
    if options.tune and not comparison.grid:
        raise ValueError(f"{options.file or 'flags'}: grid: expected the settings to try, got none")
    if options.leave_one_out and not can_leave_out(comparison):
        raise ValueError("leave_one_out: expected a grid, and for each target another one to tune on; got none")


def _check_choices(comparison: Comparison, lines: Sequence[dict[str, Any]], options: Options) -> None:
    """Raises ValueError where test results would be shown whose settings were chosen after test runs."""
    if options.split != "test" or options.post_hoc:
        return
    late = chosen_late(comparison, lines, to_run=not (options.table or options.time))
    if late:
        each = "; ".join(sorted(f"{method} on {task}" for method, task in late))
        raise ValueError(
            f"results: expected settings that were chosen before a method's test runs, got settings that were chosen "
            f"after them: {each}; compare settings with --split val, begin another file with --results, or give "
            "--post-hoc for a table that is marked"
        )


def _tuning_runs(comparison: Comparison) -> list[Run]:
    """All runs of tuning."""
    return [run for method in comparison.grid for point in comparison.tuning(method) for run in point]


def _dry_run(comparison: Comparison, options: Options, lines: Sequence[dict[str, Any]]) -> str:
    """Which runs the command would make. Where tuning is not complete, the point that needs the fewest runs counts."""
    given = {name for points in comparison.grid.values() for name in points[0]}
    if options.tune:
        wanted = _tuning_runs(comparison)
        return outlook(missing(wanted, lines, "val"), len(wanted), lines, given)
    chosen, unsure = {}, []
    for method, points in comparison.grid.items():
        point = best_point(comparison, lines, method)
        if point is None:
            unsure.append(method)
            alone = replace(comparison, methods={method: comparison.methods[method]})
            absent = [len(missing(alone.runs({method: each}), lines, options.split)) for each in points]
            point = points[absent.index(min(absent))]
        chosen[method] = point
    if options.time:
        timed = {line["key"] for line in lines if "relative_seconds" in line}
        pairs = comparison.pairs(chosen)
        return f"{sum(timing_key(pair) not in timed for pair in pairs)} of {len(pairs)} timings are missing"
    wanted = comparison.runs(chosen)
    if options.leave_one_out and not unsure:
        wanted += left_out_runs(comparison, lines)
    wanted = list({run.key: run for run in wanted}.values())
    text = outlook(missing(wanted, lines, options.split), len(wanted), lines, given)
    if unsure:
        text += f"\nat least: tuning of {', '.join(unsure)} has chosen nothing yet"
    return text


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


def _write_tables(comparison: Comparison, shown: Comparison, lines: Sequence[dict[str, Any]], options: Options) -> str:
    """Prints the tables, and writes Markdown, CSV and PNG beside the results, of the methods ``shown``, whose tuning is
    complete.

    Returns a summary for other pages: the average over targets, or the table of the only target, with the table of
    --versus.
    """
    split, chosen = options.split, choose(shown, lines)
    _check_choices(shown, lines, options)
    late = chosen_late(shown, lines, to_run=False) if split == "test" else set()
    runs = shown.runs(chosen)
    lines_by_seed = by_seed(runs, lines, split)
    timed = {line["key"]: line["relative_seconds"] for line in lines if "relative_seconds" in line}
    pairs = {(run.method, run.task): timing_key((base, run)) for base, run in shown.pairs(chosen)}
    seconds = {place: timed[key] for place, key in pairs.items() if key in timed}
    table_rows = rows(lines_by_seed, seconds, shown.origins, shown.tasks, split, post_hoc=late)

    first, *per_target = markdown(table_rows, split)
    end = [_notes(comparison, shown, lines, options)]
    if options.versus in shown.methods:
        end.insert(0, paired_table(lines_by_seed, options.versus, shown.origins, shown.tasks, split))
    if can_leave_out(shown):
        end.insert(0, left_out_table(shown, lines, split, late))
    if late:
        end.insert(0, POST_HOC)
    choices = [tuned(comparison, lines)] if comparison.grid else []
    absent = left_out_missing(shown, lines, split) if can_leave_out(shown) else ""
    text = "\n\n".join(filter(None, [first, *per_target, *end, absent, *choices]))
    print(f"\n{text}", flush=True)
    base_name = comparison.results.with_suffix("" if split == "test" else f".{split}")
    write_text(Path(f"{base_name}.md"), text + "\n")
    write_text(Path(f"{base_name}.csv"), comma_separated(table_rows))
    plot(table_rows, split, Path(f"{base_name}.png"))
    if options.curve is not None:
        path = Path(f"{base_name}.{options.curve}.png")
        plot_curve(shown, lines_by_seed, options.curve, split, path, post_hoc=bool(late))
    return "\n\n".join([first, *end])


def _notes(comparison: Comparison, shown: Comparison, lines: Sequence[dict[str, Any]], options: Options) -> str:
    """What the tables are made of, in sentences."""
    chosen, accuracy = choose(shown, lines), f"{options.split}_accuracy"
    done = {line["key"]: line for line in lines if line.get(accuracy) is not None}
    keys = {run.key for run in shown.runs(chosen)}
    failed = {line["key"] for line in lines if "error" in line} & keys - done.keys()
    known = {*keys, *(timing_key(pair) for pair in shown.pairs(chosen)), *(run.key for run in _tuning_runs(comparison))}
    if can_leave_out(shown):
        known |= {run.key for run in left_out_runs(shown, lines)}
    others = sum(line["key"] not in known and not has_choice(line) for line in lines)
    versions = sorted({_versions(done[key]) for key in keys & done.keys()})
    untimed = sum("finished" not in line for line in lines)
    left = [method for method in comparison.methods if method not in shown.methods]
    tried, tested = variants(lines), variants(lines, "test_accuracy")
    notes = [
        f"{len(keys & done.keys())} of {len(keys)} runs are done; {len(failed)} have failed.",
        f"{', '.join(left)}: tuning is not complete, so they are not in the tables." if left else "",
        f"{others} other lines of the file belong to other settings and are not in the table.",
        f"Variants in the file, each a method with its settings: {sum(tried.values())} were validated, "
        f"{sum(tested.values())} tested.",
        "Intervals are of one comparison alone; p-values are corrected for the comparisons of their table (Holm).",
        f"When {untimed} of the {len(lines)} lines were added is not known; their order counts." if untimed else "",
        f"Made with {' and with '.join(versions)}." if versions else "",
    ]
    return " ".join(filter(None, notes))


def _versions(line: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in line["versions"].items())
