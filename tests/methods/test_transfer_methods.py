"""Each method against a small computation of its own: the formula in NumPy, or a case made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from transfer import Array, Case, array, cross_entropy, log_softmax

from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS, bss
from xmixup_fast.methods.bss import BSS
from xmixup_fast.methods.cotuning import Cotuning
from xmixup_fast.methods.l2sp import half_squared_distance
from xmixup_fast.methods.rifle import Rifle
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.ops.reference_draw import cutmix_boxes
from xmixup_fast.settings.fields import Settings


def logits_of(case: Case, images: Tensor) -> tuple[Array, Array, Array]:
    """Features, target logits and source logits in training mode."""
    features = case.network.train().features(images)
    heads = case.network.target_logits(features), case.network.source_logits(features)
    return array(features), array(heads[0]), array(heads[1])


# --- L2-SP ---


def parameters(case: Case) -> dict[str, Array]:
    return {name: array(weight).copy() for name, weight in case.network.named_parameters()}


def expected_penalty(case: Case, start: dict[str, Array]) -> float:
    """L2-SP's penalty with 0.3 and 0.2, of a network whose target head alone is new."""
    now, head = parameters(case), {"body.fc.weight", "body.fc.bias"}
    assert head < now.keys() and any("bn" in name for name in now)
    distance = sum(((now[name] - start[name]) ** 2).sum() for name in now.keys() - head)
    return float(0.3 / 2 * distance + 0.2 / 2 * sum((now[name] ** 2).sum() for name in head))


def test_l2sp_draws_weights_to_their_start_and_the_head_to_zero() -> None:
    case = Case(regularizer="l2sp", l2sp_alpha=0.3, l2sp_beta=0.2)
    case.network.source_head = None
    start = parameters(case)
    trainer = case.trainer("finetune")
    case.disturb()
    plan = case.plan("finetune", 0)
    loss = trainer.loss((case.target_images(plan),), plan).item()
    logits = array(case.network.train()(case.target_images(plan)))
    assert loss == pytest.approx(cross_entropy(logits, plan.label).mean() + expected_penalty(case, start), rel=1e-5)


def test_the_gradient_of_the_penalty_is_the_distance_from_the_start() -> None:
    shapes = (3, 2), (4,), (1, 2, 2)
    x = [nn.Parameter(torch.rand(shape).double()) for shape in shapes]
    y = [torch.rand(shape).double() for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: half_squared_distance([*x], y), x)
    (3 * half_squared_distance(x, y)).backward()
    for a, b in zip(x, y, strict=True):
        torch.testing.assert_close(a.grad, 3 * (a - b))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"bituning"}))  # which adds a layer
def test_a_regularizer_adds_its_penalty_to_the_loss_of_every_method(name: str) -> None:
    case, plain = (Case(l2sp_alpha=0.3, l2sp_beta=0.2, regularizer=regularizer) for regularizer in ("l2sp", "none"))
    plain.network.load_state_dict(case.network.state_dict())
    start = parameters(case)
    assert "source_head.weight" in start
    trainers = [case.trainer(name), plain.trainer(name)]
    losses = []
    for one, trainer in zip((case, plain), trainers, strict=True):
        one.disturb()
        plan = trainer.method.plan(one.sampler, 0)
        images = trainer.method.images(plan, one.pools, one.form, trainer.buffers)
        torch.manual_seed(0)  # for stochnorm
        losses.append(trainer.loss(images, plan).item())
    assert losses[0] == pytest.approx(losses[1] + expected_penalty(case, start), rel=1e-5)


def test_a_regularizer_takes_the_place_of_weight_decay() -> None:
    def decays(name: str, **settings: Any) -> list[float]:
        trainer = Case(weight_decay=0.03, **settings).trainer(name)
        return [group["weight_decay"] for group in trainer.optimizer.param_groups]

    for name in ("finetune", "xmixup", "delta"):
        assert decays(name, regularizer="l2sp") == [0, 0]
        assert decays(name) == [0.03, 0.03]


def test_a_regularizer_needs_a_pretrained_start() -> None:
    with pytest.raises(ValueError, match=r"regularizer: expected none with weights none, .* got l2sp"):
        Settings(target="t", model="m", weights="none", regularizer="l2sp")


# --- BSS ---


