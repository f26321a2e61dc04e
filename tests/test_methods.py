"""Properties of the methods: what each looks at, and its loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from xmixup_fast.methods import METHODS, Method
from xmixup_fast.models import Network, build
from xmixup_fast.pool import ImagePool
from xmixup_fast.rendering import Renderer
from xmixup_fast.sampling import Auxiliary, Draw, Sampler
from xmixup_fast.settings import Settings
from xmixup_fast.trainer import Trainer


class Case:
    """Twelve target images in 3 classes and eight auxiliary images in 4, random, and a small random network."""

    def __init__(self, **settings: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        target, aux = (torch.randint(0, 256, (n, 36, 40, 3), generator=generator, dtype=torch.uint8) for n in (12, 8))
        self.target = ImagePool.from_dense(target, torch.arange(12) % 3)
        self.aux = ImagePool.from_dense(aux, torch.arange(8) % 4)
        self.settings = Settings(
            **{"target": "t", "model": "test_resnet", "image_size": 32, "batch_size": 6, "steps": 12, **settings}
        )
        offsets, members = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 4, 1, 5, 3, 7])
        index = Auxiliary(self.aux.labels, self.aux.sizes, offsets, members)
        self.sampler = Sampler(self.target.labels, self.target.sizes, index, self.settings)
        self.renderer = Renderer(self.target, self.aux, (0.5,) * 3, (0.5,) * 3, size=32)
        self.network: Network = build("test_resnet", "none", list("abc"), list("wxyz"))

    def method(self, name: str) -> Method:
        return METHODS[name](self.settings, self.network, lambda: self.renderer.batches(self.target, 6))

    def loss(self, name: str, draw: Draw) -> torch.Tensor:
        self.network.train()
        method = self.method(name)
        return method.loss(self.network, method.inputs(draw, self.renderer), draw)


def test_unmixed_xmixup_and_mixup_are_finetuning() -> None:
    case = Case(label_smoothing=0.1)
    draw = case.sampler.draw(0)
    unmixed = replace(draw, lam=torch.ones_like(draw.lam))
    expected = case.loss("finetune", unmixed)
    for name in ("xmixup", "mixup"):
        torch.testing.assert_close(case.loss(name, unmixed), expected)
        assert not torch.isclose(case.loss(name, draw), expected)


def test_losses_are_the_documented_formulas() -> None:
    case = Case(source_weight=0.7)
    draw = case.sampler.draw(1)
    network, render = case.network, case.renderer
    assert draw.aux_label is not None

    features = network.features(render.xmixup(draw))
    target = F.cross_entropy(network.target_logits(features), draw.label, reduction="none")
    source = F.cross_entropy(network.source_logits(features), draw.aux_label, reduction="none")
    expected = (draw.lam * target + 0.7 * (1 - draw.lam) * source).mean()
    torch.testing.assert_close(case.loss("xmixup", draw), expected)

    expected = case.loss("finetune", draw) + 0.7 * F.cross_entropy(
        network.source_logits(network.features(render.aux(draw.aux_crops))), draw.aux_label
    )
    torch.testing.assert_close(case.loss("cotrain", draw), expected)

    soft = draw.lam[:, None] * F.one_hot(draw.label, 3) + (1 - draw.lam[:, None]) * F.one_hot(
        draw.label[draw.partner], 3
    )
    torch.testing.assert_close(case.loss("mixup", draw), F.cross_entropy(network(render.mixup(draw)), soft))


def test_images_are_mixed_as_the_draw_says() -> None:
    case = Case()
    draw = case.sampler.draw(0)
    target, aux = case.renderer.target(draw.crops), case.renderer.aux(draw.aux_crops)
    lam = draw.lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(case.renderer.xmixup(draw), lam * target + (1 - lam) * aux, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        case.renderer.mixup(draw), lam * target + (1 - lam) * target[draw.partner], atol=1e-5, rtol=0
    )


def test_batches_are_rendered_into_the_same_memory() -> None:
    case = Case()
    first, second = (case.renderer.xmixup(case.sampler.draw(step)) for step in (0, 1))
    assert first.data_ptr() == second.data_ptr() and first.is_contiguous(memory_format=torch.channels_last)
    assert case.renderer.target(case.sampler.draw(0).crops).data_ptr() != first.data_ptr()


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
    case = Case(lr=0.02, head_lr_multiplier=1.0, steps=30, mix_probability=0.5, flip=False)
    trainer = Trainer(case.network, case.method(name), case.sampler, case.renderer, case.settings)
    losses = [float(trainer.step()) for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_heads_have_their_own_learning_rate_and_it_falls_as_a_cosine() -> None:
    case = Case(lr=0.02, head_lr_multiplier=5.0, steps=12)
    trainer = Trainer(case.network, case.method("finetune"), case.sampler, case.renderer, case.settings)
    rates = []
    for _ in range(12):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.step()
    assert rates[0] == pytest.approx([0.02, 0.1]) and rates[6] == pytest.approx([0.01, 0.05])
    assert rates == sorted(rates, reverse=True)


def test_before_step_comes_before_each_step() -> None:
    calls = []

    class Counting(METHODS["finetune"]):  # type: ignore[misc]
        def before_step(self, network: Network, step: int, steps: int) -> None:
            calls.append((step, steps))

    case = Case(steps=2)
    method = Counting(case.settings, case.network, lambda: [])
    trainer = Trainer(case.network, method, case.sampler, case.renderer, case.settings)
    trainer.step()
    trainer.step()
    assert calls == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", METHODS)
def test_titles_match_the_images(name: str) -> None:
    case = Case()
    draw = case.sampler.draw(0)
    method = case.method(name)
    titles = method.titles(draw, list("abc"), list("wxyz"))
    assert [len(batch) for batch in titles] == [len(images) for images in method.inputs(draw, case.renderer)]
    assert all("abc"[label] in title for label, title in zip(draw.label.tolist(), titles[0], strict=True))


def test_a_method_without_auxiliary_images_says_so() -> None:
    case = Case()
    alone = Renderer(case.target, None, (0.5,) * 3, (0.5,) * 3, size=32)
    with pytest.raises(ValueError, match="aux: this run has no auxiliary images"):
        alone.xmixup(case.sampler.draw(0))
