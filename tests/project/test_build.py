"""What the build says and decides about CUDA, and what a source distribution holds; nothing is compiled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def configure(build: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    names = ("XMIXUP_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDACXX")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment})


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("-- ") for line in done.stdout.splitlines() if "xmixup_fast:" in line]


def test_a_broken_nvcc_leaves_cuda_out_with_one_line(tmp_path: Path) -> None:
    done = configure(tmp_path, CUDACXX="/bin/false")
    assert done.returncode == 0, done.stderr
    assert said(done) == ["xmixup_fast: CUDA kernels are left out: /bin/false cannot compile."]


def test_a_broken_nvcc_fails_where_cuda_is_asked_for(tmp_path: Path) -> None:
    done = configure(tmp_path, XMIXUP_CUDA="ON", CUDACXX="/bin/false")
    assert done.returncode != 0
    assert "XMIXUP_CUDA=ON, but /bin/false cannot compile." in done.stderr


def test_off_leaves_cuda_out_with_one_line(tmp_path: Path) -> None:
    done = configure(tmp_path, XMIXUP_CUDA="OFF")
    assert done.returncode == 0, done.stderr
    assert said(done) == ["xmixup_fast: CUDA kernels are left out, as XMIXUP_CUDA=OFF asks."]


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    done = configure(tmp_path, XMIXUP_CUDA="maybe")
    assert done.returncode != 0 and "XMIXUP_CUDA: expected AUTO, ON or OFF, got 'maybe'" in done.stderr


def default_architectures() -> str:
    assert NVCC is not None
    known = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    real = [arch for arch in ("75", "80", "86", "89", "90", "100", "110", "120") if f"sm_{arch}" in known]
    return ", ".join([*(f"{arch}-real" for arch in real[:-1]), real[-1]])


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("wanted", ["", "8.0;9.0a 12.0+PTX"])
def test_architectures(tmp_path: Path, wanted: str) -> None:
    architectures = "80-real, 90a-real, 120" if wanted else default_architectures()
    done = configure(tmp_path, TORCH_CUDA_ARCH_LIST=wanted)
    assert done.returncode == 0, done.stderr
    assert len(said(done)) == 1 and said(done)[0].endswith(f"for {architectures}.")
    assert said(done)[0].startswith("xmixup_fast: CUDA kernels by /")


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_unreadable_architectures_are_refused(tmp_path: Path) -> None:
    done = configure(tmp_path, TORCH_CUDA_ARCH_LIST="Hopper")
    assert done.returncode != 0
    assert "TORCH_CUDA_ARCH_LIST: expected architectures such as 8.0 or 9.0+PTX, got" in done.stderr


def test_the_oldest_torch_is_the_same_everywhere() -> None:
    texts = {name: (ROOT / name).read_text() for name in ("pyproject.toml", "CMakeLists.txt", ".ci/wheels")}
    required = re.findall(r"\"torch>=([\d.]+)\"", texts["pyproject.toml"])
    assert len(required) == 2 and len(set(required)) == 1  # to build, and to run
    major, minor = map(int, required[0].split("."))
    target = f"TORCH_TARGET_VERSION={major:#04x}{minor:02x}{0:012x}"
    assert re.findall(r"TORCH_TARGET_VERSION=\w+", texts["CMakeLists.txt"]) == [target]
    (tested,) = re.findall(r"tests_oldest\(\) \{ tests ([\d.]+) ", texts[".ci/wheels"])
    assert tested.startswith(f"{required[0]}.")
    pages = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "docs/design.md", "docs/cuda.md")}
    assert f"'torch>={required[0]}'" in pages["CONTRIBUTING.md"] and f"torch {tested} and" in pages["CONTRIBUTING.md"]
    assert f"stable ABI ({required[0]} or later)" in pages["docs/design.md"]
    assert f"-D{target}" in pages["docs/cuda.md"]


def copy_tree(folder: Path) -> Path:
    """The sources without what a build makes; setuptools writes into the folder that it packs."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.part")
    for name in (".ci", "bench", "cmake", "csrc", "docs", "tests", "xmixup_fast"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy2(ROOT / name, folder)
    return folder


def test_a_wheel_holds_all_modules_types_and_recipes(tmp_path: Path) -> None:
    tree, built = copy_tree(tmp_path / "tree"), tmp_path / "built"
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", built]
    subprocess.run(command, cwd=tree, capture_output=True, check=True)
    held = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert held == {path.relative_to(tree).as_posix() for path in (tree / "xmixup_fast").rglob("*") if path.is_file()}
    assert {"xmixup_fast/settings/recipes/l2sp.yaml", "xmixup_fast/py.typed", "xmixup_fast/_C.pyi"} < held


def test_a_source_distribution_holds_all_that_a_build_and_the_tests_need(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    expected = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, check=True)
    (archive,) = tmp_path.glob("xmixup_fast-*.tar.gz")
    with tarfile.open(archive) as packed:
        held = {name.split("/", 1)[1] for name in packed.getnames() if "/" in name}
    assert not expected - held