@pytest.mark.parametrize("count", [1, 3])
def test_bss_penalises_the_smallest_singular_values(count: int) -> None:
    case = Case(bss_eta=0.5, bss_k=count)
    plan = case.plan("bss", 0)
    features, logits, _ = logits_of(case, case.target_images(plan))
    values = np.linalg.svd(features, compute_uv=False)
    expected = cross_entropy(logits, plan.label).mean() + 0.5 * (np.sort(values)[:count] ** 2).sum()
    assert case.loss("bss", plan).item() == pytest.approx(expected, rel=1e-5)


@given(batch=st.integers(1, 12), processes=st.integers(1, 4), micro_batches=st.integers(1, 3))
def test_bss_knows_the_longest_part_without_asking(batch: int, processes: int, micro_batches: int) -> None:
    assume(batch >= max(processes, micro_batches))
    case = Case(batch_size=batch, grad_accum_steps=micro_batches)
    samplers = [Sampler(case.target, None, case.settings, rank=r, world_size=processes) for r in range(processes)]
    parts = [sampler.plan(0).split(micro_batches) for sampler in samplers]
    method = METHODS["bss"](case.settings, case.network)
    assert isinstance(method, BSS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bss, "world_size", lambda: processes)
        for of_all in zip(*parts, strict=True):
            assert {method._longest(part.micro_batch) for part in of_all} == {max(map(len, of_all))}


def test_bss_says_that_a_batch_has_too_few_singular_values() -> None:
    with pytest.raises(ValueError, match="bss_k: expected at most 6, the singular values of a batch, got 7"):
        Case(bss_k=7).method("bss")


# --- RIFLE ---


def test_rifle_begins_each_later_period_with_a_new_head_without_momentum() -> None:
    case = Case(rifle_periods=3, steps=12)
    trainer = case.trainer("rifle")
    head = case.network.body.get_classifier()
    first = head.weight.detach().clone()
    new = {}
    for step in range(12):
        before = head.weight.detach().clone()
        state = torch.random.get_rng_state()
        trainer.method.before_step(case.network, trainer.optimizer, step, 12)
        assert torch.equal(torch.random.get_rng_state(), state)  # dropout goes on as it would
        if not torch.equal(head.weight, before):
            new[step] = head.weight.detach().clone()
            assert head.weight not in trainer.optimizer.state and head.bias not in trainer.optimizer.state
            assert case.network.body.conv1[0].weight in trainer.optimizer.state
        trainer.step()
    assert list(new) == [4, 8] and not torch.equal(new[4], new[8])
    bound = head.in_features**-0.5
    for weight in (first, *new.values()):
        assert 0.9 * bound < weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.15)


def test_rifles_heads_depend_on_seed_and_step_alone() -> None:
    def head(seed: int, step: int) -> Tensor:
        case = Case(rifle_periods=3, steps=12, seed=seed)
        case.disturb()
        optimizer = torch.optim.SGD(case.network.parameters(), lr=1)
        Rifle(case.settings, case.network).before_step(case.network, optimizer, step, 12)
        return case.network.body.get_classifier().weight

    assert torch.equal(head(0, 4), head(0, 4))
    assert not torch.equal(head(0, 4), head(1, 4)) and not torch.equal(head(0, 4), head(0, 8))


# --- CutMix, XCutMix ---


def box_of(lam: float, center: tuple[float, float], size: tuple[int, int] = (10, 10)) -> tuple[list[int], float]:
    box, weight = cutmix_boxes(torch.tensor([lam]), torch.tensor([center]), size)
    assert box.dtype == torch.int32 and weight.dtype == torch.float32
    return box[0].tolist(), float(weight)


def test_boxes_are_cut_off_at_the_edges_and_the_weight_is_the_rest() -> None:
    assert box_of(0.75, (0.5, 0.5)) == ([3, 3, 5, 5], 0.75)
    assert box_of(0.75, (0.0, 0.0)) == ([0, 0, 3, 3], pytest.approx(0.91))
    assert box_of(0.75, (0.99, 0.3)) == ([7, 1, 3, 5], pytest.approx(0.85))
    assert box_of(0.75, (0.5, 0.9), (20, 10)) == ([5, 7, 10, 3], pytest.approx(0.85))
    assert box_of(0.0, (0.5, 0.5)) == ([0, 0, 10, 10], 0.0)
    assert box_of(1.0, (0.2, 0.9))[1] == 1.0 and 0 in box_of(1.0, (0.2, 0.9))[0][2:]


