"""What nvcc makes of the CUDA sources, for every architecture: no GPU is needed to read it."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import cuda_counts
import pytest
from cuda_counts import NVCC, NVDISASM, ROOT, MixCount, compile_source

SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
COMPILED = {"75": ["75"], "80": ["80", "86", "89"], "90": ["90"], "100": ["100"], "120": ["120"]}
"""By the architecture that PTX is made for, those that it is assembled for. No source asks for 86 or 89."""

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


def known_architectures() -> set[str]:
    return set(subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("source", SOURCES)
def test_no_warning_no_spill_and_no_stack_frame(source: str, tmp_path: Path) -> None:
    known = known_architectures()
    targets = {ptx: [f"sm_{arch}" for arch in archs if f"sm_{arch}" in known] for ptx, archs in COMPILED.items()}
    flags = [f"-gencode=arch=compute_{ptx},code=[{','.join(archs)}]" for ptx, archs in targets.items() if archs]
    printed = compile_source(source, tmp_path / "kernel.fatbin", "-fatbin", f"--threads={os.cpu_count()}", *flags)
    assert "warning" not in printed
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(frames) >= sum(map(len, targets.values()))
    assert set(frames) == {("0", "0", "0")}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[MixCount], str]:
    """The kernels of `mix` counted, and their PTX."""
    if NVDISASM is None:
        pytest.skip("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    folder = tmp_path_factory.mktemp("mix")
    return cuda_counts.count_mix("90", folder), (folder / "mix.ptx").read_text()


def test_whole_groups_are_stored_128_bits_at_a_time(counted: tuple[list[MixCount], str]) -> None:
    kernels = counted[1].split(".entry")[1:]
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


def test_docs_count_what_nvcc_makes(counted: tuple[list[MixCount], str]) -> None:
    """Up to 5 %: the counts of docs/cuda.md are for one release of nvcc."""
    page = (ROOT / "docs" / "cuda.md").read_text()
    release = re.findall(r"nvcc (\d+\.\d+)", page)[0]
    if f"release {release}," not in subprocess.run([NVCC, "--version"], capture_output=True, text=True).stdout:
        pytest.skip(f"docs/cuda.md counts for nvcc {release}")
    made = cuda_counts.table(counted[0]).splitlines()
    assert len(made) == 18
    recorded = page.splitlines()
    at = recorded.index(made[0])
    for ours, theirs in zip(made, recorded[at : at + len(made)], strict=True):
        assert re.sub(r"[\d.]+", "", ours) == re.sub(r"[\d.]+", "", theirs)
        numbers = [[float(x) for x in re.findall(r"\d+(?:\.\d+)?", line)] for line in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.05)
