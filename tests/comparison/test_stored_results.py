"""The results in docs/results: each line gives its key, comparisons find their runs, and the page has their means."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from xmixup_fast.comparison.history import chosen_late, has_choice
from xmixup_fast.comparison.missing import missing
from xmixup_fast.comparison.plan import Comparison, read, timing_key
from xmixup_fast.comparison.results import Results
from xmixup_fast.comparison.tables import AVERAGE, Row, by_seed, rows
from xmixup_fast.comparison.tuning import choose, with_complete_tuning
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash, short_hash

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILES = {
    "comparison": 519,
    "ablation": 58,
    "ablation-tuned": 34,
    "augmentation": 24,
    "small-images": 754,
    "small-images-drift": 300,
    "small-images-questions-drift": 230,
    "small-images-rows": 954,
    "small-images-questions": 1530,
}
"""How many lines each file has at least."""


@cache
def lines(name: str) -> list[dict[str, Any]]:
    return Results(DOCS / "results" / f"{name}.jsonl").lines()


THREE = ["flowers102", "caltech101", "dtd10"]
"""The targets of comparison.yaml that were compared first."""
FIRST = ("xmixup", "finetune", "mixup", "cotrain", "cutmix", "l2sp", "delta", "bss", "rifle", "cotuning", "seqtrain")
"""The methods of comparison.yaml that these were tuned for, besides our recipe and its control."""


@cache
def planned(name: str, targets: int = 3) -> Comparison:
    """A plan, without methods whose tuning is not stored; of the comparison, its first three targets or all."""
    limited = {"targets": THREE, "tune_targets": THREE} if name == "comparison" and targets == 3 else {}
    return with_complete_tuning(read(str(DOCS / f"{name}.yaml"), settings={}, **limited), lines(name))


@pytest.mark.parametrize("name", FILES)
def test_each_line_gives_its_key(name: str) -> None:
    """A line records what differs from the defaults. Where one changes, its former value has to be added to lines."""
    assert len(lines(name)) >= FILES[name]
    # Steps are timed beside those of a fine-tuning run, whose key is hashed with the run's own.
    baselines = {line["key"] for line in lines(name) if line.get("settings", {}).get("method") == "finetune"}
    for line in lines(name):
        if has_choice(line):
            continue
        settings = Settings(**line["settings"])
        assert (settings.seed, settings.shots) == (line["seed"], line["shots"])
        assert settings.target.removeprefix("hf:") == f"{{data}}/{line['target'].partition('-')[0]}"
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
    assert len(found) >= count
    assert [by_key[run.key]["method"] for run in found] == [run.method for run in found]


def test_all_timings_are_found() -> None:
    comparison = planned("comparison")
    timed = {line["key"] for line in lines("comparison") if "relative_seconds" in line}
    pairs = comparison.pairs(choose(comparison, lines("comparison")))
    assert sum(timing_key(pair) in timed for pair in pairs) >= 36


def test_the_first_three_targets_are_not_tuned_again() -> None:
    """Of the plan's grid, its methods x 3 rates x 6 targets, what was stored before the last three targets came."""
    comparison = read(str(DOCS / "comparison.yaml"), settings={})
    runs = [run for method in comparison.grid for point in comparison.tuning(method) for run in point]
    absent = {(run.method, run.task.target) for run in missing(runs, lines("comparison"), "val")}
    tuned = (*FIRST, "xcutmix-l2sp", "xcutmix-l2sp-random")
    assert len(runs) == len(comparison.methods) * 3 * 6
    assert not {target for method, target in absent if method in tuned} & {*THREE}


def test_stored_choices_that_were_made_after_tests_are_known() -> None:
    """Flowers-102 was left out of tuning at first: five methods had been tested when it was tuned on."""
    late = chosen_late(planned("comparison"), lines("comparison"), to_run=False)
    assert {method for method, _ in late} >= {"finetune", "mixup", "l2sp", "xcutmix-l2sp", "xcutmix-l2sp-random"}
    early = {"xmixup", "cotrain", "cutmix", "delta", "bss", "rifle", "cotuning", "seqtrain"}
    assert not {method for method, task in late if task.target in THREE} & early


PAGES = ("results", "three-targets")
"""Pages with a table of comparison.yaml: of its six targets, and of the first three."""


@cache
def shown(page: str) -> tuple[str, list[Row]]:
    """The table of averages on a page, and the rows it was made of."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    _, targets, rest = re.split(r"\*\*Average over (\d) targets\*\*", text, maxsplit=1)
    comparison = planned("comparison", int(targets))
    runs = comparison.runs(choose(comparison, lines("comparison")))
    by_place = by_seed(runs, lines("comparison"), "test")
    made = rows(by_place, {}, comparison.origins, comparison.tasks, "test")
    return rest.partition("\n\n**")[0], [row for row in made if row.target == AVERAGE and row.seeds]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_the_means_of_the_lines(page: str) -> None:
    table, made = shown(page)
    shown_rows = dict(re.findall(r"^\| ([\w-]+) \| (?:paper|baseline|ours) \| (.+) \|$", table, re.M))
    assert list(shown_rows) == [row.method for row in made]
    for row in made:
        seeds, accuracy, gain, _, at_random = shown_rows[row.method].split(" | ")[:5]
        assert (int(seeds), accuracy) == (row.seeds, f"{row.accuracy:.1f}"), row.method
        if row.method != "finetune":
            assert (gain, at_random) == (str(row.difference), str(row.over_targets)), row.method


def test_gains_on_small_images_are_those_of_the_tables() -> None:
    """The page's figures of small images, all of which commands have written to files beside it."""
    section = (DOCS / "results.md").read_text(encoding="utf-8").split("## Small images")[1].split("\n## ")[0]
    files = [*(DOCS / "results").glob("small-images*.val.md"), DOCS / "results" / "answers.val.md"]
    written = "".join(file.read_text(encoding="utf-8") for file in files)
    gains = re.findall(r"[+-]?\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)", section)
    assert len(gains) > 30 and not [gain for gain in gains if gain not in written]


@pytest.mark.parametrize(("page", "number"), [(page, number) for number, page in enumerate(PAGES)])
def test_the_readme_has_the_rows_of_the_page(page: str, number: int) -> None:
    """Its tables have some of the methods, with both intervals and the number of seeds."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    table = readme.split("| method | origin | test accuracy minus fine-tuning's")[number + 1].partition("\n\n")[0]
    made = {row.method: row for row in shown(page)[1]}
    found = re.findall(r"^\| `([\w-]+)`[^|]*\| (?:paper|baseline|ours)[^|]*\|(.+)\|$", table, re.M)
    assert len(found) >= 4 and found[0][0] == "xmixup"
    for name, cells in found:
        row = made[name]
        gain, at_random, seeds = (cell.strip() for cell in cells.split("|")[:3])
        assert int(seeds) == row.seeds, name
        if name == "finetune":
            assert gain == f"({row.accuracy:.1f} %)"
        else:
            assert (gain, at_random) == (str(row.difference), str(row.over_targets)), name
