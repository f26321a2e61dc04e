"""Importing the package, and what it says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

import xmixup_fast
from xmixup_fast import _C

ROOT = Path(__file__).resolve().parent.parent

IMPORT = """
import json, sys, time
import torch
begin = time.perf_counter()
import xmixup_fast
seconds = time.perf_counter() - begin
print(json.dumps([seconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_import_is_light() -> None:
    runs = [json.loads(python("-c", IMPORT).stdout) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) <= 0.15
    heavy = {"nvidia.dali", "timm", "matplotlib", "torchvision", "scipy", "sklearn", "tyro"}
    assert not heavy & set(runs[0][1])


def test_version_is_the_one_in_pyproject() -> None:
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    assert xmixup_fast.__version__ == line.split('"')[1]


def test_build_info_tells_compilers_and_levels() -> None:
    info = xmixup_fast.build_info()
    assert info["version"] == xmixup_fast.__version__
    assert (info["cuda"] is None) == (info["cuda_architectures"] is None)
    assert xmixup_fast.cpu_level() in info["cpu_levels"]
    assert set(_C.supported_cpu_levels()) <= set(info["cpu_levels"])
    has_cuda_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("xmixup_fast::mix", "CUDA")
    assert has_cuda_kernel == (info["cuda"] is not None)


def test_info_command_prints_a_bug_report() -> None:
    done = python("-m", "xmixup_fast.info")
    assert done.returncode == 0, done.stderr
    for name in ("xmixup_fast", "CUDA kernels", "CPU level", "torch", "Python", "threads", "DALI"):
        assert any(line.startswith(name) for line in done.stdout.splitlines()), name
    assert f"xmixup_fast   {xmixup_fast.__version__}" in done.stdout


def test_missing_extension_says_what_to_do() -> None:
    done = python("-c", "import sys; sys.modules['xmixup_fast._C'] = None; import xmixup_fast")
    assert done.returncode != 0
    assert "the native extension is missing for this Python; in the project's folder run: pip install ." in done.stderr


def test_unknown_names_are_refused() -> None:
    assert "fit" in dir(xmixup_fast) and not hasattr(xmixup_fast, "fitt")
