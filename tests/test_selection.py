"""Properties of the selection of source classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xmixup_fast.models import Network
from xmixup_fast.selection import Selection, at_random, by_prediction


class Pixels(nn.Module):
    """A body whose features are the images' mean colours, so that the source head alone decides."""

    def forward_features(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x


def colour_network(matched: list[bool]) -> Network:
    """Source classes 0, 1 and 2 are red, green and blue; further ones see nothing."""
    head = nn.Linear(3, len(matched), bias=False)
    with torch.no_grad():
        head.weight.copy_(5 * torch.eye(len(matched), 3))
    return Network(
        *(Pixels(), head, torch.tensor(matched)), model_name="pixels", classes=["a", "b"], mean=[0] * 3, std=[1] * 3
    )


def batches() -> list[tuple[Tensor, Tensor]]:
    """Target class 0 is blue with some red, class 1 is green; each comes in both batches."""
    blue, green = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    images = torch.stack([blue, green, blue]).view(3, 3, 1, 1).expand(3, 3, 4, 4)
    return [(images, torch.tensor([0, 1, 0])), (images[:2], torch.tensor([0, 1]))]


def test_prediction_takes_the_obvious_classes_with_their_mean_probability() -> None:
    selection = by_prediction(colour_network([True] * 4), batches(), num_target_classes=2, top_k=2)
    assert selection.classes[:, 0].tolist() == [2, 1] and selection.classes[0, 1] == 0
    expected = torch.tensor([1.5, 0.0, 5.0, 0.0], dtype=torch.float64).softmax(0)[[2, 0]]
    assert selection.scores is not None
    torch.testing.assert_close(selection.scores[0], expected)


def test_prediction_ignores_classes_that_the_classifier_does_not_know() -> None:
    selection = by_prediction(colour_network([True, True, False]), batches(), num_target_classes=2, top_k=2)
    assert selection.classes.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"top_k = 3 .* and 2 are; .* --selection random"):
        by_prediction(colour_network([True, True, False]), batches(), num_target_classes=2, top_k=3)


def test_prediction_leaves_the_network_as_it_was() -> None:
    network = colour_network([True] * 3).train()
    by_prediction(network, batches(), num_target_classes=2, top_k=1)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_random_classes_are_distinct_and_repeatable() -> None:
    selection = at_random(50, 6, 4, seed=3)
    assert all(len(set(row)) == 4 for row in selection.classes.tolist())
    assert set(selection.classes.flatten().tolist()) == set(range(6))
    assert torch.equal(selection.classes, at_random(50, 6, 4, seed=3).classes)
    assert not torch.equal(selection.classes, at_random(50, 6, 4, seed=4).classes)
    with pytest.raises(ValueError, match="top_k: expected at most 6, the number of source classes, got 7"):
        at_random(50, 6, 7, seed=0)


def test_json_has_names() -> None:
    scored = Selection(torch.tensor([[1, 0]]), torch.tensor([[0.75, 0.25]]))
    assert scored.to_json(["t"], ["x", "y"]) == {"t": [{"class": "y", "score": 0.75}, {"class": "x", "score": 0.25}]}
    assert Selection(torch.tensor([[1]]), None).to_json(["t"], ["x", "y"]) == {"t": [{"class": "y"}]}
