"""The CPU kernels of each instruction set: the whole suite of `mix` on each, and the same bits from all that fuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import MixInputs

from xmixup_fast import _C, ops

TESTS = Path(__file__).resolve().parent
LEVELS = _C.supported_cpu_levels()

MIX_AT_LEVEL = """
import sys, numpy
from samples import MixInputs
from test_cpu_levels import mix_many
from xmixup_fast import cpu_level
assert cpu_level() == sys.argv[1], cpu_level()
numpy.save(sys.argv[2], mix_many())
"""


def mix_many() -> np.ndarray:
    """One array of the results of many calls, of every layout and of small and streamed sizes."""
    results = []
    for seed, (batch, size) in enumerate([(4, (6, 5)), (3, (9, 33)), (2, (4, 600)), (8, (224, 224)), (8, (201, 231))]):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            inputs = MixInputs.make(batch, size, memory_format=memory_format, seed=seed)
            inputs.lam[0] = 1
            results.append(inputs.call(ops.mix).contiguous().flatten())
    return torch.cat(results).numpy()


def run(command: list[str], level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "XMIXUP_CPU_LEVEL": level},
        capture_output=True,
        text=True,
        cwd=TESTS,
    )


@pytest.mark.parametrize("level", [level for level in LEVELS if level != _C.cpu_level()])
def test_the_suite_of_mix_passes_at_every_level(level: str) -> None:
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mix.py", "-k", "cpu or threads"], level)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_levels_agree(host_grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ops, "_library", torch.ops.xmixup_fast_host_grid)
    cuda = mix_many()
    for level in LEVELS:
        done = run(["-c", MIX_AT_LEVEL, level, str(tmp_path / f"{level}.npy")], level)
        assert done.returncode == 0, done.stderr
        mixed = np.load(tmp_path / f"{level}.npy")
        if level == "baseline":  # rounds twice where the others fuse
            assert (np.abs(mixed - cuda) <= np.spacing(np.abs(cuda))).all()
        else:
            assert np.array_equal(mixed, cuda), level


@pytest.mark.parametrize("level", ["sse9", "AVX2 "])
def test_a_level_that_is_not_there_fails_the_import(level: str) -> None:
    done = run(["-c", "import xmixup_fast"], level)
    assert done.returncode != 0
    assert (
        f"XMIXUP_CPU_LEVEL: expected one of the levels that this build and CPU have ({', '.join(LEVELS)})"
        in done.stderr
    )
    assert f"got '{level}'" in done.stderr
