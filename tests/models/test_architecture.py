"""Networks by name: timm's own, those of a folder and of the Hub, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from timm.models import _hub

from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load, save

CLASSES = ["cat", "dog", "fox"]


def saved(folder: Path, model: str = "test_resnet", names: Any = CLASSES, **options: Any) -> Any:
    """timm's network of three classes, and its folder as timm writes it."""
    torch.manual_seed(1)
    body = timm.create_model(model, num_classes=3, **options).eval()
    timm.models.save_for_hf(body, folder, model_config={"label_names": names} if names else None)
    return body


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the Hub's repositories are folders of the same names."""

    def download(repo_id: str, filename: str, **_: Any) -> str:
        if not (tmp_path / repo_id / filename).is_file():
            raise LocalEntryNotFoundError("We cannot find the files in the cache.\nPlease check your connection.")
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(_hub, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # nobody is asked
    return tmp_path


def assert_is(model: str, body: Any, size: int, tmp_path: Path) -> None:
    """Asserts that a network is ``body``, and that its file needs neither the Hub nor the folder."""
    said: list[str] = []
    network = build(model, "timm", CLASSES, image_size=size, log=said.append).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(network(images), body(images))
    assert [line for line in said if not line.startswith("image_size")] == [
        f"weights of {model.replace('hf_hub', 'hf-hub')}; the target head is kept, as it has the same 3 classes"
    ]
    save(network, tmp_path / "model.safetensors", image_size=size)
    shutil.rmtree(tmp_path / "user", ignore_errors=True)
    again, preprocessing = load(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images), body(images))
    assert (preprocessing.classes, preprocessing.image_size) == (CLASSES, size)


@pytest.mark.parametrize("source", ["hf-hub:", "hf_hub:", "local-dir:"])
@pytest.mark.parametrize(
    ("model", "options", "size"),
    [("test_resnet", {}, 32), ("test_vit", {"img_size": 64}, 64), ("test_vit", {"img_size": 64, "depth": 3}, 64)],
)
def test_a_network_of_the_hub_or_of_a_folder_keeps_weights_head_and_arguments(
    hub: Path, source: str, model: str, options: dict[str, Any], size: int
) -> None:
    body = saved(hub / "user/network", model, **options)
    name = f"{hub}/user/network" if source == "local-dir:" else "user/network"
    assert_is(source + name, body, size, hub)


@pytest.mark.parametrize(
    "names", [None, {"0": "cat", "1": "dog", "2": "fox"}, {"0": "cat", "2": "fox"}, ["cat", "dog"]]
)
def test_classes_are_taken_from_label_names_where_each_output_has_one(tmp_path: Path, names: Any) -> None:
    saved(tmp_path, names=None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | ({"label_names": names} if names else {})))
    network = build(f"local-dir:{tmp_path}", "timm", ["fox", "ant"], source_classes=["dog"])
    assert network.target_matched is not None and network.source_matched is not None
    known = names is not None and len(names) == 3
    assert network.target_matched.tolist() == [known, False] and network.source_matched.tolist() == [known]


def test_weights_of_another_image_size_are_of_the_run(tmp_path: Path) -> None:
    """The file's network is made for the run's image size, whatever the folder's arguments say."""
    model = "deit_tiny_patch16_224"
    saved(tmp_path, model, img_size=32, depth=1)
    network = build(f"local-dir:{tmp_path}", "timm", CLASSES, image_size=224).eval()
    save(network, tmp_path / "w.safetensors", image_size=224)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["model"] == model and json.loads(file.metadata()["model_args"])["depth"] == 1
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "w.safetensors")[0](images), network(images))


def test_other_weights_go_into_a_folders_network(tmp_path: Path) -> None:
    body = saved(tmp_path / "folder", "test_vit", depth=3)
    torch.save(body.state_dict(), tmp_path / "w.pth")
    network = build(f"local-dir:{tmp_path}/folder", str(tmp_path / "w.pth"), ["a"])
    assert torch.equal(network.body.blocks[2].norm1.weight, body.blocks[2].norm1.weight)
    assert len(build(f"local-dir:{tmp_path}/folder", "none", ["a"]).body.blocks) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"cannot be read \(Config file not found: .*\); expected a folder with the config\.json"),
        ("junk", r"cannot be read \(Expecting value"),
        ("[]", r"cannot be read \("),
        ("{}", r"cannot be read \(it lacks 'architecture'\)"),
        ('{"architecture": "no_net", "pretrained_cfg": {}}', r"is a network 'no_net', which timm [\d.]+ does not have"),
        ('{"architecture": 3, "pretrained_cfg": {}}', r"is a network 3, which timm"),
    ],
)
def test_a_folder_without_a_network_is_named(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"model: local-dir:{tmp_path} {reason}") as caught:
        build(f"local-dir:{tmp_path}", "none", ["a"])
    assert "\n" not in str(caught.value)


def test_without_a_network_the_hub_is_named_in_one_line(hub: Path) -> None:
    message = (
        r"model: hf-hub:user/absent cannot be read \(We cannot find the files in the cache\.\); connect to "
        r"huggingface\.co once, or give local-dir:FOLDER with its config\.json and weights$"
    )
    for weights in ("timm", "none"):
        with pytest.raises(ValueError, match=message):
            build("hf-hub:user/absent", weights, ["a"])
    saved(hub / "user/half")
    (hub / "user/half/pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"weights: timm cannot get its weights for hf-hub:user/half \(.*\)"):
        build("hf-hub:user/half", "timm", ["a"])


@pytest.mark.parametrize(
    "name", ["no_net", "no/net", "./net", "hf-hub:", "local-dir:", "other:net", "https://host/net", "resnet50.no_tag:x"]
)
def test_names_that_nobody_has_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^model: ") as caught:
        build(name, "none", ["a"])
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (CLASSES, "is kept, as it has the same 3 classes"),
        (CLASSES[1:], "keeps 2 of its 3 classes, and loses the rest"),
        ([*CLASSES[:1], "ant"], "keeps 1 of 2 classes; new: ant"),
    ],
)
def test_classes_that_are_not_used_are_said(tmp_path: Path, classes: list[str], said: str) -> None:
    saved(tmp_path)
    lines: list[str] = []
    build(f"local-dir:{tmp_path}", "timm", classes, log=lines.append)
    assert lines[0].endswith(f"the target head {said}")


def test_a_folder_without_weights_names_none_as_the_way_out(tmp_path: Path) -> None:
    saved(tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"weights: timm cannot get its weights for local-dir:.*--weights none"):
        build(f"local-dir:{tmp_path}", "timm", CLASSES)


def test_the_small_network_sees_32_pixels_at_half_of_their_resolution(tmp_path: Path) -> None:
    network = build("resnet8_32px", "none", CLASSES, image_size=32).eval()
    x, shapes = network.body.stem(torch.zeros(1, 3, 32, 32)), []
    for stage in network.body.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(24, 16, 16), (48, 8, 8), (96, 4, 4)]
    layers = [module for module in network.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    weighted = [layer for layer in layers if getattr(layer, "kernel_size", None) != (1, 1)]
    assert len(weighted) == 8
    save(network, tmp_path / "model.safetensors", image_size=32)
    again, _ = load(tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
