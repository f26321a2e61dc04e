"""Properties that all methods share: what a step looks at, resuming, titles; and the losses of those that mix."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from transfer import ANY_NORM, STEPPING, Case

from xmixup_fast.batches.render import Pools
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS
from xmixup_fast.models.network import Network
from xmixup_fast.ops.image_format import OutputBuffers
from xmixup_fast.training.head_fit import fit_head
from xmixup_fast.training.trainer import Trainer

DINOV2 = "vit_small_patch14_dinov2"
NETWORKS = {"test_resnet": 32, "test_vit": 160, "test_convnext": 32, "tf_efficientnet_lite0": 32, DINOV2: 28}
"""With the size of their images."""
WITH_BATCH_NORM = ("test_resnet", "tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DINOv2 of two small blocks: a ViT with layer scale, and without a classifier of its own."""
    folder = tmp_path_factory.mktemp("dinov2")
    timm.models.save_for_hf(timm.create_model(DINOV2, embed_dim=16, depth=2, num_heads=2, img_size=28), folder)
    return folder


def test_unmixed_images_are_those_of_finetuning() -> None:
    case, unmixed = Case(label_smoothing=0.1), Case(label_smoothing=0.1, mix_probability=0.0)
    unmixed.network.load_state_dict(case.network.state_dict())
    expected = case.loss("finetune", case.plan("finetune", 0))
    for name in ("xmixup", "mixup", "cutmix", "xcutmix"):
        torch.testing.assert_close(unmixed.loss(name, unmixed.plan(name, 0)), expected)
        assert not torch.isclose(case.loss(name, case.plan(name, 0)), expected)


def test_losses_are_the_documented_formulas() -> None:
    case = Case(source_weight=0.7)
    network = case.network

    plan = case.plan("xmixup", 1)
    features = network.features(case.mixed(plan))
    target = F.cross_entropy(network.target_logits(features), plan.label, reduction="none")
    source = F.cross_entropy(network.source_logits(features), plan.second_classes, reduction="none")
    expected = (plan.lam * target + 0.7 * (1 - plan.lam) * source).mean()
    torch.testing.assert_close(case.loss("xmixup", plan), expected)

    plan = case.plan("cotrain", 1)
    both = network.features(torch.cat([case.target_images(plan), case.auxiliary_images(plan)]))  # normalised together
    target = F.cross_entropy(network.target_logits(both[: len(plan)]), plan.label)
    source = F.cross_entropy(network.source_logits(both[len(plan) :]), plan.second_classes)
    torch.testing.assert_close(case.loss("cotrain", plan), target + 0.7 * source)

    plan = case.plan("mixup", 1)
    lam = plan.lam[:, None]
    soft = lam * F.one_hot(plan.label, 3) + (1 - lam) * F.one_hot(plan.second_classes, 3)
    torch.testing.assert_close(case.loss("mixup", plan), F.cross_entropy(network(case.mixed(plan)), soft))


def test_images_are_mixed_as_the_plan_says() -> None:
    case = Case()
    for name in ("xmixup", "mixup"):
        plan = case.plan(name, 0)
        target = case.target_images(plan)
        second = case.auxiliary_images(plan) if name == "xmixup" else case.partner_images(plan)
        lam = plan.lam.view(-1, 1, 1, 1)
        assert plan.lam.min() < 0.95
        torch.testing.assert_close(case.mixed(plan), lam * target + (1 - lam) * second, atol=1e-5, rtol=0)


