"""How many instructions `draw` takes on the CPU: a regression that no busy machine can hide or feign."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import native
import pytest

TOLERANCE = 0.05

# In thousands, for 64 samples of 102 classes (see draw_once.cpp), as compiled by GCC 12. Where a change is meant to
# move a figure, the failing test prints the new one.
RECORDED = {"crop": 67.5, "boxed": 83.9, "resized": 96.6, "color": 355.9, "recipe": 395.6}

pytestmark = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind: apt-get install valgrind")


@pytest.fixture(scope="module")
def draw_once() -> Path:
    """The program draw_once, built with the flags of the package's own code."""
    build = native.build("draw_once")
    compiler = next(build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")).read_text()
    name = re.search(r'CMAKE_CXX_COMPILER_ID "(\w+)"', compiler)[1]
    version = re.search(r'CMAKE_CXX_COMPILER_VERSION "(\d+)', compiler)[1]
    if (name, version) != ("GNU", "12"):
        pytest.skip(f"the figures are of GCC 12, not of {name} {version}")
    return build / "draw_once"


@pytest.mark.parametrize("case", RECORDED)
def test_instructions_are_as_many_as_recorded(draw_once: Path, case: str, tmp_path: Path) -> None:
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={tmp_path / 'counts'}"]
    collect = ["--collect-atstart=no", "--toggle-collect=*draw_batch*"]
    done = subprocess.run([*valgrind, *collect, draw_once, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    thousands = int(re.search(r"Collected : (\d+)", done.stderr)[1]) / 1e3
    assert thousands == pytest.approx(RECORDED[case], rel=TOLERANCE)
