"""A training step of each method and of mixup as users write it, taken in turn: what each costs beside fine-tuning.

The network is small, so that what surrounds it shows. step_sides.py has the sides.

python -m pytest bench/bench_step.py --benchmark-only -s
python -m pytest bench/bench_step.py --benchmark-only -s --step-model tf_efficientnet_lite0 --step-size 96
python -m pytest bench/bench_step.py --benchmark-only -s --step-methods all -k in_turn
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from step_sides import USER_SIDES, make_trainer
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.batches.render import fetch
from xmixup_fast.methods import METHODS
from xmixup_fast.ops import reference
from xmixup_fast.training.trainer import Trainer


def sides(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--step-methods")
    return [*(METHODS if chosen == "all" else chosen.split(",")), *USER_SIDES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "side" in metafunc.fixturenames:
        metafunc.parametrize("side", sides(metafunc.config))


@pytest.fixture(scope="module")
def trainers(request: pytest.FixtureRequest) -> dict[str, Trainer]:
    """A trainer of each side, with networks that start alike."""
    workload = [request.config.getoption(f"--step-{name}") for name in ("model", "size", "batch")]
    return {side: make_trainer(side, *workload) for side in sides(request.config)}


def first_images(trainer: Trainer) -> tuple[Tensor, ...]:
    """What the first step looks at."""
    ((plan, pools),) = fetch(trainer.images, trainer.auxiliary, [trainer.method.plan(trainer.sampler, 0)])
    return trainer.method.images(plan, pools, trainer.form, trainer.buffers)


def check_inputs(trainer: Trainer) -> None:
    """The batches of the first step are those that the reference operator gives."""
    fused = first_images(trainer)
    expected = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ops, "mix_plan", lambda *a, out, **k: expected.append(reference.mix_plan(*a, **k)) or expected[-1]
        )
        first_images(trainer)
    for batch, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(batch, wanted, rtol=0, atol=4e-6)


def check_user_inputs(trainer: Trainer) -> None:
    """Batches of the right shape and values, with soft targets."""
    size = trainer.form.size
    images, targets = first_images(trainer)
    assert images.shape == (trainer.batch_size, 3, size, size) and images.dtype == torch.float32
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (trainer.network.mean, trainer.network.std))
    levels = images * std + mean
    assert levels.min() > -1e-4 and levels.max() < 1 + 1e-4 and 0.4 < levels.mean() < 0.6
    torch.testing.assert_close(targets.sum(1), torch.ones(trainer.batch_size))


@pytest.mark.benchmark(group="step")
def test_step(benchmark: Any, trainers: dict[str, Trainer], side: str) -> None:
    (check_inputs if side in METHODS else check_user_inputs)(trainers[side])
    benchmark.pedantic(trainers[side].step, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="step-in-turn")
def test_in_turn(benchmark: Any, trainers: dict[str, Trainer], request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    steps = {name: trainer.step for name, trainer in trainers.items()}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(steps, option("--step-rounds")), rounds=1)
    over_finetune = {name: seconds / medians["finetune"] for name, seconds in medians.items()}
    workload = {name: option(f"--step-{name}") for name in ("model", "size", "batch")}
    benchmark.extra_info.update(seconds=medians, over_finetune=over_finetune, **workload)
    print(f"\nstep: finetune {1e3 * medians['finetune']:.2f} ms; in multiples of it:", end=" ")
    print(", ".join(f"{name} {ratio:.3f}" for name, ratio in over_finetune.items() if name != "finetune"))
    assert all(torch.isfinite(trainer.step()) for trainer in trainers.values())
