"""Class means, nearest images, and the cache of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made import SOURCE, write_folder
from selecting import colour_network, pixel_network
from torch import Tensor

from xmixup_fast.data.dataset import BadFile, Sample
from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.selection.cache import PassResult, cache_key, cached
from xmixup_fast.selection.statistics import class_means, nearest_images

INF = float("inf")


def batches() -> list[tuple[Tensor, Tensor]]:
    """Two batches of three and two images, in which class 0 is blue with some red and class 1 is green."""
    blue, green = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    images = torch.stack([blue, green, blue]).view(3, 3, 1, 1).expand(3, 3, 4, 4)
    return [(images, torch.tensor([0, 1, 0])), (images[:2], torch.tensor([0, 1]))]


def numbered_batches(features: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of one-pixel images with the given features, float[n, 3], each with its position as its integer."""
    images = features.float().view(-1, 3, 1, 1)
    return list(zip(images.split(size), torch.arange(len(images)).split(size), strict=True))


def test_class_means_are_the_means_of_features_and_known_probabilities() -> None:
    network = colour_network([True, True, False, True])
    means = class_means(network, batches(), 3, network.known_source_logits)
    blue, green = [0.3, 0.0, 1.0], [0.0, 1.0, 0.0]
    torch.testing.assert_close(means.features, torch.tensor([blue, green, [0] * 3]).double())
    expected = torch.tensor([[1.5, 0, -INF, 0], [0, 5, -INF, 0], [-INF] * 4], dtype=torch.float64).softmax(1)
    assert means.probabilities is not None
    torch.testing.assert_close(means.probabilities, expected.nan_to_num(0))
    assert means.counts.tolist() == [3, 2, 0]
    assert class_means(network, batches(), 3).probabilities is None


@pytest.mark.parametrize("value", [torch.nan, INF, -INF])
def test_features_that_are_not_finite_are_no_statistics(value: float) -> None:
    images = [(batch.clone(), labels) for batch, labels in batches()]
    images[1][0][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="weights: the network's features for images whose classes are compared are"):
        class_means(colour_network([True] * 3), images, 3)


def test_passes_leave_the_network_as_it_was() -> None:
    network = colour_network([True] * 3).train()
    class_means(network, batches(), 2, network.source_logits)
    nearest_images(network, batches(), torch.eye(3, dtype=torch.float64), 1)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_nearest_images_are_those_of_a_full_sort(size: int) -> None:
    random = np.random.default_rng(0)
    features = torch.from_numpy(
        random.integers(0, 4, (40, 3)) + 1.0
    )  # few values, so that many images are equally near
    directions = torch.from_numpy(random.random((5, 3)))
    images, cosines = nearest_images(colour_network([True]), numbered_batches(features, size), directions, 12)
    expected = F.normalize(directions, dim=1) @ F.normalize(features, dim=1).T
    order = expected.round(decimals=12).sort(dim=1, descending=True, stable=True).indices[:, :12]
    torch.testing.assert_close(cosines, expected.gather(1, order), rtol=0, atol=1e-12)
    exact = nearest_images(colour_network([True]), numbered_batches(features, 40), directions, 12)[0]
    assert torch.equal(images, exact) and all(len(set(row)) == 12 for row in images.tolist())
    assert nearest_images(colour_network([True]), [], directions, 3)[0].shape == (5, 0)


def test_of_equally_near_images_the_first_are_taken() -> None:
    same = torch.ones(6, 3)
    for size in (1, 4, 6):
        images, _ = nearest_images(colour_network([True]), numbered_batches(same, size), torch.ones(1, 3).double(), 4)
        assert images.tolist() == [[0, 1, 2, 3]]


def cached_value(cache: Path, value: float, all_unreadable: bool = True) -> float:
    """The value in the cache, or the given one where the pass is made."""
    result = cached(
        cache,
        "key",
        lambda: PassResult({"x": torch.tensor(value)}, [BadFile("a", "b")]),
        lambda bad: bad and all_unreadable,
    )
    assert result.bad == [BadFile("a", "b")]
    return float(result.tensors["x"])


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    assert [cached_value(tmp_path, 1), cached_value(tmp_path, 2)] == [1, 1]
    (path,) = (tmp_path / "selection").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert [cached_value(tmp_path, 3), cached_value(tmp_path, 4)] == [3, 3]
    assert list((tmp_path / "selection").iterdir()) == [path]


def test_an_image_that_is_no_longer_bad_makes_the_cache_again(tmp_path: Path) -> None:
    assert [cached_value(tmp_path, 1), cached_value(tmp_path, 2, all_unreadable=False), cached_value(tmp_path, 3)] == [
        1,
        2,
        2,
    ]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache: .*file/selection: .*; name another folder, or none"):
        cached_value(tmp_path / "file", 1)


def test_labels_and_order_are_part_of_the_key(tmp_path: Path) -> None:
    network, train = pixel_network(), read_folder(write_folder(tmp_path, SOURCE, 3)).train
    relabelled = [Sample(train[0].image, 3), *train[1:]]
    variants = [[train], [train[::-1]], [relabelled], [train[:9], train[9:]], [train, []]]
    keys = [cache_key(network, samples, ["p"]) for samples in variants] + [cache_key(network, [train], ["q"])]
    assert len(set(keys)) == len(keys) and keys[0] == cache_key(network, [list(train)], ["p"])
