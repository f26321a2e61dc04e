"""The computed shares of second images are those of weights and boxes that are drawn as in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.ops.lam import mixing_quantiles
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.mixing_share import NEARLY_ONE, batch_note, expected_auxiliary_share

SAMPLES = 200_000


def settings_with(**changes: Any) -> Settings:
    return Settings(**{"target": "t", "source": "s", "model": "m", "image_size": 224, **changes})


def drawn_weights(settings: Settings, box: bool) -> Tensor:
    """Final weights of target images, float32[SAMPLES], without regard to samples that are left unmixed."""
    ones = torch.ones(SAMPLES, dtype=torch.int64)
    size = (settings.image_size, settings.image_size)
    drawn = ops.draw(
        settings.seed,
        sample=torch.arange(SAMPLES),
        epoch=ones,
        label=0 * ones,
        target_index=0 * ones,
        target_sizes=torch.tensor([size], dtype=torch.int32),
        offsets=torch.tensor([0, 0]),
        members=torch.empty(0, dtype=torch.int64),
        aux_sizes=torch.empty((0, 2), dtype=torch.int32),
        lam_quantiles=mixing_quantiles(settings.alpha, settings.fold, settings.lam),
        size=size,
        box=box,
    )
    return drawn.lam


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"image_size": 33}, {"alpha": 1.0, "fold": False}, {"alpha": 0.02}, {"lam": 0.7}, {"lam": 1.0}]
)
def test_the_shares_are_those_of_a_simulation(changes: dict[str, Any], box: bool) -> None:
    settings = settings_with(**changes)
    weights = drawn_weights(settings, box).double()
    share = expected_auxiliary_share(settings, box=box)
    deviation = 4 * float(weights.std()) / SAMPLES**0.5
    assert share.second == pytest.approx(1 - float(weights.mean()), abs=deviation)
    # The probability of a share is off by less than 4 / (2 sqrt(n)), four standard deviations.
    assert share.nearly_unmixed == pytest.approx(float((weights > NEARLY_ONE).double().mean()), abs=2 / SAMPLES**0.5)


def test_defaults_mix_a_tenth_of_auxiliary_images_into_a_batch() -> None:
    blend, box = (expected_auxiliary_share(settings_with(), box=box) for box in (False, True))
    assert blend == pytest.approx((0.101, 0.365), abs=5e-4) and box == pytest.approx((0.077, 0.366), abs=5e-4)


def test_samples_that_are_not_mixed_count_with_weight_one() -> None:
    settings = settings_with(image_size=32, batch_size=500, steps=40, mix_probability=0.6, unmixed_share=0.25)
    images = ImagePool.from_dense(torch.zeros(100, 32, 32, 3, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
    sampler = Sampler(images, None, settings)
    weights = torch.cat([sampler.plan(step, second="partner").lam for step in range(sampler.steps)]).double()
    share = expected_auxiliary_share(settings, box=False)
    assert share.second == pytest.approx(1 - float(weights.mean()), abs=4 * float(weights.std()) / len(weights) ** 0.5)
    nearly_unmixed = float((weights > NEARLY_ONE).double().mean())
    assert share.nearly_unmixed == pytest.approx(nearly_unmixed, abs=2 / len(weights) ** 0.5)


def test_the_note_tells_what_is_mixed_in_and_how() -> None:
    assert batch_note(settings_with(method="mixup")) == (
        "Partner images make up 10.1 % of an average batch; 36.5 % of the samples have a weight above 0.995, shown as "
        "1.00 (alpha 0.2, folded)."
    )
    note = batch_note(settings_with(method="xcutmix", fold=False, mix_probability=0.5, unmixed_share=0.1))
    assert note is not None and note.startswith("Auxiliary images make up ")
    assert note.endswith("(alpha 0.2, mix_probability 0.5, unmixed_share 0.1).")
    assert "make up 7.7 % of" in str(batch_note(settings_with(method="cutmix")))
    assert str(batch_note(settings_with(lam=0.7))).endswith("(lam 0.7).")
    for method in ("finetune", "cotrain", "seqtrain"):
        assert batch_note(settings_with(method=method)) is None
