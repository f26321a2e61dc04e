"""Figures of evaluations: those that scikit-learn and NumPy compute, of any predictions and of merged parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.evaluation import Evaluation, evaluate_network, merge_evaluations
from xmixup_fast.ops.image_format import ImageFormat
from xmixup_fast.ops.image_pool import ImagePool

FORM = ImageFormat(8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


class Linear(nn.Module):
    """A network of one layer, whose logits depend on every pixel: a mirror image has others."""

    def __init__(self, classes: int, scale: float = 0.1) -> None:
        super().__init__()
        self.classes = [f"c{i}" for i in range(classes)]
        self.weight = scale * torch.randn(3 * 8 * 8, classes, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


def pool(count: int, classes: int, mirrored: bool = False) -> ImagePool:
    """Images of odd and even sizes, with labels; or their mirror images."""
    random = np.random.default_rng(3)
    sizes = random.integers(8, 14, size=(count, 2))
    images = [torch.from_numpy(random.integers(256, size=(h, w, 3), dtype=np.uint8)) for h, w in sizes]
    labels = random.integers(classes, size=count).tolist()
    return ImagePool.from_images([image.flip(1) if mirrored else image for image in images], labels)


def evaluated(images: ImagePool, network: Linear, positions: Tensor | None = None, **options: Any) -> Evaluation:
    return evaluate_network(network, images, FORM, 7, positions, **options)  # type: ignore[arg-type]


def made(labels: list[int], predicted: list[int], classes: int) -> Evaluation:
    count = len(labels)
    tensors = torch.arange(count), torch.tensor(labels), torch.tensor(predicted)
    names = [f"c{i}" for i in range(classes)]
    return Evaluation(names, *tensors, torch.full((count,), 0.5), torch.arange(count) / 10, tensors[2])


@st.composite
def predictions(draw: st.DrawFn) -> Evaluation:
    """Of up to 40 images of up to seven classes, some of which may have no image, or be never predicted."""
    classes = draw(st.integers(1, 7))
    one = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(one, one), min_size=1, max_size=40))
    return made([pair[0] for pair in pairs], [pair[1] for pair in pairs], classes)


@settings(max_examples=30)
@example(made([0], [1], 2))
@example(made([0, 1], [1, 0], 2))
@given(predictions())
def test_classes_have_the_figures_that_scikit_learn_gives_them(found: Evaluation) -> None:
    labels, predicted = found.labels.numpy(), found.predicted.numpy()
    for number, row in enumerate(found.per_class()):
        own, asked = labels == number, predicted == number
        assert row.images == own.sum()
        assert row.recall == (pytest.approx(100 * asked[own].mean()) if own.any() else None)
        assert row.precision == (pytest.approx(100 * own[asked].mean()) if asked.any() else None)
        f1 = sklearn.metrics.f1_score(own, asked, zero_division=0.0)
        assert row.f1 == (pytest.approx(100 * f1) if own.any() or asked.any() else None)
    there = sorted(set(labels.tolist()))
    macro = sklearn.metrics.f1_score(labels, predicted, labels=there, average="macro", zero_division=0.0)
    assert found.macro_f1 == pytest.approx(100 * macro)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of predictions of classes without images
        assert found.balanced_accuracy == pytest.approx(
            100 * sklearn.metrics.balanced_accuracy_score(labels, predicted), abs=1e-4
        )


@settings(max_examples=30)
@example(made([0], [1], 2))
@given(predictions())
def test_of_any_predictions_the_table_is_printed(found: Evaluation) -> None:
    """Also where none is right, as with one image."""
    for row, line in zip(found.per_class(), found.lines()[1:], strict=True):
        assert line.split()[:2] == [row.name, str(row.images)]
    everywhere = all(row.images for row in found.per_class())
    assert ("(over classes with images)" in found.figures()[1]) != everywhere


@given(predictions())
def test_the_interval_is_wilsons_and_holds_the_accuracy(found: Evaluation) -> None:
    low, high = found.accuracy_interval
    assert 0 <= low <= found.accuracy + 1e-9 and found.accuracy - 1e-9 <= high <= 100
    n, p, z = len(found), found.accuracy / 100, 1.959963984540054
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [100 * (centre + side * half) / (1 + z**2 / n) for side in (-1, 1)]
    assert (low, high) == pytest.approx(expected, abs=1e-6)


@given(predictions(), st.integers(1, 5))
def test_confused_pairs_are_counted_with_their_images(found: Evaluation, count: int) -> None:
    wrong = found.predicted != found.labels
    pairs = found.confused_pairs(count, 2)
    kinds = {(a, b) for a, b in zip(found.labels[wrong].tolist(), found.predicted[wrong].tolist(), strict=True)}
    assert len(pairs) == min(count, len(kinds))
    times = [pair.times for pair in pairs]
    assert times == sorted(times, reverse=True)
    assert (
        times
        == sorted((int((wrong & (found.labels == a) & (found.predicted == b)).sum()) for a, b in kinds))[::-1][:count]
    )
    for pair in pairs:
        assert len(pair.positions) == min(2, pair.times)
        for i in pair.positions:
            assert (found.classes[found.labels[i]], found.classes[found.predicted[i]]) == (pair.label, pair.predicted)
        others = (found.labels == found.classes.index(pair.predicted)).nonzero()[:, 0].tolist()
        assert pair.example == (others[0] if others else None)  # losses rise with positions


@pytest.mark.parametrize("classes", [3, 5, 6, 30])
@pytest.mark.parametrize("levels", [2, 1000])
def test_top_5_looks_among_the_five_likeliest(classes: int, levels: int) -> None:
    """Of equal logits, of which two levels have many, the first class is the likelier, as for top-1."""
    network = Linear(classes)
    random = np.random.default_rng(classes)
    logits = random.integers(levels, size=(40, classes)).astype(np.float32)
    network.forward = lambda images: torch.from_numpy(logits[: len(images)])  # type: ignore[method-assign]
    images = pool(40, classes)
    found = evaluate_network(network, images, FORM, 40)  # type: ignore[arg-type]
    order = np.argsort(-logits, axis=1, kind="stable")
    assert torch.equal(found.predicted, torch.from_numpy(order[:, 0].copy()))
    labels = found.labels.numpy()
    assert found.ranks.tolist() == [row.tolist().index(label) for row, label in zip(order, labels, strict=True)]
    expected = 100 * (order[:, :5] == labels[:, None]).any(1).mean()
    assert found.top5_accuracy == (pytest.approx(expected) if classes > 5 else None)
    assert found.to_json()["top5_accuracy"] == (None if classes <= 5 else round(expected, 4))
    assert ("top-5" in found.figures()[0]) == (classes > 5)


def test_what_is_not_a_number_is_not_right() -> None:
    network = Linear(9)
    network.weight = torch.full_like(network.weight, math.nan)
    assert evaluated(pool(20, 9), network).top5_accuracy == 0


@pytest.mark.parametrize("flip", [False, True])
def test_merged_parts_are_the_whole(flip: bool) -> None:
    images, network = pool(20, 6), Linear(6)
    options: dict[str, Any] = {"flip": flip, "temperature": 1.7, "keep_logits": True}
    whole = evaluated(images, network, **options)
    parts = [evaluated(images, network, torch.arange(20)[i::3], **options) for i in range(3)]
    merged = merge_evaluations([evaluated(images, network, torch.arange(0), **options), parts[1], parts[0], parts[2]])
    tensors = [name for name, value in vars(whole).items() if isinstance(value, Tensor)]
    assert {"ranks", "calibrated", "logits"} <= set(tensors) and merged.temperature == 1.7
    for name in tensors:
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert merged.figures() == whole.figures() and merged.to_json().keys() == whole.to_json().keys()
    plain = evaluated(images, network, flip=flip)
    assert plain.calibrated is None and plain.logits is None and plain.temperature is None


def test_an_image_and_its_mirror_image_give_the_same_two_crops() -> None:
    images, mirrored = pool(20, 3), pool(20, 3, mirrored=True)
    ((one, labels),) = center_crop_batches(images, FORM, 20, flip=True)
    ((other, _),) = center_crop_batches(mirrored, FORM, 20, flip=True)
    assert torch.equal(labels, images.labels) and one.shape == (40, 3, 8, 8)
    assert torch.equal(one[:20], other[20:]) and torch.equal(one[20:], other[:20])
    ((plain, _),) = center_crop_batches(images, FORM, 20)
    assert torch.equal(one[:20], plain) and not torch.equal(one[20:], plain)


def test_with_mirror_images_the_probabilities_are_the_mean() -> None:
    images, mirrored, network = pool(30, 6), pool(30, 6, mirrored=True), Linear(6)
    found, again = (evaluated(these, network, flip=True, temperature=2.0) for these in (images, mirrored))
    assert torch.equal(found.predicted, again.predicted)
    torch.testing.assert_close(found.probabilities, again.probabilities)
    torch.testing.assert_close(found.losses, again.losses)
    logits = [evaluated(these, network, keep_logits=True).logits for these in (images, mirrored)]
    rows = torch.arange(30)
    for divisor, confidences in ((1.0, found.probabilities), (2.0, found.calibrated)):
        mean = torch.stack([(one / divisor).double().softmax(1) for one in logits if one is not None]).mean(0)
        assert confidences is not None
        torch.testing.assert_close(confidences.double(), mean[rows, found.predicted], atol=1e-5, rtol=1e-5)
        if divisor == 1:
            assert torch.equal(found.predicted, mean.argmax(1))
            torch.testing.assert_close(found.losses.double(), -mean[rows, found.labels].log(), atol=1e-5, rtol=1e-5)
    assert not torch.equal(found.predicted, evaluated(images, network).predicted)
