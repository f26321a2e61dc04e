"""Selection's pass over decoded images against the network's bare forward pass over ready batches, taken in turn.

`selection` crops and normalises the images, and sums features and predicted probabilities of 1000 outputs by class.

python -m pytest bench/bench_select.py --benchmark-only -s
python -m pytest bench/bench_select.py --benchmark-only -s --select-model tf_efficientnet_lite0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import median_seconds_in_turn
from samples import make_pool
from torch import Tensor

from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops.image_format import OutputBuffers
from xmixup_fast.selection.statistics import class_means

SIZE, SIDE, BATCH, IMAGES, CLASSES = 160, 183, 32, 64, 1000


def bare(network: Network, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Features and logits of the pretrained classifier."""
    with torch.no_grad():
        features = [network.features(images) for images in batches]
        return [(rows, network.classifier_logits(rows)) for rows in features]


@pytest.fixture(scope="module")
def sides(request: pytest.FixtureRequest) -> dict[str, Callable[[], Any]]:
    """What is timed, once its results are checked."""
    pool = make_pool([(SIDE, SIDE * 4 // 3)] * IMAGES, torch.Generator().manual_seed(0))
    pool.labels.copy_(torch.arange(IMAGES) * 7 % CLASSES)
    names = [str(i) for i in range(CLASSES)]
    network = build(request.config.getoption("--select-model"), "none", ["a", "b"], source_classes=names).eval()
    network.to(memory_format=torch.channels_last)
    head = network.source_head
    network.classifier_weight, network.classifier_bias = head.weight.detach(), head.bias.detach()  # as if pretrained
    form, buffers = network.image_format(SIZE), OutputBuffers()
    batches = [images.clone() for images, _ in center_crop_batches(pool, form, BATCH)]

    def selection() -> Any:
        images = center_crop_batches(pool, form, BATCH, buffers=buffers)
        return class_means(network, images, CLASSES, network.classifier_logits)

    features, logits = (torch.cat(parts).double() for parts in zip(*bare(network, batches), strict=True))
    means = selection()
    torch.testing.assert_close(means.features[pool.labels], features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means.probabilities[pool.labels], logits.softmax(1), rtol=1e-5, atol=1e-7)
    return {"selection": selection, "forward": lambda: bare(network, batches)}


@pytest.mark.benchmark(group="select")
@pytest.mark.parametrize("side", ["selection", "forward"])
def test_select(benchmark: Any, sides: dict[str, Callable[[], Any]], side: str) -> None:
    benchmark.pedantic(sides[side], rounds=2, warmup_rounds=1)


@pytest.mark.benchmark(group="select-in-turn")
def test_in_turn(
    benchmark: Any, sides: dict[str, Callable[[], Any]], request: pytest.FixtureRequest, rounds: int
) -> None:
    medians = benchmark.pedantic(median_seconds_in_turn, args=(sides, min(rounds, 5)), rounds=1)
    ratio = medians["selection"] / medians["forward"]
    benchmark.extra_info.update(seconds=medians, over_forward=ratio, model=request.config.getoption("--select-model"))
    print(f"\nselect: forward {IMAGES / medians['forward']:.0f} images/s; selection takes {ratio:.3f} times as long")
    assert ratio < 1.5  # well above what it is, so that only a build gone wrong can fail it
