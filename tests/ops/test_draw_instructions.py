"""How many instructions `draw` takes on the CPU: a regression that no busy machine can hide or feign."""

from __future__ import annotations

from pathlib import Path

import instructions
import pytest

# In thousands, for 64 samples of 102 classes (see draw_once.cpp), as compiled by GCC 12. Where a change is meant to
# move a figure, the failing test prints the new one.
RECORDED = {"crop": 67.5, "boxed": 83.9, "resized": 96.6, "color": 355.9, "recipe": 395.6}

pytestmark = instructions.NEEDS_VALGRIND


@pytest.fixture(scope="module")
def draw_once() -> Path:
    return instructions.program("draw_once")


@pytest.mark.parametrize("case", RECORDED)
def test_instructions_are_as_many_as_recorded(draw_once: Path, case: str, tmp_path: Path) -> None:
    thousands = instructions.count([draw_once, case], "*draw_batch*", tmp_path) / 1e3
    assert thousands == pytest.approx(RECORDED[case], rel=instructions.TOLERANCE)