def pasted(images: Array, others: Array, plan: StepPlan) -> tuple[Array, Array]:
    """CutMix pixel by pixel, with the plan's boxes, and the share of each image outside of its box."""
    size = images.shape[-1]
    mixed, own = images.copy(), np.empty(len(images))
    for b, (top, left, height, width) in enumerate(plan.mix.box.tolist()):
        kept = 0
        for row in range(size):
            for column in range(size):
                if top <= row < top + height and left <= column < left + width:
                    mixed[b, :, row, column] = others[b, :, row, column]
                else:
                    kept += 1
        own[b] = kept / size**2
    return mixed, own


def test_cutmix_pastes_the_partner_and_weighs_labels_by_area() -> None:
    case = Case(alpha=1.0, fold=False)
    plan = case.plan("cutmix", 1)
    images = array(case.target_images(plan))
    mixed, own = pasted(images, array(case.partner_images(plan)), plan)
    np.testing.assert_allclose(array(case.mixed(plan)), mixed, atol=1e-6)
    np.testing.assert_allclose(array(plan.lam), own, rtol=1e-6)
    assert len(set(own.round(3))) > 3
    logits = log_softmax(logits_of(case, case.mixed(plan))[1])
    soft = own[:, None] * np.eye(3)[plan.label] + (1 - own[:, None]) * np.eye(3)[plan.second_classes]
    assert case.loss("cutmix", plan).item() == pytest.approx(-(soft * logits).sum(1).mean(), rel=1e-5)


def test_xcutmix_pastes_the_auxiliary_image_and_weighs_both_heads_by_area() -> None:
    case = Case(alpha=1.0, fold=False, source_weight=0.7)
    plan = case.plan("xcutmix", 1)
    mixed, own = pasted(array(case.target_images(plan)), array(case.auxiliary_images(plan)), plan)
    np.testing.assert_allclose(array(case.mixed(plan)), mixed, atol=1e-6)
    _, target, source = logits_of(case, case.mixed(plan))
    losses = own * cross_entropy(target, plan.label) + 0.7 * (1 - own) * cross_entropy(source, plan.second_classes)
    assert case.loss("xcutmix", plan).item() == pytest.approx(losses.mean(), rel=1e-5)


def test_boxes_depend_on_seed_and_epoch() -> None:
    def boxes(step: int, **settings: Any) -> Tensor:
        sampler = Case(batch_size=12, alpha=1.0, **settings).sampler
        plan = sampler.plan(step, second="partner", box=True)
        assert plan.mix.boxed.all()
        return plan.mix.box

    assert torch.equal(boxes(7), boxes(7)) and not torch.equal(boxes(7), boxes(8))
    assert not torch.equal(boxes(7), boxes(7, seed=1))
    auxiliary = Case(batch_size=12, alpha=1.0).sampler.plan(7, second="auxiliary", box=True)
    assert torch.equal(auxiliary.mix.box, boxes(7))  # the same for every method


# --- Co-Tuning ---


def test_cotuning_is_its_formula_over_the_classes_that_the_classifier_knows() -> None:
    case = Case(cotuning_weight=1.7)
    case.network.source_matched = torch.tensor([True, False, True, True])
    known = [0, 2, 3]
    method = case.method("cotuning")
    assert isinstance(method, Cotuning)
    case.network.eval()
    chances = []
    for images, _ in case.batches(12):
        features = case.network.features(images)
        chances.append(np.exp(log_softmax(array(case.network.source_logits(features))[:, known])))
    classes = case.target.labels.numpy()
    relationship = np.stack([np.concatenate(chances)[classes == j].mean(0) for j in range(3)])
    np.testing.assert_allclose(array(method.relationship), relationship, rtol=1e-5)

    plan = case.plan("cotuning", 0)
    _, target, source = logits_of(case, case.target_images(plan))
    soft = -(relationship[plan.label] * log_softmax(source[:, known])).sum(1).mean()
    expected = cross_entropy(target, plan.label).mean() + 1.7 * soft
    case.network.train()
    assert case.loss_of(method, plan).item() == pytest.approx(expected, rel=1e-5)


def test_cotuning_says_before_training_that_it_needs_a_pretrained_classifier() -> None:
    case = Case()
    for network in (
        build("test_resnet", "none", ["a", "b", "c"], source_classes=list("wxyz")),
        build("test_resnet", "none", ["a", "b", "c"], keep_classifier=True),
        build("test_resnet", "none", ["a", "b", "c"]),
    ):
        with pytest.raises(ValueError, match="weights: cotuning needs a pretrained classifier"):
            METHODS["cotuning"](case.settings, network)


