"""Properties of the balanced sampler: classes as often, images in turn, draws that follow from seed and step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sampling import AUX, Listed, assert_same, order

from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.settings.fields import Settings

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def balanced(counts: list[int], weights: Any = None, processes: tuple[int, int] = (0, 1), **settings: Any) -> Sampler:
    """A balanced sampler of so many images of each class, and no other."""
    values = {"target": "t", "image_size": 10, "batch_size": 8, "epochs": 4, "sampler": "balanced", **settings}
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).flip(0)
    images = Listed(torch.full((len(labels), 2), 14, dtype=torch.int32), labels)
    rank, world_size = processes
    aux = AUX if len(counts) == 2 else None
    return Sampler(images, aux, Settings(**values), rank=rank, world_size=world_size, weights=weights)


@given(counts=COUNTS, epochs=st.integers(1, 4), batch=st.integers(1, 30), weighted=st.booleans())
def test_each_epoch_shows_each_class_as_often_and_no_image_falls_behind(
    counts: list[int], epochs: int, batch: int, weighted: bool
) -> None:
    """Classes differ by one sample at most, in an epoch and over the run; so do images of a class, per weight."""
    weights = torch.arange(sum(counts)) % 3 + 1 if weighted else torch.ones(sum(counts), dtype=torch.int64)
    sampler = balanced(counts, weights if weighted else None, epochs=epochs, batch_size=batch)
    length = int(weights.sum())
    assert sampler.epoch_length == length and sampler.steps == -(-epochs * length // batch)
    samples = order(sampler)[: epochs * length]
    for part in [*samples.split(length), samples]:
        shown = sampler.labels[part].bincount(minlength=len(counts))
        assert shown.max() - shown.min() <= 1
        assert (sampler.class_counts - shown * length / len(part)).abs().max() < 1
    for label in range(len(counts)):
        own = (sampler.labels == label).nonzero().flatten()
        turns = samples.bincount(minlength=len(weights))[own] / weights[own]
        assert turns.max() - turns.min() <= 1


def test_every_repetition_in_an_epoch_has_draws_of_its_own() -> None:
    """In any batches, and by as many processes; the first repetition has those of an image that comes once."""
    sampler = balanced([2, 20], epochs=2, batch_size=22)
    once = balanced([2, 20], epochs=2, batch_size=22, sampler="shuffle")
    for epoch in range(2):
        plan, plain = sampler.plan(epoch, second="auxiliary"), once.plan(epoch, second="auxiliary")
        rows, plain_rows = (
            {
                (int(i), *w.tolist(), float(x))
                for i, w, x in zip(p.sample, p.mix.target_crops.window, p.lam, strict=True)
            }
            for p in (plan, plain)
        )
        assert len(rows) == 22
        for image in plan.sample.unique().tolist():
            assert {row for row in plain_rows if row[0] == image} <= {row for row in rows if row[0] == image}


def test_a_plan_depends_on_seed_and_step_alone_in_any_number_of_processes() -> None:
    whole = balanced([2, 9])
    later = whole.plan(3, second="auxiliary")
    whole.plan(0)
    assert_same(later, whole.plan(3, second="auxiliary"))
    assert_same(later, balanced([2, 9]).plan(3, second="auxiliary"))
    parts = [balanced([2, 9], processes=(rank, 3)).plan(3, second="auxiliary") for rank in range(3)]
    for name in ("sample", "label", "lam"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(later, name))
    assert not torch.equal(later.sample, balanced([2, 9], seed=1).plan(3).sample)


@pytest.mark.parametrize("counts", [[5], [4, 4, 4]])
def test_balanced_classes_see_every_image_once_an_epoch(counts: list[int]) -> None:
    samples = order(balanced(counts, epochs=3))[: 3 * sum(counts)]
    for epoch in samples.split(sum(counts)):
        assert epoch.sort().values.tolist() == list(range(sum(counts)))
