"""Outputs that are no numbers are errors, never answers: of predict, evaluate, validation and export."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import TARGET, write_folder
from small_runs import run
from torch import nn

from xmixup_fast.commands.evaluate import main as evaluate
from xmixup_fast.commands.export import main as export
from xmixup_fast.commands.predict import main as predict
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.training.trainer import Trainer


def fill(name: str, value: float, rows: slice = slice(None)) -> Callable[[nn.Module], None]:
    """Puts a value into a tensor of a network."""

    def change(body: nn.Module) -> None:
        body.state_dict()[name][rows] = value

    return change


BROKEN: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "nan": (fill("fc.weight", math.nan), ", as fc.weight holds numbers that are not"),
    "one nan": (fill("fc.bias", math.nan, slice(1)), ", as fc.bias holds numbers that are not"),
    "infinity": (fill("fc.bias", math.inf, slice(1)), ", as fc.bias holds numbers that are not"),
    "a class that never comes": (fill("fc.bias", -math.inf, slice(1)), ", as fc.bias holds numbers that are not"),
    "a statistic": (fill("bn1.running_var", math.nan), ", as bn1.running_var holds numbers that are not"),
    "overflow": (fill("fc.weight", 3e38), ""),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), TARGET, 2)


@pytest.fixture(params=BROKEN)
def broken(request: Any, tmp_path: Path) -> tuple[Path, str]:
    """A weights file whose network has no answer, and what the error says of the cause."""
    change, cause = BROKEN[request.param]
    network = build("test_resnet", "none", sorted(TARGET), seed=3)
    change(network.body)
    save(network, tmp_path / "model.safetensors", 32)
    return tmp_path / "model.safetensors", cause


@pytest.mark.parametrize(("tta", "bad_files"), [("none", "error"), ("none", "skip"), ("flip", "error")])
def test_predict_gives_no_answer(broken: tuple[Path, str], photos: Path, capsys: Any, tta: str, bad_files: str) -> None:
    weights, cause = broken
    output = weights.parent / "predictions.csv"
    command = [str(weights), str(photos), "--output", str(output), "--tta", tta, "--bad-files", bad_files]
    assert predict(command) == 2
    error = capsys.readouterr().err
    assert f"error: weights: the network's outputs for {photos}/blue/000.png are not finite{cause}; expected " in error
    assert not output.exists()


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_evaluate_gives_no_accuracy(
    broken: tuple[Path, str], photos: Path, capsys: Any, tmp_path: Path, tta: str
) -> None:
    weights, cause = broken
    command = [str(weights), "--target", str(photos), "--output", str(tmp_path / "evaluation"), "--tta", tta]
    assert evaluate(command) == 2
    printed = capsys.readouterr()
    assert f"the network's outputs for 6 of 6 images ({photos}/blue/000.png, " in printed.err
    assert f" are not finite{cause}; expected " in printed.err
    assert "nan" not in printed.out and "%" not in printed.out and not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_export_writes_nothing(broken: tuple[Path, str], capsys: Any, tmp_path: Path, format: str) -> None:
    weights, cause = broken
    assert export([str(weights), "--format", format, "--output", str(tmp_path / "exported")]) == 2
    assert f"the network's outputs for random images are not finite{cause}; expected " in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_a_network_that_overflows_in_half_alone_is_told_so(tmp_path: Path, capsys: Any) -> None:
    network = build("test_resnet", "none", sorted(TARGET), seed=3)
    network.body.fc.weight.data.mul_(1e6)  # type: ignore[union-attr, operator]
    save(network, tmp_path / "model.safetensors", 32)
    command = [str(tmp_path / "model.safetensors"), "--format", "torch", "--output", str(tmp_path / "exported")]
    assert export([*command, "--half"]) == 2
    assert "format: torch fails for test_resnet: logits are not finite in float16; leave --half out" in (
        capsys.readouterr().err
    )
    assert export(command) == 0


def test_training_stops_where_validation_has_no_answer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.evaluate

    def spoiled(self: Trainer, *args: Any, **options: Any) -> Any:
        self.final_network.body.state_dict()["bn1.running_mean"][0] = torch.nan
        return original(self, *args, **options)

    monkeypatch.setattr(Trainer, "evaluate", spoiled)
    with pytest.raises(ValueError, match=r"outputs for \d+ of \d+ images after step \d+ are not finite, as bn1\."):
        run(data, tmp_path / "run", "finetune")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "summary.json").exists()
