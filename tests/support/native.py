"""Compiles the targets of CMakeLists.txt that only tests and benchmarks use."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(target: str) -> Path:
    """Builds a target, as far as its sources have changed, and returns the build folder.

    Raises RuntimeError with the compiler's output where that fails.
    """
    folder = ROOT / "build" / f"tests-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "--fresh", f"-DPython_EXECUTABLE={sys.executable}"]
    commands = [["cmake", "--build", folder, "--target", target]]
    variables = [os.environ.get(name) for name in ("CXX", "CXXFLAGS", "XMIXUP_SANITIZE")]
    wanted, configured = repr([str(ROOT), sys.executable, version("torch"), *variables]), folder / "configured.txt"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may run tests
        if not configured.exists() or configured.read_text() != wanted:
            commands.insert(0, configure)  # --fresh also removes what was compiled with other settings
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XMIXUP_CUDA": "OFF"})
            if done.returncode != 0:
                raise RuntimeError(done.stdout + done.stderr)
        configured.write_text(wanted)
    return folder
