"""Properties of the order of a run and of the plans of its steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xmixup_fast import Crops, ImagePool
from xmixup_fast.batches.plan import Second, StepPlan
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.batches.seeds import hash_integers
from xmixup_fast.data.center_crops import center_windows
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.lam import TABLE_SIZE, beta_quantiles
from xmixup_fast.settings.fields import Settings

AUX = AuxiliaryIndex(
    labels=torch.tensor([4, 4, 9, 6]),
    sizes=torch.tensor([[10, 12], [14, 10], [11, 11], [10, 10]], dtype=torch.int32),
    offsets=torch.tensor([0, 2, 4]),
    members=torch.tensor([0, 1, 1, 2]),
)


@dataclass
class Listed:
    """Images of which nothing but sizes and labels is known."""

    sizes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        raise AssertionError("a sampler reads no image")


def made_sampler(
    images: int = 20,
    aux: AuxiliaryIndex | None = None,
    rank: int = 0,
    world_size: int = 1,
    weights: Any = None,
    **settings: Any,
) -> Sampler:
    values = {"target": "t", "model": "m", "image_size": 10, "batch_size": 8, "epochs": 4, **settings}
    sizes = torch.stack([10 + torch.arange(images) % 3, 10 + torch.arange(images) % 4], 1).int()
    listed, processes = Listed(sizes, torch.arange(images) % 2), {"rank": rank, "world_size": world_size}
    return Sampler(listed, aux, Settings(**values), weights=weights, **processes)


def order(sampler: Sampler) -> Tensor:
    return torch.cat([sampler.plan(step).sample for step in range(sampler.steps)])


def assert_same(first: StepPlan, second: StepPlan) -> None:
    assert all(map(torch.equal, first.tensors(), second.tensors()))
    assert len(first.tensors()) == len(second.tensors())


@given(images=st.integers(1, 40), batch=st.integers(1, 50), epochs=st.integers(1, 4))
def test_every_image_comes_once_per_epoch(images: int, batch: int, epochs: int) -> None:
    sampler = made_sampler(images, batch_size=batch, epochs=epochs)
    assert (epochs * images <= sampler.steps * batch) and ((sampler.steps - 1) * batch < epochs * images)
    indices = order(sampler)
    assert len(indices) == sampler.steps * batch
    for epoch in range(epochs):
        assert sorted(indices[epoch * images : (epoch + 1) * images].tolist()) == list(range(images))


@given(images=st.integers(1, 40), batch=st.integers(1, 50), steps=st.integers(1, 20))
def test_epochs_end_where_their_last_image_was_seen(images: int, batch: int, steps: int) -> None:
    ends = made_sampler(images, batch_size=batch, steps=steps).epoch_ends()
    assert max(ends) == steps and list(ends) == sorted(ends) and len(set(ends.values())) == len(ends)
    for step, epoch in ends.items():
        assert step == steps or (step - 1) * batch < epoch * images <= step * batch


@given(weights=st.lists(st.integers(1, 4), min_size=1, max_size=12), batch=st.integers(1, 30), epochs=st.integers(1, 3))
def test_an_image_comes_as_often_as_its_weight_in_each_epoch(weights: list[int], batch: int, epochs: int) -> None:
    sampler = made_sampler(len(weights), batch_size=batch, epochs=epochs, weights=weights)
    total = sum(weights)
    assert sampler.epoch_length == total and sampler.steps == -(-epochs * total // batch)
    indices = order(sampler)
    for epoch in range(epochs):
        assert indices[epoch * total : (epoch + 1) * total].bincount(minlength=len(weights)).tolist() == weights
    for step, epoch in sampler.epoch_ends().items():
        assert step == sampler.steps or (step - 1) * batch < epoch * total <= step * batch


@pytest.mark.parametrize("ones", [[1] * 20, torch.ones(20, dtype=torch.int64), np.ones(20, np.int32)])
def test_weights_of_one_change_nothing(ones: Any) -> None:
    sampler, plain = made_sampler(aux=AUX, weights=ones), made_sampler(aux=AUX)
    assert sampler.steps == plain.steps and sampler.epoch_ends() == plain.epoch_ends()
    for step in range(plain.steps):
        assert_same(*(s.plan(step, second="auxiliary", box=True) for s in (sampler, plain)))


def test_repetitions_have_draws_of_their_own_and_the_first_one_those_of_an_image_without_weight() -> None:
    """Whatever the size of the batches: crop, flip, weight, auxiliary image and its crop."""

    def drawn(weights: list[int], batch_size: int) -> list[dict[int, set[tuple[float, ...]]]]:
        """For each epoch, the draws of each image."""
        settings = {"batch_size": batch_size, "epochs": 2, "alpha": 1.0}
        sampler = made_sampler(len(weights), AUX, weights=weights, **settings)
        plans = [sampler.plan(step, second="auxiliary") for step in range(sampler.steps)]
        columns = [torch.cat(column).double() for column in zip(*(plan.tensors() for plan in plans), strict=True)]
        rows = torch.cat([column.reshape(len(column), -1) for column in columns if len(column)], 1).tolist()
        epochs: list[dict[int, set[tuple[float, ...]]]] = [{}, {}]
        for position, row in enumerate(rows[: 2 * sum(weights)]):
            epochs[position // sum(weights)].setdefault(int(row[0]), set()).add(tuple(row))
        return epochs

    weights = [3, 1, 2, 5]
    repeated = drawn(weights, 4)
    assert repeated == drawn(weights, 7)
    for epoch, (several, once) in enumerate(zip(repeated, drawn([1] * 4, 4), strict=True)):
        for image, weight in enumerate(weights):
            assert len(several[image]) == weight and once[image] <= several[image], (epoch, image)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 0, 1], r"weights\[1\]: expected a positive integer, got 0"),
        ([1, -2, 1], r"weights\[1\]: expected a positive integer, got -2"),
        ([1, 1], r"weights: expected int64\[3\], one for each training image, got int64\[2\]"),
        ([1, 1.5, 1], r"weights: expected int64\[3\], one for each training image, got float64\[3\]"),
        (torch.ones(3), r"weights: expected int64\[3\], one for each training image, got float32\[3\]"),
        ([True, True, True], r"weights: expected int64\[3\], .*, got bool\[3\]"),
    ],
)
def test_other_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        made_sampler(3, weights=weights)


def test_the_order_differs_by_epoch_and_seed() -> None:
    indices = order(made_sampler())
    assert not torch.equal(indices[:20], indices[20:40])
    assert not torch.equal(indices, order(made_sampler(seed=1)))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("second", [None, "partner", "auxiliary"])
def test_a_plan_depends_on_seed_and_step_alone(second: Second | None, box: bool) -> None:
    sampler = made_sampler(aux=AUX)
    later = sampler.plan(3, second=second, box=box)
    sampler.plan(0)
    assert_same(later, sampler.plan(3, second=second, box=box))
    assert_same(later, made_sampler(aux=AUX).plan(3, second=second, box=box))
    other = made_sampler(aux=AUX, seed=1).plan(3, second=second, box=box)
    assert not torch.equal(later.mix.target_crops.window, other.mix.target_crops.window)
    assert second is None or not torch.equal(later.lam, other.lam)


def test_all_methods_see_the_same_order_crops_and_weights() -> None:
    alone, mixed = made_sampler(), made_sampler(aux=AUX)
    for step in range(alone.steps):
        plans = [
            alone.plan(step),
            alone.plan(step, second="partner"),
            mixed.plan(step),
            mixed.plan(step, second="partner"),
            mixed.plan(step, second="auxiliary"),
        ]
        for plan in plans:
            assert torch.equal(plan.sample, plans[0].sample) and torch.equal(plan.label, plans[0].label)
            assert all(map(torch.equal, plan.mix.target_crops, plans[0].mix.target_crops))
        assert torch.equal(plans[1].lam, plans[3].lam) and torch.equal(plans[1].lam, plans[4].lam)
        assert (plans[0].lam == 1).all() and (plans[2].lam == 1).all()
        boxes = [sampler.plan(step, second="partner", box=True) for sampler in (alone, mixed)]
        boxes.append(mixed.plan(step, second="auxiliary", box=True))
        for plan in boxes:
            assert torch.equal(plan.mix.box, boxes[0].mix.box) and torch.equal(plan.lam, boxes[0].lam)


def test_what_an_image_gets_in_an_epoch_is_the_same_in_batches_of_any_size() -> None:
    def run(batch_size: int) -> list[Tensor]:
        sampler = made_sampler(aux=AUX, batch_size=batch_size, epochs=2)
        plans = [sampler.plan(step, second="auxiliary", box=True) for step in range(sampler.steps)]
        columns = [plan.tensors() for plan in plans]
        return [torch.cat(column)[:40] for column in zip(*columns, strict=True)]

    assert all(torch.equal(a, b) for a, b in zip(run(8), run(13), strict=True))


def test_windows_lie_inside_their_images_and_reach_every_place() -> None:
    sampler = made_sampler(steps=200)
    seen = set()
    for step in range(sampler.steps):
        crops = sampler.plan(step).mix.target_crops
        top, left, height, width = crops.window.unbind(1)
        sizes = sampler.sizes[crops.index]
        assert (height == 10).all() and (width == 10).all() and (top >= 0).all() and (left >= 0).all()
        assert (top + 10 <= sizes[:, 0]).all() and (left + 10 <= sizes[:, 1]).all()
        assert crops.window.dtype == torch.int32
        seen.update(zip(top.tolist(), left.tolist(), crops.flip.tolist(), strict=True))
    assert len(seen) == 3 * 4 * 2


def test_auxiliary_images_are_members_of_the_target_class() -> None:
    sampler = made_sampler(aux=AUX, steps=100)
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for step in range(sampler.steps):
        plan = sampler.plan(step, second="auxiliary")
        auxiliary = plan.mix.aux_crops
        assert torch.equal(plan.second_classes, AUX.labels[auxiliary.index])
        assert (auxiliary.window[:, :2] + 10 <= AUX.sizes[auxiliary.index]).all()
        for label, index in zip(plan.label.tolist(), auxiliary.index.tolist(), strict=True):
            seen[label].add(index)
    assert seen == {0: {0, 1}, 1: {1, 2}}


def test_partners_are_a_permutation() -> None:
    plan = made_sampler().plan(0, second="partner")
    partners = plan.mix.aux_crops.index
    assert partners.sort().values.tolist() == plan.sample.sort().values.tolist()
    which = [plan.sample.tolist().index(image) for image in partners.tolist()]
    assert torch.equal(plan.second_classes, plan.label[which])
    own = Crops(*(tensor[which] for tensor in plan.mix.target_crops))
    assert all(map(torch.equal, plan.mix.aux_crops, own))
    assert made_sampler().plan(0).second is None


def test_a_plan_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        made_sampler().plan(0).lam = torch.zeros(8)  # type: ignore[misc]


@given(
    world_size=st.integers(1, 5),
    parts=st.integers(1, 3),
    step=st.integers(0, 9),
    second=st.sampled_from([None, "partner", "auxiliary"]),
    weights=st.none() | st.lists(st.integers(1, 3), min_size=20, max_size=20),
)
def test_the_parts_of_a_batch_are_the_batch(
    world_size: int, parts: int, step: int, second: Second | None, weights: list[int] | None
) -> None:
    """Whatever the number of processes, and of micro-batches in each; partners, boxes and auxiliary images too."""
    box = step % 2 == 0
    whole = made_sampler(aux=AUX, weights=weights).plan(step, second=second, box=box)
    pieces = []
    for rank in range(world_size):
        sampler = made_sampler(aux=AUX, rank=rank, world_size=world_size, weights=weights)
        pieces += sampler.plan(step, second=second, box=box).split(parts)

    joined = map(torch.cat, zip(*map(StepPlan.tensors, pieces), strict=True))
    assert all(map(torch.equal, joined, whole.tensors()))


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 50.0])
@pytest.mark.parametrize("fold", [True, False])
def test_weights_follow_the_beta_distribution(alpha: float, fold: bool) -> None:
    sampler = made_sampler(alpha=alpha, fold=fold, batch_size=20000, steps=1)
    lam = sampler.plan(0, second="partner").lam
    assert lam.dtype == torch.float32 and lam.min() >= (0.5 if fold else 0) and lam.max() <= 1
    generator = torch.Generator().manual_seed(0)
    gamma = torch._standard_gamma(torch.full((2, 200000), alpha, dtype=torch.float64), generator=generator)
    expected = (gamma[0] / gamma.sum(0)).nan_to_num(0.5)
    expected = torch.maximum(expected, 1 - expected) if fold else expected
    # Kolmogorov-Smirnov: the largest distance of the distribution functions, between the tails that underflow.
    grid = torch.linspace(0.5 if fold else 0.0, 1, 101, dtype=torch.float64)[1:-1]
    distance = [float(((lam <= x).double().mean() - (expected <= x).double().mean()).abs()) for x in grid]
    assert max(distance) < 0.02


def test_the_quantile_table_is_exact_and_symmetric() -> None:
    table = beta_quantiles(0.2, fold=False)
    assert len(table) == TABLE_SIZE + 1 and (table.diff() >= 0).all()
    torch.testing.assert_close(table + table.flip(0), torch.ones_like(table))
    torch.testing.assert_close(beta_quantiles(0.2, fold=True)[::2], table[TABLE_SIZE // 2 :][: TABLE_SIZE // 2 + 1])
    assert torch.equal(beta_quantiles(1.0, fold=False), torch.linspace(0, 1, TABLE_SIZE + 1))


def test_one_weight_per_batch() -> None:
    sampler = made_sampler(lam_per="batch", mix_probability=0.5, steps=40)
    weights = [sampler.plan(step, second="partner").lam for step in range(40)]
    assert all((lam == lam[0]).all() for lam in weights)
    unmixed = sum(bool(lam[0] == 1) for lam in weights)
    assert 5 < unmixed < 35


def test_mixing_happens_with_its_probability_and_not_at_the_end() -> None:
    assert (made_sampler(mix_probability=0.0).plan(0, second="partner").lam == 1).all()
    sampler = made_sampler(mix_probability=0.3, alpha=5, batch_size=10000)
    mixed = (sampler.plan(0, second="partner").lam < 1).double().mean()
    assert abs(mixed - 0.3) < 0.03
    sampler = made_sampler(unmixed_share=0.25, alpha=5)
    lam = torch.cat([sampler.plan(step, second="partner").lam for step in range(sampler.steps)])
    assert (lam[: -len(lam) // 4] < 1).all() and (lam[-len(lam) // 4 :] == 1).all()


def test_flips_can_be_switched_off() -> None:
    sampler = made_sampler(flip=False, aux=AUX)
    plan = sampler.plan(0)
    assert not plan.mix.target_crops.flip.any() and not plan.mix.aux_crops.flip.any()


def test_centre_crops_are_in_the_middle() -> None:
    sizes = torch.tensor([[10, 12], [15, 10]], dtype=torch.int32)
    crops = center_windows(sizes, 10, torch.tensor([1, 0]))
    assert crops.window.tolist() == [[2, 0, 10, 10], [0, 1, 10, 10]] and not crops.flip.any()


def test_an_image_smaller_than_a_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size: 11 is more than an image has, 10x10"):
        made_sampler(image_size=11)


def test_the_hash_spreads_consecutive_integers() -> None:
    # The first number of splitmix64 from state 0, as published with its reference implementation.
    assert hash_integers(0) == 0xE220A8397B1DCDAF
    hashes = {hash_integers(seed, 1, step) for seed in range(50) for step in range(50)}
    assert len({value % 2**32 for value in hashes}) == 2500


def test_auxiliary_images_are_those_of_the_chosen_classes() -> None:
    pool = ImagePool.from_images([torch.zeros(2, 3, 3, dtype=torch.uint8)] * 5, labels=[5, 2, 5, 7, 2])
    for classes in ([[5, 7], [2, 5]], torch.tensor([[5, 7], [2, 5]])):
        aux = AuxiliaryIndex.of(pool, classes)
        assert aux.labels is pool.labels and aux.sizes is pool.sizes
        assert aux.offsets.tolist() == [0, 3, 7] and aux.members.tolist() == [0, 2, 3, 0, 1, 2, 4]
    with pytest.raises(
        ValueError, match=r"source_classes\[1\]: no auxiliary image has label 6; the labels of aux are \[2, 5, 7\]"
    ):
        AuxiliaryIndex.of(pool, [[5], [6, 8]])


DIGESTS = {
    ("plain", None, False): "eb3361092d567b27",
    ("plain", "partner", False): "1e780e3cb364662a",
    ("plain", "partner", True): "16ae504842fe0e63",
    ("plain", "auxiliary", False): "d5159d79e35def4b",
    ("plain", "auxiliary", True): "8bae3d870aaf151d",
    ("batch", None, False): "eb3361092d567b27",
    ("batch", "partner", False): "d41baa3fc3dbb1c2",
    ("batch", "partner", True): "d177267ed4edc647",
    ("batch", "auxiliary", False): "4729869f1f0399c8",
    ("batch", "auxiliary", True): "df2b9ee435504cf9",
    ("end", None, False): "eb3361092d567b27",
    ("end", "partner", False): "0cb2961c7eed08f7",
    ("end", "partner", True): "c6210b758e3c1dcf",
    ("end", "auxiliary", False): "1c636b247503a56e",
    ("end", "auxiliary", True): "2de2291b784486ed",
    ("weights", None, False): "824714f463d55a34",
    ("weights", "partner", False): "335c09b1123c97e6",
    ("weights", "partner", True): "a18b1a534ebb1e8a",
    ("weights", "auxiliary", False): "89323ea4041c046f",
    ("weights", "auxiliary", True): "e7736435647b7912",
}
"""Of ten plans, as they were when a step's random numbers were still several tensors."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch": {"lam_per": "batch", "mix_probability": 0.5},
    "end": {"unmixed_share": 0.5, "alpha": 1.0, "fold": False},
    "weights": {"weights": [1 + i % 3 for i in range(20)]},
}


@pytest.mark.parametrize(("variant", "second", "box"), DIGESTS)
def test_stored_runs_can_be_planned_again(variant: str, second: Second | None, box: bool) -> None:
    """Without augmentation, plans have the bits that they always had."""
    sampler = made_sampler(aux=AUX, batch_size=7, **VARIANTS[variant])
    digest = hashlib.sha256()
    for step in range(10):
        plan = sampler.plan(step, second=second, box=box)
        seconds = [*plan.mix.aux_crops, plan.second_classes] if second else []
        columns = [plan.sample, plan.label, plan.lam, *plan.mix.target_crops, *seconds, *[plan.mix.box] * box]
        for column in columns:
            digest.update(column.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[variant, second, box]
