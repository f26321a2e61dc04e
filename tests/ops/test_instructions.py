"""How many instructions one call of `mix` takes on the CPU: a regression that no busy machine can hide or feign."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import native
import pytest

TOLERANCE = 0.05

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

pytestmark = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind: apt-get install valgrind")


@pytest.fixture(scope="module")
def mix_once() -> Path:
    """The program mix_once, built with the flags of the package's own kernels."""
    build = native.build("mix_once")
    compiler = next(build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")).read_text()
    name = re.search(r'CMAKE_CXX_COMPILER_ID "(\w+)"', compiler)[1]
    version = re.search(r'CMAKE_CXX_COMPILER_VERSION "(\d+)', compiler)[1]
    if (name, version) != ("GNU", "12"):
        pytest.skip(f"the figures are of GCC 12, not of {name} {version}")
    return build / "mix_once"


@pytest.mark.parametrize(("level", "case"), RECORDED, ids="-".join)
def test_instructions_are_as_many_as_recorded(mix_once: Path, level: str, case: str, tmp_path: Path) -> None:
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={tmp_path / 'counts'}"]
    collect = ["--collect-atstart=no", f"--toggle-collect=xmixup::{level}::mix_rows*"]
    done = subprocess.run([*valgrind, *collect, mix_once, level, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    millions = int(re.search(r"Collected : (\d+)", done.stderr)[1]) / 1e6
    assert millions == pytest.approx(RECORDED[level, case], rel=TOLERANCE)
