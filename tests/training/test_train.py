"""Properties of whole runs: the run folder, the command, and that nothing but the seed decides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made import SOURCE, TARGET, write_folder
from safetensors.torch import load_file
from small_runs import arguments, flags, run, without_times
from transfer import STEPPING

import xmixup_fast
from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.formats import NOT_AN_IMAGE
from xmixup_fast.methods import METHODS
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.train import main
from xmixup_fast.training import target as target_module


@pytest.mark.parametrize("method", STEPPING)
def test_a_run_folder_holds_the_run(data: Path, tmp_path: Path, method: str) -> None:
    result = run(data, tmp_path / "run", method, report=True)
    names = {"config.yaml", "metrics.jsonl", "metrics.csv", "model.safetensors", "batch.png", "summary.json"}
    names |= {"config.json", "evaluation.json", "report.html", "checkpoints", "manifest.csv", "data.json"}
    uses_source = METHODS[method].uses_source
    assert {path.name for path in result.folder.iterdir()} == names | ({"selection.json"} if uses_source else set())

    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary == result.summary
    assert summary["method"] == method and summary["model"] == "test_resnet" and summary["seed"] == 0
    assert summary["source"] == (str(data / "source") if uses_source else None)
    first = 2 if method == "seqtrain" else 0  # half as many, on auxiliary images
    assert (summary["steps"], summary["images_seen"]) == (first + 5, 8 * (first + 5))
    # Ten images of each of three classes: 2 for the test, 2 of the other 8 for validation.
    assert (summary["num_train"], summary["num_val"], summary["num_test"]) == (18, 6, 6)
    assert summary["test_accuracy"] in [round(100 * k / 6, 4) for k in range(7)]
    assert summary["train_seconds"] > summary["seconds_per_step"] > 0

    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines[:-2]] == ([(0, 2)] if first else [])
    assert [(line["epoch"], line["step"]) for line in lines[-2:]] == [(1, first + 3), (2, first + 5)]
    assert lines[-1]["val_accuracy"] == summary["last_val_accuracy"]
    assert summary["val_accuracy"] == summary["best_val_accuracy"] == max(line["val_accuracy"] for line in lines[-2:])
    assert lines[0]["images_per_second"] > 0 and lines[-2]["lr"] > lines[-1]["lr"] > 0

    config = read(result.folder / "config.yaml")
    assert (config.resize, config.device, config.threads) == (37, "cpu", torch.get_num_threads())

    model = timm.create_model(
        "test_resnet", num_classes=3, checkpoint_path=str(result.folder / "model.safetensors")
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), result.network.eval()(images))
    if uses_source:
        selection = json.loads((result.folder / "selection.json").read_text())
        assert selection == result.selection and selection["how"] == "prediction"
        assert list(selection["classes"]) == sorted(TARGET)


def test_cotuning_takes_the_classifiers_own_classes_or_those_of_a_source(data: Path, tmp_path: Path) -> None:
    own = run(data, tmp_path / "own", "cotuning", source=None)
    assert own.network.source_head is not None and own.network.source_head.out_features == len(SOURCE)
    few = dict(list(SOURCE.items())[:2])
    write_folder(tmp_path / "few", few, 3)
    for path in (tmp_path / "few").rglob("*.png"):
        path.write_text("broken")  # the classes' names are all that is looked at
    result = run(data, tmp_path / "run", "cotuning", source=str(tmp_path / "few"))
    assert result.network.source_head is not None and result.network.source_head.out_features == 2
    assert result.summary["images_seen"] == 40 and result.selection is None


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("cotuning", {"weights": "none", "source": None}, "weights: cotuning needs a pretrained classifier"),
        ("bss", {"bss_k": 9}, "bss_k: expected at most 8"),
    ],
)
def test_what_a_network_lacks_is_said_before_an_image_is_decoded(
    data: Path, tmp_path: Path, method: str, settings: dict[str, Any], message: str
) -> None:
    target = tmp_path / "target"
    write_folder(target, TARGET, 10)
    for path in target.rglob("*.png"):
        path.write_text(f"broken {path}")
    with pytest.raises(ValueError, match=message):
        run(data, tmp_path / "run", method, target=str(target), **settings)


def test_validation_takes_place_as_often_as_asked_for(data: Path, tmp_path: Path) -> None:
    often = run(data, tmp_path / "often", "finetune", steps=12)
    rarely = run(data, tmp_path / "rarely", "finetune", steps=12, val_interval=2)
    lines = [
        [json.loads(line)["val_accuracy"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        for result in (often, rarely)
    ]
    assert len(lines[0]) == 5 and None not in lines[0]
    assert lines[1] == [None, lines[0][1], None, lines[0][3], lines[0][4]]
    assert without_times(often.summary) == without_times(rarely.summary)


def test_the_same_seed_gives_the_same_run(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "first")
    torch.rand(1)  # the caller's random numbers make no difference
    second = run(data, tmp_path / "second")
    other = run(data, tmp_path / "other", seed=1)
    assert without_times(first.summary) == without_times(second.summary)
    weights = [load_file(result.folder / "model.safetensors") for result in (first, second, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert not all(torch.equal(tensor, weights[2][name]) for name, tensor in weights[0].items())
    for name in ("batch.png", "model.safetensors"):
        files = [(result.folder / name).read_bytes() for result in (first, second, other)]
        assert files[0] == files[1] != files[2], name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_the_caller_has_set_changes_nothing_and_is_left_alone(
    data: Path, tmp_path: Path, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Random numbers, threads, gradient mode and default dtype."""
    plain = run(data, tmp_path / "plain", steps=2)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        with mode():
            result = run(data, tmp_path / "run", threads=1, steps=2)
            assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.get_default_dtype() == torch.float64
        evaluated = xmixup_fast.evaluate(result.folder, log=str)
        assert len(xmixup_fast.predict(result.folder, data / "target" / "red"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    assert evaluated.accuracy == pytest.approx(plain.summary["test_accuracy"], abs=1e-3)
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(result.network.state_dict()[name], tensor)


def test_the_command_is_fit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = run(data, tmp_path / "fit")
    assert main(flags(arguments(data, tmp_path / "command"))) == 0
    summary = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert without_times(summary) == without_times(expected.summary)
    assert str(tmp_path / "command") in capsys.readouterr().out


def test_a_run_repeats_from_its_config_and_flags_come_on_top(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "first", alpha=0.7, flip=False)
    config = str(first.folder / "config.yaml")
    assert main(["--config", config, "--output", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert without_times(again) == without_times(first.summary)
    assert main([f"--config={config}", "--output", str(tmp_path / "top"), "--alpha", "0.3", "--steps", "2"]) == 0
    top = read(tmp_path / "top" / "config.yaml")
    assert (top.alpha, top.steps, top.flip) == (0.3, 2, False)


def test_only_the_files_of_chosen_classes_are_read(data: Path, tmp_path: Path) -> None:
    chosen = run(data, tmp_path / "all").selection
    assert chosen is not None
    names = {entry["class"] for entries in chosen["classes"].values() for entry in entries}
    write_folder(tmp_path / "source", SOURCE, 4)
    for name in SOURCE.keys() - names:
        for path in (tmp_path / "source" / name).iterdir():
            path.write_text("broken")
    again = run(data, tmp_path / "again", source=str(tmp_path / "source"))
    assert again.selection == chosen and len(names) < len(SOURCE)


def broken_target(folder: Path) -> Path:
    """A target folder with one bad image of each split, each in another way."""
    for name in ("train", "val", "test"):
        write_folder(folder / name, TARGET, 4)
    (folder / "train" / "blue" / "000.png").write_text("broken")
    (folder / "val" / "green" / "001.png").write_bytes(b"")
    path = folder / "test" / "red" / "002.png"
    path.write_bytes(path.read_bytes()[:500])
    return folder


def test_all_bad_files_are_listed_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = broken_target(tmp_path / "target")
    source = write_folder(tmp_path / "source", SOURCE, 4)
    for name in SOURCE:
        (source / name / "000.png").write_text("broken")
    settings = {"target": str(target), "source": str(source), "top_k": 4}  # all source classes are chosen
    assert main(flags(arguments(data, tmp_path / "run", **settings))) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "error: 7 bad files; --bad-files skip trains without them:"
    expected = {
        f"train/blue/000.png: {NOT_AN_IMAGE}",
        "val/green/001.png: empty",
        "test/red/002.png: image file is truncated",
    }
    assert all(any(f"  {target}/{item}" in line for line in error[1:]) for item in expected)
    assert all(f"  {source}/{name}/000.png: {NOT_AN_IMAGE}" in error for name in SOURCE)
    assert len(error) == 8 and not (tmp_path / "run").exists()


def test_bad_files_can_be_skipped(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = broken_target(tmp_path / "target")
    result = run(data, tmp_path / "run", target=str(target), bad_files="skip")
    bad = json.loads((tmp_path / "run" / "summary.json").read_text())["bad_files"]
    assert bad["count"] == 3
    assert [Path(file["name"]).relative_to(target).parts[0] for file in bad["files"]] == ["train", "val", "test"]
    assert all(file["reason"] for file in bad["files"])
    summary = result.summary
    assert (summary["num_train"], summary["num_val"], summary["num_test"]) == (11, 11, 11)
    assert "3 bad files skipped" in capsys.readouterr().out
    for path in (target / "train" / "red").iterdir():
        path.write_text("broken")
    for policy, message in (("skip", "class red: none of its train images can be decoded"), ("error", "7 bad files; ")):
        with pytest.raises(ValueError, match=message):
            run(data, tmp_path / policy, target=str(target), bad_files=policy)


@pytest.mark.parametrize("strategy", [{"selection": "feature", "top_k": 4}, {"selection": "sample", "top_images": 5}])
def test_selection_leaves_bad_images_out(data: Path, tmp_path: Path, strategy: dict[str, Any]) -> None:
    source = write_folder(tmp_path / "source", SOURCE, 4)
    (source / "sky" / "001.png").write_text("broken")
    target = broken_target(tmp_path / "target")
    settings = {"source": str(source), "target": str(target), **strategy}
    for name in ("first", "out of the cache"):
        with pytest.raises(ValueError, match=r"^4 bad files; (.|\n)*sky/001.png: not a JPEG") as caught:
            run(data, tmp_path / "error", **settings)
        assert str(caught.value).count("\n") == 4
        result = run(data, tmp_path / name, bad_files="skip", **settings)
        assert result.selection is not None and "sky/001.png" not in json.dumps(result.selection)
        bad = result.summary["bad_files"]
        assert bad["count"] == len(bad["files"]) == 4
        assert bad["files"][3] == {"name": str(source / "sky" / "001.png"), "reason": NOT_AN_IMAGE}


def test_chosen_images_that_are_bad_are_left_out(data: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", SOURCE, 4)
    settings = {"source": str(source), "bad_files": "skip"}
    first = run(data, tmp_path / "first", selection="sample", top_images=2, **settings)
    assert first.selection is not None
    chosen = {entry["image"] for entries in first.selection["classes"].values() for entry in entries[:1]}
    for name in chosen:
        Path(name).write_text("broken")
    again = run(data, tmp_path / "again", selection_file=str(first.folder / "selection.json"), **settings)
    assert {file["name"] for file in again.summary["bad_files"]["files"]} == chosen
    for entries in first.selection["classes"].values():
        Path(entries[1]["image"]).write_text("broken")
    with pytest.raises(ValueError, match="class blue: none of its auxiliary images can be decoded"):
        run(data, tmp_path / "none", selection_file=str(first.folder / "selection.json"), **settings)


def test_what_a_reader_found_bad_counts_too(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = BadFile("../escape.jpg", "leads out of the archive")
    read = target_module.read_target
    monkeypatch.setattr(target_module, "read_target", lambda *names: replace(read(*names), bad=[found]))
    with pytest.raises(ValueError, match=r"1 bad file; .*\n  \.\./escape\.jpg: leads out of the archive"):
        run(data, tmp_path / "error", "finetune")
    summary = run(data, tmp_path / "skip", "finetune", bad_files="skip").summary
    assert summary["bad_files"] == {"count": 1, "files": [found._asdict()]}


@pytest.mark.parametrize("decoder", ["auto", "torchvision"])
def test_a_second_run_decodes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], decoder: str
) -> None:
    settings = {"cache": str(tmp_path / "cache"), "decoder": decoder}
    first = run(data, tmp_path / "first", **settings)
    said = capsys.readouterr().out
    assert said.count(" decoded in ") == 4 and "from the cache" not in said
    assert re.search(r"storage: [\d.]+ KiB of a memory budget of .* GiB resident", said)
    again = run(data, tmp_path / "again", **settings)
    said = capsys.readouterr().out
    assert said.count(f" from the cache, {tmp_path / 'cache'}/pools/") == 4 and " decoded in " not in said
    assert without_times(again.summary) == without_times(first.summary)
    assert (
        run(data, tmp_path / "none", cache="none", decoder=decoder).summary["test_accuracy"]
        == first.summary["test_accuracy"]
    )
    assert " decoded in " in capsys.readouterr().out


def test_auxiliary_images_that_exceed_the_memory_budget_are_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"memory_budget": "10KB", "cache": "none"}
    assert main(flags(arguments(data, tmp_path / "run", **limits))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: memory_budget: auxiliary images need ") and error.count("\n") == 1
    assert main(flags(arguments(data, tmp_path / "run", storage="resident", **limits))) == 0


def test_colours_are_learned(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", "finetune", steps=40, lr=0.005)
    assert result.summary["test_accuracy"] == 100 and result.summary["val_accuracy"] == 100


def test_random_selection_needs_no_matching_class(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", weights="none", selection="random", top_k=2)
    assert result.selection is not None and all(len(row) == 2 for row in result.selection["classes"].values())
    with pytest.raises(ValueError, match="use --selection random"):
        run(data, tmp_path / "other", weights="none")


def test_settings_and_names_make_a_run_together(data: Path, tmp_path: Path) -> None:
    settings = Settings(**arguments(data, tmp_path / "run", "finetune"))
    assert xmixup_fast.fit(settings, steps=1).summary["steps"] == 1


def test_a_diverging_run_stops(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr: the loss became (nan|inf) in step"):
        run(data, tmp_path / "run", "finetune", lr=1e30)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alpha": -1}, "error: alpha: expected a positive number, got -1"),
        ({"target": "/absent"}, "error: /absent: no such folder"),
        ({"source": "/absent"}, "error: /absent: no such folder"),
        ({"weights": "/absent.pth"}, "error: weights: /absent.pth: no such file"),
        ({"device": "abacus"}, "error: device: expected auto, cpu, cuda or cuda:N, got abacus"),
        ({"device": "cuda:99"}, "error: device: cuda:99 is not there"),
        ({"config": "/absent.yaml"}, "error: config: /absent.yaml: no such file"),
        ({"shots": 50}, "error: shots: expected at most 6"),
        ({"top_k": 5}, "error: selection: prediction needs at least top_k = 5"),
    ],
)
def test_errors_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    assert main(flags(arguments(data, tmp_path / "run") | changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith(expected) and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_a_run_is_refused(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "run", "finetune", steps=1)
    with pytest.raises(FileExistsError, match=r"output: .* already holds a run"):
        run(data, tmp_path / "run", "finetune", steps=2)
    assert json.loads((first.folder / "summary.json").read_text()) == first.summary
