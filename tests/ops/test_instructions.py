"""How many instructions one call of `mix` takes on the CPU: a regression that no busy machine can hide or feign."""

from __future__ import annotations

from pathlib import Path

import instructions
import pytest

# In millions, for four images of 224 x 224 (see mix_once.cpp), as compiled by GCC 12. Where a change of the kernels is
# meant to move a figure, the failing test prints the new one.
RECORDED = {
    ("avx2", "crop"): 1.053,
    ("avx2", "crop-unmixed"): 0.593,
    ("avx2", "crop-flipped"): 1.061,
    ("avx2", "crop-bf16"): 1.356,
    ("avx2", "crop-planar"): 1.200,
    ("avx2", "crop-color"): 3.558,
    ("avx2", "crop-erased"): 1.853,
    ("avx2", "crop-noise"): 6.817,
    ("avx2", "enlarged"): 5.696,
    ("avx2", "enlarged-color"): 7.533,
    ("avx2", "reduced"): 5.302,
    ("avx2", "reduced-color"): 7.139,
    ("avx2", "reduced-antialias"): 11.260,
    ("avx2", "halved"): 6.631,
    ("avx2", "halved-antialias"): 16.594,
    ("baseline", "crop"): 10.255,
}

pytestmark = instructions.NEEDS_VALGRIND


@pytest.fixture(scope="module")
def mix_once() -> Path:
    return instructions.program("mix_once")


@pytest.mark.parametrize(("level", "case"), RECORDED, ids="-".join)
def test_instructions_are_as_many_as_recorded(mix_once: Path, level: str, case: str, tmp_path: Path) -> None:
    millions = instructions.count([mix_once, level, case], f"xmixup::{level}::mix_rows*", tmp_path) / 1e6
    assert millions == pytest.approx(RECORDED[level, case], rel=instructions.TOLERANCE)
