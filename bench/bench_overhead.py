"""What a training step takes besides its network: `xmixup` steps, and steps whose network does nothing, in turn.

| part | what it is |
| --- | --- |
| plan | all that `Sampler.plan` does |
| draw | of that, the operator `draw`; the rest is the order, partners and labels |
| mix | the pixels: rendering the batch |
| glue | of a step whose network and loss do nothing, what is left beside plan and mix |

Plan, draw and mix are measured inside of whole steps, with the caches as the network leaves them. Without gradients the
optimiser only looks at each parameter, and its arithmetic counts for the network.

python -m pytest bench/bench_overhead.py --benchmark-only -s
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from bench_step import first_images
from conftest import median_seconds_in_turn
from step_sides import make_trainer
from torch import Tensor, nn

from xmixup_fast import ops
from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.training.trainer import Trainer

METHOD = "xmixup"
WORKLOADS = {"tf_efficientnet_lite0": (96, 48), "test_resnet": (64, 32)}
"""Height and width of the images, and how many there are in a step, by the network's timm name."""


class Parts:
    """Seconds of the parts of a trainer's steps: of its spans, and of the operator `draw`."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.trainer = trainer
        trainer.span = self.span

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - started)

    def step(self) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "draw", self.timed("draw", ops.draw))
            return self.trainer.step()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            with self.span(name):
                return function(*arguments, **more)

        return run

    def median(self, name: str) -> float:
        if not self.seconds[name]:
            raise KeyError(f"{name}: expected a part of this name in each step, got {sorted(self.seconds)}")
        return statistics.median(self.seconds[name])


class NoNetwork(nn.Module):
    """In the place of a trainer's loss: looks at the images and gives a number of its own, which has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.images: tuple[Tensor, ...] = ()

    def forward(self, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        self.images = images
        return self.number


def check(bare: Trainer, loss: NoNetwork) -> None:
    """A step without its network sees the batch that a whole step does, and leaves the weights as they are."""
    weights = [parameter.detach().clone() for parameter in bare.network.parameters()]
    expected = [batch.clone() for batch in first_images(bare)]
    bare.step()
    for batch, wanted in zip(loss.images, expected, strict=True):
        assert torch.equal(batch, wanted)
    assert loss.number.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(bare.network.parameters(), weights, strict=True))


@pytest.mark.parametrize("model", WORKLOADS)
@pytest.mark.benchmark(group="step-overhead")
def test_in_turn(benchmark: Any, model: str, request: pytest.FixtureRequest) -> None:
    size, batch = WORKLOADS[model]
    whole, bare = (make_trainer(METHOD, model, size, batch) for _ in range(2))
    bare.loss = NoNetwork()
    check(bare, bare.loss)
    parts = {"whole": Parts(whole), "bare": Parts(bare)}
    rounds = request.config.getoption("--step-rounds")
    sides = {name: side.step for name, side in parts.items()}
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, rounds), rounds=1)
    seconds = {name: parts["whole"].median(name) for name in ("plan", "draw", "mix")}
    seconds["glue"] = medians["bare"] - parts["bare"].median("plan") - parts["bare"].median("mix")
    share = {name: value / medians["whole"] for name, value in seconds.items()}
    without_pixels = share["plan"] + share["glue"]
    benchmark.extra_info.update(
        model=model,
        size=size,
        batch=batch,
        step=medians["whole"],
        seconds=seconds,
        share=share,
        without_pixels=without_pixels,
        with_pixels=without_pixels + share["mix"],
    )
    print(f"\noverhead, {model}, {batch} images of {size}x{size}: step {1e3 * medians['whole']:.2f} ms;", end=" ")
    print(", ".join(f"{name} {value:.2%}" for name, value in share.items()), end="; ")
    print(f"without pixels {without_pixels:.2%}, with them {without_pixels + share['mix']:.2%}")
    assert torch.isfinite(whole.step())
    assert without_pixels < 0.5  # far above what it is, so that only a build gone wrong can fail it
