"""l2sp for a training loop of one's own: the trainer's penalty, and its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from xmixup_fast import l2sp
from xmixup_fast.methods.l2sp import L2SP
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.settings.fields import Settings


def moved(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("inside", [True, False], ids=["heads inside", "heads apart"])
def test_the_penalty_is_its_definition(inside: bool) -> None:
    body, heads = nn.Linear(4, 3), [nn.Linear(3, 2), nn.Linear(3, 5)]
    penalty = l2sp(nn.Sequential(body, *heads) if inside else body, heads, alpha=0.3, beta=0.2)
    start = [parameter.detach().clone() for parameter in body.parameters()]
    moved(nn.Sequential(body, *heads))
    distance = sum((w - w0).square().sum().item() for w, w0 in zip(body.parameters(), start, strict=True))
    norm = sum(w.square().sum().item() for head in heads for w in head.parameters())
    value = penalty()
    assert value.item() == pytest.approx(0.15 * distance + 0.1 * norm, rel=1e-5)
    value.backward()
    torch.testing.assert_close(body.weight.grad, 0.3 * (body.weight.detach() - start[0]))
    torch.testing.assert_close(heads[1].bias.grad, 0.2 * heads[1].bias.detach())


def test_without_heads_only_the_distance_counts() -> None:
    network = nn.Linear(4, 3)
    penalty = l2sp(network)
    assert penalty().item() == 0
    moved(network)
    assert penalty().item() > 0


def test_a_head_that_is_kept_counts_as_pretrained(tmp_path: Path) -> None:
    network = build("test_resnet", "none", ["a", "b"])
    save(network, tmp_path / "weights.safetensors", 32)
    again = build("test_resnet", str(tmp_path / "weights.safetensors"), ["a", "b"])
    own = L2SP(Settings(target="t", regularizer="l2sp"), again)
    assert own.penalty().item() == 0
    moved(again)
    assert own.penalty().item() > 0


def test_the_trainers_penalty_is_the_same() -> None:
    network = build("test_resnet", "none", ["a", "b"])
    own = L2SP(Settings(target="t", regularizer="l2sp"), network)
    penalty = l2sp(network, network.target_heads())
    moved(network)
    assert torch.equal(own.penalty(), penalty())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"network: expected a torch.nn.Module, got list"):
        l2sp([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"heads: expected a torch.nn.Module, got Parameter"):
        l2sp(nn.Linear(2, 2), nn.Linear(2, 2).parameters())  # type: ignore[arg-type]
    head = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="network: expected pretrained parameters, got none besides those of heads"):
        l2sp(head, head)
