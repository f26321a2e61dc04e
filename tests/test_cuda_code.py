"""What nvcc makes of the CUDA sources, for every architecture: no GPU is needed to read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import cuda_counts
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
    threads = f"--threads={os.cpu_count()}"
    printed = compile_source(source, tmp_path / "kernel.fatbin", "-fatbin", "-Xptxas=-v", threads, *targets)
    assert "warning" not in printed
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(frames) >= len(targets)
    assert set(frames) == {("0", "0", "0")}


def test_whole_groups_are_stored_128_bits_at_a_time(tmp_path: Path) -> None:
    compile_source("mix.cu", tmp_path / "mix.ptx", "-ptx", "-arch=compute_90")
    kernels = (tmp_path / "mix.ptx").read_text().split(".entry")[1:]
    assert len(kernels) == 12  # 3 dtypes, 2 layouts, whole groups or not
    stores = [Counter(re.findall(r"st\.global\S*", kernel)) for kernel in kernels]
    groups = [kinds for kinds in stores if "st.global.wb.v4.u32" in kinds]
    for kinds in groups:  # resampled 16-bit floats, of one image or two, are written 64 bits at a time
        assert kinds.keys() == {"st.global.wb.v4.u32"} or (
            kinds.keys() == {"st.global.wb.v4.u32", "st.global.wb.v2.u32"} and kinds["st.global.wb.v2.u32"] == 2
        )
    assert len(groups) == 6 and sum(len(kinds) == 1 for kinds in groups) == 2
    assert [kinds.keys() for kinds in stores if kinds not in groups].count({"st.global.f32"}) == 2
    assert [kinds.keys() for kinds in stores if kinds not in groups].count({"st.global.u16"}) == 4


def test_docs_count_what_nvcc_makes() -> None:
    """Up to 5 %: the counts of docs/cuda.md are for one release of nvcc."""
    assert NVCC is not None
    page = (ROOT / "docs" / "cuda.md").read_text()
    release = re.findall(r"nvcc (\d+\.\d+)", page)[0]
    if f"release {release}," not in subprocess.run([NVCC, "--version"], capture_output=True, text=True).stdout:
        pytest.skip(f"docs/cuda.md counts for nvcc {release}")
    if cuda_counts.NVDISASM is None:
        pytest.skip("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    counted = cuda_counts.table(cuda_counts.count_mix("90")).splitlines()
    assert len(counted) == 18
    recorded = page.splitlines()
    at = recorded.index(counted[0])
    for ours, theirs in zip(counted, recorded[at : at + len(counted)], strict=True):
        assert re.sub(r"[\d.]+", "", ours) == re.sub(r"[\d.]+", "", theirs)
        numbers = [[float(x) for x in re.findall(r"\d+(?:\.\d+)?", line)] for line in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.05)
