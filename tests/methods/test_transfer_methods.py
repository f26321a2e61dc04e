"""Each method against a small computation of its own: the formula in NumPy, or a case made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transfer import Array, Case, array, cross_entropy, log_softmax

from xmixup_fast.batches.plan import Draw
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS
from xmixup_fast.methods.cotuning import Cotuning
from xmixup_fast.methods.l2sp import half_squared_distance
from xmixup_fast.methods.rifle import Rifle
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.ops.lam import rectangles
from xmixup_fast.settings.fields import Settings


def logits_of(case: Case, images: Tensor) -> tuple[Array, Array, Array]:
    """Features, target logits and source logits in training mode."""
    features = case.network.train().features(images)
    heads = case.network.target_logits(features), case.network.source_logits(features)
    return array(features), array(heads[0]), array(heads[1])


# --- L2-SP ---


def parameters(case: Case) -> dict[str, Array]:
    return {name: array(weight).copy() for name, weight in case.network.named_parameters()}


def anchored(case: Case, start: dict[str, Array]) -> float:
    """L2-SP's penalty with 0.3 and 0.2, of a network whose target head alone is new."""
    now, head = parameters(case), {"body.fc.weight", "body.fc.bias"}
    assert head < now.keys() and any("bn" in name for name in now)
    distance = sum(((now[name] - start[name]) ** 2).sum() for name in now.keys() - head)
    return float(0.3 / 2 * distance + 0.2 / 2 * sum((now[name] ** 2).sum() for name in head))


def test_l2sp_draws_weights_to_their_start_and_the_head_to_zero() -> None:
    case = Case(l2sp_alpha=0.3, l2sp_beta=0.2)
    case.network.source_head = None
    start = parameters(case)
    method = METHODS["l2sp"](case.settings, case.network)
    case.disturb()
    draw = case.sampler.draw(0)
    loss = method.loss(case.network, method.inputs(draw, case.renderer), draw).item()
    logits = array(case.network.train()(case.renderer.target(draw.crops)))
    assert loss == pytest.approx(cross_entropy(logits, draw.label).mean() + anchored(case, start), rel=1e-5)


def test_the_penaltys_gradient_is_the_way_from_the_start() -> None:
    shapes = (3, 2), (4,), (1, 2, 2)
    x = [nn.Parameter(torch.rand(shape).double()) for shape in shapes]
    y = [torch.rand(shape).double() for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: half_squared_distance([*x], y), x)
    (3 * half_squared_distance(x, y)).backward()
    for a, b in zip(x, y, strict=True):
        torch.testing.assert_close(a.grad, 3 * (a - b))


@pytest.mark.parametrize("name", ["xmixup", "xcutmix"])
def test_an_anchor_adds_l2sps_penalty(name: str) -> None:
    case, plain = (Case(l2sp_alpha=0.3, l2sp_beta=0.2, anchor=anchor) for anchor in (True, False))
    plain.network.load_state_dict(case.network.state_dict())
    start = parameters(case)
    assert "source_head.weight" in start
    method = case.method(name)
    losses = []
    for one, its in ((case, method), (plain, plain.method(name))):
        one.disturb()
        draw = one.sampler.draw(0)
        losses.append(its.loss(one.network.train(), its.inputs(draw, one.renderer), draw).item())
    assert losses[0] == pytest.approx(losses[1] + anchored(case, start), rel=1e-5)
    again = METHODS[name](case.settings, case.network)  # as a resumed run makes it, then tells it where it started
    again.load_state_dict(method.state_dict())
    draw = case.sampler.draw(0)
    resumed = again.loss(case.network, again.inputs(draw, case.renderer), draw).item()
    assert resumed == pytest.approx(losses[0], rel=1e-5)


def test_l2sp_takes_the_place_of_weight_decay() -> None:
    def decays(name: str, **settings: Any) -> list[float]:
        trainer = Case(weight_decay=0.03, **settings).trainer(name)
        return [group["weight_decay"] for group in trainer.optimizer.param_groups]

    assert decays("l2sp") == decays("xmixup") == [0, 0]
    assert decays("finetune") == decays("delta") == decays("xmixup", anchor=False) == [0.03, 0.03]
    assert decays("xmixup", weights="none") == [0.03, 0.03]  # there is nothing to be drawn to


