"""Networks with every kind of classifier train, are saved and loaded; what needs a pretrained linear one says so.

They are timm's networks, made small: folders with arguments, as timm saves them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import run
from transfer import ANY_NORM, Case

from xmixup_fast.methods import METHODS
from xmixup_fast.models import classifiers
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.models.trained import load_network, save
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.optimizer import freeze, parameter_groups


class Small(NamedTuple):
    """A network of timm, made small."""

    model: str
    options: dict[str, Any]
    heads: int
    """Heads of the classifier that timm publishes it with."""
    size: int = 32
    linear: bool = False
    """Whether its pretrained classifier can be a source head."""


VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}
SMALL = {
    "Linear": Small("test_resnet", {}, 1, linear=True),
    "Conv2d, BiT": Small("resnetv2_18d", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}, 1, linear=True),
    "Conv2d, DPN": Small(
        "dpn48b", {"num_init_features": 8, "k_r": 16, "groups": 4, "k_sec": [1, 1, 1, 1]}, 1, linear=True
    ),
    "heads on one token": Small(
        "levit_128s", {"embed_dim": [16, 16, 16], "key_dim": 8, "num_heads": [1, 1, 1], "depth": [1, 1, 1]}, 2, 64
    ),
    "heads on two tokens": Small("deit_tiny_distilled_patch16_224", VIT, 2),
    "heads on two branches": Small(
        "crossvit_9_240", {"embed_dim": [16, 32], "num_heads": [2, 2], "depth": [[1, 1, 0]]}, 2, 120
    ),
    "heads in one module": Small("repvit_m0_9", {"embed_dim": [8, 8, 8, 8], "depth": [1, 1, 1, 1]}, 2),
    "head with pooling": Small(
        "sequencer2d_s", {"layers": [1, 1, 1, 1], "embed_dims": [8] * 4, "hidden_sizes": [4] * 4}, 1, linear=True
    ),
    "none, DINOv2": Small("vit_small_patch14_dinov2", VIT, 0, 28),
    "none, SigLIP": Small("vit_base_patch16_siglip_224", VIT, 0),
    "none, ResNet": Small("test_byobnet", {"num_classes": 0}, 0),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Small:
    """Each of the networks."""
    return SMALL[request.param]


def published(small: Small, folder: Path) -> str:
    """Writes a network with weights as timm saves them. Returns its name."""
    fixed = timm.get_pretrained_cfg(small.model).fixed_input_size
    torch.manual_seed(1)
    body = timm.create_model(small.model, **small.options, **({"img_size": small.size} if fixed else {}))
    timm.models.save_for_hf(body, folder)
    return f"local-dir:{folder}"


def network(small: Small, folder: Path, classes: str = "abc", **options: Any) -> Network:
    """The network with those weights, and a source head for four classes."""
    options = {"source_classes": list("wxyz"), "image_size": small.size, **options}
    return build(published(small, folder), "timm", list(classes), **options)


def test_logits_are_those_of_timms_network_and_of_the_saved_file(small: Small, tmp_path: Path) -> None:
    ours = network(small, tmp_path / "hub").eval()
    images = torch.randn(3, 3, small.size, small.size)
    with torch.no_grad():
        expected = ours.body(images)
        features, logits = ours.features_and_logits(images)
        _, first = ours.features_and_logits(images, 2)
        assert features.shape == (3, ours.width) and ours.source_logits(features).shape == (3, 4)
        for got in (ours(images), logits):
            torch.testing.assert_close(got, expected)
        torch.testing.assert_close(first, expected[:2])
    assert len(ours.target_heads()) == max(1, small.heads)
    path = tmp_path / "model.safetensors"
    save(ours, path, small.size)
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata().get("model_args", "{}"))
    timms = timm.create_model(small.model, num_classes=3, checkpoint_path=str(path), **arguments).eval()
    again, size = load_network(path)
    with torch.no_grad():
        assert size == small.size and torch.equal(again(images), ours(images)) and torch.equal(timms(images), expected)


ONE_LAYER = ("finetune", "xmixup", "cotuning", "bituning")
"""Methods that are tried below, or need a classifier of one layer."""
TRAINED = [
    *((name, method) for name in SMALL for method in ("finetune", "xmixup")),
    *(("heads on two tokens", method) for method in ANY_NORM if method not in ONE_LAYER),
    *(("Conv2d, BiT", method) for method in ("rifle", "cotrain", "cotuning", "delta")),
]


@pytest.mark.parametrize(("name", "method"), TRAINED)
def test_methods_train_all_heads(name: str, method: str, tmp_path: Path) -> None:
    """Heads and backbone change, and stay finite; layers have rates, and heads those of new layers."""
    small = SMALL[name]
    case = Case(size=small.size, steps=4, batch_size=4, lr=0.01, layer_decay=0.5, bss_k=1, rifle_periods=2)
    case.network = network(small, tmp_path)
    case.network.source_matched = torch.ones(4, dtype=torch.bool)
    before = {name: tensor.clone() for name, tensor in case.network.named_parameters()}
    trainer = case.trainer(method)
    for _ in range(3):
        trainer.step()
    changed = {name for name, tensor in case.network.named_parameters() if not torch.equal(tensor, before[name])}
    heads = set(classifiers.names(case.network.body, case.network.target_heads()))
    assert {f"body.{name}" for name in heads} & before.keys() <= changed
    assert len(changed) > len(heads) + 2
    assert all(tensor.isfinite().all() for tensor in case.network.state_dict().values())
    new = [group for group in parameter_groups(case.network, case.settings, 0.1) if group["lr_scale"] == 10.0]
    of_heads = {id(p) for head in case.network.target_heads() for p in head.parameters()}
    assert of_heads <= {id(parameter) for group in new for parameter in group["params"]}


def test_a_frozen_backbone_leaves_the_heads(small: Small, tmp_path: Path) -> None:
    ours = network(small, tmp_path, source_classes=None)
    freeze(ours, "backbone")
    trained = {id(parameter) for parameter in ours.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for head in ours.target_heads() for parameter in head.parameters()}


def test_linear_classifiers_become_source_heads_and_others_say_so(small: Small, tmp_path: Path) -> None:
    ours = network(small, tmp_path, source_classes=None, keep_classifier=True)
    settings = Settings(target="t", model=small.model, method="cotuning")
    if not small.linear:
        reason = "has none" if small.heads == 0 else r"ends in (2 heads|a \w+), not in one layer"
        with pytest.raises(
            ValueError, match=f"cotuning needs a pretrained classifier of one layer, and .* {reason}; take"
        ):
            METHODS["cotuning"](settings, ours)
        assert ours.source_head is None
        return
    METHODS["cotuning"](settings, ours)
    timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, small.size, small.size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval().source_logits(ours.features(images)), timms(images))
    known = build(f"local-dir:{tmp_path}", "timm", ["a"], source_classes=["n01443537", "b"]).eval()
    with torch.no_grad():
        torch.testing.assert_close(known.known_source_logits(known.features(images))[:, 0], timms(images)[:, 1])
        torch.testing.assert_close(known.classifier_logits(known.features(images)), timms(images))


def test_a_file_without_a_classifier_has_none(tmp_path: Path) -> None:
    """As those of self-supervised learning, such as DINO's ResNet."""
    state = {name: tensor for name, tensor in timm.create_model("test_resnet").state_dict().items() if "fc" not in name}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "dino.pth")
    ours = build("test_resnet", str(tmp_path / "dino.pth"), ["a"], source_classes=["n01440764"])
    assert torch.equal(ours.body.conv1[0].weight, state["conv1.0.weight"])
    assert ours.source_matched is not None and not ours.source_matched.any()
    assert ours.no_classifier == f"{tmp_path}/dino.pth holds none"


