"""The operator `draw`, on every backend, against its reference, and the odds of its draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch._dynamo.testing
from draw_inputs import RECIPE, DrawInputs, assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import Augmentation, MixPlan, ops
from xmixup_fast.ops import reference
from xmixup_fast.ops.lam import beta_quantiles
from xmixup_fast.ops.reference_draw import Key, centers, philox

INT32_MAX = 2**31 - 1


def shares(least: float, most: float) -> st.SearchStrategy[tuple[float, float]]:
    """Two numbers in this range, the first no greater than the second."""
    return st.tuples(st.floats(least, most), st.floats(least, most)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    """Any augmentation, mostly with some parts alone."""
    return Augmentation(
        scale=draw(st.one_of(st.none(), shares(1e-3, 1.0))),
        ratio=draw(shares(0.05, 20.0)),
        **{name: draw(st.sampled_from([0.0, 0.4, 1.7])) for name in ("brightness", "contrast", "saturation")},
        hue=draw(st.sampled_from([0.0, 0.1, 0.5])),
        jitter_probability=draw(st.sampled_from([0.0, 0.7, 1.0])),
        erase=draw(st.sampled_from([0.0, 0.5, 1.0])),
        erase_scale=draw(shares(1e-3, 1.0)),
        erase_ratio=draw(shares(0.05, 20.0)),
    )


@st.composite
def draw_inputs(draw: st.DrawFn) -> DrawInputs:
    """Any seed, samples and epochs; windows as large as their images or far smaller; any table; also no members.

    Half of them with any augmentation. Images of resized windows have any sizes, also of a single pixel.
    """
    augmentation = draw(st.one_of(st.none(), augmentations()))
    room = draw(st.sampled_from([0, 1, 30, 2**24 - 301 if augmentation else 2**31 - 301]))
    inputs = DrawInputs.make(
        batch=draw(st.integers(0, 6)),
        size=(draw(st.integers(1, 300)), draw(st.integers(1, 300))),
        room=room,
        aux_images=draw(st.integers(0, 5)),
        intervals=draw(st.one_of(st.integers(1, 20), st.integers(1, 5000))),
        seed=draw(st.integers(0, 2**31)),
    )
    if augmentation:
        inputs = inputs.augmented(augmentation, draw(st.integers(0, 100)), draw(st.sampled_from([3, 500, 2**24])))
    if draw(st.booleans()):
        inputs = inputs.with_mixed(draw(st.integers(0, 100)))
    if draw(st.integers(0, 2)) == 0:
        inputs = inputs.with_partners(draw(st.integers(0, 100)))
    batch = len(inputs.sample)
    samples = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=batch, max_size=batch))
    epochs = draw(st.lists(st.integers(0, 2**32 - 1), min_size=batch, max_size=batch))
    return replace(
        inputs,
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        sample=torch.tensor(samples, dtype=torch.int64),
        epoch=torch.tensor(epochs, dtype=torch.int64),
        flip=draw(st.booleans()),
        box=draw(st.booleans()),
        one_lam=draw(st.booleans()),
    )


@given(inputs=draw_inputs())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_draw_equals_the_reference_to_the_bit(device: torch.device, inputs: DrawInputs) -> None:
    inputs = inputs.to(device)
    assert_same(inputs.call(ops.draw), inputs.call(reference.draw))


# --- the generator ---

PI = "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0"


@pytest.mark.parametrize(
    ("counter_and_key", "expected"),
    [
        ("00000000 " * 6, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 6, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter_and_key: str, expected: str) -> None:
    *counter, key_low, key_high = (int(word, 16) for word in counter_and_key.split())
    words = philox(torch.tensor([counter]), key_high << 32 | key_low)
    assert [f"{word:08x}" for word in words[0].tolist()] == expected.split()


def test_the_kernels_draw_the_published_words(device: torch.device) -> None:
    # The counter of the first draw of sample 0 in epoch 0 is zero: a window of one pixel in the largest image shows it.
    inputs = DrawInputs.make(1, size=(1, 1)).to(device)
    for tensor in (inputs.sample, inputs.epoch):
        tensor.zero_()
    inputs.target_sizes.fill_(INT32_MAX)
    crops = inputs.call(ops.draw).target_crops
    corner = [0x6627E8D5 * INT32_MAX >> 32, 0xE169C58D * INT32_MAX >> 32]
    assert crops.window.tolist() == [[*corner, 1, 1]]
    assert crops.flip.tolist() == [0xBC57AC4C < 2**31]


# --- what a draw depends on ---


KINDS = {
    "plain": DrawInputs.make(300),
    "augmented": DrawInputs.make(300).augmented().with_mixed(),
    "pasted": replace(DrawInputs.make(300), box=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_drawn_alike_in_any_batch_and_order(device: torch.device, kind: str) -> None:
    inputs = KINDS[kind].to(device)
    whole = inputs.call(ops.draw)
    parts = [inputs.of(slice(*bounds)).call(ops.draw) for bounds in ((0, 1), (1, 130), (130, 300))]
    assert_same(MixPlan(*map(torch.cat, zip(*parts, strict=True))), whole)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).to(device)
    assert torch.equal(inputs.of(order).call(ops.draw).rows, whole.rows[order])
    if kind == "augmented":
        assert torch.equal(inputs.of(order).call(ops.draw).color, whole.color[order])


def test_any_number_of_threads_draws_the_same() -> None:
    inputs = DrawInputs.make(5000).augmented()
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert_same(inputs.call(ops.draw), inputs.call(reference.draw))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "step"), [("seed", 1), ("seed", 2**32), ("sample", 1), ("sample", 2**32), ("epoch", 1), ("epoch", 2**31)]
)
def test_seed_sample_and_epoch_each_change_everything(device: torch.device, name: str, step: int) -> None:
    inputs = DrawInputs.make(64, room=1000, aux_images=1000).to(device)
    inputs.epoch.remainder_(2**31)
    before, after = (
        inputs.call(ops.draw),
        replace(inputs, **{name: getattr(inputs, name) + step}).call(ops.draw),
    )
    assert (before.lam != after.lam).sum() > 60
    for a, b in ((before.target_crops, after.target_crops), (before.aux_crops, after.aux_crops)):
        assert (a.window[:, :2] != b.window[:, :2]).any(1).sum() > 60
        assert 10 < (a.flip != b.flip).sum() < 54
    assert (before.aux_crops.index != after.aux_crops.index).sum() > 20


def test_without_members_the_target_side_is_repeated(device: torch.device) -> None:
    inputs = DrawInputs.make(200).augmented().to(device)
    alone = replace(inputs, label=inputs.label - 9, offsets=inputs.offsets[:1], members=inputs.members[:0])
    expected, plan = inputs.call(ops.draw), alone.call(ops.draw)
    for sides in ((plan.target_crops, plan.aux_crops), (plan.target_crops, expected.target_crops)):
        assert all(map(torch.equal, *sides))
    assert torch.equal(plan.color, expected.color[:, :1].expand(-1, 2, -1, -1))
    assert torch.equal(plan.target_erased, expected.target_erased) and torch.equal(plan.lam, expected.lam)
    assert plan.target_erased.any() and not plan.aux_erased.any() and (plan.aux_label == -1).all()


# --- the odds, with a fixed seed: 40000 draws of which none may be less likely than one in a hundred ---

DRAWS = 40000
ROOM, MEMBERS = 6, 7


@pytest.fixture(scope="module")
def many() -> MixPlan:
    """Draws of consecutive samples in consecutive epochs, as a run makes them: images 6 pixels larger than windows."""
    classes = torch.arange(DRAWS) % 2
    sizes = torch.tensor([[5 + ROOM, 7 + ROOM]], dtype=torch.int32)
    inputs = DrawInputs(
        seed=2024,
        sample=torch.arange(DRAWS) % 200,
        epoch=torch.arange(DRAWS) // 200,
        label=classes,
        target_index=torch.zeros(DRAWS, dtype=torch.int64),
        target_sizes=sizes,
        offsets=torch.tensor([0, MEMBERS, 2 * MEMBERS]),
        members=torch.arange(2 * MEMBERS),
        aux_sizes=sizes.repeat(2 * MEMBERS, 1),
        lam_quantiles=beta_quantiles(0.2, fold=True),
        size=(5, 7),
    )
    return inputs.call(ops.draw)


def assert_uniform(values: Tensor, count: int) -> None:
    observed = values.long().bincount(minlength=count)
    assert len(observed) == count and scipy.stats.chisquare(observed.numpy()).pvalue > 0.01


@pytest.mark.parametrize("side", ["target_crops", "aux_crops"])
def test_every_window_and_flip_is_equally_likely(many: MixPlan, side: str) -> None:
    crops = getattr(many, side)
    top, left, height, width = crops.window.unbind(1)
    assert (height == 5).all() and (width == 7).all()
    places = ROOM + 1
    assert_uniform((top * places + left) * 2 + crops.flip, places * places * 2)


@pytest.mark.parametrize("label", [0, 1])
def test_every_member_of_a_class_is_equally_likely(many: MixPlan, label: int) -> None:
    assert_uniform(many.aux_crops.index[label::2] - label * MEMBERS, MEMBERS)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("fold", [True, False])
def test_weights_follow_the_beta_distribution(alpha: float, fold: bool) -> None:
    inputs = replace(DrawInputs.make(DRAWS), lam_quantiles=beta_quantiles(alpha, fold))
    lam = np.sort(inputs.call(ops.draw).lam.double().numpy())
    expected = scipy.stats.beta(alpha, alpha).cdf(lam)
    expected = 2 * expected - 1 if fold else expected
    # Kolmogorov and Smirnov's distance, without the last 1e-3, where many weights are the same float32.
    count = int((lam < 0.999).sum())
    ranks = np.arange(count + 1) / DRAWS
    distance = max((ranks[1:] - expected[:count]).max(), (expected[:count] - ranks[:-1]).max())
    assert scipy.stats.kstwo.sf(distance, DRAWS) > 0.01
    assert lam[0] >= (0.5 if fold else 0) and lam[-1] <= 1


def test_what_is_drawn_for_one_purpose_tells_nothing_of_another(many: MixPlan) -> None:
    sides = (many.target_crops, many.aux_crops)
    center = centers(Key(2024, torch.arange(DRAWS) % 200, torch.arange(DRAWS) // 200))
    columns = [*(crops.window[:, k] for crops in sides for k in (0, 1)), *(crops.flip for crops in sides)]
    columns += [many.aux_crops.index % MEMBERS, many.lam, *center.unbind(1)]
    now = torch.stack([column.double() for column in columns])
    next_epoch, next_sample = now.roll(-200, 1), now.roll(-1, 1)
    correlation = torch.corrcoef(torch.cat([now, next_epoch, next_sample]))[: len(now)]
    correlation.fill_diagonal_(0)
    # Of 184 correlations of independent numbers, one in a hundred times one is over 4.2 standard deviations.
    assert correlation.abs().max() < 4.2 / DRAWS**0.5


def test_the_table_is_interpolated(device: torch.device) -> None:
    inputs = DrawInputs.make(1000).to(device)

    def lam(*quantiles: float) -> Tensor:
        table = torch.tensor(quantiles, dtype=torch.float32, device=device)
        return replace(inputs, lam_quantiles=table).call(ops.draw).lam

    u = lam(0, 1)
    assert u.min() >= 0 and u.max() < 1 and torch.equal(u * 2**24, (u * 2**24).floor())
    assert torch.equal(lam(0, 0.5, 1), u) and torch.equal(lam(0.25, 0.75), u / 2 + 0.25)
    torch.testing.assert_close(lam(0, 0, 1, 1), (3 * u - 1).clamp(0, 1), rtol=0, atol=1e-6)
    assert (lam(0.1, 0.1, 0.1) == 0.1).all()


def test_the_longest_table_is_read_to_its_end(device: torch.device) -> None:
    quantiles = torch.linspace(0, 1, 2**24 + 1, device=device)
    inputs = replace(DrawInputs.make(1000).to(device), lam_quantiles=quantiles)
    u = replace(inputs, lam_quantiles=quantiles[[0, -1]]).call(ops.draw).lam
    assert torch.equal(inputs.call(ops.draw).lam, quantiles[(u * 2**24).long()])


# --- the operator inside torch ---


INSIDE_TORCH = {
    "plain": DrawInputs.make(),
    "alone": DrawInputs.make(aux_images=0),
    "augmented": DrawInputs.make().augmented().with_mixed(),
    "partners": replace(DrawInputs.make().augmented().with_partners(), box=True),
    "empty": DrawInputs.make(0).augmented(),
}


@pytest.mark.parametrize("kind", INSIDE_TORCH)
def test_opcheck(kind: str) -> None:
    results = torch.library.opcheck(torch.ops.xmixup_fast.draw.default, (), INSIDE_TORCH[kind].raw())
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("augmentation", [None, RECIPE], ids=["plain", "augmented"])
def test_compiles_to_one_graph_that_serves_every_step(augmentation: Augmentation | None) -> None:
    torch._dynamo.reset()  # else it knows of the other case that seeds and batches differ
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def step(arguments: dict[str, Any]) -> MixPlan:
        return ops.draw(**arguments, augmentation=augmentation)

    def call(inputs: DrawInputs) -> None:
        arguments = {name: value for name, value in vars(inputs).items() if name != "augmentation"}
        assert_same(step(arguments), replace(inputs, augmentation=augmentation).call(ops.draw))

    made = DrawInputs.make().augmented(augmentation or Augmentation())
    for number in range(3):
        for tensor in (made.sample, made.epoch, made.label):
            tensor.fill_(number)
        call(made)
    assert counter.frame_count == 1
    for seed in (8, -1, 2**63 - 1, -(2**63)):  # the second seed makes a graph for all
        call(replace(made, seed=seed))
    assert counter.frame_count == 2
    for batch in (2, 5, 6):  # and so does the second batch size
        call(made.of(torch.arange(batch) % 3))
    assert counter.frame_count == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_alone(device: torch.device, dtype: torch.dtype) -> None:
    inputs = DrawInputs.make().augmented().to(device)
    expected = inputs.call(ops.draw)
    with torch.autocast(device.type, dtype):
        assert_same(inputs.call(ops.draw), expected)


@pytest.mark.parametrize("kind", INSIDE_TORCH)
def test_fake_cuda_tensors_give_fake_cuda_plans(kind: str) -> None:
    inputs = INSIDE_TORCH[kind]
    expected = inputs.call(ops.draw)
    with FakeTensorMode(allow_non_fake_inputs=True):
        plan = inputs.to(torch.device("cuda")).call(ops.draw)
        for fake, real in zip(plan, expected, strict=True):
            assert fake.device.type == "cuda" and (fake.shape, fake.dtype) == (real.shape, real.dtype)
