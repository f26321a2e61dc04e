"""What nvcc makes of the CUDA sources, for every architecture: no GPU is needed to read it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NVIDIA = importlib.util.find_spec("nvidia")
PACKAGES = [f"{place}/cu13/bin" for place in (NVIDIA and NVIDIA.submodule_search_locations) or ()]
NVCC = shutil.which("nvcc", path=os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin", *PACKAGES]))

SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
COMPILED = {"75": ["75"], "80": ["80", "86", "89"], "90": ["90"], "100": ["100"], "110": ["110"], "120": ["120"]}
"""By the architecture that PTX is made for, those that it is assembled for. No source asks for 86 or 89."""

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc: pip install nvidia-cuda-nvcc")


def compile_source(source: str, output: Path, *flags: str) -> str:
    """Compiles one file of csrc/cuda, and returns what nvcc and ptxas print."""
    include = Path(torch.__file__).parent / "include"
    defines = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DNDEBUG"]
    command = [NVCC, "-std=c++17", "-O3", *defines, f"-I{include}", *flags]
    done = subprocess.run(
        [*command, str(ROOT / "csrc" / "cuda" / source), "-o", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def known_architectures() -> set[str]:
    return set(subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("source", SOURCES)
def test_no_warning_no_spill_and_no_stack_frame(source: str, tmp_path: Path) -> None:
    known = known_architectures()
    targets = {ptx: [f"sm_{arch}" for arch in archs if f"sm_{arch}" in known] for ptx, archs in COMPILED.items()}
    flags = [f"-gencode=arch=compute_{ptx},code=[{','.join(archs)}]" for ptx, archs in targets.items() if archs]
    flags += ["-fatbin", "-Xptxas=-v", f"--threads={os.cpu_count()}"]
    printed = compile_source(source, tmp_path / "kernel.fatbin", *flags)
    assert "warning" not in printed
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(frames) >= sum(map(len, targets.values()))
    assert set(frames) == {("0", "0", "0")}


def test_whole_groups_are_stored_128_bits_at_a_time(tmp_path: Path) -> None:
    compile_source("mix.cu", tmp_path / "mix.ptx", "-ptx", "-arch=compute_90")
    kernels = (tmp_path / "mix.ptx").read_text().split(".entry")[1:]
    stores = [Counter(re.findall(r"st\.global\S*", kernel)) for kernel in kernels]
    changed = [kinds for name, kinds in zip(kernels, stores, strict=True) if "mix_changed_kernel" in name.split("(")[0]]
    plain = [kinds for kinds in stores if kinds not in changed]
    assert len(plain) == 12  # 3 dtypes, 2 layouts, whole groups or not
    groups = [kinds for kinds in plain if "st.global.wb.v4.u32" in kinds]
    for kinds in groups:  # besides, single elements that are erased
        # Resampled 16-bit floats, of one image or two, are written 64 bits at a time.
        assert kinds.get("st.global.wb.v2.u32", 0) in (0, 2)
        assert kinds.get("st.global.f32", 0) + kinds.get("st.global.u16", 0) == 1
    assert len(groups) == 6 and sum("st.global.wb.v2.u32" not in kinds for kinds in groups) == 2
    assert [kinds.keys() for kinds in plain if kinds not in groups].count({"st.global.f32"}) == 2
    assert [kinds.keys() for kinds in plain if kinds not in groups].count({"st.global.u16"}) == 4
    # Four pixels of a crop or of a resampled window are three stores in either layout; others are stored one by one.
    for vector, element, count in (("v4.u32", "f32", 1), ("v2.u32", "u16", 2)):
        kinds_of_dtype = [
            kinds for kinds in changed if kinds.keys() == {f"st.global.wb.{vector}", f"st.global.{element}"}
        ]
        assert [kinds[f"st.global.wb.{vector}"] for kinds in kinds_of_dtype] == [12] * count
