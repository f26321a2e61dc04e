"""Builds the native module with CMake, or takes one that was built before and kept in build/native.

A kept file is named FINGERPRINT-CHECKSUM-MODULE: the fingerprint is a hash of all that decides the module, the checksum
one of the file itself. The file gets its name when it is whole, and is taken only while both hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES_KEPT = 4  # for each Python, such as with and without CUDA for two releases of torch

# Compilers read these by themselves. All other settings reach them through the command lines that CMake writes.
COMPILER_VARIABLES = (
    "CPATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "SDKROOT",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
    "NVCC_CCBIN",
)


def provide(paths: Iterable[Path]) -> None:
    """Puts the native module at each of ``paths``, all of which end in its file name."""
    paths = set(paths)
    (name,) = {path.name for path in paths}
    kept = ROOT / "build" / "native"
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two installations may run at once
        module = take_or_build(kept, name)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")  # always this name: the next build replaces what an interrupted one left
            shutil.copy2(module, aside)
            aside.replace(path)


def take_or_build(kept: Path, name: str) -> Path:
    """Returns the kept module that a build would make again, or else builds and keeps one."""
    build = kept / "cmake"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--fresh"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={build / 'module'}"]
    subprocess.run(configure, check=True)
    decided = fingerprint(build, name)
    for module in kept.glob(f"{decided}-*-{name}"):
        if module.name == f"{decided}-{checksum(module)}-{name}":
            print(f"xmixup_fast: {module} is taken: nothing that decides the native module has changed.", flush=True)
            return module
        module.unlink()
    print(f"xmixup_fast: the native module is built, and kept in {kept}.", flush=True)
    subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)
    built = build / "module" / name
    module = built.replace(kept / f"{decided}-{checksum(built)}-{name}")
    for old in sorted(kept.glob(f"*-{name}"), key=lambda path: path.stat().st_mtime)[:-MODULES_KEPT]:
        old.unlink()
    return module


def fingerprint(build: Path, name: str) -> str:
    """Hashes all that decides the module which ``build``, a folder configured by CMake, makes.

    The compilers' command lines hold flags, GPU architectures and versions, whichever variable or file they come from.
    torch's headers are hashed too, which takes a second: a torch built from source changes without a new version.
    """
    list_commands = ["cmake", "--build", str(build), "--target", "_C", "--", "-t", "commands"]
    commands = subprocess.run(list_commands, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = "".join(path.read_text() for path in sorted(build.glob("CMakeFiles/*/CMake*Compiler.cmake")))
    compilers = sorted(set(re.findall(r'_(?:COMPILER|LAUNCHER) "(/[^"]+)"', found)))
    versions = [subprocess.check_output([compiler, "--version"], text=True) for compiler in compilers]
    variables = [os.environ.get(variable) for variable in COMPILER_VARIABLES]
    machine = platform.node() if "=native" in commands else ""  # -march=native asks for the processor of this machine
    text = repr([name, sys.version, commands, found, versions, variables, machine])
    headers = [folder_of(package) / "include" for package in ("torch", "pybind11")]
    for include in headers:  # in a new temporary folder each time that pip builds
        text = text.replace(str(include.parent.parent), "site-packages")

    digest = hashlib.sha256(text.encode())
    for folder in (ROOT / "csrc", *headers):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)} {checksum(path)}\n".encode())
    for path in (ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").glob("*.cmake"))):
        digest.update(checksum(path).encode())
    return digest.hexdigest()[:32]


def folder_of(package: str) -> Path:
    """Returns the folder of a Python package, which is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed for {sys.executable}: pip install {package}")
    return Path(spec.origin).parent


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
