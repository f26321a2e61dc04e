"""The CPU kernels of each instruction set: the operators' whole suites on each, and the same bits from them.

`draw` is not here: all levels run one and the same code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch
from plan_samples import PlanInputs
from samples import LossInputs, MixInputs, make_boxes
from test_depthwise import Axes, make

from xmixup_fast import _C, ops
from xmixup_fast.ops.depthwise import depthwise_conv2d_weight_grad

HERE = Path(__file__).resolve().parent
LEVELS = _C.supported_cpu_levels()

MIX_SUITES = ("mix", "mix_memory", "mix_errors", "mix_antialias", "mix_plan", "mix_plan_errors")
SUITES = [f"tests/ops/test_{name}.py" for name in (*MIX_SUITES, "dual_head_cross_entropy", "depthwise")]

CPU = torch.device("cpu")

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
"""Output types, and the integers that hold their bits."""

COMPUTE = """
import sys, torch, test_cpu_levels
from xmixup_fast import cpu_level
_, level, file = sys.argv
assert cpu_level() == level, cpu_level()
mixed = test_cpu_levels.mix_many() | test_cpu_levels.render_many()
torch.save([mixed, test_cpu_levels.lose_many(), test_cpu_levels.differentiate_many()], file)
"""


def mix_many(device: torch.device = CPU) -> dict[str, np.ndarray]:
    """The results of many calls, of every layout, dtype and size, as the integers that their bits spell."""
    results: dict[str, list[torch.Tensor]] = {}
    sizes = [(4, (6, 5)), (3, (9, 33)), (2, (4, 600)), (8, (224, 224)), (8, (201, 231))]
    for (seed, (batch, size)), memory_format, dtype, resampled in product(
        enumerate(sizes), (torch.channels_last, torch.contiguous_format), DTYPES, (False, True)
    ):
        made = MixInputs.make(
            batch, size, None, memory_format, seed=seed, dtype=dtype, resampled=(resampled, resampled)
        )
        made.lam[0] = 1
        boxed = replace(made, box=make_boxes(batch, size, torch.Generator().manual_seed(seed)))
        for inputs in (made, boxed):
            bits = inputs.to(device).call(ops.mix).cpu().contiguous().flatten().view(DTYPES[dtype])
            results.setdefault("resampled" if resampled else f"crop {dtype}", []).append(bits)
    return {name: torch.cat([bits.int() for bits in arrays]).numpy() for name, arrays in results.items()}


def render_many(device: torch.device = CPU) -> dict[str, np.ndarray]:
    """Likewise the results of plans, with colours, erased rectangles and filtered windows."""
    results: dict[str, list[torch.Tensor]] = {}
    sizes = [(4, (6, 5)), (3, (9, 33)), (2, (4, 600)), (8, (201, 231))]
    for (seed, (batch, size)), memory_format, dtype, fill in product(
        enumerate(sizes), (torch.channels_last, torch.contiguous_format), DTYPES, ("mean", "noise")
    ):
        images = [size, (3 * size[0], 2 * size[1]), (size[0] + 1, 5 * size[1])]
        crop = MixInputs.make(batch, size, images, memory_format, seed=seed, dtype=dtype)
        crop.lam[0] = 1
        other = MixInputs.make(batch, size, images, memory_format, seed=seed, dtype=dtype, resampled=(True, True))
        for name, mix in (("crop", crop), ("resampled", other), ("filtered", replace(other, antialias=True))):
            for color in (False, True):
                inputs = PlanInputs.make(mix, seed, color=color, fill=fill)
                bits = inputs.to(device).call(ops.mix_plan).cpu().contiguous().flatten().view(DTYPES[dtype])
                results.setdefault(f"plan {name}", []).append(bits)
    return {name: torch.cat([bits.int() for bits in arrays]).numpy() for name, arrays in results.items()}


def lose_many() -> dict[str, np.ndarray]:
    """The losses and gradients of many calls, of every dtype and of many numbers of classes."""
    results = {}
    for seed, classes in enumerate([(1, 2), (5, 16), (17, 31), (33, 100), (102, 1000)]):
        for dtype in DTYPES:
            inputs = LossInputs.make(4, classes, dtype, seed=seed)
            outputs = torch.ops.xmixup_fast.dual_head_cross_entropy(*inputs.raw())
            results[f"{classes} {dtype}"] = torch.cat([output.flatten() for output in outputs]).numpy()
    return results


def differentiate_many() -> dict[str, np.ndarray]:
    """The weights' gradients of many depthwise convolutions: all kernel widths, and every remainder of a vector."""
    results = {}
    for seed, (taps, channels) in enumerate(product(range(1, 8), (1, 6, 31, 300))):
        axes = Axes((3, taps), (1, 2), (1, 2), (1, 1))
        inputs = make(3, channels, (5, 11), axes, seed)
        results[f"{taps} {channels}"] = depthwise_conv2d_weight_grad(*inputs, **asdict(axes)).numpy()
    return results


def run(command: list[str], level: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "XMIXUP_CPU_LEVEL": level,
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent / "support"))),
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=HERE.parents[1]
    )


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, np.ndarray]]]:
    """By level: what mix_many, lose_many and differentiate_many give there."""
    results = {}
    for level in LEVELS:
        file = tmp_path_factory.mktemp("levels") / level
        done = run(["-c", COMPUTE, level, str(file)], level)
        assert done.returncode == 0, done.stderr
        results[level] = torch.load(file, weights_only=False)
    return results


@pytest.mark.parametrize("level", [level for level in LEVELS if level != _C.cpu_level()])
def test_the_suites_pass_at_every_level(level: str) -> None:
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES, "-k", "cpu or threads or depthwise"], level)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_levels_mix_alike(
    computed: dict[str, list[dict[str, np.ndarray]]], cuda_emulation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulation.use(monkeypatch)
    cuda = mix_many() | render_many()
    for level, (mixed, *_) in computed.items():
        assert set(mixed) == set(cuda) and len(cuda) == 7
        for name, bits in mixed.items():
            if level != "baseline":
                assert np.array_equal(bits, cuda[name]), (level, name)
                continue
            # It computes in double precision what the others fuse: about one result in 2**29 is rounded otherwise. Of
            # crops, that is a unit in the last place; what is resampled or changed in colour goes on from it.
            assert (bits != cuda[name]).mean() < 1e-6, name
            if name.startswith("crop"):
                assert np.abs(bits.astype(np.int64) - cuda[name]).max() <= 1, name


def test_levels_compute_losses_alike(computed: dict[str, list[dict[str, np.ndarray]]]) -> None:
    assert_all_alike([losses for _, losses, _ in computed.values()])


def test_levels_differentiate_alike(computed: dict[str, list[dict[str, np.ndarray]]]) -> None:
    assert_all_alike([gradients for _, _, gradients in computed.values()])


def assert_all_alike(results: list[dict[str, np.ndarray]]) -> None:
    first, *others = results
    for other in others:
        assert all(np.array_equal(other[name], first[name]) for name in first)


@pytest.mark.parametrize("level", ["sse9", "AVX2 "])
def test_a_level_that_is_not_there_fails_the_operators_import(level: str) -> None:
    done = run(["-c", "import xmixup_fast; print('imported'); xmixup_fast.mix"], level)
    assert done.returncode != 0 and done.stdout == "imported\n"
    assert (
        f"XMIXUP_CPU_LEVEL: expected one of the levels that this build and CPU have ({', '.join(LEVELS)})"
        in done.stderr
    )
    assert f"got '{level}'" in done.stderr
