"""When an installation takes the native module that one before it built. Nothing is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kept_module
import pytest

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
NAME = "_C.fake.so"

# Takes CMake's place. No two modules that it makes are the same; HURT tells what happens while it makes one.
CMAKE = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
if "-t" in sys.argv:
    print("c++", os.environ.get("CXXFLAGS"))
elif "--build" in sys.argv:
    build, hurt = pathlib.Path(sys.argv[sys.argv.index("--build") + 1]), os.environ.get("HURT")
    with open(build.parent / "log", "a") as log:
        log.write("begun ")
    (build / "module").mkdir(parents=True, exist_ok=True)
    with open(build / "module" / "{NAME}", "wb") as file:
        file.write(b"half")
        file.flush()
        time.sleep(0.2)
        if hurt == "killed":
            os.kill(os.getppid(), signal.SIGKILL)
        if hurt:
            sys.exit("hurt")
        file.write(os.urandom(8))
    with open(build.parent / "log", "a") as log:
        log.write("done ")
"""
PROVIDE = """
import pathlib, kept_module
kept_module.ROOT, folder = pathlib.Path("tree"), pathlib.Path("site")
kept_module.folder_of = lambda package: folder / package
kept_module.provide([pathlib.Path("tree/xmixup_fast/_C.fake.so")])
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is compiled, where CMake is the one above and torch has a single header."""
    tree = tmp_path / "tree"
    for folder in ("csrc", "cmake"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "CMakeLists.txt", tree)
    header = tmp_path / "site" / "torch" / "include" / "torch.h"
    header.parent.mkdir(parents=True)
    header.write_text("#pragma once\n")
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text(CMAKE)
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cmake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "cmake"))
    monkeypatch.setattr(kept_module, "ROOT", tree)
    monkeypatch.setattr(kept_module, "folder_of", lambda package: tmp_path / "site" / package)
    return tree


def provide(tree: Path) -> bytes:
    """Installs, and returns the module."""
    places = [tree / "build" / "lib" / NAME, tree / "xmixup_fast" / NAME]
    kept_module.provide(places)
    made = {place.read_bytes() for place in places}
    assert len(made) == 1 and not list(tree.rglob("*.part"))
    return made.pop()


def kept(tree: Path) -> list[Path]:
    return list((tree / "build" / "native").glob(f"*{NAME}"))


def test_the_second_installation_takes_what_the_first_built(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = provide(tree)
    assert capfd.readouterr().out == f"xmixup_fast: the native module is built, and kept in {tree}/build/native.\n"
    assert provide(tree) == first
    (module,) = kept(tree)
    taken = f"xmixup_fast: {module} is taken: nothing that decides the native module has changed.\n"
    assert capfd.readouterr().out == taken


def test_every_native_source_and_header_decides(tree: Path) -> None:
    files = [path for path in (tree / "csrc").rglob("*") if path.is_file()]
    files += [tree / "CMakeLists.txt", tree / "cmake" / "cuda.cmake", tree.parent / "site/torch/include/torch.h"]
    before = kept_module.fingerprint(tree, NAME)
    assert len(files) > 30 and before == kept_module.fingerprint(tree, NAME)
    for path in files:
        with path.open("a") as file:
            file.write("\n")
        after = kept_module.fingerprint(tree, NAME)
        assert after != before, path
        before = after
    (tree / "csrc" / "mix.h").rename(tree / "csrc" / "mixed.h")
    assert kept_module.fingerprint(tree, NAME) != before


@pytest.mark.parametrize("variable", ["CXXFLAGS", "NVCC_APPEND_FLAGS", "CPATH"])
def test_a_changed_flag_builds_anew_and_the_old_one_takes_the_old_module(
    tree: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    before = provide(tree)
    with monkeypatch.context() as patch:
        patch.setenv(variable, "-g")
        changed = provide(tree)
        assert changed != before and provide(tree) == changed
    assert provide(tree) == before


def test_only_a_few_modules_are_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in range(6):
        monkeypatch.setenv("CXXFLAGS", str(flag))
        made = provide(tree)
    assert len(kept(tree)) == kept_module.MODULES_KEPT
    assert provide(tree) == made


def test_a_failed_build_leaves_nothing_that_is_taken(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HURT", "failed")
    with pytest.raises(subprocess.CalledProcessError):
        provide(tree)
    assert not kept(tree)
    monkeypatch.delenv("HURT")
    assert len(provide(tree)) == 12


def test_a_killed_build_leaves_nothing_that_is_taken(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HURT", "killed")
    killed = subprocess.run([sys.executable, "-c", PROVIDE], cwd=tree.parent)
    assert killed.returncode == -9
    assert (tree / "build" / "native" / "cmake" / "module" / NAME).read_bytes() == b"half"
    assert not kept(tree)
    monkeypatch.delenv("HURT")
    assert len(provide(tree)) == 12


@pytest.mark.parametrize("damage", ["shorter", "empty", "other"])
def test_a_damaged_module_is_not_taken(tree: Path, damage: str) -> None:
    before = provide(tree)
    (module,) = kept(tree)
    module.write_bytes({"shorter": before[:-1], "empty": b"", "other": b"x" + before[1:]}[damage])
    after = provide(tree)
    assert len(after) == 12 and after != before
    (module,) = kept(tree)
    assert module.read_bytes() == after == provide(tree)


def test_of_two_installations_at_once_one_builds(tree: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", PROVIDE], cwd=tree.parent) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert (tree / "build" / "native" / "log").read_text() == "begun done "
    assert len(kept(tree)) == 1


def fingerprint(build: Path, **environment: str) -> str:
    """The fingerprint of this tree's module, as CMake configures it and a process with this environment sees it."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("XMIXUP_SANITIZE", "CUDACXX")}
    variables = {**inherited, "XMIXUP_CUDA": "OFF", **environment}
    configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "--fresh", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(configure, env=variables, capture_output=True, check=True)
    code = f"import pathlib, kept_module; print(kept_module.fingerprint(pathlib.Path({str(build)!r}), 'module'))"
    command, folder = [sys.executable, "-c", code], ROOT / "cmake"
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    build = tmp_path_factory.mktemp("build")
    return build, fingerprint(build)


@pytest.mark.parametrize("variable", ["CXXFLAGS", "LDFLAGS"])
def test_flags_reach_the_fingerprint_through_cmake(usual: tuple[Path, str], variable: str) -> None:
    assert fingerprint(usual[0], **{variable: "-g1"}) != usual[1]


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_architectures_reach_the_fingerprint_through_cmake(usual: tuple[Path, str]) -> None:
    with_cuda = {fingerprint(usual[0], XMIXUP_CUDA="ON", TORCH_CUDA_ARCH_LIST=arch) for arch in ("9.0", "9.0+PTX")}
    assert len(with_cuda | {usual[1]}) == 3


def test_where_pip_unpacks_torch_for_the_build_does_not_matter(usual: tuple[Path, str], tmp_path: Path) -> None:
    for package in ("torch", "pybind11"):
        (tmp_path / package).symlink_to(kept_module.folder_of(package))
    assert fingerprint(usual[0], PYTHONPATH=str(tmp_path)) == usual[1]
    assert str(tmp_path) in (usual[0] / "build.ninja").read_text()
