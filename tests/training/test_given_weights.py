"""What a run starts from: its own kind of files, networks and state dicts, whose heads are kept by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made import SOURCE, TARGET, write_folder
from small_runs import arguments, flags
from torch import nn

from xmixup_fast import Result, fit
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.train import main


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with averaged weights and a checkpoint of its last step."""
    output = tmp_path_factory.mktemp("first") / "run"
    return again(data, output, weights="none", lr=0.05, ema_decay=0.9, keep="last", steps=12)


def again(data: Path, output: Path, **settings: Any) -> Result:
    return fit(**{**arguments(data, output, "finetune", keep="last"), "source": None, **settings})


FROM = {
    "run folder": lambda run: str(run.folder),
    "weights file": lambda run: str(run.folder / "model.safetensors"),
    "checkpoint": lambda run: str(max((run.folder / "checkpoints").glob("*.safetensors"))),
    "result": lambda run: run,
    "network as weights": lambda run: run.network,
    "path": lambda run: run.folder / "model.safetensors",
}


@pytest.mark.parametrize("form", FROM)
def test_a_trained_head_is_kept_and_said(
    data: Path, tmp_path: Path, first: Result, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step that learns next to nothing leaves the network what it was."""
    result = again(data, tmp_path / "run", weights=FROM[form](first), steps=1, lr=1e-9)
    said = capsys.readouterr().out
    assert "the target head is kept, as it has the same 3 classes" in said
    assert "image_size: 32, as the weights of test_resnet were made for it" in said or form == "network as weights"
    assert "were made for 160" not in said
    assert result.summary["test_accuracy"] == first.summary["test_accuracy"]
    for name, tensor in first.network.body.state_dict().items():
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(result.network.body.state_dict()[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["run folder", "checkpoint", "network as weights"])
def test_partly_equal_classes_are_carried_over_by_name(
    data: Path, tmp_path: Path, first: Result, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = {"amber": (255, 190, 0), "red": TARGET["red"], "blue": TARGET["blue"]}
    target = write_folder(tmp_path / "target", classes, 6)
    result = again(data, tmp_path / "run", target=str(target), weights=FROM[form](first), steps=1, lr=1e-9)
    assert "the target head keeps 2 of 3 classes; new: amber" in capsys.readouterr().out
    before = dict(zip(first.network.classes, first.network.body.fc.weight, strict=True))
    after = dict(zip(result.network.classes, result.network.body.fc.weight, strict=True))
    assert list(after) == ["amber", "blue", "red"]
    for name in ("blue", "red"):
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_a_run_that_is_not_finished_names_its_checkpoint(data: Path, tmp_path: Path, first: Result) -> None:
    checkpoints = tmp_path / "part" / "checkpoints"
    checkpoints.mkdir(parents=True)
    newest = max((first.folder / "checkpoints").glob("*.safetensors"))
    (checkpoints / newest.name).write_bytes(newest.read_bytes())
    with pytest.raises(FileNotFoundError, match=rf"the run is not finished, .*, --weights {checkpoints / newest.name}"):
        again(data, tmp_path / "run", weights=str(tmp_path / "part"))


# --- objects ---


def trained(**options: Any) -> nn.Module:
    torch.manual_seed(7)
    model: nn.Module = timm.create_model("test_resnet", **options)
    return model


GIVEN = {
    "module": lambda model: {"model": model, "weights": None},
    "parallel module": lambda model: {"model": nn.DataParallel(model), "weights": None},
    "compiled module": lambda model: {"model": torch.compile(model), "weights": None},
    "state dict": lambda model: {"weights": model.state_dict()},
    "state dict of a wrapper": lambda model: {"weights": nn.DataParallel(model).state_dict()},
    "checkpoint's content": lambda model: {"weights": {"state_dict": model.state_dict(), "epoch": 3}},
    "module as weights": lambda model: {"weights": model},
    "frozen module in evaluation mode": lambda model: {"model": model.eval().requires_grad_(False), "weights": None},
    "module without a classifier": lambda model: {"model": without_classifier(model), "weights": None},
    "module with another classifier": lambda model: {"model": with_two_layers(model), "weights": None},
}


def without_classifier(model: Any) -> Any:
    model.reset_classifier(0)
    return model


def with_two_layers(model: Any) -> Any:
    model.fc = nn.Sequential(nn.Dropout(0.1), model.fc)
    return model


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return trained()


@pytest.mark.parametrize("form", GIVEN)
def test_networks_and_state_dicts_are_taken_and_left_alone(data: Path, tmp_path: Path, form: str) -> None:
    model = trained()
    given = GIVEN[form](model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = again(data, tmp_path / "run", **given, steps=1, lr=1e-9)
    assert result.summary["model"].startswith("test_resnet") and "not tested" not in result.summary
    assert torch.allclose(result.network.body.conv1[0].weight, before["conv1.0.weight"], atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    config = read(tmp_path / "run" / "config.yaml")
    assert config.weights.endswith(".safetensors") and Path(config.weights).is_file()


def test_a_run_of_an_object_goes_on_and_equal_weights_are_one_file(data: Path, tmp_path: Path) -> None:
    folders = []
    for _ in range(2):
        result = again(data, tmp_path / "run", model=trained(), weights=None, resume="auto", steps=2)
        folders.append(read(tmp_path / "run" / "config.yaml").weights)
        assert result.summary["steps"] == 2
    assert folders[0] == folders[1]
    with pytest.raises(ValueError, match=r"resume: the run in .* has weights .*"):
        torch.manual_seed(8)
        again(data, tmp_path / "run", model=timm.create_model("test_resnet"), weights=None, resume="auto", steps=2)


def test_a_modules_own_arguments_are_asked_for(data: Path, tmp_path: Path) -> None:
    model = trained(drop_path_rate=0.5)
    with pytest.raises(ValueError, match=r"model: expected the layers that timm gives test_resnet, .*model_args"):
        again(data, tmp_path / "run", model=model, weights=None)
    result = again(data, tmp_path / "run", model=model, weights=None, model_args={"drop_path_rate": 0.5}, steps=1)
    assert result.network.model_arguments == {"drop_path_rate": 0.5}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"model": nn.Linear(3, 2), "weights": None},
            ValueError,
            "model: expected a network of timm, .* got a Linear; give the name",
        ),
        (
            {"model": timm.create_model("test_resnet", features_only=True), "weights": None},
            ValueError,
            "model: expected a network of timm, .* got a FeatureListNet; give the name",
        ),
        (
            {"model": trained(drop_rate=0.5), "weights": None},
            ValueError,
            "model: expected the layers that timm gives test_resnet, drop_rate=0.0, got drop_rate=0.5; .*model_args",
        ),
        ({"model": on_meta(), "weights": None}, ValueError, "weights: .*: expected a tensor of numbers, got .* meta"),
        ({"weights": {"w": torch.ones(2, device="meta")}}, ValueError, "weights: w: expected a tensor of numbers"),
        ({"weights": {"w": torch.ones(2), "d": torch.qint8}}, ValueError, "weights: expected a name, .* of w, d"),
        (
            {"weights": {"a": 1}},
            ValueError,
            "weights: expected a name, a file, or a state dict, .*; got a dictionary of a",
        ),
        ({"weights": 3}, ValueError, "weights: expected a name, a file, or a state dict, .*; got int"),
        ({"weights": {"w": torch.ones(2)}}, ValueError, "does not fit test_resnet"),
        ({"model": trained(), "weights": "none"}, TypeError, "weights: expected none besides a module as model"),
        (
            {"model": trained(), "weights": None, "cache": "none"},
            ValueError,
            "weights: tensors are kept in the cache, .* save them",
        ),
    ],
    ids=[
        "no network",
        "features",
        "dropout",
        "meta",
        "state on meta",
        "quantised",
        "no state",
        "number",
        "other state",
        "both",
        "no cache",
    ],
)
def test_other_objects_are_refused(
    data: Path, tmp_path: Path, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        again(data, tmp_path / "run", **given)
    assert "\n" not in str(caught.value)


# --- arguments of the network, by flags ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["drop_rate=0.25", "drop_path_rate=0.5"], {"drop_rate": 0.25, "drop_path_rate": 0.5}),
        (["act_layer=gelu"], {"act_layer": "gelu"}),
    ],
)
def test_flags_and_yaml_give_the_network_arguments(
    data: Path, tmp_path: Path, words: list[str], expected: dict[str, Any]
) -> None:
    given = flags(arguments(data, tmp_path / "run", "finetune", weights="none", steps=1))
    given = [word for word in given if word != "--source"]
    given.remove(str(data / "source"))
    assert main([*given, "--model-args", *words]) == 0
    assert read(tmp_path / "run" / "config.yaml").model_args == expected
    assert main(["--config", str(tmp_path / "run" / "config.yaml"), "--output", str(tmp_path / "again")]) == 0
    assert read(tmp_path / "again" / "config.yaml").model_args == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["drop_rate"], "model_args: expected NAME=VALUE, with spaces between several, got 'drop_rate'"),
        (["drop_rate=0.1,drop_path_rate=0.2"], "model_args: expected NAME=VALUE, with spaces between several"),
        (["drop_rate=0.1", "drop_rate=0.2"], "model_args: expected each name once, got drop_rate twice"),
        (["drop_pth_rate=0.1"], "model_args: timm cannot make test_resnet with drop_pth_rate=0.1"),
        (["in_chans=1"], "model_args: in_chans: expected 3"),
    ],
)
def test_wrong_arguments_are_refused_before_an_image_is_decoded(
    data: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(arguments(data, tmp_path / "run", "finetune", weights="none"))
    assert main([*given, "--model-args", *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {message}") and said.err.count("\n") == 1
    assert " decoded in " not in said.out and not (tmp_path / "run").exists()


def test_a_run_without_an_image_size_takes_the_networks_own(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write_folder(tmp_path / "target", SOURCE, 4)
    result = again(data, tmp_path / "run", target=str(target), image_size=None, steps=1, batch_size=4)
    config = read(result.folder / "config.yaml")
    assert (config.image_size, config.resize) == (160, 183)
    assert "image_size: 160, and the weights of test_resnet were made for 32" in capsys.readouterr().out
