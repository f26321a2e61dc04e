"""Importing the package, and what it says of itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import xmixup_fast
from xmixup_fast import _C
from xmixup_fast.commands import info

ROOT = Path(__file__).resolve().parents[2]

IMPORT = "import json, sys; import xmixup_fast.{name}; print(json.dumps(sorted(sys.modules)))"
HEAVY = {"nvidia.dali", "timm", "matplotlib", "torchvision", "scipy", "sklearn"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)


def imported(name: str) -> set[str]:
    """The modules that are there once a module of the package is imported."""
    return set(json.loads(python("-c", IMPORT.format(name=name)).stdout))


def test_imports_are_light() -> None:
    assert not {*HEAVY, "torch", "numpy"} & imported("settings.fields")  # and with it the package itself
    assert not HEAVY & imported("ops") and "torch" in imported("ops")


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(xmixup_fast.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 1 and not any(alias.asname for alias in node.names) for node in imports)
    assert {alias.name: node.module for node in imports for alias in node.names} == xmixup_fast._LAZY
    assert xmixup_fast.__all__ == sorted(xmixup_fast._LAZY)
    assert set(xmixup_fast.__all__) <= set(dir(xmixup_fast))
    for name, module in xmixup_fast._LAZY.items():
        assert getattr(xmixup_fast, name) is getattr(import_module(f"xmixup_fast.{module}"), name)


def test_version_is_the_one_in_pyproject() -> None:
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    assert xmixup_fast.__version__ == line.split('"')[1]


def test_build_info_tells_compilers_and_levels() -> None:
    info = xmixup_fast.build_info()
    assert info["version"] == xmixup_fast.__version__
    assert (info["cuda"] is None) == (info["cuda_architectures"] is None)
    assert xmixup_fast.cpu_level() in info["cpu_levels"]
    assert set(_C.supported_cpu_levels()) <= set(info["cpu_levels"])


def test_info_command_prints_a_bug_report() -> None:
    done = python("-m", "xmixup_fast", "info")
    assert done.returncode == 0, done.stderr
    for name in ("xmixup_fast", "CUDA kernels", "CPU level", "torch", "Python", "threads", "DALI"):
        assert any(line.startswith(name) for line in done.stdout.splitlines()), name
    assert f"xmixup_fast   {xmixup_fast.__version__}" in done.stdout


def test_info_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        info.main(["--help"])
    assert ended.value.code == 0 and "Print what a report of a bug should hold" in capsys.readouterr().out
    assert info.main(["--absent"]) == 2
    assert capsys.readouterr().err == "error: --absent is no flag of xmixup info\n"


MISSING = "import sys; sys.modules['xmixup_fast._C'] = None; import xmixup_fast; "


@pytest.mark.parametrize("use", ["mix", "ImagePool", "XMixup", "fit", "build_info", "__version__"])
def test_missing_extension_says_what_to_do_on_first_use(use: str) -> None:
    done = python("-c", f"{MISSING} print('imported'); xmixup_fast.{use}")
    assert done.returncode == 1 and done.stdout == "imported\n"
    assert done.stderr.endswith(
        "ImportError: xmixup_fast: the native extension is missing for this Python; in the project's folder run: "
        "pip install .\n"
    )


def test_missing_extension_is_one_line_for_a_command() -> None:
    done = python("-c", f"{MISSING} from xmixup_fast.__main__ import main; sys.exit(main(['info']))")
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: xmixup_fast: the native extension is missing") and done.stderr.count("\n") == 1
    )


def test_unknown_names_are_refused() -> None:
    assert "fit" in dir(xmixup_fast) and not hasattr(xmixup_fast, "fitt")


# Namespaces of torch's C++ code: what they hold changes from release to release, unlike the C functions that the
# extension calls.
UNSTABLE = re.compile(r"\b(at|c10|caffe2|torch)::")


def undefined_symbols(library: Path) -> list[str]:
    done = subprocess.run(["nm", "-DC", "--undefined-only", library], capture_output=True, text=True, check=True)
    return [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="nm reads ELF files")
def test_the_extension_needs_nothing_unstable_of_torch() -> None:
    wanted = undefined_symbols(Path(_C.__file__))
    assert any(name.startswith("aoti_torch_") for name in wanted)
    assert not [name for name in wanted if UNSTABLE.search(name)]
    library = Path(torch.__file__).parent / "lib" / "libshm.so"  # a library that does need such symbols
    assert [name for name in undefined_symbols(library) if UNSTABLE.search(name)]


@pytest.mark.skipif(sys.platform != "linux", reason="readelf reads ELF files")
def test_the_extension_loads_without_cuda() -> None:
    done = subprocess.run(["readelf", "-d", _C.__file__], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[([\w+]+)", done.stdout))
    assert "libtorch_cpu" in needed
    assert needed <= {"libtorch_cpu", "libstdc++", "libm", "libgcc_s", "libc", "libpthread", "libdl", "librt", "ld"}


@pytest.mark.skipif(xmixup_fast.build_info()["cuda"] is not None, reason="this build has CUDA kernels")
def test_without_cuda_kernels_cuda_tensors_are_refused() -> None:
    logits, labels, lam = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(2)
    on_a_gpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(RuntimeError, match="expected tensors on the CPU, as this build has no CUDA kernels"):
        torch.ops.xmixup_fast.dual_head_cross_entropy.default.redispatch(
            on_a_gpu, logits, logits, labels, labels, lam, 1.0, 0.0
        )
    operators = [
        name + kind for name in ("mix", "mix_plan", "draw", "dual_head_cross_entropy") for kind in ("", "_out")
    ]
    assert all(torch._C._dispatch_has_kernel_for_dispatch_key(f"xmixup_fast::{name}", "CUDA") for name in operators)
