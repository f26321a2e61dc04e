"""Compare transfer methods: methods x targets x shots x seeds.

python -m xmixup_fast.compare docs/comparison.yaml --data DIR
    runs what is missing, each run in a process of its own; then prints the table and writes it beside the results, as
    Markdown, CSV and PNG. May be stopped and started again at any time, and started several times to share the work

python -m xmixup_fast.compare --targets photos/ --source imagenet/train/ --model resnet50 --results photos.jsonl
    without a file: finetune and xmixup, with both controls (mixup, xmixup-random), five seeds

python -m xmixup_fast.compare FILE.yaml --tune
    first: chooses settings out of the file's grid, as many for each method, by validation accuracy on other seeds

python -m xmixup_fast.compare FILE.yaml --time
    beforehand or at the end, on an idle machine: times each method's steps and finetune's in turn

python -m xmixup_fast.compare FILE.yaml --split val
    compares validation accuracies; test images are not looked at

A run is known by a hash of its settings, defaults included: where one changes, it is another run, and what does not
belong to the comparison stays in the file but out of the table. All settings of training are flags, too, for those that
are common to all runs. Targets that tuning is done on should have a test split of their own: of those that have none,
each seed cuts another one, and what tuning validates on may be tested on with other seeds.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .comparison.plan import COMMON, Comparison, Task, read, timing_key
from .comparison.plot import plot
from .comparison.results import Results
from .comparison.tables import comma_separated, markdown, paired_table, rows
from .comparison.tuning import choose, tuned
from .comparison.workers import Workers
from .runtime.distributed import require_one_process
from .runtime.files import around_markers, write_between_markers, write_text
from .settings.fields import Settings

WRITER = "python -m xmixup_fast.compare"
"""What the tables of other people's pages are marked with."""

Chosen = Mapping[str, Mapping[str, Any]]
"""Settings that tuning has chosen, by method."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ``settings`` holds the training settings that it gives."""
    parser = argparse.ArgumentParser(
        prog="python -m xmixup_fast.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="what to compare")
    parser.add_argument("--results", help="file of results, a JSON line a run, instead of the file's")
    parser.add_argument("--targets", nargs="+", help="those of the file to take; without a file: datasets")
    parser.add_argument("--methods", nargs="+", help="those of the file to take; without one: METHOD[-SELECTION]")
    parser.add_argument("--shots", nargs="+", type=int, help="training images per class, instead of the file's")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the file's")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="images to compare on")
    parser.add_argument("--data", metavar="DIR", help="what {data} stands for in the file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tune", action="store_true", help="choose settings out of the grid")
    what.add_argument("--time", action="store_true", help="time steps in turn with finetune's")
    what.add_argument("--table", action="store_true", help="run nothing, make the table of what is there")
    parser.add_argument("--versus", metavar="METHOD", help="add a table: this method minus each other one, in pairs")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the first table between the markers in it")
    group = parser.add_argument_group("settings of training, as python -m xmixup_fast.train --help tells")
    hints = typing.get_type_hints(Settings)
    for name in COMMON:
        if name != "shots":
            group.add_argument(f"--{name.replace('_', '-')}", **_flag(hints[name]), default=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    parsed.settings = {name: getattr(parsed, name) for name in COMMON if name != "shots" and hasattr(parsed, name)}
    return parsed


def _flag(hint: Any) -> dict[str, Any]:
    """How argparse reads a setting: texts as they are, other values as in YAML."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    takes_text = str in options
    many = any(typing.get_origin(option) is list for option in options)
    return {"type": str if takes_text else yaml.safe_load, "metavar": "VALUE", **({"nargs": "+"} if many else {})}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 2 for what the user can mend, 1 where runs failed."""
    asked = parse(sys.argv[1:] if arguments is None else arguments)
    names = ("settings", "results", "targets", "methods", "shots", "seeds")
    try:
        comparison = read(asked.file, **{name: getattr(asked, name) for name in names})
        return _compare(comparison, asked)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _compare(comparison: Comparison, asked: argparse.Namespace) -> int:
    require_one_process()
    results = Results(comparison.results)
    if asked.versus is not None and asked.versus not in comparison.methods:
        raise ValueError(f"versus: expected one of {', '.join(comparison.methods)}, got {asked.versus}")
    if asked.markdown is not None:
        around_markers(asked.markdown, WRITER)  # refused now, not after hours of runs
    if asked.tune:
        if not comparison.grid:
            raise ValueError(f"{asked.file or 'flags'}: grid: expected the settings to try, got none")
        wanted = [run for method in comparison.grid for point in comparison.tuning(method) for run in point]
        failures = Workers(results, asked.data).train(wanted, "val")
        print(tuned(comparison, results.lines()))
        return int(failures > 0)
    chosen = choose(comparison, results.lines())
    runs = comparison.runs(chosen)
    failures = 0
    if asked.time:
        failures = Workers(results, asked.data).time(comparison.pairs(chosen))
    elif not asked.table:
        failures = Workers(results, asked.data).train(runs, asked.split)
    lines = results.lines()
    text, summary = _write_tables(comparison, chosen, lines, asked.split, asked.versus)
    print(f"\n{text}")
    if asked.markdown is not None:
        write_between_markers(asked.markdown, WRITER, summary)
    return int(failures > 0)


def _write_tables(
    comparison: Comparison, chosen: Chosen, lines: Sequence[dict[str, Any]], split: str, versus: str | None
) -> tuple[str, str]:
    """Writes Markdown, CSV and PNG beside the results.

    Returns the Markdown, and a summary for other pages: the average over targets, or the table of the only target, with
    the table of ``versus``.
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
    made = rows(by_seed, seconds, comparison.origins, comparison.tasks, split)

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
    first, *per_target = markdown(made, split)
    end = [" ".join(filter(None, notes))]
    if versus is not None:
        end.insert(0, paired_table(by_seed, versus, comparison.origins, comparison.tasks, split))
    choices = [tuned(comparison, lines)] if comparison.grid else []
    text = "\n\n".join([first, *per_target, *end, *choices])
    base_name = comparison.results.with_suffix("" if split == "test" else f".{split}")
    write_text(Path(f"{base_name}.md"), text + "\n")
    write_text(Path(f"{base_name}.csv"), comma_separated(made))
    plot(made, split, Path(f"{base_name}.png"))
    return text, "\n\n".join([first, *end])


def _versions(line: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in line["versions"].items())


if __name__ == "__main__":
    sys.exit(main())