def test_an_encoder_without_a_place_for_a_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="model: test_resnet is an encoder without a place for a classifier; take"):
        build("test_resnet", "none", ["a"])


@pytest.mark.parametrize("name", ["none, DINOv2", "heads on two tokens"])
def test_a_run_selects_by_features_and_its_network_goes_on(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SMALL[name]
    settings = {"model": published(small, tmp_path / "hub"), "weights": "timm", "image_size": small.size, "epochs": 1}
    reason = "has none" if small.heads == 0 else "ends in 2 heads, not in one layer"
    for given, way in (({}, "--selection"), ({"selection": "assignment"}, "--similarity")):
        with pytest.raises(ValueError, match=f"selection: prediction needs .* {reason}; use {way} feature"):
            run(data, tmp_path / "refused", **settings, **given)
    first = run(data, tmp_path / "first", **settings, selection="feature", steps=2)
    capsys.readouterr()
    again = settings | {"weights": str(first.folder), "steps": 1, "lr": 1e-9}
    second = run(data, tmp_path / "second", "finetune", **again)
    said = f"weights: {first.folder}: weights of {small.model}; the target head is kept, as it has the same"
    assert said in capsys.readouterr().out
    assert second.summary["test_accuracy"] == first.summary["test_accuracy"]
    before, after = (load_file(result.folder / "model.safetensors") for result in (first, second))
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-4)
