"""The training step of each method, taken in turn: what XMixup and co-training cost beside fine-tuning.

python -m pytest bench/bench_step.py --benchmark-only
python -m pytest bench/bench_step.py --benchmark-only --step-model tf_efficientnet_lite0 --step-size 96 --step-batch 32
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import make_pool

from xmixup_fast import Settings, models, ops, reference
from xmixup_fast.methods import METHODS
from xmixup_fast.rendering import Renderer
from xmixup_fast.sampling import Auxiliary, Sampler
from xmixup_fast.trainer import Trainer

TARGET_CLASSES, SOURCE_CLASSES, IMAGES = 10, 100, 200
SIDES = ["finetune", "xmixup", "cotrain"]


@pytest.fixture(scope="module")
def trainers(request: pytest.FixtureRequest) -> dict[str, Trainer]:
    """A trainer of each method on the same made images, with networks that start alike."""
    option = request.config.getoption
    made = {}
    for method in SIDES:
        settings = Settings(
            target="made",
            source="made",
            model=option("--step-model"),
            weights="none",
            method=method,
            image_size=option("--step-size"),
            batch_size=option("--step-batch"),
            steps=10**6,
        )
        generator = torch.Generator().manual_seed(0)
        sizes = [(settings.short_side, settings.short_side * 4 // 3)] * IMAGES
        target, aux = make_pool(sizes, generator), make_pool(sizes, generator)
        target.labels.copy_(torch.arange(IMAGES) % TARGET_CLASSES)
        aux.labels.copy_(torch.arange(IMAGES) % SOURCE_CLASSES)
        offsets = torch.arange(TARGET_CLASSES + 1) * (IMAGES // TARGET_CLASSES)
        source = Auxiliary(aux.labels, aux.sizes, offsets, torch.arange(IMAGES))
        names = [[f"{what}{i}" for i in range(n)] for what, n in (("t", TARGET_CLASSES), ("s", SOURCE_CLASSES))]
        network = models.build(settings.model, "none", *names).to(memory_format=torch.channels_last)
        renderer = Renderer(target, aux, network.mean, network.std, settings.image_size)
        sampler = Sampler(target.labels, target.sizes, source, settings)
        made[method] = Trainer(network, METHODS[method](settings, network, lambda: []), sampler, renderer, settings)
    return made


def check_inputs(trainer: Trainer) -> None:
    """The batches of the first step are those that the reference operator gives."""
    draw = trainer.sampler.draw(0)
    fused = trainer.method.inputs(draw, trainer.renderer)
    expected = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "mix", lambda *a, out, **k: expected.append(reference.mix(*a, **k)) or expected[-1])
        trainer.method.inputs(draw, trainer.renderer)
    for batch, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(batch, wanted, rtol=0, atol=4e-6)


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("side", SIDES)
def test_step(benchmark: Any, trainers: dict[str, Trainer], side: str) -> None:
    check_inputs(trainers[side])
    benchmark.pedantic(trainers[side].step, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="step-in-turn")
def test_steps_in_turn(benchmark: Any, trainers: dict[str, Trainer], request: pytest.FixtureRequest) -> None:
    sides = {name: trainer.step for name, trainer in trainers.items()}
    rounds = request.config.getoption("--step-rounds")
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, rounds), rounds=1)
    for name, seconds in medians.items():
        benchmark.extra_info[f"{name}_over_finetune"] = seconds / medians["finetune"]
        print(f"\n{name} / finetune = {seconds / medians['finetune']:.3f}", end="")
    print()
    assert all(torch.isfinite(trainer.step()) for trainer in trainers.values())
