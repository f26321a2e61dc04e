"""What CMakeLists.txt compiles for tests and benchmarks alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(target: str) -> Path:
    """Compiles what has changed of a target, and returns the folder that it is in."""
    folder = ROOT / "build" / f"tests-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "--fresh", f"-DPython_EXECUTABLE={sys.executable}"]
    commands = [["cmake", "--build", folder, "--target", target]]
    variables = [os.environ.get(name) for name in ("CXX", "CXXFLAGS", "XMIXUP_SANITIZE")]
    wanted, configured = repr([str(ROOT), sys.executable, version("torch"), *variables]), folder / "configured.txt"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        if not configured.exists() or configured.read_text() != wanted:
            commands.insert(0, configure)  # anew, which removes all that was compiled
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XMIXUP_CUDA": "OFF"})
            if done.returncode != 0:
                raise RuntimeError(done.stdout + done.stderr)
        configured.write_text(wanted)
    return folder
