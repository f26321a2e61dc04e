"""Learning without Forgetting and StochNorm, each against a computation in NumPy or in plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transfer import Array, Case, array, cross_entropy, log_softmax

from xmixup_fast.methods import METHODS
from xmixup_fast.methods.lwf import LWF
from xmixup_fast.methods.stochnorm import StochasticNormalization
from xmixup_fast.models.build import build
from xmixup_fast.training.optimizer import freeze

# --- Learning without Forgetting ---


def source_chances(case: Case, images: Tensor, known: list[int], temperature: float) -> Array:
    """Log-probabilities of known source classes at a temperature, in NumPy."""
    logits = array(case.network.source_logits(case.network.features(images)))
    return log_softmax(logits[:, known] / temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("known", [[0, 1, 2, 3], [0, 2], [3]])
def test_lwf_is_its_formula(known: list[int], temperature: float) -> None:
    case = Case(lwf_weight=1.7, lwf_temperature=temperature)
    case.network.source_matched = torch.tensor([label in known for label in range(4)])
    method, plan = case.method("lwf"), case.plan("lwf", 1)
    images = case.target_images(plan).clone()
    case.network.eval()
    before = source_chances(case, images, known, temperature)
    case.disturb()
    case.network.train()
    now = source_chances(case, images, known, temperature)
    divergence = (np.exp(before) * (before - now)).sum(1).mean()
    assert divergence > 1e-4 or len(known) == 1
    target = cross_entropy(array(case.network.target_logits(case.network.features(images))), plan.label).mean()
    assert case.loss_of(method, plan).item() == pytest.approx(target + 1.7 * divergence, rel=1e-4)


def test_the_gradient_of_lwf_is_that_of_the_papers_cross_entropy() -> None:
    case = Case(model="test_vit", size=160, lwf_weight=3.0)
    method, plan = case.method("lwf"), case.plan("lwf", 0)
    assert isinstance(method, LWF)
    case.disturb()
    case.network.eval()
    parameters = list(case.network.parameters())
    found = torch.autograd.grad(case.loss_of(method, plan), parameters)
    images = case.target_images(plan)
    features, logits = case.network.features_and_logits(images)
    soft = (method.frozen.source_logits(method.frozen.features(images)) / 2).softmax(1)
    kept = -(soft * (case.network.source_logits(features) / 2).log_softmax(1)).sum(1).mean()
    expected = torch.autograd.grad(nn.functional.cross_entropy(logits, plan.label) + 3 * kept, parameters)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_lwf_says_before_training_that_it_needs_a_pretrained_classifier() -> None:
    case = Case()
    for options in ({"source_classes": list("wxyz")}, {"keep_classifier": True}, {}):
        with pytest.raises(ValueError, match="weights: lwf needs a pretrained classifier"):
            METHODS["lwf"](case.settings, build("test_resnet", "none", ["a", "b", "c"], **options))


# --- StochNorm ---

LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "1d, of sequences": (lambda: nn.BatchNorm1d(5), (7, 5, 3)),
    "2d": (lambda: nn.BatchNorm2d(5, eps=0.1, momentum=0.3), (4, 5, 3, 2)),
    "2d, without weights": (lambda: nn.BatchNorm2d(5, affine=False), (4, 5, 3, 2)),
    "2d, mean of all batches": (lambda: nn.BatchNorm2d(5, momentum=None), (4, 5, 3, 2)),
    "3d": (lambda: nn.BatchNorm3d(5), (4, 5, 2, 3, 2)),
}


def made_layer(name: str) -> tuple[Any, Tensor]:
    """A layer that has seen other batches, and a batch, both in float64."""
    torch.manual_seed(4)
    make, shape = LAYERS[name]
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    layer(3 * torch.randn(shape, dtype=torch.float64) + 1)
    return layer, torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", LAYERS)
def test_each_channel_takes_the_statistics_of_the_batch_or_the_moving_ones(name: str) -> None:
    layer, x = made_layer(name)
    plain, _ = made_layer(name)
    moving = layer.running_mean.clone(), layer.running_var.clone()
    torch.manual_seed(2)
    by_batch = torch.empty(5, dtype=torch.float64).bernoulli_(0.5).bool()
    assert 0 < by_batch.sum() < 5
    torch.manual_seed(2)
    with StochasticNormalization(0.5):
        y = layer(x)

    axes, shape = [0, *range(2, x.dim())], (1, 5, *[1] * (x.dim() - 2))
    chosen = by_batch.view(shape)
    mean = torch.where(chosen, x.mean(axes, keepdim=True), moving[0].view(shape))
    variance = torch.where(chosen, x.var(axes, correction=0, keepdim=True), moving[1].view(shape))
    expected = (x - mean) / (variance + layer.eps).sqrt()
    if layer.affine:
        expected = expected * layer.weight.view(shape) + layer.bias.view(shape)
    torch.testing.assert_close(y, expected)
    inputs = [x, *layer.parameters()]
    weights = torch.randn(y.shape, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((out * weights).sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(found, wanted)

    plain(x)  # the moving statistics move as ever
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())
    assert not torch.equal(layer.running_mean, moving[0])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_extremes_are_evaluation_and_plain_training(p: float) -> None:
    (layer, x), (plain, _) = made_layer("2d"), made_layer("2d")
    plain.train(p == 1)
    expected = plain(x)
    with StochasticNormalization(p):
        y = layer(x)
        layer.eval()
        evaluated = layer(x)
    assert torch.equal(y, expected)
    assert torch.equal(evaluated, layer(x))


def test_a_stochnorm_step_draws_anew_and_evaluation_draws_nothing() -> None:
    case = Case(steps=2, lr=1e-9)
    trainer, plain = case.trainer("stochnorm"), Case(steps=2, lr=1e-9).trainer("finetune")
    assert float(trainer.step()) != pytest.approx(float(plain.step()), rel=1e-4)
    for key, tensor in trainer.network.state_dict().items():
        if "num_batches" in key:
            assert tensor == 1, key
    plan = case.plan("stochnorm", 0)
    case.network.train()
    losses = {round(case.loss_of(trainer.method, plan).item(), 6) for _ in range(5)}
    case.network.eval()
    assert len(losses) == 5 and len({case.loss_of(trainer.method, plan).item() for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("model", "size", "frozen"),
    [("test_vit", 160, None), ("test_convnext", 32, None), ("test_resnet", 32, "backbone"), ("test_nfnet", 64, None)],
)
def test_stochnorm_needs_batch_normalisation_that_trains(model: str, size: int, frozen: str | None) -> None:
    case = Case(model, size)
    freeze(case.network, frozen)
    with pytest.raises(ValueError, match=f"model: stochnorm changes how batch .* {model} trains none; take a network"):
        case.method("stochnorm")
