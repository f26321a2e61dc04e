"""The operator `draw`, on every backend, against its reference, and the odds of its draws."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch._dynamo.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import DrawInputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import ops
from xmixup_fast.ops import operators, reference
from xmixup_fast.ops.lam import beta_quantiles
from xmixup_fast.ops.operators import DrawOutput

INT32_MAX = 2**31 - 1


def tensors(draws: DrawOutput) -> list[Tensor]:
    return [*draws.target_crops, *draws.aux_crops, draws.lam, draws.center]


def assert_same(draws: DrawOutput, expected: DrawOutput) -> None:
    for actual, wanted in zip(tensors(draws), tensors(expected), strict=True):
        assert actual.dtype == wanted.dtype and actual.device == wanted.device and torch.equal(actual, wanted)


@st.composite
def draw_inputs(draw: st.DrawFn) -> DrawInputs:
    """Any seed, samples and epochs; windows as large as their images or far smaller; any table; also no members."""
    inputs = DrawInputs.make(
        batch=draw(st.integers(0, 6)),
        size=(draw(st.integers(1, 300)), draw(st.integers(1, 300))),
        room=draw(st.sampled_from([0, 1, 30, 2**31 - 301])),
        aux_images=draw(st.integers(0, 5)),
        intervals=draw(st.one_of(st.integers(1, 20), st.integers(1, 5000))),
        seed=draw(st.integers(0, 2**31)),
    )
    batch = len(inputs.sample)
    samples = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=batch, max_size=batch))
    epochs = draw(st.lists(st.integers(0, 2**32 - 1), min_size=batch, max_size=batch))
    return replace(
        inputs,
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        sample=torch.tensor(samples, dtype=torch.int64),
        epoch=torch.tensor(epochs, dtype=torch.int64),
        flip=draw(st.booleans()),
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
    words = reference.philox(torch.tensor([counter]), key_high << 32 | key_low)
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


def test_a_sample_is_drawn_alike_in_any_batch_and_order(device: torch.device) -> None:
    inputs = DrawInputs.make(300).to(device)
    whole = inputs.call(ops.draw)
    parts = [inputs.of(slice(*bounds)).call(ops.draw) for bounds in ((0, 1), (1, 130), (130, 300))]
    for together, *apart in zip(tensors(whole), *map(tensors, parts), strict=True):
        assert torch.equal(together, torch.cat(apart))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).to(device)
    for straight, mixed in zip(tensors(whole), tensors(inputs.of(order).call(ops.draw)), strict=True):
        assert torch.equal(straight[order], mixed)


def test_any_number_of_threads_draws_the_same() -> None:
    inputs = DrawInputs.make(5000)
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


def test_without_members_the_rest_is_drawn_alike(device: torch.device) -> None:
    inputs = DrawInputs.make(20).to(device)
    alone = replace(inputs, label=inputs.label - 9, offsets=inputs.offsets[:1], members=inputs.members[:0])
    expected, draws = inputs.call(ops.draw), alone.call(ops.draw)
    assert_same(draws, expected._replace(aux_crops=draws.aux_crops))
    assert not any(tensor.any() for tensor in draws.aux_crops)


# --- the odds, with a fixed seed: 40000 draws of which none may be less likely than one in a hundred ---

DRAWS = 40000
ROOM, MEMBERS = 6, 7


@pytest.fixture(scope="module")
def many() -> DrawOutput:
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
def test_every_window_and_flip_is_equally_likely(many: DrawOutput, side: str) -> None:
    crops = getattr(many, side)
    top, left, height, width = crops.window.unbind(1)
    assert (height == 5).all() and (width == 7).all()
    places = ROOM + 1
    assert_uniform((top * places + left) * 2 + crops.flip, places * places * 2)


@pytest.mark.parametrize("label", [0, 1])
def test_every_member_of_a_class_is_equally_likely(many: DrawOutput, label: int) -> None:
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


def test_what_is_drawn_for_one_purpose_tells_nothing_of_another(many: DrawOutput) -> None:
    columns = [*(crops.window[:, k] for crops in many[:2] for k in (0, 1)), many.target_crops.flip, many.aux_crops.flip]
    columns += [many.aux_crops.index % MEMBERS, many.lam, *many.center.unbind(1)]
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


@pytest.mark.parametrize("aux_images", [0, 5])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(batch: int, aux_images: int) -> None:
    inputs = DrawInputs.make(batch, aux_images=aux_images)
    results = torch.library.opcheck(torch.ops.xmixup_fast.draw.default, inputs.raw())
    assert set(results.values()) == {"SUCCESS"}


def test_compiles_to_one_graph_that_serves_every_step() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def step(arguments: dict[str, Any]) -> DrawOutput:
        return ops.draw(**arguments)

    for number in range(3):
        inputs = DrawInputs.make()
        for tensor in (inputs.sample, inputs.epoch, inputs.label):
            tensor.fill_(number)
        assert_same(step(vars(inputs)), inputs.call(ops.draw))
    assert counter.frame_count == 1
    for seed in (8, -1, 2**63 - 1, -(2**63)):  # the second seed makes a graph for all
        inputs = replace(DrawInputs.make(), seed=seed)
        assert_same(step(vars(inputs)), inputs.call(ops.draw))
    assert counter.frame_count == 2
    for batch in (2, 5, 6):  # and so does the second batch size
        inputs = DrawInputs.make().of(torch.arange(batch) % 3)
        assert_same(step(vars(inputs)), inputs.call(ops.draw))
    assert counter.frame_count == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_alone(device: torch.device, dtype: torch.dtype) -> None:
    inputs = DrawInputs.make().to(device)
    expected = inputs.call(ops.draw)
    with torch.autocast(device.type, dtype):
        assert_same(inputs.call(ops.draw), expected)


def test_fake_cuda_tensors_give_fake_cuda_draws() -> None:
    inputs = DrawInputs.make()
    expected = inputs.call(ops.draw)
    with FakeTensorMode(allow_non_fake_inputs=True):
        draws = inputs.to(torch.device("cuda")).call(ops.draw)
        for fake, real in zip(tensors(draws), tensors(expected), strict=True):
            assert fake.device.type == "cuda" and (fake.shape, fake.dtype) == (real.shape, real.dtype)


# --- wrong arguments ---

Spoil = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("sample", lambda t: t.view(1, -1), r"expected int64\[any\], got int64\[1, 3\]"),
        ("sample", lambda t: t.int(), r"expected int64\[any\], got int32\[3\]"),
        ("epoch", lambda t: t[:2], r"expected int64\[3\], got int64\[2\]"),
        ("label", lambda t: t.double(), r"expected int64\[3\], got float64\[3\]"),
        ("target_index", lambda t: t.int(), r"expected int64\[3\], got int32\[3\]"),
        ("target_sizes", lambda t: t.long(), r"expected int32\[any, 2\], got int64\[4, 2\]"),
        ("target_sizes", lambda t: t.view(-1), r"expected int32\[any, 2\], got int32\[8\]"),
        ("offsets", lambda t: t.int(), r"expected int64\[any\], got int32\[4\]"),
        ("offsets", lambda t: t[:0], "expected one number more than there are classes, got none"),
        ("members", lambda t: t.int(), r"expected int64\[any\], got int32"),
        ("aux_sizes", lambda t: t[:, :1], r"expected int32\[any, 2\], got int32\[10, 1\]"),
        ("lam_quantiles", lambda t: t.double(), r"expected float32\[any\], got float64\[17\]"),
        ("lam_quantiles", lambda t: t[:1], "expected 2 to 16777217 numbers, got 1"),
        ("lam_quantiles", lambda t: t[:1].repeat(2**24 + 2), "expected 2 to 16777217 numbers, got 16777218"),
        ("size", lambda _: (5,), r"expected height and width, 1 to 2147483647 pixels each, got \[5\]"),
        ("size", lambda _: (5, 0), r"expected height and width.*got \[5, 0\]"),
        ("size", lambda _: (2**31, 7), r"expected height and width.*got \[2147483648, 7\]"),
    ],
)
def test_wrong_arguments_are_named(device: torch.device, name: str, spoil: Spoil, message: str) -> None:
    inputs = DrawInputs.make().to(device)
    with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {name}: {message}"):
        replace(inputs, **{name: spoil(getattr(inputs, name))}).call(ops.draw)


@pytest.mark.parametrize(
    ("name", "spoil", "message", "assertion"),
    [
        ("epoch", lambda t: t * 0 - 1, r"epoch\[0\]: expected .* 0 to 2\*\*32 - 1, got -1", "an epoch is outside"),
        ("epoch", lambda t: t * 0 + 2**32, r"epoch\[0\]: expected .*, got 4294967296", "an epoch is outside"),
        ("target_index", lambda t: t + 4, r"target_index\[0\]: expected .* 0 to 3, got [4-7]", "a target_index is"),
        ("target_index", lambda t: t * 0 - 1, r"target_index\[0\]: expected .* 0 to 3, got -1", "a target_index is"),
        ("target_sizes", lambda t: t * 0 + 6, r"target_sizes\[\d\]: .* 5 x 7, got 6 x 6", "target image is smaller"),
        ("target_sizes", lambda t: -t, r"target_sizes\[\d\]: .* a window of 5 x 7, got -", "target image is smaller"),
        ("label", lambda t: t * 0 + 3, r"label\[0\]: expected a class from 0 to 2, got 3", "a label is outside"),
        ("label", lambda t: t * 0 - 1, r"label\[0\]: expected a class from 0 to 2, got -1", "a label is outside"),
        ("offsets", lambda t: t * (t == t[-1]), r"label\[\d\]: expected a class with members", "a class has no"),
        ("offsets", lambda t: t - 1, r"offsets\[0\]: expected .* rise from 0 to \d+, .*, got -1", None),
        ("offsets", lambda t: t + 99, r"offsets\[0\]: expected .* rise from 0 to \d+, .*, got 99", "a class has no"),
        ("offsets", lambda t: t[:-1], r"offsets\[2\]: expected .* rise from 0 to \d+, .*, got \d", None),
        ("offsets", lambda t: t[[0, 2, 1, 3]], r"offsets\[2\]: expected numbers that rise from 0 to", None),
        ("members", lambda t: t + 10, "members: expected images from 0 to 9, got 1\\d for", "a member is outside"),
        ("members", lambda t: t * 0 - 1, "members: expected images from 0 to 9, got -1 for", "a member is outside"),
        ("aux_sizes", lambda t: t - 100, r"aux_sizes\[\d\]: .* a window of 5 x 7, got -", "auxiliary image is smaller"),
        ("lam_quantiles", lambda t: t - 2, r"lam_quantiles\[0\]: expected .* 0 to 1, as quantiles", "a lam is outside"),
        ("lam_quantiles", lambda t: t + 2, r"lam_quantiles\[0\]: expected .* 0 to 1, as quantiles", "a lam is outside"),
        ("lam_quantiles", lambda t: t * torch.nan, r"lam_quantiles\[0\]: expected .*, got nan", "a lam is outside"),
        ("lam_quantiles", lambda t: t.flip(0), r"lam_quantiles\[1\]: expected .* from 0\.\d+ to 1, as quantiles", None),
    ],
)
def test_wrong_values_are_named(
    device: torch.device, name: str, spoil: Spoil, message: str, assertion: str | None
) -> None:
    if device.type == "cuda":
        pytest.skip("a device-side assert ends the process's CUDA context")
    inputs = DrawInputs.make()
    spoiled = replace(inputs, **{name: spoil(getattr(inputs, name))})
    if operators._library is torch.ops.xmixup_fast:
        with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {message}"):
            spoiled.call(ops.draw)
    elif assertion:  # a GPU looks at no more of the tables than the samples use
        with pytest.raises(RuntimeError, match=f"device-side assert triggered: draw: .*{assertion}"):
            spoiled.call(ops.draw)


def test_a_seed_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises((RuntimeError, OverflowError)):
        replace(DrawInputs.make(), seed=2**63).call(ops.draw)


TENSORS = [name for name, value in vars(DrawInputs.make()).items() if isinstance(value, Tensor)]


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", TENSORS[1:])
def test_tensors_on_another_device_are_named(name: str, fake: bool) -> None:
    inputs = DrawInputs.make()
    spoiled = replace(inputs, **{name: getattr(inputs, name).to("meta")})
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        pytest.raises(RuntimeError, match=f"draw: {name}: expected a tensor on cpu, as sample, got one on meta"),
    ):
        spoiled.call(ops.draw)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_with_gaps_are_taken_and_none_is_named(device: torch.device, name: str) -> None:
    inputs = DrawInputs.make().to(device)
    gaps = replace(inputs, **{name: torch.stack([getattr(inputs, name)] * 2, -1)[..., 0]})
    assert_same(gaps.call(ops.draw), inputs.call(ops.draw))
    with pytest.raises(RuntimeError, match=rf"xmixup_fast.draw: {name}: expected a contiguous .*, got strides \["):
        operators._library.draw(*gaps.raw())
    with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {name}: expected a tensor, got None"):
        replace(inputs, **{name: None}).call(ops.draw)
