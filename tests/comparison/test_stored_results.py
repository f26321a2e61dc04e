"""The results in docs/results: each line gives its key, comparisons find their runs, and the page has their means."""

from __future__ import annotations

import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from xmixup_fast.comparison.plan import Comparison, read, timing_key
from xmixup_fast.comparison.results import Results
from xmixup_fast.comparison.tuning import choose
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash, short_hash

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILES = {"comparison": 352, "ablation": 58, "ablation-tuned": 34}
"""How many lines each file has at least."""


@cache
def lines(name: str) -> list[dict[str, Any]]:
    return Results(DOCS / "results" / f"{name}.jsonl").lines()


@cache
def planned(name: str) -> Comparison:
    return read(str(DOCS / f"{name}.yaml"), settings={})


@pytest.mark.parametrize("name", FILES)
def test_each_line_gives_its_key(name: str) -> None:
    """A line records what differs from the defaults. Where one changes, its former value has to be added to lines."""
    assert len(lines(name)) >= FILES[name]
    # Steps are timed beside those of a fine-tuning run, whose key is hashed with the run's own.
    baselines = {line["key"] for line in lines(name) if line["settings"].get("method") == "finetune"}
    for line in lines(name):
        settings = Settings(**line["settings"])
        assert (settings.seed, settings.shots) == (line["seed"], line["shots"])
        assert settings.target == f"{{data}}/{line['target']}"
        own = run_hash(settings)
        if "relative_seconds" in line:
            assert line["key"] in {short_hash(f"{baseline} {own}") for baseline in baselines}
        else:
            assert line["key"] == own


@pytest.mark.parametrize("name", FILES)
def test_no_run_is_there_twice(name: str) -> None:
    keys = [line["key"] for line in lines(name) if "error" not in line]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("name", "count"), [("comparison", 147), ("ablation", 58), ("ablation-tuned", 34)])
def test_runs_are_found_by_the_names_of_their_rows(name: str, count: int) -> None:
    comparison = planned(name)
    by_key = {line["key"]: line for line in lines(name) if "error" not in line}
    chosen = choose(comparison, lines(name))
    runs = comparison.runs(chosen)
    found = [run for run in runs if run.key in by_key]
    assert len(found) == count and (name != "comparison" or len(runs) == count)
    assert [by_key[run.key]["method"] for run in found] == [run.method for run in found]


def test_all_timings_are_found() -> None:
    comparison = planned("comparison")
    timed = {line["key"] for line in lines("comparison") if "relative_seconds" in line}
    pairs = comparison.pairs(choose(comparison, lines("comparison")))
    assert len(pairs) == 36 and all(timing_key(pair) in timed for pair in pairs)


def test_the_page_has_the_means_of_the_lines() -> None:
    comparison = planned("comparison")
    by_key = {line["key"]: line for line in lines("comparison")}
    accuracies: dict[str, dict[int, list[float]]] = {name: {} for name in comparison.methods}
    for run in comparison.runs(choose(comparison, lines("comparison"))):
        accuracies[run.method].setdefault(run.settings.seed, []).append(by_key[run.key]["test_accuracy"])
    means = {name: {seed: statistics.fmean(each) for seed, each in own.items()} for name, own in accuracies.items()}

    page = (DOCS / "results.md").read_text(encoding="utf-8")
    average = page.partition("**Average over 3 targets**")[2].partition("\n\n**")[0]
    rows = dict(re.findall(r"^\| ([\w-]+) \| (?:paper|baseline|ours) \| (.+) \|$", average, re.M))
    assert list(rows) == list(comparison.methods)
    for name, row in rows.items():
        seeds, accuracy, gain = row.split(" | ")[:3]
        assert (int(seeds), accuracy) == (len(means[name]), f"{statistics.fmean(means[name].values()):.1f}"), name
        if name != "finetune":
            gains = [mean - means["finetune"][seed] for seed, mean in means[name].items()]
            assert gain.startswith(f"{statistics.fmean(gains):+.1f} ("), name
