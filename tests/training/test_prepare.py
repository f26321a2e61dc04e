"""What a run makes of weights of images, and of parts of a batch that hold one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from interrupted_runs import STEPS, assert_same, interrupted
from small_runs import run
from torch import Tensor

from xmixup_fast import ImagePool
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training import prepare
from xmixup_fast.training.batch_norm import check_smallest_part
from xmixup_fast.training.optimizer import freeze


@pytest.fixture(scope="module")
def table(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table whose training images have the weights 1, 2, 3, 1, ...: as many rows name each."""
    rows = []
    for place, path in enumerate(sorted((data / "target").rglob("*.png"))):
        split = ("test", "test", "val", "val")[place % 10] if place % 10 < 4 else "train"
        weight = 1 if split != "train" else 1 + (place % 10 - 4) % 3
        rows += [f"{path},{path.parent.name},{split}\n"] * weight
    table = tmp_path_factory.mktemp("table") / "table.csv"
    table.write_text("path,label,split\n" + "".join(rows))
    return str(table)


def test_epochs_count_images_by_weight(
    data: Path, tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(data, tmp_path / "run", target=table, steps=None, epochs=2, warmup_epochs=0.5)
    assert result.summary["steps"] == 9 and result.summary["num_train"] == 18
    assert "18 training, 6 validation and 6 test images, which a table's repeated rows show 36 times an" in (
        capsys.readouterr().out
    )
    manifest = (result.folder / "manifest.csv").read_text()
    assert [manifest.count(f".png,{weight},") for weight in (1, 2, 3)] == [18, 6, 6]


def test_a_resumed_run_with_weights_ends_with_the_same_bits(data: Path, tmp_path: Path, table: str) -> None:
    whole = run(data, tmp_path / "whole", target=table, steps=STEPS)
    interrupted(data, tmp_path / "run", 5, target=table, storage="stream")
    again = run(data, tmp_path / "run", target=table, steps=STEPS, storage="stream", resume="auto")
    assert_same(whole, again)


def small(model: str, image_size: int, **settings: Any) -> tuple[Settings, Network]:
    network = build(model, "none", ["a", "b"], image_size=image_size)
    return Settings(target="t", model=model, weights="none", image_size=image_size, **settings), network


def state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("settings", "world_size", "message"),
    [
        ({"batch_size": 1}, 1, "batch_size: expected at least 2 images, got 1; batch normalisation in layer4.0.bn1 of"),
        ({"batch_size": 4, "grad_accum_steps": 4}, 1, "grad_accum_steps: expected at most 2, so that each .*, got 4"),
        ({"batch_size": 5, "grad_accum_steps": 3}, 1, "grad_accum_steps: expected at most 2, so that each .*, got 3"),
        ({"batch_size": 3}, 2, "batch_size: expected at least 2 images for each of 2 processes, got 3; batch norm"),
        ({"batch_size": 8, "grad_accum_steps": 3}, 2, "grad_accum_steps: expected at most 2, so that each .*, got 3"),
        ({"batch_size": 4, "grad_accum_steps": 3}, 2, "grad_accum_steps: expected at most 2, the images of a batch"),
    ],
)
def test_a_part_of_one_image_is_named_by_its_setting(settings: dict[str, Any], world_size: int, message: str) -> None:
    case, network = small("resnet18", 32, **settings)
    before, generator, training = state(network), torch.get_rng_state(), network.training
    with pytest.raises(ValueError, match=rf"^{message}"):
        check_smallest_part(case, network, 1, world_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator) and network.training == training
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("model", "image_size", "settings", "contents"),
    [
        ("resnet18", 32, {"batch_size": 2}, 1),
        ("resnet18", 64, {"batch_size": 1}, 1),
        ("resnet18", 32, {"batch_size": 1}, 2),
        ("resnet18", 32, {"batch_size": 1, "freeze": "backbone"}, 1),
        ("test_vit", 32, {"batch_size": 4, "grad_accum_steps": 4}, 1),
        ("test_convnext", 32, {"batch_size": 1}, 1),
    ],
)
def test_networks_that_can_train_on_one_image_do(
    model: str, image_size: int, settings: dict[str, Any], contents: int
) -> None:
    case, network = small(model, image_size, **settings)
    freeze(network, case.freeze)
    before = state(network)
    check_smallest_part(case, network, contents, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    images = torch.randn(contents * case.batch_size // (case.grad_accum_steps or 1), 3, image_size, image_size)
    assert network.train()(images).isfinite().all()


@limits(max_examples=40)
@given(batch_size=st.integers(1, 40), world_size=st.integers(1, 6), parts=st.integers(1, 12))
def test_the_check_looks_at_what_the_steps_get(batch_size: int, world_size: int, parts: int) -> None:
    """It refuses exactly the settings with which some process gets a part of fewer than two images."""
    if batch_size < world_size or parts > batch_size:
        return  # refused elsewhere
    settings = Settings(target="t", model="m", batch_size=batch_size, grad_accum_steps=parts, image_size=10)
    images = ImagePool.from_dense(torch.zeros(3, 10, 10, 3, dtype=torch.uint8), [0, 1, 0])
    plans = [Sampler(images, None, settings, rank=rank, world_size=world_size).plan(0) for rank in range(world_size)]
    smallest = min(len(part) for plan in plans for part in plan.split(parts))
    try:
        check_smallest_part(settings, SMALL, 1, world_size)
    except ValueError:
        assert smallest < 2
    else:
        assert smallest >= 2


class OneValue(Network):
    """A network whose batch normalisation sees one value per channel of each image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.mean((2, 3)))


class Norm(torch.nn.BatchNorm1d):
    """A body without a classifier."""

    def get_classifier(self) -> torch.nn.Module:
        return torch.nn.Identity()


SMALL = OneValue(Norm(3), None, None, model_name="m", classes=["a"], mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_run_stops_before_an_image_is_decoded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SplitImages", None)
    with pytest.raises(ValueError, match="batch_size: expected at least 2 images, got 1"):
        run(data, tmp_path / "run", "finetune", model="resnet18", weights="none", batch_size=1)


def test_a_network_without_such_layers_trains_with_batches_of_one(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "finetune", model="test_vit", weights="none", batch_size=1).summary["steps"] == 5
