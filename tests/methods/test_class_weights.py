"""Weights of the target's classes: in the target part of every method's loss, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transfer import Case

from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.methods import METHODS, Method
from xmixup_fast.ops.image_format import OutputBuffers

WEIGHTS = torch.tensor([0.05, 1.0, 7.0])


def loss_and_gradients(case: Case, method: Method, plan: StepPlan) -> list[Tensor]:
    case.network.train()
    torch.manual_seed(0)  # for stochnorm
    loss = case.loss_of(method, plan)
    parameters = [p for p in case.network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return [loss.detach(), *gradients]


def target_part(case: Case, method: Method, plan: StepPlan, weights: Tensor) -> list[Tensor]:
    """What weights add to the target part of the loss, in plain PyTorch, and its gradients."""
    network = case.network.train()
    images = method.images(plan, case.pools, case.form, OutputBuffers())
    # Cotrain's batches go through the network together, of which batch normalisation takes statistics.
    logits = network(torch.cat(images))[: len(plan)]
    lam = plan.lam if method.second else torch.ones(len(plan))
    terms = [(lam, plan.label)] + [(1 - lam, plan.second_classes)] * (method.second == "partner")
    smoothing = case.settings.label_smoothing
    losses = [
        share * (weights[label] - 1) * F.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
        for share, label in terms
    ]
    loss = sum(losses, torch.zeros(len(plan))).mean()
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", METHODS)
def test_weights_multiply_the_target_part_of_each_sample_alone(name: str, smoothing: float) -> None:
    case = Case(label_smoothing=smoothing, alpha=1.0, seqtrain_share=0.25, stochnorm_p=1.0, bituning_weight=0.0)
    method = case.method(name)
    plan = method.plan(case.sampler, 4)
    if name == "seqtrain":
        optimizer = torch.optim.SGD(case.network.parameters(), lr=0.1)
        method.before_step(case.network, optimizer, 0, case.sampler.steps)
        source_plan = method.plan(case.sampler, 0)
        plain = loss_and_gradients(case, method, source_plan)
        method.weigh_classes(WEIGHTS)
        torch.testing.assert_close(loss_and_gradients(case, method, source_plan), plain)  # the source phase
        method.class_weights = None
        method.before_step(case.network, optimizer, 4, case.sampler.steps)
    plain = loss_and_gradients(case, method, plan)
    method.weigh_classes(torch.ones(3))
    torch.testing.assert_close(loss_and_gradients(case, method, plan), plain)
    method.weigh_classes(WEIGHTS)
    more = target_part(case, method, plan, WEIGHTS)
    expected = [a + b for a, b in zip(plain, more, strict=True)]
    torch.testing.assert_close(loss_and_gradients(case, method, plan), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_weights_keep_their_precision_in_16_bit(dtype: torch.dtype) -> None:
    """As a weight's gradient is a sum of two that nearly cancel."""
    case = Case(alpha=1.0, source_weight=0.0)
    method = case.method("xmixup")
    method.weigh_classes(torch.full((3,), 0.01))
    plan = replace(method.plan(case.sampler, 0), lam=torch.ones(6))
    gradients = []
    for some_dtype in (torch.float32, dtype):
        logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype).to(some_dtype)
        logits.requires_grad_()
        network: Any = type("Heads", (), {})()
        network.features_and_logits = lambda images, logits=logits: (None, logits)
        network.source_logits = lambda features, logits=logits: logits.detach()
        (gradient,) = torch.autograd.grad(method.loss(network, (torch.zeros(0),), plan), logits)
        gradients.append(gradient.float())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"bss", "bituning", "cotrain", "seqtrain"}))
def test_parts_of_a_batch_add_up(name: str) -> None:
    """So --grad-accum-steps and several processes change nothing, whatever classes are in which part.

    For methods whose loss is a sum over the samples in every phase.
    """
    case = Case(alpha=1.0)
    case.disturb()
    method = case.method(name)
    method.weigh_classes(WEIGHTS)
    plan = method.plan(case.sampler, 0)
    case.network.eval()  # batch normalisation sees other statistics in parts
    whole = case.loss_of(method, plan)
    parts = plan.split(4)
    torch.testing.assert_close(sum(case.loss_of(method, part) * len(part) / 6 for part in parts), whole)


def test_a_resumed_run_keeps_its_weights() -> None:
    case = Case()
    method, resumed = case.method("delta"), case.method("delta")
    method.weigh_classes(WEIGHTS.clone())
    resumed.weigh_classes(torch.ones(3))
    resumed.load_state_dict(method.state_dict())
    assert resumed.class_weights is not None and torch.equal(resumed.class_weights, WEIGHTS)
