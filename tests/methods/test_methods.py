"""Properties that all methods share: what a step looks at, resuming, titles; and the losses of those that mix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transfer import Case

from xmixup_fast.batches.render import Renderer
from xmixup_fast.methods import METHODS
from xmixup_fast.models.network import Network
from xmixup_fast.training.trainer import Trainer

NETWORKS = {"test_resnet": 32, "test_vit": 160, "test_convnext": 32, "tf_efficientnet_lite0": 32}
"""With the size of their images."""


def test_unmixed_images_are_those_of_finetuning() -> None:
    case = Case(label_smoothing=0.1, anchor=False)
    draw = case.sampler.draw(0, partners=True)
    unmixed = replace(draw, lam=torch.ones_like(draw.lam))
    expected = case.loss("finetune", unmixed)
    for name in ("xmixup", "mixup", "cutmix", "xcutmix"):
        torch.testing.assert_close(case.loss(name, unmixed), expected)
        assert not torch.isclose(case.loss(name, draw), expected)


def test_losses_are_the_documented_formulas() -> None:
    case = Case(source_weight=0.7, anchor=False, rectangle_probability=0.0)
    draw = case.sampler.draw(1, partners=True)
    network, render = case.network, case.renderer
    assert draw.aux_label is not None

    features = network.features(render.xmixup(draw))
    target = F.cross_entropy(network.target_logits(features), draw.label, reduction="none")
    source = F.cross_entropy(network.source_logits(features), draw.aux_label, reduction="none")
    expected = (draw.lam * target + 0.7 * (1 - draw.lam) * source).mean()
    torch.testing.assert_close(case.loss("xmixup", draw), expected)

    both = network.features(torch.cat([render.target(draw.crops), render.aux(draw.aux_crops)]))  # normalised together
    target = F.cross_entropy(network.target_logits(both[: len(draw.label)]), draw.label)
    source = F.cross_entropy(network.source_logits(both[len(draw.label) :]), draw.aux_label)
    torch.testing.assert_close(case.loss("cotrain", draw), target + 0.7 * source)

    soft = draw.lam[:, None] * F.one_hot(draw.label, 3) + (1 - draw.lam[:, None]) * F.one_hot(
        draw.label[draw.partner], 3
    )
    torch.testing.assert_close(case.loss("mixup", draw), F.cross_entropy(network(render.mixup(draw)), soft))


def test_images_are_mixed_as_the_draw_says() -> None:
    case = Case()
    draw = case.sampler.draw(0, partners=True)
    target, aux = case.renderer.target(draw.crops), case.renderer.aux(draw.aux_crops)
    lam = draw.lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(case.renderer.xmixup(draw), lam * target + (1 - lam) * aux, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        case.renderer.mixup(draw), lam * target + (1 - lam) * target[draw.partner], atol=1e-5, rtol=0
    )


def test_batches_are_rendered_into_the_same_memory() -> None:
    case = Case()
    first, second = (case.renderer.xmixup(case.sampler.draw(step, partners=True)) for step in (0, 1))
    assert first.data_ptr() == second.data_ptr() and first.is_contiguous(memory_format=torch.channels_last)
    assert case.renderer.target(case.sampler.draw(0, partners=True).crops).data_ptr() != first.data_ptr()


def test_a_pass_over_a_pool_gives_each_image_once_with_its_label() -> None:
    case = Case()
    sizes, labels = zip(
        *((len(images), labels) for images, labels in case.renderer.batches(case.target, 5)), strict=True
    )
    assert sizes == (5, 5, 2) and torch.equal(torch.cat(labels), case.target.labels)
    images, _ = next(case.renderer.batches(case.target, 1))
    expected = case.target[0][2:34, 4:36].permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(images[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_its_training_images(name: str) -> None:
    case = Case(lr=0.02, head_lr_multiplier=1.0, steps=30, mix_probability=0.5, flip=False, cotuning_weight=0.5)
    trainer = case.trainer(name)
    losses = [float(trainer.step()) for _ in range(trainer.steps)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_heads_have_their_own_learning_rate_and_it_falls_as_a_cosine() -> None:
    case = Case(lr=0.02, head_lr_multiplier=5.0, steps=12)
    trainer = case.trainer("finetune")
    rates = []
    for _ in range(12):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.step()
    assert rates[0] == pytest.approx([0.02, 0.1]) and rates[6] == pytest.approx([0.01, 0.05])
    assert rates == sorted(rates, reverse=True)


def test_before_step_comes_before_each_step() -> None:
    calls = []

    class Counting(METHODS["finetune"]):  # type: ignore[misc]
        def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
            calls.append((step, steps))

    case = Case(steps=2)
    method = Counting(case.settings, case.network)
    trainer = Trainer(case.network, method, case.sampler, case.renderer, case.settings)
    trainer.step()
    trainer.step()
    assert calls == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", METHODS)
def test_titles_match_the_images(name: str) -> None:
    case = Case()
    method = case.method(name)
    draw = method.draw(case.sampler, 0)
    titles = method.titles(draw, list("abc"), list("wxyz"))
    assert [len(batch) for batch in titles] == [len(images) for images in method.inputs(draw, case.renderer)]
    names, labels = ("wxyz", draw.aux_label) if name == "seqtrain" else ("abc", draw.label)
    assert labels is not None
    assert all(names[label] in title for label, title in zip(labels.tolist(), titles[0], strict=True))


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_every_kind_of_network(name: str, model: str) -> None:
    case = Case(model, NETWORKS[model], batch_size=3, steps=2, seqtrain_share=0.5)
    before = {name: tensor.clone() for name, tensor in case.network.named_parameters()}
    trainer = case.trainer(name)
    losses = [trainer.step() for _ in range(trainer.steps)]
    assert torch.stack(losses).isfinite().all()
    unused = {name for name, tensor in case.network.named_parameters() if torch.equal(tensor, before[name])}
    source = {"source_head.weight", "source_head.bias"}
    uses_head = METHODS[name].uses_source or METHODS[name].uses_classifier
    # A layer whose channels are all cut off by ReLU may have no gradient; the heads and the first layer always have.
    assert source.isdisjoint(unused) if uses_head else source <= unused
    assert len(unused - source) < 0.1 * len(before)


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_method_goes_on_to_the_same_bits(name: str) -> None:
    whole = Case(steps=6).trainer(name)
    for _ in range(2):
        whole.step()
    saved = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    losses = [float(whole.step()) for _ in range(2, whole.steps)]

    case = Case(steps=6)
    case.disturb()  # a method takes nothing from the network that it is made with, but from the state
    method = METHODS[name](case.settings, case.network)
    resumed = Trainer(case.network, method, case.sampler, case.renderer, case.settings)
    resumed.load_state_dict(saved, 2)
    assert [float(resumed.step()) for _ in range(2, resumed.steps)] == losses
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(case.network.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["l2sp", "delta", "cotuning"])
def test_a_state_of_another_network_or_method_is_refused(name: str) -> None:
    case = Case()
    method = case.method(name)
    state = method.state_dict()
    first, tensor = next(iter(state.items()))
    with pytest.raises(ValueError, match=rf"state: {first}: expected \[.*\], got \[1, "):
        method.load_state_dict({**state, first: tensor.unsqueeze(0)})
    with pytest.raises(ValueError, match=r"state: expected \d+ tensors, got 0; not in both: "):
        method.load_state_dict({})
    with pytest.raises(ValueError, match="state: expected 0 tensors, got"):
        case.method("finetune").load_state_dict(state)


def test_a_method_without_auxiliary_images_says_so() -> None:
    case = Case()
    alone = Renderer(case.target, None, (0.5,) * 3, (0.5,) * 3, size=32)
    with pytest.raises(ValueError, match="aux: this run has no auxiliary images"):
        alone.xmixup(case.sampler.draw(0, partners=True))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"bss"}))
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(name: str) -> None:
    """bss looks at the features of a part together."""

    def gradients(parts: int | None) -> list[torch.Tensor]:
        case = Case(model="test_vit", size=160, grad_accum_steps=parts)
        case.disturb()
        trainer = case.trainer(name)
        loss = trainer.step()
        return [loss, *(p.grad for p in case.network.parameters() if p.grad is not None)]

    for whole, parts in zip(gradients(None), gradients(4), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)
