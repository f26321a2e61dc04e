"""config.json of a trained network: timm and the Hub make the network and its transforms of it alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants

from xmixup_fast.commands.export import export
from xmixup_fast.models import architecture
from xmixup_fast.models.architecture import Architecture
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.models.timm_config import crop_share, timm_config
from xmixup_fast.models.trained import Preprocessing, save

CLASSES = ["1", "2", "10"]
NETWORKS: dict[str, tuple[str, int]] = {
    "convolutions": ("test_resnet", 32),
    "another name of its weights": ("test_resnet.r160_in1k", 48),
    "an input size of its own": ("test_vit", 96),
    "another input size": ("test_vit", 64),
}


def saved(folder: Path, network: Network, size: int, resize: int | str | None = None) -> Path:
    """A folder as export writes it."""
    folder.mkdir()
    save(network, folder / "trained.safetensors", size, resize)
    export(folder / "trained.safetensors", ["safetensors"], folder / "exported")
    return folder / "exported"


def assert_same_network(network: Network, found: Any, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(images), network.eval()(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_timm_makes_the_network_and_its_transforms(tmp_path: Path, kind: str) -> None:
    name, size = NETWORKS[kind]
    network = build(name, "none", CLASSES, image_size=size)
    network.mean, network.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    folder = saved(tmp_path / "folder", network, size, size + 11)
    found = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert_same_network(network, found, size)
    config = timm.data.resolve_model_data_config(found)
    assert tuple(config["input_size"]) == (3, size, size) and math.floor(size / config["crop_pct"]) == size + 11
    assert (config["interpolation"], config["crop_mode"]) == ("bilinear", "center")
    assert (tuple(config["mean"]), tuple(config["std"])) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert list(found.pretrained_cfg["label_names"]) == CLASSES
    again = build(f"local-dir:{folder}", "timm", CLASSES, image_size=size)
    assert_same_network(network, again, size)
    assert again.mean == network.mean and again.target_matched is not None and again.target_matched.all()


def test_arguments_of_the_network_are_kept(tmp_path: Path) -> None:
    arguments = {"channels": [4, 8, 16, 32], "stem_width": 4}
    body = architecture.create(Architecture("test_resnet", {**arguments, "num_classes": 3}), 32)
    about: dict[str, Any] = {"model_name": "test_resnet", "model_arguments": arguments, "classes": CLASSES}
    network = Network(body, None, None, **about, mean=(0.5,) * 3, std=(0.5,) * 3)
    folder = saved(tmp_path / "folder", network, 32)
    assert_same_network(network, timm.create_model(f"local-dir:{folder}", pretrained=True), 32)


@pytest.mark.parametrize("prefix", ["hf_hub", "hf-hub"])
def test_the_hub_makes_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    network = build("test_resnet", "none", CLASSES)
    repository, revision = tmp_path / "hub" / "models--user--flowers", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots").mkdir()
    saved(tmp_path / "folder", network, 32).rename(repository / "snapshots" / revision)
    assert_same_network(network, timm.create_model(f"{prefix}:user/flowers", pretrained=True), 32)


def test_what_timm_cannot_do_is_an_error_and_no_other_picture(tmp_path: Path) -> None:
    folder = saved(tmp_path / "folder", build("test_resnet", "none", CLASSES), 32, "full")
    found = timm.create_model(f"local-dir:{folder}", pretrained=True)
    with pytest.raises(KeyError, match="images keep their own size"):
        timm.data.create_transform(**timm.data.resolve_model_data_config(found))
    steps = json.loads((folder / "config.json").read_text())["preprocessing"]
    assert not any("resize" in step for step in steps) and steps[-2].startswith("crop the middle 32 x 32 pixels")


def test_the_first_weights_say_nothing_of_the_last(tmp_path: Path) -> None:
    """What holds of the pretrained weights alone, such as where they come from, is not in config.json."""
    network = build("test_resnet", "none", CLASSES)
    former = {"url": "https://absent.invalid/w.pth", "custom_load": True, "label_offset": 1, "test_crop_pct": 1.0}
    former |= {"test_input_size": [3, 288, 288], "hf_hub_id": "timm/", "crop_mode": "squash", "tag": "in1k"}
    network.body.pretrained_cfg = {**network.body.pretrained_cfg, **former}
    found = timm_config(network, Preprocessing.of(network, 32, 40))["pretrained_cfg"]
    assert not former.keys() - {"crop_mode"} & found.keys() and found["crop_mode"] == "center"
    folder = saved(tmp_path / "folder", network, 32)
    assert_same_network(network, timm.create_model(f"local-dir:{folder}", pretrained=True), 32)


def test_the_short_side_is_what_timm_divides_to() -> None:
    for size in (1, 7, 31, 32, 160, 224, 299, 380, 384):
        for short_side in range(size, 3 * size + 7):
            stored = json.loads(json.dumps(crop_share(size, short_side)))
            assert math.floor(size / stored) == short_side, (size, short_side)
