"""Temperatures from training to export, and mirror images: what is stored, said, and applied where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from made import TARGET, write_folder
from safetensors import safe_open
from small_runs import arguments

from xmixup_fast.commands import evaluate
from xmixup_fast.commands.export import export
from xmixup_fast.commands.export import main as export_main
from xmixup_fast.commands.predict import Prediction, main, predict
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network, save, temperature_of
from xmixup_fast.report.evaluated import calibration
from xmixup_fast.training.run import Result, fit

TEMPERATURE = 1.7
NOISY = {"a": TARGET["red"], "b": TARGET["red"], "c": TARGET["green"]}
"""Two classes that nothing tells apart: about a third of the predictions are wrong."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a temperature."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(build("test_resnet", "none", sorted(TARGET), seed=3), path, 32, 40, TEMPERATURE)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that nothing resizes, for which the network needs a middle of its own in their mirror images."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(1)
    for number, name in enumerate(TARGET):
        for kind in ("plain", "mirrored"):
            (folder / kind / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(256, size=(40, 41 + number + i, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "plain" / name / f"{i}.png")
            PIL.Image.fromarray(pixels[:, ::-1]).save(folder / "mirrored" / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("noisy")
    write_folder(folder / "target", NOISY, 30)
    settings = {"target": str(folder / "target"), "steps": 12, "method": "finetune", "report": True}
    return fit(**arguments(data, folder / "run", **settings))


def probabilities(*given: Any, **options: Any) -> torch.Tensor:
    """The probabilities of all classes, in their order, of each image."""
    found = [item for item in predict(*given, top_k=9, **options) if isinstance(item, Prediction)]
    return torch.tensor([[p for _, _, p in sorted(item.top)] for item in found], dtype=torch.float64)


def test_training_fits_a_temperature_on_the_validation_images(run: Result) -> None:
    told = run.summary["calibration"]
    assert told["images"] == run.summary["num_val"] and told["temperature"] == temperature_of(run.folder)
    assert told["temperature"] is not None and told["temperature"] == float(f"{told['temperature']:.3g}")
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        assert file.metadata()["temperature"] == str(told["temperature"])
    content = json.loads((run.folder / "evaluation.json").read_text())
    assert content["calibrated"]["temperature"] == told["temperature"] and content["calibration"]["temperature"] == 1
    page = (run.folder / "report.html").read_text()
    assert "--calibrated" in page and "Classes that are confused most often" in page and " taken for " in page


def test_the_report_names_validation_images_that_chose_the_temperature(run: Result) -> None:
    assert run.evaluation is not None and run.evaluation.temperature is not None
    said = "It was fitted on these very images"
    assert [said in calibration(run.evaluation, split) for split in ("test", "val")] == [False, True]


def test_evaluate_names_validation_images_that_chose_the_temperature(
    run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run.summary["calibration"]
    for split, chose in (("test", 0), ("val", told["images"]), ("all", told["images"])):
        command = [str(run.folder), "--split", split, "--trained", "keep", "--output", str(tmp_path / split)]
        assert evaluate.main(command) == 0
        said = capsys.readouterr().out
        line = f"the temperature was fitted on {chose} of these images"
        assert (line in said) == bool(chose) and f"with the temperature {told['temperature']:g}" in said
        content = json.loads((tmp_path / split / "evaluation.json").read_text())
        assert content.get("validation_images", 0) == chose and content["tta"] == "none"
        assert PIL.Image.open(tmp_path / split / "reliability.png").size > (200, 200)
        if split == "val":
            found = [content[kind]["expected_calibration_error"] for kind in ("calibration", "calibrated")]
            expected = [told["expected_calibration_error"], told["calibrated_error"]]
            assert found == pytest.approx(expected, abs=0.01)


def test_the_figures_of_evaluate_are_written_and_said(run: Result, tmp_path: Path, capsys: Any) -> None:
    assert evaluate.main([str(run.folder), "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    low, high = content["accuracy_interval"]
    lines = capsys.readouterr().out.splitlines()
    count, accuracy = content["images"], content["accuracy"]
    assert f"test: {accuracy:.2f} % of {count} images (95 % interval: {low:.2f} to {high:.2f} %)" in lines
    assert low < accuracy < high and content["top5_accuracy"] is None
    assert any(f"macro F1 {content['macro_f1']:.2f} %" in line for line in lines)
    bins = content["calibration"]["reliability"]
    assert sum(row["images"] for row in bins) == count
    right = sum(row["images"] * row["accuracy"] for row in bins) / count
    assert right == pytest.approx(accuracy, abs=1e-3)
    assert {"precision", "recall", "f1", "images"} <= content["classes"][0].keys()


def test_predictions_of_an_image_and_its_mirror_image_are_equal(weights: Path, photos: Path, capsys: Any) -> None:
    one, other = (probabilities(weights, photos / kind, tta="flip") for kind in ("plain", "mirrored"))
    torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)
    alone = [probabilities(weights, photos / kind) for kind in ("plain", "mirrored")]
    torch.testing.assert_close(one, (alone[0] + alone[1]) / 2, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)
    assert main([str(weights), str(photos / "plain"), "--tta", "flip"]) == 0
    written = capsys.readouterr().out.splitlines()[1:]
    assert [float(line.split(",")[3]) for line in written] == pytest.approx(one.max(1).values.tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="tta: expected none or flip, got 'turn'"):
        probabilities(weights, photos, tta="turn")


def test_evaluate_takes_mirror_images_as_predict_does(weights: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    found = {}
    for kind in ("plain", "mirrored"):
        command = [str(weights), "--target", str(photos / kind), "--tta", "flip", "--output", str(tmp_path / kind)]
        assert evaluate.main(command) == 0
        assert "all, with mirror images: " in capsys.readouterr().out
        found[kind] = json.loads((tmp_path / kind / "evaluation.json").read_text())
        assert found[kind]["tta"] == "flip"
    assert found["plain"]["confusion"] == found["mirrored"]["confusion"]
    assert found["plain"]["loss"] == pytest.approx(found["mirrored"]["loss"], abs=1e-5)
    predicted = probabilities(weights, photos / "plain", tta="flip")
    labels = torch.arange(3).repeat_interleave(4)  # in the sorted order of the folders
    losses = -predicted[torch.arange(12), labels].log()
    assert found["plain"]["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)


def test_calibrated_predictions_are_of_logits_over_the_temperature(weights: Path, photos: Path, capsys: Any) -> None:
    plain, calibrated = (probabilities(weights, photos / "plain", calibrated=on) for on in (False, True))
    torch.testing.assert_close(calibrated, (plain.log() / TEMPERATURE).softmax(1), atol=1e-6, rtol=1e-5)
    assert main([str(weights), str(photos / "plain"), "--calibrated"]) == 0
    written = capsys.readouterr().out.splitlines()[1:]
    assert [float(line.split(",")[3]) for line in written] == pytest.approx(calibrated.max(1).values.tolist(), abs=1e-6)


def test_exports_divide_logits_where_that_is_asked_for(weights: Path, tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits = load_network(weights)[0](images)
    for calibrated in (False, True):
        folder = tmp_path / str(calibrated)
        formats = ["safetensors", "torch"]
        export(weights, formats, folder, calibrated=calibrated)
        files = {"preprocessing.json": ""}
        program = torch.export.load(folder / "model.pt2", extra_files=files).module()
        divisor = TEMPERATURE if calibrated else 1
        torch.testing.assert_close(program(images), logits / divisor, atol=1e-5, rtol=1e-5)
        told = json.loads(files["preprocessing.json"])
        assert told["temperature"] == str(TEMPERATURE)
        assert told["logits"].startswith("divided by" if calibrated else "as the weights give them; divide them by")
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata()["logits"].startswith("as the weights give them; divide them by the temperature")
        with torch.no_grad():
            assert torch.equal(load_network(folder / "model.safetensors")[0](images), logits)
        assert temperature_of(folder / "model.safetensors") == TEMPERATURE


def test_onnx_models_divide_logits_too(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install onnx onnxscript onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime")
    flags = ["--format", "onnx", "--output", str(tmp_path), "--with-preprocessing", "--calibrated"]
    assert export_main([str(weights), *flags]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert (told["temperature"], told["logits"]) == (str(TEMPERATURE), "divided by the temperature")
    network = load_network(weights)[0]
    crops = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    normalised = (torch.from_numpy(crops) / 255 - torch.tensor(network.mean)) / torch.tensor(network.std)
    with torch.no_grad():
        logits = network(normalised.permute(0, 3, 1, 2).float())
    (found,) = session.run(["logits"], {"images": crops})
    np.testing.assert_allclose(found, logits.numpy() / TEMPERATURE, rtol=1e-4, atol=1e-5)


def test_a_network_without_a_temperature_says_how_to_get_one(tmp_path: Path, photos: Path, capsys: Any) -> None:
    weights = tmp_path / "model.safetensors"
    why = "the network is right on all 9 validation images"
    save(build("test_resnet", "none", sorted(TARGET)), weights, 32, no_temperature=why)
    assert main([str(weights), str(photos), "--calibrated"]) == 2
    assert export_main([str(weights), "--format", "torch", "--output", str(tmp_path / "out"), "--calibrated"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == lines[1] and not (tmp_path / "out").exists()
    assert lines[0].startswith(f"error: calibrated: {weights} has no temperature: {why}; train again")
    with safe_open(weights, "pt") as file:
        assert "temperature" not in file.metadata()
