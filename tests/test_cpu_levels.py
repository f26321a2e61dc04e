"""The CPU kernels of each instruction set: the whole suite of `mix` on each, and the same bits from all that fuse."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import MixInputs, make_boxes

from xmixup_fast import _C, ops

TESTS = Path(__file__).resolve().parent
LEVELS = _C.supported_cpu_levels()

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
"""Output types, and the integers that hold their bits."""

MIX_AT_LEVEL = """
import sys, numpy
from samples import MixInputs, make_boxes
from test_cpu_levels import mix_many
from xmixup_fast import cpu_level
assert cpu_level() == sys.argv[1], cpu_level()
numpy.savez(sys.argv[2], **mix_many())
"""


def mix_many() -> dict[str, np.ndarray]:
    """The results of many calls, of every layout, dtype and size, as the integers that their bits spell."""
    results: dict[str, list[torch.Tensor]] = {}
    sizes = [(4, (6, 5)), (3, (9, 33)), (2, (4, 600)), (8, (224, 224)), (8, (201, 231))]
    for (seed, (batch, size)), memory_format, dtype, resampled in product(
        enumerate(sizes), (torch.channels_last, torch.contiguous_format), DTYPES, (False, True)
    ):
        made = MixInputs.make(batch, size, None, memory_format, seed, dtype, (resampled, resampled))
        made.lam[0] = 1
        boxed = replace(made, box=make_boxes(batch, size, torch.Generator().manual_seed(seed)))
        for inputs in (made, boxed):
            bits = inputs.call(ops.mix).contiguous().flatten().view(DTYPES[dtype])
            results.setdefault("resampled" if resampled else f"crop {dtype}", []).append(bits)
    return {name: torch.cat([bits.int() for bits in arrays]).numpy() for name, arrays in results.items()}


def run(command: list[str], level: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XMIXUP_CPU_LEVEL": level, "PYTHONPATH": str(TESTS)}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=TESTS.parent)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != _C.cpu_level()])
def test_the_suite_of_mix_passes_at_every_level(level: str) -> None:
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_mix.py", "-k", "cpu or threads"], level)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_levels_agree(host_grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ops, "_library", torch.ops.xmixup_fast_host_grid)
    cuda = mix_many()
    for level in LEVELS:
        done = run(["-c", MIX_AT_LEVEL, level, str(tmp_path / f"{level}.npz")], level)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / f"{level}.npz") as mixed:
            assert set(mixed) == set(cuda) and len(cuda) == 4
            for name, bits in mixed.items():
                if level != "baseline":
                    assert np.array_equal(bits, cuda[name]), (level, name)
                elif name != "resampled":  # rounds twice where the others fuse: a unit in the last place
                    assert np.abs(bits.astype(np.int64) - cuda[name]).max() <= 1, name


@pytest.mark.parametrize("level", ["sse9", "AVX2 "])
def test_a_level_that_is_not_there_fails_the_import(level: str) -> None:
    done = run(["-c", "import xmixup_fast"], level)
    assert done.returncode != 0
    assert (
        f"XMIXUP_CPU_LEVEL: expected one of the levels that this build and CPU have ({', '.join(LEVELS)})"
        in done.stderr
    )
    assert f"got '{level}'" in done.stderr
