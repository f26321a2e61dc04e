"""Bad settings are found before an image is read, and say in one line what came and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import run
from made import TARGET, write_folder
from small_runs import arguments, flags
from torch import Tensor

from xmixup_fast.settings.fields import Settings
from xmixup_fast.train import main
from xmixup_fast.training.checkpoints import Checkpoints
from xmixup_fast.training.optimizer import check_length
from xmixup_fast.training.trainer import Trainer

BAD: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "lion"}, "optimizer: expected one of sgd, adamw, got 'lion'"),
    ({"schedule": "exponential"}, "schedule: expected one of cosine, linear, step, constant, got 'exponential'"),
    ({"batch_size": "many"}, "batch_size: expected a whole number, got 'many'"),
    ({"warmup_epochs": -1}, "warmup_epochs: expected zero or a positive number, got -1.0"),
    ({"warmup_epochs": 30, "steps": None}, "warmup_epochs: expected less than epochs, 30, got 30.0"),
    ({"unmixed_share": 1.5}, "unmixed_share: expected a number from 0 to 1, got 1.5"),
    (
        {"warmup_epochs": 2.5},
        "warmup_epochs: expected less than the run, 5 steps of 8 images, got 2.5 epochs of 18 images, 6 steps",
    ),
    (
        {"warmup_epochs": 1, "method": "seqtrain"},
        "warmup_epochs: expected less than the phase before fine-tuning, 2 steps of 8 images, "
        "got 1 epochs of 18 images, 2 steps",
    ),
    ({"layer_decay": 0}, "layer_decay: expected a number above 0, up to 1, got 0.0"),
    ({"clip_grad": 0}, "clip_grad: expected a positive number, got 0.0"),
    ({"patience": 0}, "patience: expected a positive number, got 0"),
    ({"freeze": 0}, "freeze: expected backbone, or a positive number, got 0"),
    ({"freeze": 9}, "freeze: expected backbone, or at most 5, the layer groups of test_resnet before its head, got 9"),
    (
        {"freeze": "backbone", "method": "seqtrain"},
        "freeze: expected nothing or a number, as backbone leaves seqtrain's first phase nothing to learn, got",
    ),
    ({"epochs": 7}, "epochs: expected no steps besides (or --steps None), got epochs 7 and steps 5"),
    ({"model": "test_vit", "weights": "none", "image_size": 33}, "image_size: test_vit cannot take images of 33 x 33"),
    ({"shots": 7}, "shots: expected at most 6, the training images of class blue, got 7"),
    ({"weights": "none"}, "selection: prediction needs a network with a pretrained classifier"),
    ({"weights": "none", "selection": "random", "top_k": 5}, "top_k: expected at most 4"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of which not even a header can be read."""
    target = write_folder(tmp_path_factory.mktemp("broken") / "target", TARGET, 10)
    for path in target.rglob("*.png"):
        path.write_text(f"broken {path}")
    return target


@pytest.fixture
def refused(data: Path, tmp_path: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What training says of settings that it refuses, for a target that must not be decoded."""

    def refuse(output: Path = tmp_path / "run", **settings: Any) -> str:
        assert main(flags(arguments(data, output, **{"target": str(broken), **settings}))) == 2
        assert not output.exists()
        return capsys.readouterr().err

    return refuse


@pytest.mark.parametrize(("changes", "expected"), BAD)
def test_bad_settings_are_one_line_before_an_image_is_decoded(
    refused: Callable[..., str], changes: dict[str, Any], expected: str
) -> None:
    error = refused(**changes)
    assert error.startswith(f"error: {expected}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"other": [{"class": "sky"}]}, "has nothing for the target class blue"),
        ({name: [{"class": "lake"}] for name in TARGET}, "the source has no training class lake"),
    ],
)
def test_a_selection_of_other_classes_is_refused_before_an_image_is_decoded(
    refused: Callable[..., str], tmp_path: Path, classes: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "selection.json"
    path.write_text(json.dumps({"classes": classes}))
    assert refused(selection_file=str(path)) == f"error: selection_file: {path}: {expected}\n"


def test_an_output_that_cannot_be_written_is_refused_before_an_image_is_decoded(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "runs" / "one"
    assert refused(output) == f"error: output: {output}: cannot be written ({tmp_path}/file: Not a directory)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_images_that_are_too_small_are_named_before_they_are_decoded(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    target = write_folder(tmp_path / "target", TARGET, 10, size=(30, 40))
    settings = {"target": str(target), "resize": "full", "storage": storage, "cache": "none"}
    assert main(flags(arguments(data, tmp_path / "run", **settings))) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: image_size: 32 is more than an image has, 30x40: {target}/blue/")
    assert said.err.endswith("; have all images resized, as with --resize 37, or leave this one out\n")
    assert " decoded in " not in said.out


@pytest.mark.parametrize(("every", "expected"), [(2, "the last good checkpoint is of step 2: "), (None, "")])
def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None, expected: str
) -> None:
    original = Trainer.step

    def step(self: Trainer) -> Tensor:
        loss = original(self)
        return loss if self.steps_done < 5 else torch.tensor(torch.nan)

    monkeypatch.setattr(Trainer, "step", step)
    path = tmp_path / "run" / "checkpoints" / "step-000000002.safetensors"
    # That of step 4 is not good: its weights gave the loss.
    with pytest.raises(ValueError, match="lr: the loss became nan in step 5; try a smaller learning rate; ") as caught:
        run(data, tmp_path / "run", "finetune", checkpoint_steps=every)
    assert str(caught.value).endswith(f"; {expected}{path}" if every else "; there is no good checkpoint")
    assert path.exists() == (every is not None)
    assert Checkpoints(tmp_path, "", 1).before(9) == "there is no good checkpoint"


def test_a_run_may_be_as_long_as_its_parts() -> None:
    settings = Settings(target="t", model="m", steps=10, batch_size=6, warmup_epochs=4.5)
    check_length(settings, 12)
    with pytest.raises(ValueError, match="warmup_epochs: expected less than the run, 10 steps of 6 images"):
        check_length(settings, 13)
