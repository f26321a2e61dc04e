"""Bi-Tuning against a computation in NumPy, image by image, over several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transfer import Array, Case, array, cross_entropy, log_softmax

from xmixup_fast.methods import METHODS, bituning
from xmixup_fast.methods.bituning import Bituning
from xmixup_fast.models.network import Network
from xmixup_fast.training.trainer import Trainer

QUEUE = 3


@pytest.fixture(autouse=True)
def short_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bituning, "QUEUE", QUEUE)


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def with_one(features: Array) -> Array:
    return unit(np.concatenate([features, np.ones((len(features), 1))], 1))


def projected(network: Network, features: Array) -> Array:
    assert network.projector is not None
    return unit(features @ array(network.projector.weight).T + array(network.projector.bias))


def contrast(own: float, keys: list[list[float]], label: int) -> float:
    """-mean log softmax over the image itself and the keys of its class."""
    chances = log_softmax(np.array([[own, *(value for of_class in keys for value in of_class)]]) / 0.07)[0]
    begin = 1 + label * QUEUE
    return float(-(chances[0] + chances[begin : begin + QUEUE].sum()) / (1 + QUEUE))


def test_bituning_is_its_formula_while_its_queues_move() -> None:
    case = Case(bituning_weight=0.7)
    method = case.method("bituning")
    assert isinstance(method, Bituning)
    queues: list[list[list[Array]]] = [
        [list(of_class[:QUEUE]) for of_class in array(queue)] for queue in (method.features, method.projections)
    ]  # oldest first
    optimizer: Any = None
    for step in range(4):
        plan = case.plan("bituning", step)
        case.disturb()
        start = [array(parameter).copy() for parameter in method.keys.parameters()]
        method.before_step(case.network, optimizer, step, 4)
        for key, before, now in zip(method.keys.parameters(), start, case.network.parameters(), strict=True):
            np.testing.assert_allclose(array(key), 0.999 * before + 0.001 * array(now), atol=1e-6)
        case.network.train()
        images = case.target_images(plan).clone()
        features, key_features = array(case.network.features(images)), array(method.keys.features(images))
        head = case.network.body.fc
        rows = unit(np.concatenate([array(head.weight), array(head.bias)[:, None]], 1))
        hidden, projections = with_one(features), projected(case.network, features)
        keys = with_one(key_features), projected(method.keys, key_features)
        losses = cross_entropy(array(head(torch.tensor(features).float())), plan.label)
        for i, label in enumerate(plan.label.tolist()):
            cce = contrast(rows[label] @ hidden[i], [[rows[label] @ key for key in own] for own in queues[0]], label)
            by_class = [[projections[i] @ key for key in own] for own in queues[1]]
            losses[i] += 0.7 * (cce + contrast(projections[i] @ keys[1][i], by_class, label))
        assert case.loss_of(method, plan).item() == pytest.approx(losses.mean(), rel=1e-4)
        for queue, new in zip(queues, keys, strict=True):
            for i, label in enumerate(plan.label.tolist()):
                queue[label] = [*queue[label][1:], new[i]]


@pytest.mark.parametrize("labels", [[0, 0], [2, 0, 2, 1], [1] * 5, [0, 1] * 4, [2]])
def test_queues_hold_the_newest_keys_of_each_class(labels: list[int]) -> None:
    """Also where a batch has more images of a class than its queue holds."""
    method = Case().method("bituning")
    assert isinstance(method, Bituning)
    expected: list[list[float]] = [[-1.0] * QUEUE for _ in range(3)]
    method.features.fill_(-1)
    for batch in range(3):
        values = [10.0 * batch + i for i in range(len(labels))]
        keys = torch.tensor(values)[:, None]
        places = [pair for pair in zip(labels, method._places(torch.tensor(labels))[0].tolist(), strict=True)]
        used = [pair for pair in places if pair[1] < QUEUE]
        assert len(set(used)) == len(used) == sum(min(QUEUE, labels.count(label)) for label in range(3))
        wide = keys.expand(-1, method.features.shape[2]), keys.expand(-1, method.projections.shape[2])
        method._enqueue(*wide, torch.tensor(labels))
        for label, value in zip(labels, values, strict=True):
            expected[label] = [*expected[label][1:], value]
        for queue in (method.features, method.projections):
            held = [sorted(row) for row in queue[:, :QUEUE, 0].tolist()]
            if queue is method.features:
                assert held == [sorted(row) for row in expected]
        assert method.next.tolist() == [(batch + 1) * labels.count(label) % QUEUE for label in range(3)]


def test_the_head_gets_no_gradient_by_contrast_and_features_and_projector_do() -> None:
    case = Case(bituning_weight=1.0)
    method, plan = case.method("bituning"), case.plan("bituning", 0)
    plain = case.method("finetune")
    case.network.train()
    assert case.network.projector is not None
    wanted = case.network.body.fc.weight, case.network.body.conv1[0].weight
    found = torch.autograd.grad(case.loss_of(method, plan), [*wanted, case.network.projector.weight])
    expected = torch.autograd.grad(case.loss_of(plain, plan), wanted)
    torch.testing.assert_close(found[0], expected[0])
    assert not torch.allclose(found[1], expected[1]) and found[2].abs().max() > 0


def test_the_projector_is_trained_as_a_new_head_and_not_saved() -> None:
    case = Case(lr=0.01, head_lr_multiplier=5.0, steps=2)
    trainer = case.trainer("bituning")
    projector = case.network.projector
    assert isinstance(projector, nn.Linear)
    before = projector.weight.detach().clone()
    METHODS["bituning"](case.settings, case.network)
    assert case.network.projector is projector  # another method of the same network leaves it alone
    groups = trainer.optimizer.param_groups
    (rate,) = [group["lr"] for group in groups if any(p is projector.weight for p in group["params"])]
    assert rate == pytest.approx(0.05)
    trainer.step()
    assert not torch.equal(projector.weight, before)
    assert not any("projector" in name for name in case.network.body.state_dict())
    same = Case(seed=0).method("bituning")
    assert isinstance(same, Bituning) and isinstance(trainer, Trainer)
    assert torch.equal(same.keys.projector.weight, before)  # type: ignore[union-attr]
    assert not torch.equal(Case(seed=1).method("bituning").keys.projector.weight, before)  # type: ignore[attr-defined]
