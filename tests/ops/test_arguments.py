"""What people pass from loops of their own: taken for what it says, or refused by name when it is passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from draw_inputs import DrawInputs
from draw_inputs import assert_same as assert_same_plans
from hypothesis import given
from hypothesis import strategies as st
from samples import IMAGENET, LossInputs, MixInputs, make_pool
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import (
    ImagePool,
    MixedLabels,
    XMixup,
    dual_head_cross_entropy,
    joint_labels,
    ops,
)
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex

SIZE = (9, 12)
FORM = {"size": SIZE, **IMAGENET}


def made_aux() -> ImagePool:
    pool = make_pool([(12, 15), (9, 12), (20, 14), (11, 13)], torch.Generator().manual_seed(1))
    return replace(pool, labels=torch.tensor([3, 1, 5, 3]))


def made_batch() -> tuple[Tensor, Tensor, Tensor, int]:
    """Images, labels, sample ids and the epoch."""
    images = torch.randint(0, 256, (6, 13, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return images, torch.tensor([0, 1, 1, 0, 1, 0]), torch.arange(100, 106), 3


def made(**settings: Any) -> XMixup:
    return XMixup(made_aux(), [[3], [1, 5]], **{**FORM, **settings})


def assert_same(first: XMixup, second: XMixup) -> None:
    """Whether both give the same batch."""
    (images, labels), (others, other_labels) = (xmixup(*made_batch()) for xmixup in (first, second))
    assert images.dtype == others.dtype and images.stride() == others.stride()
    assert torch.equal(images, others) and all(map(torch.equal, labels, other_labels))


# --- which source classes belong to which target class ---


def keys(kind: str, count: int) -> list[Any]:
    kinds = {"int": int, "numpy": np.int32, "torch": torch.tensor}
    return [kinds[kind](target) for target in range(count)]


@given(
    data=st.data(), kind=st.sampled_from(["int", "numpy", "torch"]), form=st.sampled_from([list, set, np.array, tuple])
)
def test_a_mapping_means_what_its_rows_in_the_order_of_its_keys_mean(data: st.DataObject, kind: str, form: Any) -> None:
    rows = data.draw(st.lists(st.lists(st.sampled_from([1, 3, 5]), min_size=1, unique=True), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(rows))))
    names = keys(kind, len(rows))
    mapping = {names[target]: form(rows[target]) for target in order}
    aux = made_aux()
    expected, actual = AuxiliaryIndex.of(aux, rows), AuxiliaryIndex.of(aux, mapping)
    assert actual.means is expected.means is None and all(map(torch.equal, actual[:-1], expected[:-1]))
    for target, row in enumerate(rows):
        members = actual.members[actual.offsets[target] : actual.offsets[target + 1]]
        assert set(aux.labels[members].tolist()) == set(row)
        assert len(members) == sum(aux.labels.tolist().count(label) for label in row)


@pytest.mark.parametrize("rows", [np.array([[3], [1]]), torch.tensor([[3], [1]]), [np.array([3]), torch.tensor([1])]])
def test_rows_may_be_arrays_and_tensors(rows: Any) -> None:
    assert_same(XMixup(made_aux(), rows, **FORM), XMixup(made_aux(), [[3], [1]], **FORM))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({1: [3], 2: [1]}, r"source_classes: expected the keys 0 to 1, a target class each, got \[1, 2\]"),
        ({0: [3], 2: [1]}, r"source_classes: expected the keys 0 to 1, a target class each, got \[0, 2\]"),
        ({torch.tensor(0): [3], torch.tensor(0): [1]}, r"source_classes: expected the keys 0 to 1.*, got \[0, 0\]"),
        ({-1: [3]}, r"source_classes: key: expected an integer from 0 .*, got -1"),
        ({"0": [3]}, "source_classes: key: expected an integer, got '0'"),
        ({True: [3]}, "source_classes: key: expected an integer, got True"),
        ({0.0: [3]}, r"source_classes: key: expected an integer, got 0\.0"),
        ({}, "source_classes: expected a list of source classes for each target class, got none"),
        ([], "source_classes: expected a list of source classes for each target class, got none"),
        (3, "source_classes: expected a list of source classes for each target class, got 3"),
        (None, "source_classes: expected a list of source classes for each target class, got None"),
        ("35", "source_classes: expected a list of source classes for each target class, got '35'"),
        ([3, 1], r"source_classes\[0\]: expected a list of source classes, got 3; write \[3\]"),
        ({0: 3}, r"source_classes\[0\]: expected a list of source classes, got 3; write \[3\]"),
        (torch.tensor([3, 1]), r"source_classes\[0\]: expected a list of source classes, got 3; write \[3\]"),
        ([[3], []], r"source_classes\[1\]: expected at least one source class, got none"),
        ([[3], [1, 4]], r"source_classes\[1\]: no auxiliary image has label 4; the labels of aux are \[1, 3, 5\]"),
        ([[3, 3]], r"source_classes\[0\]: expected distinct source classes, got 3 twice"),
        ([[3.0]], r"source_classes\[0\]: expected an integer, got 3\.0"),
        ([[True]], r"source_classes\[0\]: expected an integer, got True"),
        ([["cat"]], r"source_classes\[0\]: expected an integer, got 'cat'"),
        (["cat"], r"source_classes\[0\]: expected a list of source classes, got 'cat'"),
        ([{3: 1}], r"source_classes\[0\]: expected a list of source classes, got \{3: 1\}"),
        (torch.tensor([[3.0]]), r"source_classes\[0\]: expected an integer, got 3\.0"),
    ],
)
def test_other_rows_are_refused_at_construction(rows: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        XMixup(made_aux(), rows, **FORM)


# --- everything else in the constructor ---


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 12},
        {"size": np.int64(12)},
        {"size": torch.tensor(12)},
        {"size": np.array([12, 12])},
        {"size": torch.Size([12, 12])},
        {"size": [np.uint8(12), torch.tensor(12)]},
        {"mean": np.array(IMAGENET["mean"]), "std": torch.tensor(IMAGENET["std"], dtype=torch.float64)},
        {"mean": list(map(np.float64, IMAGENET["mean"])), "seed": np.int32(0), "alpha": np.float64(0.2)},
        {"fold": np.bool_(True), "flip": np.True_, "alpha": torch.tensor(0.2, dtype=torch.float64)},
    ],
)
def test_numpys_and_torchs_numbers_are_numbers(settings: dict[str, Any]) -> None:
    aux = make_pool([(13, 15)] * 2, torch.Generator().manual_seed(1))
    aux = replace(aux, labels=torch.tensor([3, 1]))
    first, second = (XMixup(aux, [[3], [1]], **{**FORM, "size": (12, 12), **more}) for more in (settings, {}))
    assert_same(first, second)


FAULTS: list[tuple[str, Any, str]] = [
    *(
        ("size", size, "expected an integer")
        for size in ("9", 9.0, True, None, (9.0, 12), (9, None), np.array([9.0, 12]))
    ),
    *(("size", size, "or height and width, got") for size in ((9,), (9, 12, 3), ())),
    *(("size", size, "from 1 to 16384, got") for size in (0, -3, (9, 0), 16385)),
    ("size", (10, 13), r"expected crops that fit into the images, got 10 x 13; image 1 of aux has 9 x 12"),
    *(("mean", mean, "expected 3 numbers, one a channel") for mean in (0.5, None, (0.5,), (0.5,) * 4, "abc")),
    *(("mean", (0.5, 0.5, value), r"\[2\]: expected a finite number") for value in (np.nan, np.inf, "0.5", None, True)),
    *(("std", (value, 1, 1), r"\[0\]: expected a positive number") for value in (0, -1, np.nan, np.inf, "1", None)),
    ("std", (1, 1e-60, 1), r"\[1\]: expected a number that images can be divided by in float32, got 1e-60"),
    *(
        ("mean", (0.5, value, 0.5), r"\[1\]: expected a number from 0 to 1, .*divide.* by 255")
        for value in (116.3, -1, 1.01)
    ),
    *(("std", (0.2, 0.2, value), r"\[2\]: expected a number from 0 to 1, .*divide.* by 255") for value in (57.4, 255)),
    *(("alpha", value, "expected a positive number") for value in (0, -1, np.nan, np.inf, "0.2", None, True)),
    *(("seed", value, "expected an integer") for value in (0.0, "0", None, True, 2**63, -(2**63) - 1)),
    *((name, value, "expected True or False") for name in ("cutmix", "fold", "flip") for value in (1, "no", None)),
    *(
        ("dtype", value, "expected torch.float32, torch.bfloat16 or")
        for value in (torch.float64, "float32", float, None)
    ),
    *(("memory_format", value, "expected torch.channels_last or") for value in (torch.preserve_format, "NHWC", None)),
    ("target", torch.zeros(3), r"expected an ImagePool, got float32\[3\]"),
    ("target", made_aux().to("meta"), "expected a pool on cpu, where aux is, got one on meta"),
]


@pytest.mark.parametrize(("name", "value", "message"), FAULTS)
def test_wrong_settings_are_refused_at_construction(name: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}.*{message}"):
        made(**{name: value})


def test_pools_that_cannot_serve_are_refused_at_construction() -> None:
    with pytest.raises(TypeError, match=r"aux: expected an ImagePool, got uint8\[2, 9, 12, 3\]"):
        XMixup(torch.zeros(2, 9, 12, 3, dtype=torch.uint8), [[0]], **FORM)
    unlabelled = ImagePool.from_dense(torch.zeros(2, 9, 12, 3, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match="aux: expected images with source classes from 0 on, got -1 for image 0; make"
    ):
        XMixup(unlabelled, [[-1]], **FORM)
    with pytest.raises(ValueError, match="aux: expected auxiliary images, got a pool without images"):
        XMixup(ImagePool.from_images([], []), [[0]], **FORM)
    with pytest.raises(ValueError, match=r"size: .* got 9 x 12; image 1 of target has 8 x 12"):
        made(target=make_pool([(9, 12), (8, 12)], torch.Generator()))
    assert_same(XMixup(made_aux(), [[3], [5]], **FORM | {"size": (11, 13)}), made_of_chosen())


def made_of_chosen() -> XMixup:
    """The same without image 1, which is too small, and which no target class is mixed with."""
    aux = made_aux()
    pool = ImagePool.from_images([aux[i] for i in (0, 2, 3)], [3, 5, 3])
    return XMixup(pool, [[3], [5]], **FORM | {"size": (11, 13)})


# --- calls ---


KINDS = [np.asarray, list, Tensor.int, Tensor.short, Tensor.tolist]
UINT64 = [lambda t: np.asarray(t, np.uint64), lambda t: list(np.asarray(t, np.uint64)), lambda t: t.to(torch.uint64)]


@pytest.mark.parametrize("kind", [*KINDS, *UINT64])
def test_labels_samples_and_epochs_may_be_integers_of_any_kind(kind: Callable[[Tensor], Any]) -> None:
    images, labels, sample, epoch = made_batch()
    expected, expected_labels = made()(images, labels, sample, epoch)
    for epochs in (np.int64(epoch), torch.tensor(epoch), np.array(epoch), kind(torch.full_like(sample, epoch))):
        mixed, actual_labels = made()(images, kind(labels), kind(sample), epochs)
        assert torch.equal(mixed, expected)
        assert all(map(torch.equal, actual_labels, expected_labels)) and actual_labels.target.dtype == torch.int64
    gaps = torch.stack([labels, sample], 1)
    assert torch.equal(made()(images[:, :, ::1], *gaps.unbind(1), epoch)[0], expected)


@pytest.mark.parametrize("call", ["__call__", "pairs"])
def test_given_samples_need_their_epoch(call: str) -> None:
    images, labels, sample, _ = made_batch()
    with pytest.raises(TypeError, match=r"epoch: expected the epoch, as sample is given: .* pass epoch, from 0 on"):
        getattr(made(), call)(images, labels, sample)
    getattr(made(), call)(images, labels)
    getattr(made(), call)(images, labels, epoch=2)


@pytest.mark.parametrize("name", ["labels", "sample", "epoch"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Tensor.double, r"expected int64\[6\].*, got float64\[6\]"),
        (Tensor.bool, r"expected int64\[6\].*, got bool\[6\]"),
        (lambda t: t[:2], r"expected int64\[6\].*, got int64\[2\]"),
        (lambda t: t[:, None], r"expected int64\[6\].*, got int64\[6, 1\]"),
        (lambda t: [*t.tolist()[:5], 0.5], r"expected int64\[6\].*, got float64\[6\]"),
        (lambda t: [*t.tolist()[:5], True], r"expected int64\[6\].*, got bool\[6\]"),
        (lambda t: ["cat"] * 6, "expected integers, got "),
        (lambda t: t.to("meta"), "expected a tensor on cpu, got one on meta"),
    ],
)
def test_what_are_no_integers_for_each_image_is_refused(
    name: str, spoil: Callable[[Tensor], Any], message: str
) -> None:
    images, labels, sample, epoch = made_batch()
    given = {"labels": labels, "sample": sample, "epoch": torch.full_like(sample, epoch)}
    with pytest.raises((TypeError, ValueError), match=f"^{name}: {message}"):
        made()(images, **given | {name: spoil(given[name])})


@pytest.mark.parametrize("kind", [np.array, list, lambda array: torch.from_numpy(np.array(array))])
def test_numbers_that_int64_cannot_hold_are_refused(kind: Callable[[Any], Any]) -> None:
    images, labels, _, epoch = made_batch()
    sample = kind(np.array([2**63 - 1] * 5 + [2**63], np.uint64))
    with pytest.raises(
        ValueError, match=f"^sample: expected integers that int64 holds, up to {2**63 - 1}, got .*; take them modulo"
    ):
        made()(images, labels, sample, epoch)


def test_images_that_are_no_tensor_or_elsewhere_are_refused() -> None:
    images, *rest = made_batch()
    with pytest.raises(TypeError, match=r"images: expected a tensor, got uint8\[6, 13, 16, 3\]; torch"):
        made()(images.numpy(), *rest)
    for listed in (list, tuple):
        with pytest.raises(
            TypeError, match=f"images: expected a tensor, got a {listed.__name__} of 6 tensors; torch.stack"
        ):
            made()(listed(images), *rest)
    with pytest.raises(ValueError, match="images: expected a tensor on cpu, where aux is, got one on meta"):
        made()(images.to("meta"), *rest)


def test_joint_labels_take_integers_of_any_kind_and_name_what_is_wrong() -> None:
    mixed = MixedLabels(torch.tensor([0, 2]), torch.tensor([3, 0]), torch.tensor([0.75, 1.0]))
    expected = joint_labels(mixed, 3, 4)
    assert torch.equal(
        joint_labels(MixedLabels(np.array([0, 2]), [3, 0], mixed.lam), np.int64(3), np.int64(4)), expected
    )
    for fault, message in (
        ((mixed, 0, 4), "target_classes: expected an integer from 1"),
        ((mixed, 3, 4.0), "source_classes: expected an integer, got 4.0"),
        ((mixed, 3, 4, np.nan), "source_weight: expected a finite number, got nan"),
        ((mixed._replace(target=mixed.lam), 3, 4), r"mixed.target: expected int64\[2\].*, got float32\[2\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            joint_labels(*fault)


def test_an_integer_stands_for_both_sides() -> None:
    draws = DrawInputs.make(size=(5, 5))
    assert_same_plans(replace(draws, size=5).call(ops.draw), draws.call(ops.draw))
    inputs = MixInputs.make(3, size=(5, 5))
    assert torch.equal(inputs.call(ops.mix, size=np.int64(5)), inputs.call(ops.mix))


# --- torch's default dtype ---


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("cutmix", [False, True])
def test_another_default_dtype_changes_no_image_and_no_weight(cutmix: bool, request: pytest.FixtureRequest) -> None:
    images, labels = made(cutmix=cutmix)(*made_batch())
    soft, loss = joint_labels(labels, 2, 6), LossInputs.make().call(dual_head_cross_entropy)
    inputs = LossInputs.make()
    request.getfixturevalue("float64_by_default")
    others, other_labels = made(cutmix=cutmix)(*made_batch())
    assert images.dtype == others.dtype == labels.lam.dtype == other_labels.lam.dtype == torch.float32
    assert torch.equal(images, others) and all(map(torch.equal, labels, other_labels))
    assert torch.equal(joint_labels(other_labels, 2, 6), soft)
    assert torch.equal(inputs.call(dual_head_cross_entropy), loss)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert inputs.call(dual_head_cross_entropy).dtype == torch.float32


def test_float64_logits_are_computed_in_float32(device: torch.device) -> None:
    """As torch's default dtype may be float64; the gradients have the logits' dtype."""
    inputs = LossInputs.make().to(device)
    double = replace(inputs, **{n: getattr(inputs, n).double() for n in ("target_logits", "source_logits")})
    loss, *gradients = double.with_gradients(dual_head_cross_entropy)
    expected, *expected_gradients = inputs.with_gradients(dual_head_cross_entropy)
    assert torch.equal(loss, expected) and loss.dtype == torch.float32
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == torch.float64 and torch.equal(gradient, other.double())
