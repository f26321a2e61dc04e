"""A training step of each method and of mixup as users write it, taken in turn: what each costs beside fine-tuning.

The network is small, so that what surrounds it shows. `torchvision` and `timm` make mixup's batches out of the same
decoded images, held in memory, with torchvision's transforms for each image and v2.MixUp or timm's Mixup for the batch;
network, optimiser, batch and threads are those of the methods.

python -m pytest bench/bench_step.py --benchmark-only -s
python -m pytest bench/bench_step.py --benchmark-only -s --step-model tf_efficientnet_lite0 --step-size 96
python -m pytest bench/bench_step.py --benchmark-only -s --step-methods all -k in_turn
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import timm.data
import torch
import torch.nn.functional as F
from conftest import median_seconds_in_turn
from samples import make_pool
from torch import Tensor
from torchvision.transforms import v2

from xmixup_fast import Settings, ops
from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.render import fetch
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops import reference
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.ops.image_pool import Crops, ImagePool
from xmixup_fast.ops.mix_plan import MixPlan
from xmixup_fast.training.trainer import StepParts, Trainer

TARGET_CLASSES, SOURCE_CLASSES, IMAGES, STEPS = 10, 100, 200, 10**6
USER_SIDES = ["torchvision", "timm"]

Batch = tuple[Tensor, Tensor]


class UserMixup:
    """Mixup as users write it, in the places of the trainer's images, sampler and method."""

    steps = STEPS
    has_unused_parameters = False
    augmentation = None

    def __init__(self, pool: ImagePool, network: Network, settings: Settings, mix: Callable[[Tensor, Tensor], Batch]):
        self.pictures = [pool[i].permute(2, 0, 1).contiguous() for i in range(len(pool))]
        self.labels = pool.labels
        self.epoch_length = len(pool)
        self.batch_size = settings.batch_size
        self.size = settings.image_size
        self.mix = mix
        self.transform = v2.Compose(
            [
                v2.RandomCrop(settings.image_size),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(network.mean, network.std, inplace=True),
            ]
        )

    def source_phase_steps(self, steps: int) -> int:
        return 0

    def __len__(self) -> int:
        return len(self.pictures)

    def plan(self, sampler: UserMixup, step: int) -> StepPlan:
        index = torch.randint(0, len(self.pictures), (self.batch_size,))
        window = torch.zeros((self.batch_size, 4), dtype=torch.int32)
        crops = Crops(index, window, torch.zeros(self.batch_size, dtype=torch.bool))
        lam = torch.ones(self.batch_size)
        return StepPlan(sample=index, label=self.labels[index], mix=MixPlan.of(crops, crops, lam), lam=lam)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[None, Crops]]:
        return ((None, batch) for batch in crops)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        return

    def images(self, plan: StepPlan, pools: Any, form: ImageFormat, buffers: OutputBuffers) -> Batch:
        images = torch.stack([self.transform(self.pictures[i]) for i in plan.sample.tolist()])
        images, targets = self.mix(images, plan.label)
        return images.contiguous(memory_format=torch.channels_last), targets

    def loss(self, network: Network, batch: Batch, plan: StepPlan) -> Tensor:
        images, targets = batch
        return F.cross_entropy(network(images), targets)


def sides(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--step-methods")
    return [*(METHODS if chosen == "all" else chosen.split(",")), *USER_SIDES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "side" in metafunc.fixturenames:
        metafunc.parametrize("side", sides(metafunc.config))


def make_trainer(side: str, model: str, size: int, batch: int) -> Trainer:
    """A trainer of a method or a user's side on made images, whose network counts as pretrained; always the same."""
    settings = Settings(
        target="made",
        source="made",
        model=model,
        method=side if side in METHODS else "mixup",
        image_size=size,
        batch_size=batch,
        steps=STEPS,
    )
    generator = torch.Generator().manual_seed(0)
    sizes = [(settings.short_side, settings.short_side * 4 // 3)] * IMAGES
    target, aux = make_pool(sizes, generator), make_pool(sizes, generator)
    target.labels.copy_(torch.arange(IMAGES) % TARGET_CLASSES)
    aux.labels.copy_(torch.arange(IMAGES) % SOURCE_CLASSES)
    target_names, source_names = [f"t{i}" for i in range(TARGET_CLASSES)], [f"s{i}" for i in range(SOURCE_CLASSES)]
    network = build(settings.model, "none", target_names, source_classes=source_names)
    network = network.to(memory_format=torch.channels_last)
    images: Any = target
    if side in METHODS:
        network.source_matched = torch.ones(SOURCE_CLASSES, dtype=torch.bool)  # as if it were pretrained
        offsets = torch.arange(TARGET_CLASSES + 1) * (IMAGES // TARGET_CLASSES)
        source = AuxiliaryIndex(aux.labels, aux.sizes, offsets, torch.arange(IMAGES))
        method: Any = METHODS[side](settings, network)
        sampler: Any = Sampler(target, source, settings)
    else:
        mix = {
            "torchvision": v2.MixUp(alpha=settings.alpha, num_classes=TARGET_CLASSES),
            "timm": timm.data.Mixup(settings.alpha, label_smoothing=0, num_classes=TARGET_CLASSES),
        }
        method = sampler = images = UserMixup(target, network, settings, mix[side])
    parts = StepParts(network=network, method=method, regularizer=None, sampler=sampler, images=images, auxiliary=aux)
    return Trainer(parts, settings)


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
