"""Properties of optimisers, schedules, frozen layers, early stopping, and of networks of one input size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from interrupted_runs import assert_same, interrupted, run
from small_runs import arguments
from timm.optim import param_groups_layer_decay
from torch import Tensor
from transfer import ANY_NORM, Case

from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.training.optimizer import freeze, parameter_groups, rate
from xmixup_fast.training.run import Result, fit

# --- learning rates ---


def test_schedules_are_the_documented_formulas() -> None:
    rates = {name: [rate(name, 0, step, 8) for step in range(9)] for name in ("cosine", "linear", "step", "constant")}
    assert rates["linear"] == [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]
    assert rates["step"] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates["constant"] == [1] * 9
    half = 2**-0.5
    assert [rates["cosine"][step] for step in (0, 2, 4, 6, 8)] == pytest.approx(
        [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0], abs=1e-15
    )


def test_the_rate_rises_to_its_highest_and_the_schedule_begins_there() -> None:
    rates = [rate("linear", 4, step, 14) for step in range(15)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, *(1 - k / 10 for k in range(11))])
    # Half an epoch of 12 images in batches of 2 is 3 steps; each phase of seqtrain has them.
    case = Case(batch_size=2, warmup_epochs=0.5, steps=8, seqtrain_share=0.5, lr=0.5, schedule="constant")
    trainer = case.trainer("seqtrain")
    seen = []
    for _ in range(trainer.steps):
        seen.append((trainer.lr, trainer.optimizer.param_groups[-1]["lr"]))
        trainer.step()
    expected = [0.125, 0.25, 0.375, 0.5, 0.125, 0.25, 0.375, *[0.5] * 5]
    assert seen == [(lr, 10 * lr) for lr in expected]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_layers_have_timms_rates(model: str) -> None:
    network = build(model, "none", list("abc"), source_classes=list("wxyz"))
    settings = Settings(target="t", model=model, layer_decay=0.5, weight_decay=0.1, no_norm_decay=True)
    spared = network.body.no_weight_decay() if model == "test_vit" else ()
    theirs = param_groups_layer_decay(network.body, 0.1, no_weight_decay_list=spared, layer_decay=0.5)
    expected = {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]}
    head = network.body.get_classifier()
    expected |= {id(head.weight): (10.0, 0.1), id(head.bias): (10.0, 0.0)}
    assert network.source_head is not None
    expected |= {id(network.source_head.weight): (10.0, 0.1), id(network.source_head.bias): (10.0, 0.0)}
    ours = parameter_groups(network, settings, 0.1)
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in ours for p in group["params"]}
    assert found == expected and len({scale for scale, _ in expected.values()}) > 4
    assert sum(len(group["params"]) for group in ours) == len(expected)


def test_a_pretrained_source_head_is_of_the_last_layer() -> None:
    case = Case(layer_decay=0.5)
    assert case.network.source_head is not None
    for group in parameter_groups(case.network, case.settings, 0.1):
        if any(p is case.network.source_head.weight for p in group["params"]):
            assert (group["lr_scale"], group["weight_decay"]) == (1.0, 0.1)


def test_without_layer_decay_there_are_the_pretrained_and_the_new() -> None:
    case = Case()
    groups = parameter_groups(case.network, case.settings, 0.1)
    for group, parameters in zip(groups, case.network.parameter_groups(), strict=True):
        assert all(a is b for a, b in zip(group["params"], parameters, strict=True))
    assert [group["lr_scale"] for group in groups] == [1.0, 10.0]


# --- the optimiser ---


def test_adamw_begins_with_the_documented_step() -> None:
    case = Case(optimizer="adamw", lr=0.01, weight_decay=0.2, head_lr_multiplier=3.0)
    before = {name: p.detach().clone() for name, p in case.network.named_parameters()}
    case.trainer("finetune").step()
    for name, p in case.network.named_parameters():
        if p.grad is not None:
            lr = 0.03 if name.startswith("body.fc") else 0.01
            # Of the first step, corrected for their bias, the means of g and g^2 are g and g^2.
            expected = before[name] * (1 - lr * 0.2) - lr * p.grad / (p.grad.abs() + 1e-8)
            torch.testing.assert_close(p.detach(), expected)


def test_gradients_are_clipped_together_as_torch_does() -> None:
    def gradients(limit: float | None, parts: int | None = None) -> list[Tensor]:
        case = Case(clip_grad=limit, grad_accum_steps=parts, model="test_vit", size=160)
        case.trainer("finetune").step()
        return [p.grad for p in case.network.parameters() if p.grad is not None]

    whole = gradients(None)
    norm = torch.stack([g.square().sum() for g in whole]).sum().sqrt()
    assert norm > 0.1
    for one, other in zip(whole, gradients(2 * float(norm)), strict=True):
        assert torch.equal(one, other)
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in whole]
    for p, g in zip(parameters, whole, strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    for p, g, of_parts in zip(parameters, gradients(0.05), gradients(0.05, 3), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(g, p.grad)
        torch.testing.assert_close(of_parts, p.grad, rtol=1e-3, atol=1e-6)


# --- frozen layers ---


def state(case: Case) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in case.network.state_dict().items()}


@pytest.mark.parametrize("method", [name for name in ANY_NORM if name not in ("seqtrain", "bituning")])
def test_a_frozen_backbone_does_not_change_and_heads_do(method: str) -> None:
    case = Case()
    freeze(case.network, "backbone")
    before, trainer = state(case), case.trainer(method)
    for _ in range(2):
        trainer.step()
    trainer.evaluate(case.target)
    trainer.step()
    # The source head is pretrained here.
    changed = {name for name, tensor in case.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"body.fc.weight", "body.fc.bias"}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 2


def test_the_first_groups_of_layers_can_be_frozen() -> None:
    case = Case()
    freeze(case.network, 3)
    before, trainer = state(case), case.trainer("finetune")
    trainer.step()
    after = case.network.state_dict()
    unchanged = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    first = ("body.conv1", "body.bn1", "body.layer1", "body.layer2")
    frozen = {name for name in before if name.startswith(first)}
    assert frozen <= unchanged and {f"body.layer{n}.0.conv1.weight" for n in (3, 4)}.isdisjoint(unchanged)
    statistics = {name for name in before if "running" in name}
    assert statistics & unchanged == statistics & frozen
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in case.network.named_parameters() if not name.startswith(first)}


@pytest.mark.parametrize(("model", "most"), [("test_resnet", 5), ("test_vit", 7)])
def test_more_groups_than_there_are_cannot_be_frozen(model: str, most: int) -> None:
    network = build(model, "none", list("abc"))
    freeze(network, most)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        f"body.{'fc' if model == 'test_resnet' else 'head'}.{part}" for part in ("weight", "bias")
    }
    message = (
        f"freeze: expected backbone, or at most {most}, the layer groups of {model} before its head, got {most + 1}"
    )
    with pytest.raises(ValueError, match=message):
        freeze(network, most + 1)


# --- whole runs ---


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "lr": 1e-3, "warmup_epochs": 0.7, "layer_decay": 0.7, "freeze": 2, "clip_grad": 0.5},
        {"method": "seqtrain", "optimizer": "adamw", "lr": 1e-3, "warmup_epochs": 0.5, "schedule": "linear"},
        {"method": "rifle", "optimizer": "adamw", "lr": 1e-3, "no_norm_decay": True, "schedule": "step"},
        {"method": "finetune", "freeze": "backbone", "schedule": "constant", "grad_accum_steps": 2, "clip_grad": 1.0},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = run(data, tmp_path / "whole", **settings)
    interrupted(data, tmp_path / "run", 5, **settings)
    assert_same(whole, run(data, tmp_path / "run", resume="auto", **settings))


def _fit(data: Path, output: Path, **settings: Any) -> Result:
    return fit(**arguments(data, output, "finetune", **settings))


def test_weight_decay_that_is_not_used_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[dict[str, Any]] = [
        {"method": "xmixup", "regularizer": "l2sp", "weight_decay": 0.02},
        {"method": "xmixup", "regularizer": "l2sp"},
        {"method": "xmixup", "weight_decay": 0.02},
    ]
    for number, settings in enumerate(runs):
        fit(**arguments(data, tmp_path / str(number), **settings))
        said = "weight_decay 0.02 is not used: regularizer l2sp takes its place" in capsys.readouterr().out
        assert said == (number == 0)


def test_settings_that_are_as_ever_leave_a_runs_identity() -> None:
    base: dict[str, Any] = {"target": "t", "model": "m", "image_size": 224}
    plain = Settings(**base)
    as_ever = replace(plain, split_by="order", keep="last")
    assert run_hash(as_ever) == "8245138d3212ffc"  # before there were any of these
    assert run_hash(plain) not in ("8245138d3212ffc", run_hash(replace(plain, test="none")))
    assert run_hash(replace(as_ever, val_interval=2)) == run_hash(as_ever)
    assert run_hash(plain) == run_hash(replace(plain, test="hold", near_duplicates=True, data_changed="ignore"))
    assert run_hash(plain) != run_hash(replace(plain, duplicates="drop"))
    assert run_hash(plain) == run_hash(replace(plain, regularizer="none"))
    assert run_hash(plain) != run_hash(replace(plain, regularizer="l2sp"))
    changes: list[dict[str, Any]] = [
        *({"optimizer": "adamw"}, {"schedule": "linear"}, {"warmup_epochs": 1.0}, {"layer_decay": 0.9}),
        *({"freeze": 1}, {"freeze": "backbone"}, {"clip_grad": 1.0}, {"no_norm_decay": True}),
        *({"patience": 3}, {"val_interval": 2}, {"patience": 3, "val_interval": 2}, {"keep": "last"}),
        {"keep": "last", "patience": 3, "val_interval": 2},
    ]
    assert len({run_hash(Settings(**base, **change)) for change in [{}, *changes]}) == len(changes) + 1


# --- networks of one input size ---


def test_a_network_of_one_size_is_made_for_the_images(data: Path, tmp_path: Path) -> None:
    first = _fit(data, tmp_path / "first", model="test_vit", weights="none", steps=2)  # of 32 x 32
    path = str(first.folder / "model.safetensors")
    model = timm.create_model("test_vit", num_classes=3, img_size=32, checkpoint_path=path).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), first.network.eval()(images))

    network = build("test_vit", path, list("ab"), keep_classifier=True, image_size=64)
    theirs = timm.create_model(
        "test_vit",
        pretrained=True,
        img_size=64,
        num_classes=3,
        pretrained_cfg_overlay={"file": path, "num_classes": 3},
    )
    assert torch.equal(network.body.pos_embed, theirs.pos_embed) and network.body.pos_embed.shape[1] == 17
    assert network.source_head is not None and torch.equal(network.source_head.weight, theirs.head.weight)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2) and network.training


@pytest.mark.parametrize(("model", "size"), [("test_vit", 40), ("tf_efficientnet_lite0", 0), ("hiera_tiny_224", 100)])
def test_an_image_size_that_a_network_cannot_take_is_refused(model: str, size: int) -> None:
    message = rf"image_size: {model} cannot take images of {size} x {size} \(.+\)"
    with pytest.raises(ValueError, match=message):
        build(model, "none", list("ab"), image_size=size)


def test_weights_of_another_size_can_be_gone_on_with(data: Path, tmp_path: Path) -> None:
    save(build("test_vit", "none", list("wxyz"), image_size=32), tmp_path / "weights.safetensors", image_size=32)
    settings = {"model": "test_vit", "weights": str(tmp_path / "weights.safetensors"), "steps": 1}
    assert _fit(data, tmp_path / "run", image_size=48, **settings).network.body.pos_embed.shape[1] == 10


def test_weights_of_another_network_are_not_interpolated(tmp_path: Path) -> None:
    state = build("test_vit", "none", list("wxyz")).body.state_dict()
    torch.save({**state, "pos_embed": torch.zeros(1, 101, 48)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"does not fit test_vit: 1 of another shape: pos_embed \[1, 17, 64\], not"):
        build("test_vit", str(tmp_path / "weights.pth"), list("ab"), image_size=64)