# --- BSS ---


@pytest.mark.parametrize("count", [1, 3])
def test_bss_penalises_the_smallest_singular_values(count: int) -> None:
    case = Case(bss_eta=0.5, bss_k=count)
    draw = case.sampler.draw(0)
    features, logits, _ = logits_of(case, case.renderer.target(draw.crops))
    values = np.linalg.svd(features, compute_uv=False)
    expected = cross_entropy(logits, draw.label).mean() + 0.5 * (np.sort(values)[:count] ** 2).sum()
    assert case.loss("bss", draw).item() == pytest.approx(expected, rel=1e-5)


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


def rectangle(lam: float, center: tuple[float, float], size: tuple[int, int] = (10, 10)) -> tuple[list[int], float]:
    box, weight = rectangles(torch.tensor([lam]), torch.tensor([center]), size)
    assert box.dtype == torch.int32 and weight.dtype == torch.float32
    return box[0].tolist(), float(weight)


def test_rectangles_are_cut_off_at_the_edges_and_weigh_what_is_left() -> None:
    assert rectangle(0.75, (0.5, 0.5)) == ([3, 3, 5, 5], 0.75)
    assert rectangle(0.75, (0.0, 0.0)) == ([0, 0, 3, 3], pytest.approx(0.91))
    assert rectangle(0.75, (0.99, 0.3)) == ([7, 1, 3, 5], pytest.approx(0.85))
    assert rectangle(0.75, (0.5, 0.9), (20, 10)) == ([5, 7, 10, 3], pytest.approx(0.85))
    assert rectangle(0.0, (0.5, 0.5)) == ([0, 0, 10, 10], 0.0)
    assert rectangle(1.0, (0.2, 0.9))[1] == 1.0 and 0 in rectangle(1.0, (0.2, 0.9))[0][2:]


def pasted(images: Array, others: Array, draw: Draw) -> tuple[Array, Array]:
    """CutMix pixel by pixel, and how much of each image is its own."""
    size = images.shape[-1]
    mixed, own = images.copy(), np.empty(len(images))
    for b, (lam, (y, x)) in enumerate(zip(draw.lam.tolist(), draw.center.tolist(), strict=True)):
        side = round((1 - lam) ** 0.5 * size)
        top, left = int(y * size) - side // 2, int(x * size) - side // 2
        kept = 0
        for row in range(size):
            for column in range(size):
                if top <= row < top + side and left <= column < left + side:
                    mixed[b, :, row, column] = others[b, :, row, column]
                else:
                    kept += 1
        own[b] = kept / size**2
    return mixed, own


def test_cutmix_pastes_the_partner_and_weighs_labels_by_area() -> None:
    case = Case(alpha=1.0, fold=False)
    draw = case.sampler.draw(3, partners=True)
    images = array(case.renderer.target(draw.crops))
    mixed, own = pasted(images, images[draw.partner.numpy()], draw)
    np.testing.assert_allclose(array(case.renderer.cutmix(draw)), mixed, atol=1e-6)
    assert len(set(own.round(3))) == 6
    logits = log_softmax(logits_of(case, case.renderer.cutmix(draw))[1])
    soft = own[:, None] * np.eye(3)[draw.label] + (1 - own[:, None]) * np.eye(3)[draw.label[draw.partner]]
    assert case.loss("cutmix", draw).item() == pytest.approx(-(soft * logits).sum(1).mean(), rel=1e-5)


def test_xcutmix_pastes_the_auxiliary_image_and_weighs_both_heads_by_area() -> None:
    case = Case(alpha=1.0, fold=False, source_weight=0.7, anchor=False)
    draw = case.sampler.draw(3)
    assert draw.aux_label is not None
    images, aux = array(case.renderer.target(draw.crops)), array(case.renderer.aux(draw.aux_crops))
    mixed, own = pasted(images, aux, draw)
    np.testing.assert_allclose(array(case.renderer.xcutmix(draw)), mixed, atol=1e-6)
    _, target, source = logits_of(case, case.renderer.xcutmix(draw))
    losses = own * cross_entropy(target, draw.label) + 0.7 * (1 - own) * cross_entropy(source, draw.aux_label)
    assert case.loss("xcutmix", draw).item() == pytest.approx(losses.mean(), rel=1e-5)