def test_the_source_head_can_be_the_pretrained_classifier_itself(tmp_path: Any) -> None:
    first = build("test_resnet", "none", ["cat", "dog", "fox", "newt"])
    save(first, tmp_path / "first.safetensors", image_size=32)
    network = build("test_resnet", str(tmp_path / "first.safetensors"), ["p", "q"], keep_classifier=True)
    assert network.source_head is not None and network.source_matched is not None
    assert network.source_matched.tolist() == [True] * 4
    assert torch.equal(network.source_head.weight, first.body.get_classifier().weight)
    assert network.body.get_classifier().out_features == 2
    pretrained, new = network.parameter_groups()
    assert any(network.source_head.weight is parameter for parameter in pretrained) and len(new) == 2


# --- sequential training ---


def test_seqtrain_first_learns_the_source_then_the_target() -> None:
    case = Case(steps=8, seqtrain_share=0.5, lr=0.02)
    trainer = case.trainer("seqtrain")
    assert (trainer.source_phase_steps, trainer.steps) == (4, 12)
    plain = Case(steps=8)
    target_head, source_head = case.network.body.get_classifier(), case.network.source_head
    assert source_head is not None
    target_start = target_head.weight.detach().clone()
    rates = []
    for step in range(12):
        plan = trainer.method.plan(case.sampler, step)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        if step < 4:
            _, _, source = logits_of(case, case.auxiliary_images(plan))
            expected = cross_entropy(source, plan.second_classes).mean()
        else:
            wanted = plain.sampler.plan(step - 4)
            assert torch.equal(plan.label, wanted.label) and torch.equal(
                plan.mix.target_crops.window, wanted.mix.target_crops.window
            )
            _, target, _ = logits_of(case, case.target_images(wanted))
            expected = cross_entropy(target, plan.label).mean()
        if step == 4:
            assert torch.equal(target_head.weight, target_start)
            source_start = source_head.weight.detach().clone()
            trainer.method.before_step(case.network, trainer.optimizer, 3, 8)
            assert trainer.optimizer.state
            trainer.method.before_step(case.network, trainer.optimizer, 4, 8)
            assert not trainer.optimizer.state  # a new optimiser
        assert float(trainer.step()) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(source_head.weight, source_start) and not torch.equal(target_head.weight, target_start)
    cosine = [0.01 * (1 + np.cos(np.pi * step / steps)) for steps in (4, 8) for step in range(steps)]
    assert rates == pytest.approx(cosine)


def test_seqtrain_draws_from_the_union_of_the_auxiliary_images() -> None:
    case = Case(batch_size=12)
    plans = [case.sampler.plan(step, any_class=True) for step in range(300)]
    indices = torch.cat([plan.mix.aux_crops.index for plan in plans])
    counts = indices.bincount(minlength=8)
    assert counts[2] == counts[6] == 0  # of no class
    expected = 3600 / 6
    assert (counts[[0, 1, 3, 4, 5, 7]] - expected).abs().max() < 5 * expected**0.5
    for plan in plans[:5]:
        assert torch.equal(plan.second_classes, case.aux.labels[plan.mix.aux_crops.index])


# --- settings ---


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("l2sp_alpha", -1.0, "zero or a positive number"),
        ("l2sp_beta", float("nan"), "zero or a positive number"),
        ("delta_alpha", -0.1, "zero or a positive number"),
        ("bss_eta", float("inf"), "zero or a positive number"),
        ("bss_k", 0, "a positive number"),
        ("rifle_periods", 0, "a positive number"),
        ("cotuning_weight", -2.3, "zero or a positive number"),
        ("seqtrain_share", 0.0, "a positive number"),
        ("lwf_weight", -1.0, "zero or a positive number"),
        ("lwf_temperature", 0.0, "a positive number"),
        ("bituning_weight", -0.5, "zero or a positive number"),
        ("stochnorm_p", 1.5, "a number from 0 to 1"),
        ("head_init", 2.5, "one of fresh, source, probe"),
    ],
)
def test_settings_of_methods_are_checked(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected {expected}, got {value}"):
        Settings(target="t", model="m", **{name: value})
