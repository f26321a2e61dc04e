"""The network's own image size, further arguments of the network, and what the outputs of weights stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from xmixup_fast.models.architecture import image_size
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network, save
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.training.resolve import with_image_size

NETWORK = "test_resnet"
CLASSES = ["a", "b"]


# --- image size ---


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet50", 224),
        ("inception_v3", 299),
        ("tf_efficientnet_b4", 380),
        ("vit_tiny_patch16_384", 384),
        ("vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", 384),
        ("tf_efficientnet_lite0", 224),
        (NETWORK, 160),
    ],
)
def test_a_networks_own_size_is_the_default(model: str, expected: int) -> None:
    assert image_size(model) == expected
    settings = Settings(target="t", model=model)
    assert with_image_size(settings).image_size == expected
    assert with_image_size(settings).short_side == round(expected * 8 / 7)
    given = Settings(target="t", model=model, image_size=96)
    assert with_image_size(given) == given


def test_the_size_of_a_folders_network_is_its_configs(tmp_path: Path) -> None:
    config = {"architecture": NETWORK, "num_classes": 2, "pretrained_cfg": {"input_size": [3, 144, 160]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert image_size(f"local-dir:{tmp_path}") == 144
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    with pytest.raises(ValueError, match=r"image_size: must be given, as timm does not know which size local-dir:"):
        image_size(f"local-dir:{tmp_path}")


def test_a_resize_below_the_networks_own_size_is_refused() -> None:
    settings = Settings(target="t", model="inception_v3", resize=256)
    with pytest.raises(ValueError, match="resize: expected full, or at least image_size, 299, got 256"):
        with_image_size(settings)


def test_a_size_is_not_guessed_before_the_network_is_asked() -> None:
    settings = Settings(target="t", model="resnet50")
    with pytest.raises(ValueError, match="image_size: expected a number of pixels"):
        _ = settings.short_side
    assert run_hash(settings) != run_hash(with_image_size(settings))  # its settings name it then


@pytest.mark.parametrize(
    ("weights", "size", "said"),
    [
        ("run", 64, "image_size: 64, and the weights of test_resnet were made for 32"),
        ("run", 32, "image_size: 32, as the weights of test_resnet were made for it"),
        ("file", 96, "image_size: 96, and the weights of test_resnet were made for 160"),
        ("file", 160, "image_size: 160, as the weights of test_resnet were made for it"),
        ("none", 96, None),
        ("none", 160, "image_size: 160, as test_resnet was made for it"),
    ],
)
def test_another_size_than_the_weights_is_said(tmp_path: Path, weights: str, size: int, said: str | None) -> None:
    save(build(NETWORK, "none", CLASSES), tmp_path / "run.safetensors", image_size=32)
    torch.save(timm.create_model(NETWORK).state_dict(), tmp_path / "file.pth")
    paths = {"run": str(tmp_path / "run.safetensors"), "file": str(tmp_path / "file.pth"), "none": "none"}
    lines: list[str] = []
    build(NETWORK, paths[weights], CLASSES, image_size=size, log=lines.append)
    assert [line for line in lines if line.startswith("image_size")] == ([] if said is None else [said])


# --- arguments of the network ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_pth_rate": 0.1}, "model_args: timm cannot make test_resnet with drop_pth_rate=0.1 (.*drop_pth_rate"),
        ({"layers": "two"}, "model_args: timm cannot make test_resnet with layers=two"),
        ({"num_classes": 3}, "model_args: num_classes=3 cannot be given, as the classes are those of the target"),
        ({"img_size": 64}, "model_args: img_size=64 cannot be given, as --image-size tells the size"),
        ({"pretrained": True}, "model_args: pretrained=True cannot be given, as --weights tells it"),
        ({"checkpoint_path": "x"}, "model_args: checkpoint_path=x cannot be given, as --weights tells it"),
        (
            {"features_only": True},
            "model_args: features_only=True cannot be given, as the network needs its classifier",
        ),
        *(
            (
                {"in_chans": value},
                f"model_args: in_chans: expected 3, as images are decoded to RGB, (.*got {value};",
            )
            for value in (1, 4)
        ),
        ({"global_pool": ""}, "model_args: "),
    ],
)
def test_arguments_that_cannot_be_given_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(NETWORK, "none", CLASSES, image_size=32, model_args=arguments)
    start, _, rest = message.partition(" (.*")
    assert str(caught.value).startswith(start) and rest in str(caught.value) and "\n" not in str(caught.value)


def test_arguments_reach_the_network_and_its_file(tmp_path: Path) -> None:
    arguments = {"drop_rate": 0.25, "in_chans": 3}
    network = build(NETWORK, "none", CLASSES, image_size=32, model_args=arguments)
    assert network.body.drop_rate == 0.25 and network.model_arguments == arguments
    save(network, tmp_path / "model.safetensors", 32)
    loaded, _ = load_network(tmp_path)
    assert loaded.body.drop_rate == 0.25 and loaded.model_arguments == arguments


def test_arguments_of_a_folders_network_come_on_top(tmp_path: Path) -> None:
    config = {
        "architecture": NETWORK,
        "num_classes": 2,
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
        "model_args": {"drop_rate": 0.5},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for arguments, expected in (({}, 0.5), ({"drop_rate": 0.125}, 0.125)):
        network = build(f"local-dir:{tmp_path}", "none", CLASSES, model_args=arguments)
        assert network.body.drop_rate == expected and network.model_arguments == {"drop_rate": expected}


# --- classes of the outputs ---


def imagenet_file(folder: Path, name: str) -> str:
    path = folder / name
    torch.save(timm.create_model(NETWORK).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", ["w.pth", "resnet50_a1_in1k.pth", "r50-imagenet1k.pth", "bin1kg.pth"])
def test_that_1000_outputs_are_taken_for_imagenets_is_said_unless_a_name_says_it(tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    build(NETWORK, imagenet_file(tmp_path, name), ["n01440764", "b"], log=lines.append)
    said = "its 1000 outputs are taken for ImageNet's classes; --weights-classes names others" in lines[0]
    assert said == (name in ("w.pth", "bin1kg.pth"))


@pytest.mark.parametrize("form", ["imagenet-1k", "lines", "json", "by number", "with words"])
def test_the_classes_of_outputs_can_be_named(tmp_path: Path, form: str) -> None:
    weights = imagenet_file(tmp_path, "w.pth")
    names = [f"class {i}" for i in range(1000)]
    (tmp_path / "lines").write_text("\ufeff" + "\r\n".join(names) + "\r\n\r\n", encoding="utf-8")
    (tmp_path / "json").write_text(json.dumps(names))
    (tmp_path / "by number").write_text(json.dumps(dict(enumerate(names))))
    (tmp_path / "with words").write_text(json.dumps({i: [name, "words"] for i, name in enumerate(names)}))
    given, first = (form, "n01440764") if form == "imagenet-1k" else (str(tmp_path / form), "class 0")
    lines: list[str] = []
    network = build(NETWORK, weights, ["b", first], weights_classes=given, log=lines.append)
    assert network.target_matched is not None and network.target_matched.tolist() == [False, True]
    assert network.classifier_classes[0] == first and "the target head keeps 1 of 2 classes; new: b" in lines[0]
    row = timm.create_model(NETWORK)
    row.load_state_dict(torch.load(weights))
    assert torch.equal(network.body.fc.weight[1], row.fc.weight[0]) and "taken for ImageNet" not in lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", "expected a name for each of the classifier's 1000 outputs, got 2 names"),
        ("\n".join(["a"] * 1000), "expected a name for each of the classifier's 1000 outputs, got a twice"),
        ("[1, 2]", r"expected a list of names, or one by number from 0 on, got \[1, 2\]"),
        ('{"1": "a", "2": "b"}', "expected a list of names, or one by number from 0 on, got "),
        ("[1, ", "neither a list of names nor JSON"),
        (None, "no such file; expected a file of names, one a line, or imagenet-1k, imagenet-12k"),
    ],
)
def test_wrong_names_of_outputs_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    names = tmp_path / "names"
    if content is not None:
        names.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"weights_classes: {names}: {message}"):
        build(NETWORK, imagenet_file(tmp_path, "w.pth"), CLASSES, weights_classes=str(names))
    with pytest.raises(ValueError, match="weights_classes: expected nothing, as the weights have no classifier"):
        build(NETWORK, "none", CLASSES, weights_classes="imagenet-1k")
