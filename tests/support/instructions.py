"""Counts the instructions of programs that call the operators' own code once: no busy machine changes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import native
import pytest

TOLERANCE = 0.05
NEEDS_VALGRIND = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind: apt-get install valgrind")


def program(name: str) -> Path:
    """A target of CMakeLists.txt, built with the flags of the package's own code. Skips the test without GCC 12."""
    build = native.build(name)
    compiler = next(build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")).read_text()
    kind = re.search(r'CMAKE_CXX_COMPILER_ID "(\w+)"', compiler)[1]
    version = re.search(r'CMAKE_CXX_COMPILER_VERSION "(\d+)', compiler)[1]
    if (kind, version) != ("GNU", "12"):
        pytest.skip(f"the figures are of GCC 12, not of {kind} {version}")
    return build / name


def count(command: list[str | Path], function: str, folder: Path) -> int:
    """The instructions that a command executes in a function, a pattern of its name, and in what that calls."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counts'}"]
    collect = ["--collect-atstart=no", f"--toggle-collect={function}"]
    done = subprocess.run([*valgrind, *collect, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])