def test_rectangles_lie_anywhere_and_depend_on_seed_and_step() -> None:
    case = Case(batch_size=12)
    centers = torch.stack([case.sampler.draw(step).center for step in range(200)])
    assert centers.shape == (200, 12, 2) and centers.min() >= 0 and centers.max() < 1
    assert float((centers.mean((0, 1)) - 0.5).abs().max()) < 0.02
    assert float((centers.var((0, 1)) - 1 / 12).abs().max()) < 0.005
    again = Case(batch_size=12).sampler
    assert torch.equal(again.draw(7).center, centers[7]) and not torch.equal(centers[7], centers[8])
    assert not torch.equal(Case(batch_size=12, seed=1).sampler.draw(7).center, centers[7])
    without = Sampler(case.target.labels, case.target.sizes, None, case.settings)
    assert torch.equal(without.draw(7).center, centers[7])


# --- Co-Tuning ---


def test_cotuning_is_its_formula_over_the_classes_that_the_classifier_knows() -> None:
    case = Case(cotuning_weight=1.7)
    case.network.source_matched = torch.tensor([True, False, True, True])
    known = [0, 2, 3]
    method = case.method("cotuning")
    assert isinstance(method, Cotuning)
    case.network.eval()
    chances = []
    for images, _ in case.renderer.batches(case.target, 12):
        features = case.network.features(images)
        chances.append(np.exp(log_softmax(array(case.network.source_logits(features))[:, known])))
    classes = case.target.labels.numpy()
    relationship = np.stack([np.concatenate(chances)[classes == j].mean(0) for j in range(3)])
    np.testing.assert_allclose(array(method.relationship), relationship, rtol=1e-5)

    draw = case.sampler.draw(0)
    _, target, source = logits_of(case, case.renderer.target(draw.crops))
    soft = -(relationship[draw.label] * log_softmax(source[:, known])).sum(1).mean()
    expected = cross_entropy(target, draw.label).mean() + 1.7 * soft
    case.network.train()
    assert method.loss(case.network, method.inputs(draw, case.renderer), draw).item() == pytest.approx(
        expected, rel=1e-5
    )


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
        draw = trainer.method.draw(case.sampler, step)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        if step < 4:
            images = case.renderer.aux(draw.aux_crops).clone()
            _, _, source = logits_of(case, images)
            assert draw.aux_label is not None
            expected = cross_entropy(source, draw.aux_label).mean()
        else:
            wanted = plain.sampler.draw(step - 4)
            assert torch.equal(draw.label, wanted.label) and torch.equal(draw.crops.window, wanted.crops.window)
            _, target, _ = logits_of(case, case.renderer.target(wanted.crops).clone())
            expected = cross_entropy(target, draw.label).mean()
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
    drawn = [case.sampler.draw(step, aux_of_any_class=True) for step in range(300)]
    indices = torch.cat([draw.aux_crops.index for draw in drawn if draw.aux_crops is not None])
    counts = indices.bincount(minlength=8)
    assert counts[2] == counts[6] == 0  # of no class
    expected = 3600 / 6
    assert (counts[[0, 1, 3, 4, 5, 7]] - expected).abs().max() < 5 * expected**0.5
    for draw in drawn[:5]:
        assert draw.aux_crops is not None and draw.aux_label is not None
        assert torch.equal(draw.aux_label, case.aux.labels[draw.aux_crops.index])


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
    ],
)
def test_settings_of_methods_are_checked(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected {expected}, got {value}"):
        Settings(target="t", model="m", **{name: value})


def test_xmixup_pastes_in_some_steps_and_blends_in_others() -> None:
    case = Case(rectangle_probability=0.3, alpha=1.0)
    blended = Case(alpha=1.0)
    draws = [case.sampler.draw(step) for step in range(200)]
    assert 40 <= sum(draw.rectangle for draw in draws) <= 80
    assert torch.equal(draws[1].lam, blended.sampler.draw(1).lam)  # everything else is as it was
    for draw in draws[:8]:
        other = "xcutmix" if draw.rectangle else "xmixup"
        assert torch.equal(case.loss("xmixup", draw), case.loss(other, replace(draw, rectangle=False)))
    assert {draw.rectangle for draw in draws[:8]} == {False, True}
    assert draws[0].part(1, 3).rectangle == draws[0].rectangle