def test_batches_of_one_content_are_rendered_into_the_same_memory() -> None:
    case, buffers = Case(), OutputBuffers()
    method = case.method("cotrain")
    (first, auxiliary), (second, _) = (
        method.images(case.plan("cotrain", step), case.pools, case.form, buffers) for step in (0, 1)
    )
    assert first.data_ptr() == second.data_ptr() != auxiliary.data_ptr()
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_a_pass_over_a_pool_gives_each_image_once_with_its_label() -> None:
    case = Case()
    sizes, labels = zip(*((len(images), labels) for images, labels in case.batches(5)), strict=True)
    assert sizes == (5, 5, 2) and torch.equal(torch.cat(labels), case.target.labels)
    images, _ = next(case.batches(1))
    expected = case.target[0][2:34, 4:36].permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(images[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STEPPING)
def test_every_method_learns_its_training_images(name: str) -> None:
    weights = {"cotuning_weight": 0.5, "bituning_weight": 0.1}
    case = Case(lr=0.02, head_lr_multiplier=1.0, steps=30, mix_probability=0.5, flip=False, **weights)
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
    trainer = Trainer(case.parts(method), case.settings)
    trainer.step()
    trainer.step()
    assert calls == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", METHODS)
def test_titles_match_the_images(name: str) -> None:
    case = Case()
    method = case.method(name)
    plan = method.plan(case.sampler, 0)
    titles = method.titles(plan, list("abc"), list("wxyz"))
    images = method.images(plan, case.pools, case.form, OutputBuffers())
    assert [len(batch) for batch in titles] == [len(batch) for batch in images]
    names, labels = ("wxyz", plan.second_classes) if name == "seqtrain" else ("abc", plan.label)
    assert all(names[label] in title for label, title in zip(labels.tolist(), titles[0], strict=True))


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_every_kind_of_network(name: str, model: str, dinov2: Path) -> None:
    at = f"local-dir:{dinov2}" if model == DINOV2 else model
    case = Case(at, NETWORKS[model], batch_size=3, steps=2, seqtrain_share=0.5)
    before = {name: tensor.clone() for name, tensor in case.network.named_parameters()}
    if name == "stochnorm" and model not in WITH_BATCH_NORM:
        with pytest.raises(ValueError, match=f"model: stochnorm changes .*, and {model} trains none; take a network"):
            case.trainer(name)
        return
    trainer = case.trainer(name)
    losses = [trainer.step() for _ in range(trainer.steps)]
    if name == "linear-probe":
        assert trainer.steps == 0
        fit_head(trainer, print)
        heads = {id(parameter) for head in case.network.target_heads() for parameter in head.parameters()}
        changed = {key for key, tensor in case.network.named_parameters() if not torch.equal(tensor, before[key])}
        assert changed == {key for key, tensor in case.network.named_parameters() if id(tensor) in heads}
        return
    assert torch.stack(losses).isfinite().all()
    after = dict(case.network.named_parameters())
    unused = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    source = {"source_head.weight", "source_head.bias"}
    uses_head = METHODS[name].uses_source or METHODS[name].uses_classifier
    # A layer whose channels are all cut off by ReLU may have no gradient; the heads and the first layer always have.
    assert source.isdisjoint(unused) if uses_head else source <= unused
    assert len(unused - source) < 0.1 * len(before)


@pytest.mark.parametrize("regularizer", ["none", "l2sp"])
@pytest.mark.parametrize("name", STEPPING)
def test_a_resumed_method_goes_on_to_the_same_bits(name: str, regularizer: str) -> None:
    whole = Case(steps=6, regularizer=regularizer).trainer(name)
    for _ in range(2):
        whole.step()
    saved = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    losses = [float(whole.step()) for _ in range(2, whole.steps)]

    case = Case(steps=6, regularizer=regularizer)
    case.disturb()  # a method takes nothing from the network that it is made with, but from the state
    method = METHODS[name](case.settings, case.network)
    resumed = Trainer(case.parts(method), case.settings)
    resumed.load_state_dict(saved, 2)
    assert [float(resumed.step()) for _ in range(2, resumed.steps)] == losses
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(case.network.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["delta", "cotuning"])
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
    method, plan = case.method("xmixup"), case.plan("xmixup", 0)
    with pytest.raises(ValueError, match="auxiliary: this run has no auxiliary images"):
        method.images(plan, Pools(case.target, None), case.form, OutputBuffers())
    alone = Sampler(case.target, None, case.settings).plan(0)
    with pytest.raises(ValueError, match="plan: has no second image"):
        case.loss("xmixup", alone)


@pytest.mark.parametrize("name", sorted(set(ANY_NORM) - {"bss", "bituning"}))
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(name: str) -> None:
    """bss looks at the features of a part together, and bituning's queues move on with each part."""

    def gradients(parts: int | None) -> list[torch.Tensor]:
        case = Case(model="test_vit", size=160, grad_accum_steps=parts)
        case.disturb()
        trainer = case.trainer(name)
        loss = trainer.step()
        return [loss, *(p.grad for p in case.network.parameters() if p.grad is not None)]

    for whole, parts in zip(gradients(None), gradients(4), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)
