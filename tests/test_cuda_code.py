"""What nvcc makes of the CUDA sources, for every architecture: no GPU is needed to read it."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@cache
def known_architectures() -> list[str]:
    assert NVCC is not None
    known = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    return [arch for arch in ARCHITECTURES if f"sm_{arch}\n" in known]


def compile_source(source: str, output: Path, *flags: str) -> str:
    """Compiles one file and returns what nvcc prints."""
    include = Path(torch.__file__).parent / "include"
    defines = ["-DTORCH_TARGET_VERSION=0x020d000000000000", "-DNDEBUG"]
    command = [NVCC, "-std=c++17", "-O3", *defines, f"-I{include}", *flags, str(ROOT / "csrc/cuda" / source)]
    done = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("source", SOURCES)
def test_no_warning_no_spill_and_no_stack_frame(source: str, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in known_architectures()]
    printed = compile_source(source, tmp_path / "kernel.o", "-c", "-Xptxas=-v", *targets)
    assert "warning" not in printed
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(frames) >= len(targets)
    assert set(frames) == {("0", "0", "0")}


def test_whole_groups_are_stored_128_bits_at_a_time(tmp_path: Path) -> None:
    compile_source("mix.cu", tmp_path / "mix.ptx", "-ptx", "-arch=compute_90")
    kernels = (tmp_path / "mix.ptx").read_text().split(".entry")[1:]
    assert len(kernels) == 12  # 3 dtypes, 2 layouts, whole groups or not
    stores = [kernel.count("st.global.wb.v4.u32") for kernel in kernels]
    assert sorted(stores) == [0] * 6 + [1] * 6
