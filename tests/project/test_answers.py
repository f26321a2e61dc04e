"""docs/answers.py answers questions from the stored comparisons on small images."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmixup_fast.comparison.differences import Difference
from xmixup_fast.comparison.plan import read

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "answers.py"))


def test_each_question_names_methods_of_the_plans(program: dict[str, Any]) -> None:
    for regime, plans in program["REGIMES"].items():
        methods: dict[str, dict[str, Any]] = {}
        for plan in plans:
            for name, settings in read(str(DOCS / f"{plan}.yaml"), settings={}).methods.items():
                known = methods.setdefault(program["OTHER_NAMES"].get(name, name), settings)
                assert known == settings, f"{name} has other settings in {plan}"
        asked = {name for _, *both in program["QUESTIONS"] for name in both}
        asked |= {name for names in program["SHARES"].values() for name in names}
        only_gentle = {"xmixup-transport", "finetune-probe", "finetune-refit", "xmixup-refit"}
        assert asked - methods.keys() <= (set() if regime == "gentle" else only_gentle)


def test_the_share_of_the_source_is_the_mean_of_what_is_drawn(program: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    for alpha in (0.2, 1.0):
        lam = generator.beta(alpha, alpha, 200_000)
        for fold in (True, False):
            drawn = (1 - (np.maximum(lam, 1 - lam) if fold else lam)).mean()
            assert program["source_share"]({"alpha": alpha, "fold": fold}) == pytest.approx(drawn, abs=0.003)
    assert program["source_share"]({"lam": 0.7}) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("mean", "p", "said"),
    [(0.7, 0.01, "yes"), (-0.7, 0.01, "no"), (0.7, 0.2, "not decided"), (-0.7, 0.05, "not decided")],
)
def test_an_answer_is_what_the_corrected_p_value_says(
    program: dict[str, Any], mean: float, p: float, said: str
) -> None:
    assert program["cell"](Difference(mean, mean - 1, mean + 1, 20, 0.001), p).startswith(f"**{said}**: {mean:+.1f}")


def test_the_table_is_that_of_the_stored_runs(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        program["main"].__globals__, "write_text", lambda path, text: (tmp_path / path.name).write_text(text)
    )
    monkeypatch.setitem(
        program["main"].__globals__, "plot", lambda regimes, split, path: plot(regimes, split, tmp_path / path.name)
    )
    plot = program["plot"]
    program["main"]([])
    text = (tmp_path / "answers.val.md").read_text()
    assert text == (DOCS / "results" / "answers.val.md").read_text()
    assert (tmp_path / "answers.val.png").stat().st_size > 1000
    assert re.search(r"alpha 1 not folded: better\? \| \*\*yes\*\*: \+3\.9", text)
