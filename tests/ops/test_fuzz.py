"""fuzz.py finds nothing, and tells what is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

PLANTED = """
import os, signal, sys, fuzz

class Planted(fuzz.Call):
    def __init__(self, seed, number, cuda_emulation):
        super().__init__(seed, number, cuda_emulation)
        self.number = number

    def call(self):
        if self.number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.number == 5:
            raise RuntimeError("what")
        return super().call()

fuzz.Call = Planted
sys.exit(fuzz.main())
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(TESTS / "support"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )


def test_a_thousand_calls_are_all_explained() -> None:
    done = run(str(TESTS / "support" / "fuzz.py"), "--calls", "1000", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1000 calls" in done.stdout and "0 failed" in done.stdout
    for outcome in ("compared", "refused by name", "refused by torch", "taken on meta"):
        assert outcome in done.stdout


def test_a_crash_and_an_unexplained_error_can_be_repeated() -> None:
    done = run("-c", PLANTED, "--calls", "8", "--seed", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "call 3: the process ended with -11" in done.stdout
    assert "call 5: " in done.stdout and "RuntimeError: what" in done.stdout
    assert "8 calls" in done.stdout and "2 failed" in done.stdout
    assert "--first 3 --seed 2" in done.stdout and "--first 5 --seed 2" in done.stdout
