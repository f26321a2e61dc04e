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


PRINT_ERRORS = """
#include "{header}"

#include <cstdio>

void print(const char* call, cudaError_t error) {{
  try {{
    call[0] == 'b' ? xmixup::check_before_launch(error) : xmixup::check_call("CUDA kernel launch", error);
    std::printf("%s %d: nothing\\n", call, error);
  }} catch (const std::runtime_error& thrown) {{
    std::printf("%s %d: %s\\n", call, error, thrown.what());
  }}
}}

int main() {{
  for (cudaError_t error : {{cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorAssert, cudaErrorIllegalAddress}}) {{
    print("before", error);
    print("after", error);
  }}
}}
"""


def test_an_earlier_error_is_not_taken_for_that_of_a_launch(tmp_path: Path) -> None:
    program = tmp_path / "errors.cu"
    program.write_text(PRINT_ERRORS.format(header=ROOT / "csrc" / "cuda" / "launch_errors.h"))
    subprocess.run([NVCC, "-std=c++17", program, "-o", tmp_path / "errors"], check=True, capture_output=True)
    printed = subprocess.run([tmp_path / "errors"], capture_output=True, text=True, check=True).stdout
    told = dict(line.split(": ", 1) for line in printed.splitlines())
    configuration, stopped, address = 9, 710, 700
    earlier = "xmixup_fast: no CUDA kernel is started after an earlier error: "
    failed = "xmixup_fast: CUDA kernel launch failed: "
    assert told["before 0"] == told["after 0"] == "nothing"
    assert told[f"before {configuration}"].startswith(f"{earlier}cudaErrorInvalidConfiguration (invalid configuration")
    assert told[f"after {configuration}"].startswith(f"{failed}cudaErrorInvalidConfiguration (invalid configuration")
    for number, name in ((stopped, "cudaErrorAssert (device-side assert"), (address, "cudaErrorIllegalAddress (an")):
        assert told[f"before {number}"] == told[f"after {number}"]
        assert told[f"after {number}"].startswith(f"{earlier}{name}")


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
    # All but the two stores of what stops a kernel, a sample and a byte of the message, are results.
    record = Counter(["st.global.u64", "st.global.u8"])
    stores = [Counter(re.findall(r"st\.global\S*", kernel)) - record for kernel in kernels]
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
